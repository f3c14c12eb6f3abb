"""What EM fits (`likelihood.em`): patches in coordinates, the noise in them, and the settings."""

from __future__ import annotations

import dataclasses
import math
import numbers
from dataclasses import dataclass

import torch
from torch import Tensor

from gmdm_prior import symmetry
from gmdm_prior.training.likelihood.coordinates import symmetry_matrices, to_coordinates
from gmdm_prior.training.likelihood.noise_groups import Level, group, most_levels
from gmdm_prior.training.likelihood.statistics import Penalty

FLOOR = 2e-6
PSEUDO_VARIANCE = {"full": 1e-3, "tied": 1e-4}
LEAST = {"bases": 1, "classes": 1, "components": 1, "full_iterations": 0, "iterations": 1}


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
        _check_settings(self)

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
        """Noise variances (N,) of the patches, float64, at levels `sigmas` (M,) of the groups."""
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
        _check_patches(patches, settings)
        if noise is not None:
            _check_levels(noise.sigma, patches)
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
        most = most_levels(components, self.coordinates.shape[1])
        return group(self.noise.variances(sigmas), most)

    @property
    def turns(self) -> Tensor:
        """The matrices P_h of the model's symmetries, (H, J, J)."""
        return symmetry_matrices(self.settings.symmetries, self.channels, self.size)


def _check_settings(settings: EMSettings) -> None:
    """Raise TypeError or ValueError for settings that cannot be fitted."""
    for name, least in LEAST.items():
        value = getattr(settings, name)
        if not isinstance(value, numbers.Integral) or isinstance(value, bool):
            raise TypeError(f"{name} must be an integer; got {value!r}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}")
    for name in ("noise", "truncation"):
        value = getattr(settings, name)
        if not isinstance(value, numbers.Real) or isinstance(value, bool):
            raise TypeError(f"{name} must be a number; got {value!r}")
    if not (0 <= settings.noise < math.inf):
        raise ValueError(
            f"noise must be a finite standard deviation of at least 0; got {settings.noise}"
        )
    if not 0 <= settings.truncation < 0.5:
        raise ValueError(f"truncation must lie in [0, 0.5); got {settings.truncation}")
    symmetry.group(settings.symmetries)
    if settings.classes < settings.bases:
        raise ValueError(
            f"classes must be at least bases, each basis has one of its own: got "
            f"classes={settings.classes}, bases={settings.bases}; raise classes or lower bases"
        )
    if settings.components < settings.classes:
        raise ValueError(
            f"classes must not exceed components, which they are merged from: got "
            f"classes={settings.classes}, components={settings.components}; raise components"
        )


def _check_patches(patches: Tensor, settings: EMSettings) -> None:
    """Raise TypeError or ValueError for patches that cannot be fitted."""
    if not isinstance(patches, Tensor) or not patches.is_floating_point():
        got = f"{patches.dtype} tensor" if isinstance(patches, Tensor) else type(patches).__name__
        raise TypeError(
            f"patches must be a floating-point tensor with values in [0, 1]; got a {got}"
        )
    if patches.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"patches must be float32 or float64; got {patches.dtype}: use .float()")
    if patches.ndim != 4 or patches.shape[2] != patches.shape[3] or 0 in patches.shape[1:]:
        raise ValueError(
            f"patches must be (N, C, b, b); got {tuple(patches.shape)}: "
            "add the channel axis with patches.unsqueeze(1) if it is missing"
        )
    if patches.shape[-1] < 2:
        raise ValueError("patches must be at least 2×2: a zero-mean patch of one pixel is nothing")
    if len(patches) < settings.components:
        raise ValueError(
            f"patches must be at least as many as components={settings.components}; "
            f"got {len(patches)}: give more patches or lower components"
        )
    if not all(torch.isfinite(part).all() for part in patches.split(65536)):
        raise ValueError("patches must be finite; they hold NaN or infinity: drop those patches")


def _check_levels(sigma: Tensor, patches: Tensor) -> None:
    """Raise ValueError for noise levels that do not fit patches (N, C, b, b)."""
    if sigma.shape != patches.shape[:1]:
        raise ValueError(
            f"noise must be a number or one level for each of {len(patches)} patches, "
            f"({len(patches)},); got {tuple(sigma.shape)}"
        )
    if not bool(((sigma >= 0) & (sigma < math.inf)).all()):
        raise ValueError("noise must hold finite standard deviations of at least 0")
