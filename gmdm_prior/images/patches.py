"""Overlapping patches of an image, and their average or sum, in strips of bounded memory.

Patches start at rows and columns `phase`, `phase + stride`, … of the image. A function of patches
is applied to strips of a few rows of patches at a time, so memory does not grow with (patch
numbers) x (pixels).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

NUMBERS_PER_STRIP = 2**18  # of patches: what fits the cache best, product and mixture
Run = Callable[[Callable[..., Any], Iterable[tuple]], Iterator[Any]]
STRIPS, LEAST_NUMBERS = 8, 2**15  # so many for the threads, but none of fewer numbers

P = ParamSpec("P")
R = TypeVar("R")


def pad(images: Tensor, before: int, after: int, boundary: str) -> Tensor:
    """Pad the last two axes by reflection (without repeating the edge) or periodically.

    Any amount works: where the image is smaller than the padding, the reflection is repeated.
    """
    for axis in (-2, -1):
        size = images.shape[axis]
        place = torch.arange(-before, size + after, device=images.device)
        if boundary == "circular":
            place = place % size
        elif size == 1:
            place = torch.zeros_like(place)
        else:
            place = place % (2 * size - 2)
            place = torch.minimum(place, 2 * size - 2 - place)
        images = images.index_select(axis, place)
    return images


def inner(values: Tensor, border: int) -> Tensor:
    """Less a border of the last two axes; a single number () has none."""
    if border == 0 or values.ndim == 0:
        return values
    return values[..., border:-border, border:-border]


def strips(
    image: Tensor, size: int, stride: int = 1, phase: tuple[int, int] = (0, 0)
) -> tuple[list[int], list[Tensor], int]:
    """The patches of an image (C, H, W), strip by strip.

    Returns:
        The first row of each strip, its patches (rows of patches, columns of patches, C, b, b) as
        views, and the first column.
    """
    top, left = phase
    windows = image[:, top:, left:].unfold(1, size, stride).unfold(2, size, stride)
    windows = windows.permute(1, 2, 0, 3, 4)
    count = max(STRIPS, math.ceil(windows.numel() / NUMBERS_PER_STRIP))
    rows = math.ceil(max(LEAST_NUMBERS / windows[0].numel(), len(windows) / count))
    parts = list(windows.split(rows))
    return [top + i * rows * stride for i in range(len(parts))], parts, left


def overlap_add(
    images: tuple[Tensor, ...],
    size: int,
    evaluate: Callable[..., Tensor],
    stride: int = 1,
    phase: tuple[int, int] = (0, 0),
    run: Run = itertools.starmap,
) -> Tensor:
    """Apply `evaluate` to all patches and add the results up where they lie.

    Args:
        images: one or more images (C, H, W) of the same shape, cut alike (an image and its noise
            map).
        size: side b of a patch.
        evaluate: takes one (N, C b²) matrix per image, the transposed of one (C b², N) in memory,
            and returns (N, C b²), of either layout.
        stride: distance of neighbouring patches.
        phase: row and column of the first patch, below `stride`.
        run: how strips are gone through (`threads.Workers.in_order`).

    Returns:
        The sum (C, H, W).
    """
    total = None  # made of the first sum, which `vmap` over noise levels alone makes a batch
    cuts = [strips(image, size, stride, phase) for image in images]
    starts, _, left = cuts[0]

    def fold(*parts: Tensor) -> Tensor:
        h, w = parts[0].shape[:2]
        # columns are patches in memory, as `fold` wants them
        columns = (p.permute(2, 3, 4, 0, 1).reshape(-1, h * w) for p in parts)
        out = evaluate(*(c.T for c in columns))
        extent = (h - 1) * stride + size, (w - 1) * stride + size
        return F.fold(out.T.unsqueeze(0), extent, size, stride=stride)[0]

    work = list(zip(*(cut[1] for cut in cuts), strict=True))
    for start, folded in zip(starts, run(fold, work), strict=True):
        height, width = folded.shape[1:]
        if total is None:
            total = folded.new_zeros(images[0].shape)
        total[:, start : start + height, left : left + width] += folded
    return total


def grid(step: int, stride: int) -> tuple[int, int]:
    """First row and column of the patches of a step, which goes through all stride² grids."""
    return step % stride, (step // stride + step) % stride


def cover(length: int, size: int, stride: int, phase: int, like: Tensor) -> Tensor:
    """How many patches cover each of `length` places along one axis, (length,)."""
    starts = torch.arange(phase, length - size + 1, stride, device=like.device)
    covered = (starts[:, None] + torch.arange(size, device=like.device)).flatten()
    return torch.bincount(covered, minlength=length).to(like.dtype)


def interior_average(
    images: tuple[Tensor, ...],
    size: int,
    evaluate: Callable[..., Tensor],
    stride: int = 1,
    phase: tuple[int, int] = (0, 0),
    run: Run = itertools.starmap,
) -> Tensor:
    """Mean of the evaluated patches over each pixel, less the b - 1 pixels next to the border.

    Returns:
        (C, H - 2 (b - 1), W - 2 (b - 1)).
    """
    total = overlap_add(images, size, evaluate, stride, phase, run)
    border = size - 1
    kept = inner(total, border)
    if stride == 1:
        return kept / (size * size)
    rows = cover(total.shape[1], size, stride, phase[0], total)[border:-border]
    columns = cover(total.shape[2], size, stride, phase[1], total)[border:-border]
    return kept / (rows[:, None] * columns)


def untraced(function: Callable[P, R]) -> Callable[P, R]:
    """Call `function` as it is from a compiled one: `torch.compile` would unroll loops over strips.

    Compiled or not, an image takes the same path, with tables and the compiled kernel where they
    apply.

    `torch.compiler.disable` as a decorator would do, but for the two seconds that it adds to the
    import of this package.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return call
