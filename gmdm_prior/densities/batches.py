"""Batches of events: what densities are given, in pieces of bounded memory.

Densities of patches and of whole images hand `on_patches` and `on_images` a function of rows or
planes and their noise, in float64 or float32, and get back what `DensityModel` promises.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gmdm_prior.gaussian_noise import Covariance, Noise
from gmdm_prior.sigma import compute_dtype, event_variance

CHUNK = 2**24  # numbers an exact evaluation holds at a time
Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


def on_patches(
    event_shape: tuple[int, ...],
    x: Tensor,
    sigma: float | Tensor,
    evaluate: Evaluate,
    numbers_per_patch: Callable[[Tensor], int],
) -> tuple[Tensor, ...]:
    """Run `evaluate(patches (N, a), noise () or (N, 1))` over a batch in bounded memory.

    Each output (N, …) is returned as (*batch, …) in the dtype of x; outputs (N, a) become events
    again.
    """
    check_events(x, event_shape)
    batch = x.shape[: x.ndim - len(event_shape)]
    variance = event_variance(sigma, batch, x)
    flat = x.reshape(-1, math.prod(event_shape)).to(compute_dtype(x.dtype))
    if variance.ndim:
        variance = variance.reshape(-1, 1)
    rows = max(1, CHUNK // numbers_per_patch(variance))

    def shape(joined: Tensor) -> tuple[int, ...]:
        return event_shape if joined.shape[1:] == flat.shape[1:] else joined.shape[1:]

    outputs = in_batches(flat, variance, rows, evaluate)
    return tuple(out.reshape((*batch, *shape(out))).to(x.dtype) for out in outputs)


def on_images(
    x: Tensor, sigma: float | Tensor, evaluate: Evaluate, numbers_per_pixel: int = 16
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

    def shape(joined: Tensor) -> tuple[int, ...]:
        return (1, *joined.shape[1:]) if joined.ndim == 3 else ()

    outputs = in_batches(planes, variance, count, evaluate)
    return tuple(out.reshape((*batch, *shape(out))).to(x.dtype) for out in outputs)


def in_batches(
    events: Tensor, variance: Tensor, count: int, evaluate: Evaluate
) -> tuple[Tensor, ...]:
    """`evaluate` of `count` events at a time with their noise variances, () for all or (N, …)."""
    parts = [
        evaluate(some, variance if variance.ndim == 0 else variance[i * count : (i + 1) * count])
        for i, some in enumerate(events.split(count))
    ]
    pieces = zip(*parts, strict=True)
    return tuple(p[0] if len(p) == 1 else torch.cat(p) for p in pieces)


def on_patches_at(
    event_shape: tuple[int, ...],
    x: Tensor,
    noise: Noise | Covariance,
    evaluate: Callable[[Tensor, Covariance], tuple[Tensor, ...]],
    numbers_per_patch: Callable[[Tensor], int],
) -> tuple[Tensor, ...]:
    """`on_patches` for noise of any kind: runs `evaluate(patches (N, a) in float64, covariance)`.

    Args:
        event_shape: (C, b, b).
        x: (*batch, C, b, b).
        noise: a `Covariance`, or a `Noise` of one image or of as many as the batch's first axis.
        evaluate: returns a tuple of outputs (N, …).
        numbers_per_patch: how many numbers it holds for every patch.
    """
    check_events(x, event_shape)
    count = 1 if isinstance(noise, Covariance) else len(noise)
    if count > 1 and (x.ndim == len(event_shape) or len(x) != count):
        raise ValueError(
            f"the noise is that of {count} images, which must be the first axis of the batch; got "
            f"patches {tuple(x.shape)}. noise[i] is that of one"
        )
    batch = x.shape[: x.ndim - len(event_shape)]
    rows = max(1, CHUNK // numbers_per_patch(x.new_ones(1, 2)))
    by_image = []
    for i, events in enumerate(x.reshape(count, -1, math.prod(event_shape)).double()):
        covariance = patch_covariance(noise, i, event_shape)
        pieces = [evaluate(some, covariance) for some in events.split(rows)]
        by_image.append([torch.cat(columns) for columns in zip(*pieces, strict=True)])
    outputs = []
    for parts in zip(*by_image, strict=True):
        joined = torch.cat(parts)
        tail = event_shape if joined.shape[1:] == (math.prod(event_shape),) else joined.shape[1:]
        outputs.append(joined.reshape((*batch, *tail)).to(x.dtype))
    return tuple(outputs)


def patch_covariance(
    noise: Noise | Covariance, image: int, event_shape: tuple[int, ...]
) -> Covariance:
    """The covariance of the noise of patches (C, b, b) of one image, channels independent.

    Raises:
        ValueError: the noise has another number of channels, or depends on brightness.
    """
    if isinstance(noise, Covariance):
        return noise
    channels, size, _ = event_shape
    if noise.curve is not None:
        raise ValueError(
            "a density takes stationary noise, the same at every brightness; this Noise has a "
            "curve. Stabilise its variance first, or leave the curve out"
        )
    if noise.opponent:
        raise ValueError(
            "the noise is that of luminance and colour differences, which an OpponentModel takes"
        )
    if noise.channels not in (1, channels):
        raise ValueError(
            f"the noise must have 1 or {channels} channels for this density; got {noise.channels}"
        )
    blocks = [noise.covariance(c, size, image).matrix for c in range(channels)]
    return Covariance(torch.block_diag(*blocks))


def check_events(x: Tensor, event_shape: tuple[int, ...]) -> None:
    """Refuse what is no batch of floating-point events, with the remedy."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor; got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"x must be real floating point (images in [0, 1]); got {x.dtype}")
    if x.ndim < len(event_shape) or x.shape[x.ndim - len(event_shape) :] != event_shape:
        raise ValueError(
            f"x must have shape (*batch, {', '.join(map(str, event_shape))}); got "
            f"{tuple(x.shape)}. For whole images use PatchAveraging or HalfQuadraticSplitting"
        )


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
