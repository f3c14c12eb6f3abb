"""Images of half the size, and back: the coarser scales of half-quadratic splitting.

A pixel of the half-size image is the mean of 2×2 pixels. White noise of standard deviation sigma
has sigma / 2 there; levels that differ from pixel to pixel are added as variances. How far the
half-size image is to be believed the variance around a pixel says (`Schedule.coarse_share`).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from gmdm_prior.images.patches import inner
from gmdm_prior.sigma import root

MARGIN = 2  # pixels around an image that `double(halve(x))` reads, and `double` takes off
HALVINGS = 2  # scales besides the image's own
WINDOW = 9  # side of the window of a variance
SEEN = WINDOW - 1  # pixels around a pixel that its variance is read from


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


def local_variance(image: Tensor) -> Tensor:
    """(C, H, W) -> (C, H - 16, W - 16): mean square, in a window, of what differs from its means.

    Of differences, so that it does not suffer where an image lies far from zero.
    """
    means = F.avg_pool2d(image[None], WINDOW, 1)
    return F.avg_pool2d((inner(image, WINDOW // 2) - means).square(), WINDOW, 1)[0]
