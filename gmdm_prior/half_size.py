"""Images of half the size, and back: the second scale of half-quadratic splitting.

A pixel of the half-size image is the mean of 2×2 pixels. White noise of standard deviation sigma
has sigma / 2 there; levels that differ from pixel to pixel are added as variances.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .patches import pad

REACH = 3  # pixels to which `double(halve(x))` spreads a pixel, at most


def halve(image: Tensor, boundary: str) -> Tensor:
    """(C, H, W) -> (C, ceil(H / 2), ceil(W / 2)): means of 2×2 pixels; odd sides are padded."""
    _, height, width = image.shape
    if height % 2 or width % 2:
        image = pad(image, 0, 1, boundary)[:, : height + height % 2, : width + width % 2]
    return F.avg_pool2d(image[None], 2)[0]


def halve_level(level: Tensor, boundary: str) -> Tensor:
    """The noise level of the half-size image: of a number (), or of a map (C, H, W)."""
    if level.ndim == 0:
        return level / 2
    return halve(level.square(), boundary).sqrt() / 2


def double(image: Tensor, like: Tensor, boundary: str) -> Tensor:
    """(C, h, w) -> the size of `like`, by bilinear interpolation."""
    _, height, width = like.shape
    wide = F.interpolate(
        pad(image, 1, 1, boundary)[None], scale_factor=2, mode="bilinear", align_corners=False
    )[0]
    return wide[:, 2 : 2 + height, 2 : 2 + width]
