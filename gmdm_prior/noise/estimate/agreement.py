"""How much of what flat blocks say is noise: levels that other evidence agrees to.

Flattest blocks are textured where all of an image is, and then say too much, up to ten times; too
little is said where they are the darkest and noise grows with brightness. Three things hold against
it.

*The likelihood of half the size* (`whiteness`) tells texture from noise: the brightness has `LOW`
to `HIGH` times the level that it reads, or more where blocks are equally flat (`plateau`).

*Plateau*: of blocks that are all noise the flattest hardly differ. Where they do, the flattest are
about as far above the noise as the next are above them: the level of a difference of colours is
divided by the root of the plateau, at most by `MOST_SHRUNK`.

*The planes of colour*: noise of independent colours has as much of it in each of the orthonormal
planes, but texture is mostly brightness and hardly green. So a plane that is textured has at low
frequencies no more than `COLOUR` times the level of the plane that has least.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gmdm_prior.autocovariance import taper
from gmdm_prior.noise.estimate.autocovariance import REACH, Autocovariance
from gmdm_prior.noise.estimate.whiteness import BLUE, UNEVEN, Whiteness
from gmdm_prior.noise.level import LEAST

LOW, HIGH = 1.0, 1.3
PLATEAU = 1.3  # above which flat blocks are textured
MOST_SHRUNK = 2.0
CAUTION = 1.5  # what variances of differences are divided by besides, where there is texture
COLOUR = (0.8, 1.0, 1.0)  # of the brightness, and of the differences
NARROW = 6  # lags that noise of differences has, beside texture
FLOOR = (1.0, 0.35, 0.35)  # at least, of the lower end of what half the size says
UNSEEN_RATIO = 0.2  # of the levels of full and half size: below it texture is not what is seen
LOW_FREQUENCIES = 3  # pixels whose means are looked at
UNSURE = 1.0  # relative error from which on the likelihood of half the size tells nothing


def agreed(read: Autocovariance, test: Whiteness, unit: float, unsure: bool = True) -> Tensor:
    """The lags of the brightness, at a level that the likelihood agrees to.

    Where noise has no low frequencies, full size tells the level. Where half the size tells nothing
    and others will (`unsure`), it is not asked.
    """
    told = test.half * unit
    if test.ratio > BLUE:
        return read.lags * min(1.0, test.ratio * told / read.sigma) ** 2
    if told <= LEAST or (test.error > UNSURE and not unsure):
        return read.lags
    least = LOW * told if read.anisotropy < UNEVEN else 0.0
    most = HIGH * told if read.plateau > PLATEAU else math.inf
    return read.lags * (min(max(read.sigma, least), most) / read.sigma) ** 2


def of_colour(read: list[Autocovariance | None], test: Whiteness, unit: float) -> list[Tensor]:
    """The lags of luminance and differences, of which the first is not None."""
    known = [r for r in read if r is not None]
    lags = [agreed(read[0], test, unit, unsure=len(known) == 1)]
    for r in read[1:]:
        lags.append(little(read[0].lags) if r is None else r.lags / _shrinking(r.plateau))
    least = min(low_level(r.lags) for r in known)
    for i, r in enumerate(read):
        if i and r is not None and max(r.plateau, read[0].plateau) > PLATEAU:
            more = CAUTION * _shrinking(max(r.plateau, read[0].plateau)) / _shrinking(r.plateau)
            lags[i] = F.pad(taper(lags[i], NARROW), (REACH - NARROW,) * 4) / more
    finally_least = min(low_level(v) for v, r in zip(lags, read, strict=True) if r is not None)
    for i, (r, share) in enumerate(zip(read, COLOUR, strict=True)):
        if r is not None and max(r.plateau, read[0].plateau) > PLATEAU:
            most = share * (finally_least if i else least)
            lags[i] = lags[i] * min(1.0, most / max(low_level(lags[i]), 1e-12)) ** 2
    if test.ratio < UNSEEN_RATIO:
        floor = test.half * unit * math.exp(-min(test.error, 9.0))
        for i, (r, share) in enumerate(zip(read, FLOOR, strict=True)):
            if r is not None:
                lags[i] = lags[i] * max(1.0, share * floor / max(low_level(lags[i]), 1e-12)) ** 2
    return lags


def _shrinking(plateau: float) -> float:
    """What a variance is to be divided by."""
    return min(max(plateau, 1.0), MOST_SHRUNK**2)


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
