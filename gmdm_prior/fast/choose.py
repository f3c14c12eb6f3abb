"""What evaluates the patches of an image at its noise level: exactly, from tables, or in few bases.

A `PatchModel` is read from tables, to 1e-5, at one level and for maps, in float32. In float64 it is
evaluated exactly, at many times the cost: tables have no second derivatives. A `PatchMixture` is
evaluated exactly, at one level by a compiled kernel where that is possible (`fused_mixture`), or,
asked for less, in the few bases that matter (`mixture_gate`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.densities.product import PatchModel
from gmdm_prior.fast.few_bases import WORTH_BELOW, GatedLevel, GatedMap
from gmdm_prior.fast.kernels.mixture import fused
from gmdm_prior.sigma import concrete, readable

NUMBERS = 2**24  # held at a time where every pixel has its own noise level


def at_one_level(
    model: PatchModel | PatchMixture, image: Tensor, noise: Tensor, method: str
) -> Callable[[Tensor], Tensor]:
    """A method of the model at one noise variance (), for the patches (N, a) of an image."""
    if isinstance(model, PatchModel) and image.dtype == torch.float64:
        return _in_pieces(model, noise, method)
    return getattr(model.tabulated_at(noise), method)


def _in_pieces(
    model: PatchModel | PatchMixture, noise: Tensor, method: str
) -> Callable[[Tensor], Tensor]:
    """A method of the exact level at one noise variance ()."""
    level, rows = model.at(noise), max(1, NUMBERS // model.numbers_per_patch(noise))
    return lambda patches: torch.cat([getattr(level, method)(p) for p in patches.split(rows)])


def posterior_means(
    model: PatchModel | PatchMixture, image: Tensor, noise: Tensor, exact: bool
) -> Callable[[Tensor], Tensor]:
    """Posterior means (N, a) of patches (N, a) of an image at one noise variance ()."""
    if isinstance(model, PatchModel):
        return at_one_level(model, image, noise, "posterior_mean")
    level = model.tabulated_at(noise)
    kernel = fused(level, image)
    if kernel is not None:
        return kernel.posterior_mean
    if exact or not (readable(image) and readable(noise)):
        return level.posterior_mean
    if noise >= WORTH_BELOW:
        return level.posterior_mean
    return GatedLevel(level).posterior_mean


def posterior_means_of_map(
    model: PatchModel | PatchMixture, image: Tensor, noise: Tensor, exact: bool
) -> Callable[[Tensor, Tensor], Tensor]:
    """The same of patches (N, a) and their noise variances (N, a), cut from a map (C, H, W)."""
    if isinstance(model, PatchModel):
        fast = image.dtype != torch.float64 and concrete(image)
        surface = model.tabulated_map(noise.min(), noise.max()) if fast else None
        if surface is not None:
            return surface.posterior_mean
    elif not exact and readable(image) and readable(noise):
        return GatedMap(GatedLevel(model.at(noise.new_ones(())))).posterior_mean

    return pixel_by_pixel(model, "posterior_mean")


def posterior_variances(model: PatchModel | PatchMixture, noise: Tensor) -> Callable[..., Tensor]:
    """Posterior variances (N, a) of patches (N, a), exact, in pieces.

    At one noise variance (), or of patches and their noise variances cut from a map (C, H, W).
    """
    if noise.ndim:
        return pixel_by_pixel(model, "posterior_variance")
    return _in_pieces(model, noise, "posterior_variance")


def pixel_by_pixel(
    model: PatchModel | PatchMixture, method: str
) -> Callable[[Tensor, Tensor], Tensor]:
    """A method of the exact level, of patches and their noise variances (N, a), in pieces."""

    def evaluate(patches: Tensor, noises: Tensor) -> Tensor:
        rows = max(1, NUMBERS // model.numbers_per_patch(noises))
        pairs = zip(patches.split(rows), noises.split(rows), strict=True)
        return torch.cat([getattr(model.at(n), method)(p) for p, n in pairs])

    return evaluate
