"""Images and noise levels in other units than a density knows: said once, with the remedy."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from gmdm_prior.sigma import readable

FAR, DEVIATIONS = 3.0, 6.0  # outside of [0, 1], and of the noise, no image reaches


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
        warnings.warn(
            f"images have values from {least:.4g} to {most:.4g}, and the density knows images in "
            "[0, 1]: divide them, or give data_range=(black, white) to GMDMDenoiser, GMDMPrior or "
            "GMDMNoiseEstimator",
            stacklevel=2,
        )
    elif noise > 1 and float(images.detach().std()) < noise / 2:
        warnings.warn(
            f"sigma={noise:.4g} is above the range of images in [0, 1], which these are; did you "
            f"mean {noise:.4g}/255?",
            stacklevel=2,
        )
