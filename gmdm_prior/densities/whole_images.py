"""What densities of whole images share: batches of images of any size, their noise, their samples.

An event of such a density is an image (1, H, W) of any size that the model can take. Its methods
hand `on_images` a function of planes (N, H, W) and noise variances () or (N, 1, 1), in float64 or
float32, and get back what `DensityModel` promises.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gmdm_prior.densities.base import CHUNK
from gmdm_prior.sigma import compute_dtype, event_variance


def on_images(
    x: Tensor,
    sigma: float | Tensor,
    evaluate: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
    numbers_per_pixel: int = 16,
) -> tuple[Tensor, ...]:
    """Run `evaluate(planes (N, H, W), noise () or (N, 1, 1))` over a batch, a few images at a time.

    Args:
        x: images (*batch, 1, H, W), floating point; half types are worked on in float32.
        sigma: noise level, a number or a tensor that broadcasts to the batch shape without
            enlarging it.
        evaluate: returns a tuple of outputs, each (N,) or (N, H, W).
        numbers_per_pixel: how many numbers it holds for every pixel, to bound the memory.

    Returns:
        The outputs as (*batch,) or (*batch, 1, H, W), in the dtype of x.

    Raises:
        TypeError: x is no floating-point tensor, or sigma is not numeric.
        ValueError: x has another shape, or sigma is negative, not finite or a map.
    """
    check_images(x)
    batch = x.shape[:-3]
    variance = event_variance(sigma, batch, x)
    planes = x.reshape(-1, *x.shape[-2:]).to(compute_dtype(x.dtype))
    if variance.ndim:
        variance = variance.reshape(-1, 1, 1)
    count = max(1, CHUNK // (numbers_per_pixel * max(1, planes[:1].numel())))
    parts = [
        evaluate(p, variance if variance.ndim == 0 else variance[i * count : (i + 1) * count])
        for i, p in enumerate(planes.split(count))
    ]
    outputs = []
    for pieces in zip(*parts, strict=True):
        joined = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        tail = (1, *joined.shape[1:]) if joined.ndim == 3 else ()
        outputs.append(joined.reshape((*batch, *tail)).to(x.dtype))
    return tuple(outputs)


def check_images(x: Tensor) -> None:
    """Refuse what is no batch of floating-point images of one channel, with the remedy."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor (*batch, 1, H, W); got {type(x).__name__}")
    if x.is_complex():
        raise TypeError(
            f"x must be real; got {x.dtype}. Take real and imaginary parts as two images of a batch"
        )
    if not x.is_floating_point():
        raise TypeError(
            f"x must be floating point in [0, 1]; got {x.dtype}. Use x.float() / 255 for 8 bits"
        )
    if x.ndim < 3 or x.shape[-3] != 1:
        hint = ""
        if x.ndim == 2:
            hint = ". Add the channel axis with x[None]"
        elif x.ndim >= 3:
            hint = (
                ". The model is of one channel: make channels part of the batch with "
                "x.unsqueeze(-3)"
            )
        raise ValueError(f"x must have shape (*batch, 1, H, W); got {tuple(x.shape)}{hint}")
    if 0 in x.shape[-2:]:
        raise ValueError(f"x must hold at least one pixel an image; got {tuple(x.shape)}")


def check_size(size: tuple[int, int]) -> tuple[int, int]:
    """The (H, W) of images to sample.

    Raises:
        ValueError: it is not two positive integers.
    """
    try:
        height, width = size
    except (TypeError, ValueError):
        height = width = 0
    for n in (height, width):
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise ValueError(f"size must be (H, W), two positive integers; got {size!r}")
    return height, width


def sample_noise(shape: tuple[int, ...], sigma: float | Tensor, like: Tensor) -> Tensor:
    """The noise variances (N, 1, 1) of N = prod(shape) images, in the working dtype of `like`."""
    shape = torch.Size(shape)
    variance = event_variance(sigma, shape, like).to(compute_dtype(like.dtype))
    return variance.expand(shape).reshape(math.prod(shape), 1, 1)
