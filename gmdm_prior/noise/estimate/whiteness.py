"""Is the noise of an image white?

Means of 2×2 pixels of white noise of level sigma are white, of level sigma / 2. So the likelihood
(`noise.level`) reads the same level from the image as it is and, doubled, from the image at half
the size; their ratio

    rho = sigma(full) / 2 sigma(half)

is 1 up to their errors. A density of natural patches takes noise that is correlated for texture, at
full size more than at half: rho falls to 0.3 and less. Noise without low frequencies makes rho 1.4.
Texture that is finer than the density knows lowers rho too, to 0.45 for weak noise, but both levels
are uncertain then. Hence noise is called correlated

    where rho < `RED` by more than `LESS_SURE` standard errors of log rho, or < `RED` and full size
    sees no white noise: none at all (`NOTHING`), or none that is told from texture (`UNSEEN`) while
    the flattest blocks are alike (`PLATEAU`),
    where rho < `DOUBT` by more than `SURE`, and the flattest blocks are alike (`ALIKE`), as
    texture's are not, not even a meadow's,
    where rho < `MILD` by more than `LEAST_SURE`, and the flattest blocks are alike and hold
    `SOMEWHAT_MORE` times what full size reads, but no more than `AGREE` times what half size does:
    neighbours that are correlated by 0.2 or 0.3,
    where pixels that lie leave nothing of half the size, and flat blocks that are alike hold `MORE`
    times what full size reads,
    where rho > `BLUE` and half size sees noise,
    where rho < `TEXTURE` and the flattest blocks have `UNEVEN` times as much noise along one axis
    as along the other, as neighbours in rows that are correlated make it.

The thresholds are between what free photographs and textures show under white noise, 5 to 50 / 255
(rho 0.46 to 1.05) and under correlated noise. Error rate: of 92 white images (every third of BSD68
at 5, 15, 25 and 50 / 255) one was taken for correlated, at 5 / 255, with an earlier rule for
`RED`; of 68 (every fourth) none, with this one and `LESS_SURE` at 5.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.noise.estimate.autocovariance import (
    Autocovariance,
    most_noise,
    read_autocovariance,
)
from gmdm_prior.noise.estimate.ladder import Ladder
from gmdm_prior.noise.level import Reading
from gmdm_prior.noise.patches import spread_patches

RED, DOUBT, TEXTURE, BLUE = 0.33, 0.5, 0.9, 1.2
MILD, SOMEWHAT_MORE, AGREE, LEAST_SURE = 0.85, 1.25, 1.2, 2.0
SURE, LESS_SURE, UNEVEN, PLATEAU, ALIKE = 5.0, 3.5, 2.0, 1.5, 1.2
UNSEEN, NOTHING = 0.5, 3.0  # relative standard errors of levels that may as well be, or are, none
MORE, ENOUGH = 1.6, 50  # so many blocks are enough to say that they are alike
PATCHES, FEWEST = 1_000, 16  # at half the size
LEAST = 0.002  # level around which the half-size image's is looked for, at least


@dataclass(frozen=True)
class Whiteness:
    """What the comparison of sizes says.

    Attributes:
        white: whether the noise is.
        ratio: rho.
        half: twice the level of the half-size image.
        error: standard error of its logarithm.
    """

    white: bool
    ratio: float
    half: float
    error: float = math.inf


def whiteness(
    model: DensityModel, plane: Tensor, full: Reading, lying: Tensor | None = None
) -> Whiteness:
    """Whether the noise of a plane (1, H, W), of which the likelihood read `full`, is white."""
    half = half_size(model, plane, max(full.sigma / 2, LEAST), lying)
    if half is None:
        return Whiteness(not _more_in_blocks(plane, full, lying), 1.0, full.sigma)
    blocks = functools.cache(lambda: read_autocovariance(plane[0], _first(lying)))
    ratio = full.sigma / (2 * half.sigma)
    below = -math.log(ratio) / _error(full, half)
    doubt = ratio < DOUBT and below > SURE
    red = ratio < RED and (doubt or below > LESS_SURE or _unseen(full, blocks))
    white = not red and (ratio < BLUE or half.error > UNSEEN)
    if white and ratio < TEXTURE:
        flat = blocks()
        white = flat is None or (flat.anisotropy < UNEVEN and not (doubt and flat.plateau < ALIKE))
        white &= not is_mild(full, half, flat)
    return Whiteness(white, ratio, 2 * half.sigma, half.error)


def is_mild(full: Reading, half: Reading, flat: Autocovariance | None) -> bool:
    """Whether half size, and flat blocks that agree with it, hold more noise than full size sees.

    Texture, even one that is alike everywhere, is more to flat blocks than to half the size.
    """
    if flat is None or flat.plateau >= ALIKE or flat.sigma < SOMEWHAT_MORE * full.sigma:
        return False
    ratio, agree = full.sigma / (2 * half.sigma), flat.sigma < AGREE * 2 * half.sigma
    return agree and ratio < MILD and -math.log(ratio) > LEAST_SURE * _error(full, half)


def _error(full: Reading, half: Reading) -> float:
    """Standard error of log rho."""
    return math.hypot(min(full.error, 9.0), min(half.error, 9.0))


def _first(lying: Tensor | None) -> Tensor | None:
    return None if lying is None else lying[0]


def _unseen(full: Reading, blocks: Callable[[], Autocovariance | None]) -> bool:
    """Whether full size sees no white noise, which texture, whose blocks differ, may hide too."""
    if full.error <= UNSEEN or full.error > NOTHING:
        return full.error > NOTHING
    flat = blocks()
    return flat is None or flat.plateau < PLATEAU


def _more_in_blocks(plane: Tensor, full: Reading, lying: Tensor | None) -> bool:
    """Whether flat blocks that are alike hold more noise than full size sees, between what lies."""
    if lying is None or not bool(lying.any()):
        return False
    blocks = read_autocovariance(plane[0], lying[0])
    if blocks is None or blocks.blocks < ENOUGH or blocks.plateau >= ALIKE:
        return False
    return min(blocks.sigma, most_noise(plane[0], torch.zeros_like(lying[0]))) > MORE * full.sigma


def half_size(
    model: DensityModel, plane: Tensor, sigma: float, lying: Tensor | None = None
) -> Reading | None:
    """The level of means of 2×2 pixels of a plane (1, H, W), looked for from about sigma upwards.

    None where there are too few of them.
    """
    small = F.avg_pool2d(plane[None], 2)[0]
    if min(small.shape[1:]) < 2 * model.patch_size:
        return None
    hidden = torch.zeros_like(small, dtype=torch.bool)
    if lying is not None and bool(lying.any()):
        hidden = F.max_pool2d(lying[None].to(plane), 2)[0] > 0
    patches = spread_patches(small, model, hidden, PATCHES)
    return Ladder(model, patches, sigma, grain=True).read() if len(patches) >= FEWEST else None
