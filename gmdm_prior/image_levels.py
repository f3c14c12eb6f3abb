"""What evaluates the patches of an image at its noise level: exactly, from tables, or in few bases.

A `PatchModel` is read from tables, to 1e-5, at one level and for maps; tables are linear between
their nodes, so derivatives of images in float64 are exact instead, at many times the cost. A
`PatchMixture` is
evaluated exactly, at one level by a compiled kernel where that is possible (`fused_mixture`), or,
asked for less, in the few bases that matter (`mixture_gate`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ._noise_level import concrete, readable
from .fused_mixture import fused
from .mixture import PatchMixture
from .mixture_gate import WORTH_BELOW, GatedLevel, GatedMap
from .mixture_level import MixtureLevel
from .product import PatchModel, ProductLevel

NUMBERS = 2**24  # held at a time where every pixel has its own noise level


def level_for(
    model: PatchModel | PatchMixture, image: Tensor, noise: Tensor
) -> ProductLevel | MixtureLevel:
    """The model at one noise variance (); of a product, tables but for exact derivatives."""
    return model.at(noise) if _differentiated(image) else model.tabulated_at(noise)


def _differentiated(image: Tensor) -> bool:
    """Whether an image in float64 is differentiated."""
    return image.dtype == torch.float64 and torch.is_grad_enabled() and image.requires_grad


def posterior_means(
    model: PatchModel | PatchMixture, image: Tensor, noise: Tensor, exact: bool
) -> Callable[[Tensor], Tensor]:
    """Posterior means (N, a) of patches (N, a) of an image at one noise variance ()."""
    level = level_for(model, image, noise)
    kernel = fused(level, image) if isinstance(model, PatchMixture) else None
    if kernel is not None:
        return kernel.posterior_mean
    if exact or isinstance(model, PatchModel) or not (readable(image) and readable(noise)):
        return level.posterior_mean
    if noise >= WORTH_BELOW:
        return level.posterior_mean
    return GatedLevel(level).posterior_mean


def posterior_means_of_map(
    model: PatchModel | PatchMixture, image: Tensor, noise: Tensor, exact: bool
) -> Callable[[Tensor, Tensor], Tensor]:
    """The same of patches (N, a) and their noise variances (N, a), cut from a map (C, H, W)."""
    if isinstance(model, PatchModel):
        known = concrete(image) and not _differentiated(image)
        surface = model.tabulated_map(noise.min(), noise.max()) if known else None
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
    level, rows = model.at(noise), max(1, NUMBERS // model.numbers_per_patch(noise))
    return lambda patches: torch.cat([level.posterior_variance(p) for p in patches.split(rows)])


def pixel_by_pixel(
    model: PatchModel | PatchMixture, method: str
) -> Callable[[Tensor, Tensor], Tensor]:
    """A method of the exact level, of patches and their noise variances (N, a), in pieces."""

    def evaluate(patches: Tensor, noises: Tensor) -> Tensor:
        rows = max(1, NUMBERS // model.numbers_per_patch(noises))
        pairs = zip(patches.split(rows), noises.split(rows), strict=True)
        return torch.cat([getattr(model.at(n), method)(p) for p, n in pairs])

    return evaluate
