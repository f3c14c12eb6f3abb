"""How much of what flat blocks say is noise: levels that other evidence agrees to.

Flattest blocks are textured where all of an image is, and then say too much, up to ten times. They
differ from one another there (`plateau`). Too little is said where they are the darkest and noise
grows with brightness. Two things hold against both.

*The likelihood of half the size* (`whiteness`) tells texture from noise: the brightness has `LOW`
to `HIGH` times the level that it reads, or more where its flat blocks are alike.

*The planes of colour*: noise has about as much of it in each of the orthonormal planes at low
frequencies, but texture is mostly brightness and hardly green. Where flat blocks of a difference or
of the brightness are textured, that difference counts `TEXTURED` of its level; neither difference
has more than the other, and a textured brightness at most `ALIKE` times the lower of them. Cameras
take noise away from differences first, and below `UNSEEN` they say nothing of the brightness.

A level that is too low costs less than one that is too high: under texture, half the true level
loses a tenth of a dB, twice the level up to six. The constants are from five cameras and ten free
photographs under simulated ones.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from gmdm_prior.noise.estimate.autocovariance import Autocovariance
from gmdm_prior.noise.estimate.found import next_to_none
from gmdm_prior.noise.estimate.whiteness import BLUE, UNEVEN, Whiteness
from gmdm_prior.noise.level import LEAST

LOW, HIGH = 1.0, 1.3
PLATEAU = 1.5  # above which flat blocks are textured
TEXTURED, ALIKE = 0.55, 1.5
UNSEEN = 4 / 255
TOLD = 1.0  # relative standard error below which the likelihood is believed
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


def of_colour(read: list[Autocovariance | None], test: Whiteness, unit: float) -> list[Tensor]:
    """The lags of luminance and differences, of which the first is not None.

    Args:
        read: what flat blocks say.
        test: of the luminance over `unit`.
        unit: as said.
    """
    known = [r for r in read if r is not None]
    rough = [r is not None and max(r.plateau, read[0].plateau) > PLATEAU for r in read]
    lags = [
        r.lags * (TEXTURED if t else 1.0) ** 2 if r is not None else next_to_none(read[0].lags)
        for r, t in zip(read, rough, strict=True)
    ]
    lags[0] = agreed(replace(read[0], lags=lags[0]), test, unit, only=len(known) == 1)
    levels = [low_level(v) for v, r in zip(lags, read, strict=True) if r is not None]
    least = min(levels[1:], default=levels[0])
    most = [ALIKE * max(least, UNSEEN) if rough[0] else math.inf, least, least]
    return [
        v * min(1.0, m / max(low_level(v), 1e-12)) ** 2 for v, m in zip(lags, most, strict=True)
    ]


def low_level(lags: Tensor) -> float:
    """Level of white noise whose means over a few pixels vary as much."""
    m = len(lags) // 2
    place = torch.arange(-m, m + 1, device=lags.device)
    window = (1 - place.abs() / LOW_FREQUENCIES).clamp(min=0).to(lags)
    return math.sqrt(max(0.0, float((lags * torch.outer(window, window)).sum())))
