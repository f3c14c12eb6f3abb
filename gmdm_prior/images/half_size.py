"""Images of half the size, and back: the second scale of half-quadratic splitting.

A pixel of the half-size image is the mean of 2×2 pixels. White noise of standard deviation sigma
has sigma / 2 there; levels that differ from pixel to pixel are added as variances.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from gmdm_prior.images.patches import inner
from gmdm_prior.sigma import root

MARGIN = 2  # pixels around an image that `double(halve(x))` reads, and `double` takes off


def halve(image: Tensor) -> Tensor:
    """(C, H, W) of even sides -> (C, H / 2, W / 2): means of 2×2 pixels."""
    return F.avg_pool2d(image[None], 2)[0]


def halve_level(level: Tensor) -> Tensor:
    """The noise level of the half-size image: of a number (), or of a map (C, H, W)."""
    return root(halve(level.square())) / 2 if level.ndim else level / 2


def double(image: Tensor) -> Tensor:
    """(C, h, w) -> (C, 2 h - 4, 2 w - 4): bilinear interpolation of all but the outmost pixels."""
    wide = F.interpolate(image[None], scale_factor=2, mode="bilinear", align_corners=False)[0]
    return inner(wide, MARGIN)
