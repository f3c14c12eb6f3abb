"""What EM fits (`training.em`): patches in coordinates, the noise in them, and the settings."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from gmdm_prior.training.likelihood import noise_groups as several_levels
from gmdm_prior.training.likelihood.coordinates import symmetry_matrices, to_coordinates
from gmdm_prior.training.likelihood.noise_groups import Level
from gmdm_prior.training.likelihood.penalty import Penalty
from gmdm_prior.training.likelihood.validation import check_levels, check_patches, check_settings

FLOOR = 2e-6
PSEUDO_VARIANCE = {"full": 1e-3, "tied": 1e-4}


@dataclass(frozen=True)
class EMSettings:
    """What to fit; the arguments of `fit_em`, checked."""

    bases: int = 3
    classes: int = 40
    symmetries: str = "d4"
    noise: float = 0.0
    components: int = 200
    full_iterations: int = 12
    iterations: int = 8
    truncation: float = 1e-3

    def __post_init__(self) -> None:
        """Refuse what cannot be fitted."""
        check_settings(self)

    def penalty(self, stage: str) -> Penalty:
        """The regulariser of a stage."""
        return Penalty(least=self.noise**2 + FLOOR, variance=PSEUDO_VARIANCE[stage])


@dataclass(frozen=True)
class PatchNoise:
    """Noise that differs from patch to patch.

    Attributes:
        sigma: its standard deviation, (N,).
        group: number of each patch's group, (N,), where the levels are estimates: those of a group
            are right up to one factor, which may be improved; None where they are certain.
    """

    sigma: Tensor
    group: Tensor | None = None

    def first_levels(self) -> Tensor | None:
        """Levels of the groups (root mean squares), (M,) float64, before the first iteration.

        NaN for a group without patches.
        """
        if self.group is None:
            return None
        counts = torch.bincount(self.group).double()
        total = torch.zeros_like(counts).index_add_(0, self.group, self.sigma.double().square())
        return (total / counts).sqrt()

    def variances(self, sigmas: Tensor | None) -> Tensor:
        """Of each patch's noise, (N,) float64, when the levels of the groups are `sigmas` (M,)."""
        sigma = self.sigma.double()
        if sigmas is not None:
            sigma = sigma * (sigmas / self.first_levels())[self.group]
        return sigma.square()


@dataclass(frozen=True)
class EMProblem:
    """Patches in zero-mean coordinates (N, J), their channels and size, and what to fit to them.

    `settings.noise` is the level of all patches; with `noise`, the reference level.
    """

    coordinates: Tensor
    channels: int
    size: int
    settings: EMSettings
    noise: PatchNoise | None = None

    @classmethod
    def from_patches(
        cls, patches: Tensor, settings: EMSettings, noise: PatchNoise | None = None
    ) -> EMProblem:
        """Check patches (N, C, b, b) and take their coordinates.

        With `noise` the reference is its root mean square; levels that are all the same and certain
        are the `settings.noise` of all patches.
        """
        check_patches(patches, settings)
        if noise is not None:
            check_levels(noise.sigma, patches)
            level = noise.sigma.double().square().mean().sqrt().item()
            if noise.group is None and bool((noise.sigma == noise.sigma[0]).all()):
                level, noise = noise.sigma[0].item(), None
            settings = dataclasses.replace(settings, noise=level)
        x = to_coordinates(patches)
        return cls(x, patches.shape[1], patches.shape[-1], settings, noise)

    def levels(self, sigmas: Tensor | None, components: int) -> list[Level]:
        """Patches grouped by noise level; None in place of members stands for all of them."""
        if self.noise is None:
            return [Level(None, self.settings.noise**2)]
        most = several_levels.most_levels(components, self.coordinates.shape[1])
        return several_levels.group(self.noise.variances(sigmas), most)

    @property
    def turns(self) -> Tensor:
        """The matrices P_h of the model's symmetries, (H, J, J)."""
        return symmetry_matrices(self.settings.symmetries, self.channels, self.size)
