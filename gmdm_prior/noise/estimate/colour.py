"""Planes of a colour image that tell of its noise: brightness, red - blue and green.

White noise has the same level in all three (their turn is orthonormal), texture has not: natural
pictures vary most in brightness and least in green. So each plane's level counts with the inverse
square of its error, and whether noise is white is asked where it is seen best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.densities.opponent import OPPONENT
from gmdm_prior.noise.estimate.autocovariance import cut_blocks
from gmdm_prior.noise.level import LEAST, Reading, level_of_patches
from gmdm_prior.noise.patches import spread_patches

PATCHES = (2_000, 1_500)  # of the brightness and of each difference
FEWEST = 64  # patches of a plane
NONE = Reading(LEAST, math.inf, 1.0)  # of a plane that tells nothing
FAR_LESS = 0.4  # level of the flattest blocks over that of all, where noise is not the same


@dataclass(frozen=True)
class Plane:
    """One plane of an image.

    Attributes:
        values: (1, H, W), in units in which a density of gray patches reads it.
        lying: (1, H, W), which of its pixels lie.
        full: its level if the noise is white.
        unit: what its level is to be multiplied with, to be that of the orthonormal plane.
    """

    values: Tensor
    lying: Tensor
    full: Reading
    unit: float = 1.0


def opponent(image: Tensor) -> Tensor:
    """Luminance, red - blue and green (3, H, W) of red, green and blue, orthonormal."""
    turn = torch.tensor(OPPONENT, dtype=image.dtype, device=image.device)
    return torch.einsum("oc,chw->ohw", turn, image)


def colour_planes(model: DensityModel, image: Tensor, lying: Tensor) -> list[Plane]:
    """The planes of a colour image (3, H, W), pixels that lie (1, H, W) alike in all."""
    planes = []
    for i, plane in enumerate(opponent(image)[:, None]):
        unit = 1.0 if i else math.sqrt(3)  # brightness: the mean of the colours
        patches = spread_patches(plane / unit, model, lying, PATCHES[min(i, 1)])
        full = NONE
        if len(patches) >= FEWEST:
            full = level_of_patches(model, patches.values, patches.overlap)
        planes.append(Plane(plane / unit, lying, full, unit))
    return planes


def common(planes: list[Plane]) -> Reading:
    """The level of noise that is the same in all planes."""
    best = min(planes, key=lambda p: p.full.error).full
    weights = [p.full.error**-2 if math.isfinite(p.full.error) else 0.0 for p in planes]
    if not sum(weights) > 0:
        return best
    logs = [math.log(p.full.sigma * p.unit) for p in planes]
    mean = sum(w * t for w, t in zip(weights, logs, strict=True)) / sum(weights)
    return replace(best, sigma=math.exp(mean))


def alike(planes: list[Plane], sigma: float) -> bool:
    """Whether the flattest blocks of the differences hold noise of about this level."""
    for plane in planes[1:]:
        flat = cut_blocks(plane.values[0], plane.lying[0]).flattest().variances
        if not len(flat) or float(flat.mean()) < (FAR_LESS * sigma) ** 2:
            return False
    return True
