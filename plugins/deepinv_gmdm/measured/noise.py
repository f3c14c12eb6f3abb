"""The noise of measurements, read where they hold least of what was measured."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Tensor

from deepinv_gmdm.noise_estimator import GMDMNoiseEstimator
from gmdm_prior.noise.one_level import slope_and_offset
from gmdm_prior.noise.poisson_gaussian import estimate_poisson_gaussian

SMALLEST_COUNTED = 32  # pixels on a side, from which gain and sigma can be told
UNTOLD = 2.5 / 255  # of 1 to 6, the best where a blurred JPEG of quality 75 to 95 is restored
BLOCK = 24  # pixels, for the noise between missing ones
LEAST = 20  # places in a corner of k-space
MAD = 0.6745  # median of |n| for a standard normal n


def robust(values: Tensor) -> float:
    """A standard deviation that a few large values do not change."""
    return float((values - values.median()).abs().median()) / MAD if values.numel() else 0.0


def picture_noise(
    y: Tensor, kind: str, blurred: bool = False, lossy: bool = False, step: float = 0.0
) -> tuple[float, str]:
    """The level of the noise of pictures in [0, 1], and the sentence on it.

    Too low a level is what undoing a blur suffers from most: the upper end of the interval is
    taken, and where that is not known, or compression took the noise away, `UNTOLD` is added.

    Args:
        y: (B, C, H, W).
        kind: of the noise, as for `GMDMNoiseEstimator`; the smoothness of pictures that are blurred
            or small looks like correlated noise, so that theirs is taken for white.
        blurred: the blur is to be undone.
        lossy: their file's format changes values.
        step: what neighbouring values of the file differ by.
    """
    estimator = GMDMNoiseEstimator(kind=kind).to(y.device)
    with warnings.catch_warnings():
        if blurred:  # that noise is not told from texture is said below
            warnings.filterwarnings("ignore", ".*not told from texture")
        found = estimator.with_error(y)
    level, upper = float(found.sigma.max()), float(found.interval()[1].max())
    if blurred and (lossy or not bool(found.told.all())):
        seen = float(GMDMNoiseEstimator(kind="auto").to(y.device).noise(y).sigma.max())
        level = math.hypot(max(seen, level), UNTOLD)
        why = "the file's compression hides it" if lossy else "less is not told from texture"
        return level, f"noise {255 * level:.2f}/255, as {why} (physics.noise.sigma says otherwise)"
    level = max(upper if blurred else level, step / math.sqrt(12))  # values are rounded
    return level, f"noise {255 * level:.2f}/255, read off the measurement"


def grows(y: Tensor) -> bool:
    """Whether the noise of a picture (1, C, H, W) grows with brightness, as photons' does."""
    if min(y.shape[-2:]) < SMALLEST_COUNTED:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the level is read and spoken of elsewhere
        noise = GMDMNoiseEstimator(kind="auto").to(y.device).noise(y)
        gain = estimate_poisson_gaussian(y)[0]
    return slope_and_offset(noise) is not None and float(gain) > 0


def corner_noise(y: Tensor, seen: Tensor) -> tuple[float, str]:
    """The noise of k-space where it holds least of the image: at its highest frequencies."""
    height, width = seen.shape
    down = (torch.arange(height, device=y.device) - height // 2).abs() / (height / 2)
    across = (torch.arange(width, device=y.device) - width // 2).abs() / (width / 2)
    high = torch.minimum(down[:, None], across[None, :])
    lower = torch.arange(height, device=y.device) < height // 2
    right = torch.arange(width, device=y.device) >= width // 2
    for share in (0.8, 0.7, 0.6, 0.5, 0.3, 0.0):
        there = [
            seen & (high >= share) & (lower[:, None] == low) & (right[None, :] == side)
            for low in (False, True)
            for side in (False, True)
        ]
        if min(int(corner.sum()) for corner in there) >= LEAST:
            break
    levels = [robust(y[..., corner]) for corner in there if bool(corner.any())]
    return min(levels), "the quietest corner of k-space"


def sinogram_noise(page: np.ndarray) -> tuple[float, str]:
    """The noise of a sinogram (detectors, angles).

    That of its outer rows, which see air, or of its finest diagonal detail, of which projections
    have little: whichever is less, as both count what is left of the object.
    """
    rows = max(1, len(page) // 50)
    outer = robust(torch.from_numpy(np.concatenate([page[:rows], page[-rows:]])))
    if min(page.shape) < 2:
        return outer, f"the outer {rows} rows of detectors on both sides"
    change = np.diff(np.diff(page, axis=0), axis=1) / 2
    detail = robust(torch.from_numpy(change))
    if detail < outer:
        return detail, "the finest detail of the sinogram"
    return outer, f"the outer {rows} rows of detectors on both sides"


def between_missing(y: Tensor, mask: Tensor) -> float:
    """The noise of an image with missing pixels, of seen neighbours in its flat blocks."""
    found = []
    both = mask[..., 1:] * mask[..., :-1] > 0
    both = both.expand(y.shape[0], y.shape[1], -1, -1)
    change = y[..., 1:] - y[..., :-1]
    for top in range(0, y.shape[-2], BLOCK):
        for left in range(0, change.shape[-1], BLOCK):
            block = (..., slice(top, top + BLOCK), slice(left, left + BLOCK))
            values = change[block][both[block]]
            if values.numel() >= BLOCK:
                found.append(float(values.abs().median()) / MAD / math.sqrt(2))
    return float(np.quantile(found, 0.25)) if found else 0.0
