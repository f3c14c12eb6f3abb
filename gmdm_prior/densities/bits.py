"""Bits per dimension: how many bits a density needs for a pixel of a quantised image.

An image of `levels` grey levels holds whole numbers k = 0 … levels - 1, as k / (levels - 1) in
[0, 1]. A density of real numbers gives it the probability of its bin, k / levels to (k + 1) /
levels in every dimension; a uniform point of the bin (dequantisation) gives an upper bound, in the
mean over u (Jensen),

    bits = -1/a log2 f((k + u) / levels) + log2 levels,     u uniform in [0, 1)^a,

where a is the number of dimensions. A uniform density of [0, 1]^a needs log2 levels, 8 for 256.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gmdm_prior.sigma import compute_dtype


def bits_per_dim(
    log_prob: Callable[[Tensor], Tensor],
    images: Tensor,
    levels: int = 256,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Bits per dimension of quantised images under a normalised density.

    Args:
        log_prob: the log-density (*batch) of images like the given ones, in nats.
        images: (*batch, …), floating point; pixels are rounded to the nearest k / (levels - 1) and
            may lie outside [0, 1].
        levels: how many grey levels [0, 1] has.
        generator: draws the uniform points; on the device of the images.

    Returns:
        (*batch), in the dtype of the images.

    Raises:
        ValueError: levels is no integer from 2.
    """
    if not isinstance(levels, int) or levels < 2:
        raise ValueError(f"levels must be an integer from 2, 256 for 8-bit images; got {levels!r}")
    exact = images.to(compute_dtype(images.dtype))
    u = torch.rand(exact.shape, generator=generator, dtype=exact.dtype, device=exact.device)
    nats = log_prob(((exact * (levels - 1)).round() + u) / levels)
    dimensions = math.prod(images.shape[nats.ndim :])
    return (math.log2(levels) - nats / (dimensions * math.log(2))).to(images.dtype)
