"""How much of what flat blocks say is noise: levels that other evidence agrees to.

Flattest blocks are textured where all of an image is, and then say too much, up to ten times. They
differ from one another there (`plateau`). Too little is said where they are the darkest and noise
grows with brightness. Two things hold against both.

*The likelihood of a smaller size* tells texture from noise. Noise of the brightness is nearly white
at half the size, that of differences of colours, which is wide, at a quarter. A level that the
likelihood reads there with an error e below `TOLD` is believed: the brightness has `LOW` to `HIGH`
times that level, a difference `LEAST_WIDE` exp(-e) to `MOST_WIDE` times at low frequencies; the
upper bounds hold only for textured planes.

*The planes of colour*: noise has about as much of it in each of the orthonormal planes at low
frequencies, but texture is mostly brightness and hardly green. So a plane has no more than `ALIKE`
times the level of the plane that has least, where its flat blocks count `TEXTURED` if they or those
of the brightness are textured. A level that is too low costs less there than one that is too high:
half the true level loses a tenth of a dB, twice the level up to five.

The constants are from ten free photographs under simulated cameras; means over these move by less
than 0.05 dB for half or twice as much of any but `PLATEAU`, and for `ALIKE` from 1.0 to 1.4.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.densities.opponent import SCALES
from gmdm_prior.noise.estimate.autocovariance import Autocovariance
from gmdm_prior.noise.estimate.colour import Plane
from gmdm_prior.noise.estimate.whiteness import BLUE, UNEVEN, Whiteness
from gmdm_prior.noise.level import LEAST, Reading, level_of_patches
from gmdm_prior.noise.patches import spread_patches

LOW, HIGH = 1.0, 1.3
PLATEAU = 1.5  # above which flat blocks are textured
TEXTURED = 0.5  # of the level of flat blocks
LEAST_WIDE, MOST_WIDE = 0.6, 0.75
ALIKE = 1.2
TOLD = 1.0  # relative standard error
QUARTER, PATCHES, FEWEST = 4, 1_000, 64  # pixels, and patches of a quarter of the size
LOW_FREQUENCIES = 3  # pixels whose means are looked at


def agreed(read: Autocovariance, test: Whiteness, unit: float, only: bool = True) -> Tensor:
    """The lags of the brightness, at a level that the likelihood agrees to.

    Where noise has no low frequencies, full size tells the level. Where half the size tells little
    and there is more to ask than it (not `only`), it is not asked.
    """
    told = test.half * unit
    if test.ratio > BLUE:
        return read.lags * min(1.0, test.ratio * told / read.sigma) ** 2
    if told <= LEAST or (test.error > TOLD and not only):
        return read.lags
    least = LOW * told if read.anisotropy < UNEVEN else 0.0
    most = HIGH * told if read.plateau > PLATEAU else math.inf
    return read.lags * (min(max(read.sigma, least), most) / read.sigma) ** 2


def of_colour(
    model: DensityModel, planes: list[Plane], read: list[Autocovariance | None], test: Whiteness
) -> list[Tensor]:
    """The lags of luminance and differences, of which the first is not None."""
    known = [r for r in read if r is not None]
    rough = [r is not None and max(r.plateau, read[0].plateau) > PLATEAU for r in read]
    light = replace(read[0], lags=read[0].lags * (TEXTURED**2 if rough[0] else 1.0))
    lags = [agreed(light, test, planes[0].unit, only=len(known) == 1)]
    for i in (1, 2):
        lags.append(little(read[0].lags))
        if read[i] is not None:
            told = _wide_level(model, planes[i], SCALES[i])
            lags[i] = _bounded(read[i].lags, told, rough[i])
    least = min(low_level(v) for v, r in zip(lags, read, strict=True) if r is not None)
    for i, r in enumerate(read):
        if r is not None and (i or rough[0]):
            lags[i] = lags[i] * min(1.0, ALIKE * least / max(low_level(lags[i]), 1e-12)) ** 2
    return lags


def _bounded(lags: Tensor, told: Reading | None, rough: bool) -> Tensor:
    """The lags of a difference of colours, at a level that the likelihood agrees to."""
    level = max(low_level(lags), 1e-12)
    wanted = level * (TEXTURED if rough else 1.0)
    if told is not None and told.error < TOLD:
        wanted = max(wanted, LEAST_WIDE * math.exp(-told.error) * told.sigma)
        if rough:
            wanted = min(wanted, MOST_WIDE * told.sigma)
    return lags * (wanted / level) ** 2


def _wide_level(model: DensityModel, plane: Plane, scale: float) -> Reading | None:
    """The level of white noise that the likelihood reads at a quarter of the size, for full size.

    Args:
        model: a density of gray patches.
        plane: a difference of colours.
        scale: the plane over this looks like a gray image.
    """
    small = F.avg_pool2d(plane.values[None] * (plane.unit / scale), QUARTER)[0]
    hidden = F.max_pool2d(plane.lying[None].to(small), QUARTER)[0] > 0
    if min(small.shape[1:]) < 2 * model.patch_size:
        return None
    patches = spread_patches(small, model, hidden, PATCHES)
    if len(patches) < FEWEST:
        return None
    found = level_of_patches(model, patches.values, patches.overlap)
    return replace(found, sigma=QUARTER * scale * found.sigma)


def low_level(lags: Tensor) -> float:
    """Level of white noise whose means over a few pixels vary as much."""
    m = len(lags) // 2
    place = torch.arange(-m, m + 1, device=lags.device)
    window = (1 - place.abs() / LOW_FREQUENCIES).clamp(min=0).to(lags)
    return math.sqrt(max(0.0, float((lags * torch.outer(window, window)).sum())))


def little(like: Tensor) -> Tensor:
    """The lags of white noise that is next to none beside others."""
    lags = torch.zeros_like(like)
    m = len(lags) // 2
    lags[m, m] = 1e-6 * float(like[m, m])
    return lags
