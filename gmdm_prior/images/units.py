"""Images and noise levels in other units than a density knows: said once, with the remedy."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from gmdm_prior.sigma import readable

FAR, DEVIATIONS = 30.0, 6.0  # what no iterate reaches outside of [0, 1], and of the noise
# without numbers, so that Python says each once
OUTSIDE = (
    "images have values far outside [0, 1], where the density knows images: divide them, or give "
    "data_range=(black, white) to GMDMDenoiser, GMDMPrior or GMDMNoiseEstimator"
)
ABOVE = (
    "sigma is above 1, the range of images in [0, 1], and these images have no such noise; did you "
    "mean sigma / 255?"
)


def warn_of_units(images: Tensor, level: Tensor) -> None:
    """Warn where images lie far outside of [0, 1], or have no room for the noise they are said to.

    Iterates of solvers and samplers leave [0, 1] too, but not further than their noise explains.

    Args:
        images: (B, C, H, W), where black is 0 and white 1.
        level: their noise levels, of any shape.
    """
    if not images.numel() or not (readable(images) and readable(level)):
        return
    noise = float(level.detach().max())
    least, most = (float(end) for end in torch.aminmax(images.detach()))
    if max(-least, most - 1) > FAR + DEVIATIONS * noise:
        warnings.warn(OUTSIDE, stacklevel=2)
    elif noise > 1 and float(images.detach().std()) < noise / 2:
        warnings.warn(ABOVE, stacklevel=2)
