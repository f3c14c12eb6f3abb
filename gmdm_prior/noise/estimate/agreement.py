"""How much of what flat blocks say is noise: levels that other evidence agrees to.

Flattest blocks are textured where all of an image is, and then say too much, up to five times.
Too little is said where they are the darkest and noise grows with brightness, or where a camera has
smoothed them. The likelihood of half the size (`whiteness`) holds against both: it tells texture
from noise, better but not wholly.

*Gray*: where flat blocks differ from one another as texture does (`plateau`), the level is `LOW` to
`HIGH` times the one that half the size reads. A meadow is as alike everywhere as noise is, and half
the size sees less of it: where blocks are not quite alike (`ALIKE`), `HIGH` holds, too.

Noise without low frequencies has a spectrum that falls towards frequency 0, where texture's is
highest. What flat blocks say rises there again; from the ring of frequencies where it is least, at
f, to 0 the spectrum is at most what it is there times (frequency / f)², which is how one that is
smooth, as that of noise of short reach is, comes down to nothing.

*Colour*: half the size is asked of the brightness. Where it reads t times what flat blocks say of
that, flat blocks are wrong in its direction and so is it, which texture misleads, too:

    brightness  t^`BOLD` times what its flat blocks say,
    differences t^`MEEK` p^-`ROUGH` times what theirs say,  p their plateau.

Differences of colours have less texture. Where half the size sees noise in both, sigma, noise of
all planes is at most (sigma² - `GRAIN`²)^½, and narrow: further lags are texture's. Cameras smooth
differences or store fewer of them, of which half the size then sees nothing. If it sees no more in
them than texture, the brightness is asked alone where it is sure (`SURE`).

Rows or columns of noise are texture to half the size. Where blocks of both differences have them
(`UNEVEN`) and are alike, flat blocks are right, and brightness has no more noise than differences.

The exponents are fitted to what denoises best (`images.blind`) of 21 camera pictures, 13 free
photographs under simulated cameras (mosaic, photons, JPEG) and 16 cuts of photographs under weak
noise; 13 other camera pictures agree.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gmdm_prior.autocovariance import taper
from gmdm_prior.noise.estimate.autocovariance import Autocovariance, positive, spectrum_of
from gmdm_prior.noise.estimate.found import next_to_none
from gmdm_prior.noise.estimate.whiteness import ALIKE, BLUE, PLATEAU, UNEVEN, Whiteness
from gmdm_prior.noise.level import LEAST, Reading

LOW, HIGH = 1.0, 1.3
SURE = 0.5  # relative standard error of a level of half the size that speaks for itself
BOLD, MEEK, ROUGH = 1.4, 0.8, 0.4
START, FAINT = 0.003, 0.0033  # of levels of half the size; those that are hardly above nothing
UNSURE = 1.0  # relative standard error of a level that may as well be none
GRAIN, NONE = 1.5 / 255, 0.2 / 255  # what half the size reads of texture; a level that is left
NEAR = 3  # pixels
LEAST_TOLD, MOST_TOLD, ROUGHEST = 0.2, 2.0, 6.0  # of t and p


def agreed(read: Autocovariance, test: Whiteness, unit: float) -> Tensor:
    """The lags of a gray plane, at a level that the likelihood agrees to.

    Where noise has no low frequencies, full size tells the level.
    """
    told = test.half * unit
    if test.ratio > BLUE:
        return _at_most(falling(read.lags), test.ratio * told)
    if told <= LEAST:
        return read.lags
    even = read.anisotropy < UNEVEN
    if read.plateau <= PLATEAU:
        textured = even and read.plateau > ALIKE and test.error < SURE
        return _at_most(read.lags, HIGH * told) if textured else read.lags
    least = LOW * told if even else 0.0
    return read.lags * (min(max(read.sigma, least), HIGH * told) / read.sigma) ** 2


def of_colour(
    read: list[Autocovariance | None],
    test: Whiteness,
    unit: float,
    differences: list[Reading | None],
) -> list[Tensor]:
    """The lags of luminance and differences, of which the first is not None.

    Args:
        read: what flat blocks say.
        test: of the luminance over `unit`.
        unit: as said.
        differences: what half their size says, from `START` upwards.
    """
    if all(r is not None and r.anisotropy >= UNEVEN and r.plateau < PLATEAU for r in read[1:]):
        bound = math.sqrt(read[1].sigma * read[2].sigma)
        return [_at_most(read[0].lags, bound), read[1].lags, read[2].lags]
    told = test.half * unit / read[0].sigma
    told = min(max(told, LEAST_TOLD), MOST_TOLD) if math.isfinite(test.error) else 1.0
    lags = [read[0].lags * told ** (2 * BOLD)]
    for r in read[1:]:
        if r is None:
            lags.append(next_to_none(lags[0]))
            continue
        smooth = min(max(r.plateau, 1.0), ROUGHEST) ** -ROUGH
        lags.append(r.lags * (told**MEEK * smooth) ** 2)
    if not all(d is not None and 2 * d.sigma > FAINT for d in differences):
        return lags
    if min(d.error for d in differences) > UNSURE:
        return lags
    most = [2 * d.sigma for d in differences]
    if max(most) <= GRAIN and test.error < SURE:
        return lags
    most = [math.sqrt(most[0] * most[1]), *most]
    return [
        _at_most(r if i == 0 else _narrow(r), math.sqrt(max(m**2 - GRAIN**2, NONE**2)))
        for i, (r, m) in enumerate(zip(lags, most, strict=True))
    ]


def falling(lags: Tensor) -> Tensor:
    """An autocovariance (2m+1, 2m+1) without the rise of its spectrum towards frequency 0."""
    m = len(lags) // 2
    side = 4 * m + 4
    spectrum = spectrum_of(lags, side)
    places = torch.fft.fftfreq(side, 1 / side, dtype=lags.dtype, device=lags.device)
    radius = torch.hypot(places[:, None], places)
    ring = radius.round().long()
    sums, counts = (torch.bincount(ring.flatten(), w) for w in (spectrum.flatten(), None))
    means = (sums / counts)[: side // 4 + 1]
    least = int(means.argmin())
    if least == 0:
        return lags
    bound = means[least] * (radius / least).square()
    spectrum = torch.where(ring <= least, torch.minimum(spectrum, bound), spectrum)
    wide = torch.fft.ifft2(spectrum).real.roll((m, m), (0, 1))
    return positive(wide[: 2 * m + 1, : 2 * m + 1])


def _narrow(lags: Tensor) -> Tensor:
    """The same level, with near lags only."""
    more = len(lags) // 2 - NEAR
    return F.pad(taper(lags, NEAR), (more,) * 4)


def _at_most(lags: Tensor, sigma: float) -> Tensor:
    m = len(lags) // 2
    return lags * min(1.0, sigma**2 / float(lags[m, m]))
