"""How a noise level is aligned with a batch: the only file that looks at the shape of a sigma.

A noise level is a standard deviation in the units of the image. Plain broadcasting is a trap: a
(B,) sigma against images (B, 1, H, W) silently becomes one level per column when B = W. Densities
take one level per event; image denoisers also take a map, one level per pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from gmdm_prior.sigma_text import parse as parse


def sigma_from_time(time: float | Tensor) -> float | Tensor:
    """Noise level of the heat equation's time: sigma = sqrt(2 t) (paper, Section 2.2)."""
    return (2 * time) ** 0.5


def time_from_sigma(sigma: float | Tensor) -> float | Tensor:
    """Time of the heat equation at a noise level: t = sigma² / 2."""
    return sigma * sigma / 2


def root(variance: Tensor) -> Tensor:
    """Noise levels of variances; the slope at zero is zero, not infinite."""
    positive = variance > 0
    return torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), 0.0)


def largest(dtype: torch.dtype) -> float:
    """The largest level or pixel whose square, and sums of such, can be held: 2e15 in float32."""
    return 1e-4 * torch.finfo(compute_dtype(dtype)).max ** 0.5


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which an input of `dtype` is worked on: half types accumulate in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def readable(values: Tensor) -> bool:
    """Whether looking at the values is free: on the CPU, outside compilation and `torch.func`."""
    return values.device.type == "cpu" and concrete(values)


def concrete(values: Tensor) -> bool:
    """Whether the values can be looked at: not while compiling, nor inside `torch.func.vmap`."""
    if torch.compiler.is_compiling():
        return False
    try:
        values.detach().flatten()[:1].sum().item()
    except RuntimeError:  # a batched tensor has no single value
        return False
    return True


def plain(values: Tensor) -> bool:
    """Whether float32 numbers can be worked on where they lie, and nothing is to be traced."""
    if values.device.type != "cpu" or values.dtype != torch.float32:
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if values.requires_grad and torch.is_grad_enabled():
        return False
    if forward_ad.unpack_dual(values).tangent is not None:
        return False
    try:
        values.data_ptr()
    except RuntimeError:  # a wrapper of torch.func has no numbers of its own
        return False
    return True


def event_variance(sigma: float | Tensor, batch: torch.Size, like: Tensor) -> Tensor:
    """The noise variance of every event of a batch, for densities.

    Args:
        sigma: a number, or a tensor that broadcasts to `batch` without enlarging it.
        batch: the batch shape.
        like: gives device and dtype.

    Returns:
        A zero-dimensional tensor, or one of shape `batch`.

    Raises:
        ValueError: for a negative or non-finite level, or a shape that does not fit (a map, say).
        TypeError: for anything that is not a number or a tensor.
    """
    level = _as_tensor(sigma, like)
    if level.ndim == 0:
        return level.square()
    try:
        fits = torch.broadcast_shapes(level.shape, batch) == batch
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"sigma must be a number or broadcast to the batch shape {tuple(batch)}; got shape "
            f"{tuple(level.shape)}. A density has one noise level per event: noise that varies "
            "inside it has no closed form; for a map use PatchAveraging or HalfQuadraticSplitting"
        )
    return level.square().expand(batch)


def image_level(sigma: object, images: Tensor) -> tuple[Tensor, bool]:
    """The noise level of a batch of images, for image denoisers.

    Args:
        sigma: number, 0-d, (1,), (B,), (B, 1, 1, 1), or a map (B|1, 1|C, H, W); tensor, array or
            sequence.
        images: (B, C, H, W), gives device and dtype.

    Returns:
        The levels and whether they are a map: (B,) and False, or (B, C, H, W) and True. A map that
        is constant per image is returned as (B,), so that it takes the scalar's path.

    Raises:
        ValueError: for a negative or non-finite level, or a shape that does not fit.
        TypeError: for anything that is not numeric.
    """
    b, c, h, w = images.shape
    level = _as_tensor(sigma, images)
    if level.numel() == 1:
        return level.reshape(1).expand(b), False
    if level.shape in ((b,), (b, 1, 1, 1)):
        return level.reshape(b), False
    if level.ndim == 4 and level.shape[2:] == (h, w):
        if level.shape[0] in (1, b) and level.shape[1] in (1, c):
            flat = level.expand(b, c, h, w).flatten(1)
            if readable(level) and bool((flat == flat[:, :1]).all()):
                return flat[:, 0], False
            return level.expand(b, c, h, w), True
    raise ValueError(
        f"sigma must be a number, ({b},), ({b}, 1, 1, 1) or a map ({b} or 1, 1 or {c}, {h}, {w}) "
        f"for images {tuple(images.shape)}; got shape {tuple(level.shape)}"
    )


def _as_tensor(sigma: object, like: Tensor) -> Tensor:
    dtype = compute_dtype(like.dtype)
    if isinstance(sigma, Tensor):
        if sigma.is_complex() or sigma.dtype == torch.bool:
            raise TypeError(f"sigma must be real; got a tensor of {sigma.dtype}")
        if sigma.is_meta and not like.is_meta:
            raise ValueError(
                f"sigma is on the device meta, where tensors have no values; give one on "
                f"{like.device}"
            )
        level = sigma.to(device=like.device, dtype=dtype)
    elif isinstance(sigma, Real) and not isinstance(sigma, bool):
        _check_number(float(sigma), dtype)
        return torch.tensor(float(sigma), dtype=dtype, device=like.device)
    elif isinstance(sigma, (np.ndarray, np.generic, Sequence)) and not isinstance(sigma, str):
        try:
            array = np.asarray(list(sigma) if isinstance(sigma, Sequence) else sigma, dtype=float)
        except (TypeError, ValueError):
            raise TypeError(f"sigma must be numeric; got {sigma!r}") from None
        level = torch.as_tensor(array, dtype=dtype, device=like.device)
    else:
        raise TypeError(
            "sigma must be a number, tensor, array or sequence; got "
            f"{type(sigma).__name__} {sigma!r}"
        )
    if readable(level) and not bool(((level >= 0) & (level <= largest(dtype))).all()):
        raise ValueError(
            f"sigma must be finite and not negative, and at most {largest(dtype):.1g} in {dtype}; "
            "the given tensor holds "
            f"{'NaN' if level.isnan().any() else f'values from {level.min():g} to {level.max():g}'}"
        )
    return level


def _check_number(sigma: float, dtype: torch.dtype) -> None:
    if not 0 <= sigma < math.inf:
        raise ValueError(
            f"sigma must be finite and not negative; got {sigma}. It is a standard deviation in "
            "the units of the image, so 25/255 for images in [0, 1]"
        )
    if sigma > largest(dtype):
        raise ValueError(
            f"sigma must be at most {largest(dtype):.1g} in {dtype}, so that its square can be "
            f"held; got {sigma:g}. Give images in other units, or in float64"
        )
