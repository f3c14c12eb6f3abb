"""Overlapping patches of an image, and their average or sum, in strips of bounded memory.

Patches start at rows and columns `phase`, `phase + stride`, … of the image. A function of patches
is applied to strips of a few rows of patches at a time, so memory does not grow with (patch
numbers) x (pixels).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ._noise_level import readable

NUMBERS_PER_STRIP = 2**18  # of patches: what fits the cache best, product and mixture


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
    rows = max(1, NUMBERS_PER_STRIP // windows[0].numel())
    parts = list(windows.split(rows))
    return [top + i * rows * stride for i in range(len(parts))], parts, left


def overlap_add(
    images: tuple[Tensor, ...],
    size: int,
    evaluate: Callable[..., Tensor],
    stride: int = 1,
    phase: tuple[int, int] = (0, 0),
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

    Returns:
        The sum (C, H, W).
    """
    total = torch.zeros_like(images[0])
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
    for start, folded in zip(starts, _in_order(fold, work, images), strict=True):
        height, width = folded.shape[1:]
        total[:, start : start + height, left : left + width] += folded
    return total


def _in_order(
    fold: Callable[..., Tensor], work: list[tuple[Tensor, ...]], images: tuple[Tensor, ...]
) -> Iterator[Tensor]:
    """`fold` of each strip: side by side on torch's threads, as far as that changes nothing.

    Every strip is evaluated by one thread, so the result is that of one thread to the bit. Where
    gradients are recorded, on other devices and inside `torch.func`, strips follow one another.
    """
    first = fold(*work[0])  # also makes the tables that the others read
    yield first
    work, threads = work[1:], min(torch.get_num_threads(), len(work))
    if threads < 2 or first.requires_grad or not all(map(readable, images)):
        yield from (fold(*parts) for parts in work)
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # of every operation, while strips run side by side
    try:
        pool, waiting = _pool(threads, os.getpid()), deque()
        for parts in work:
            if len(waiting) > threads:  # not all strips at once: bounded memory
                yield waiting.popleft().result()
            waiting.append(pool.submit(fold, *parts))
        while waiting:
            yield waiting.popleft().result()
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads of this process: those of its parent do not survive a fork."""
    del process
    return ThreadPoolExecutor(threads, "patches", initializer=_worker)


def _worker() -> None:
    """What a thread has of its own."""
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)


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
) -> Tensor:
    """Mean of the evaluated patches over each pixel, less the b - 1 pixels next to the border.

    Returns:
        (C, H - 2 (b - 1), W - 2 (b - 1)).
    """
    total = overlap_add(images, size, evaluate, stride, phase)
    border = size - 1
    inner = total[:, border:-border, border:-border]
    if stride == 1:
        return inner / (size * size)
    rows = cover(total.shape[1], size, stride, phase[0], total)[border:-border]
    columns = cover(total.shape[2], size, stride, phase[1], total)[border:-border]
    return inner / (rows[:, None] * columns)
