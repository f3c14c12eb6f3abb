"""Where pages, channels, rows and columns are among the axes of a file's array."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Layout:
    """Axes of an array in a file.

    Attributes:
        shape: of the array.
        slices: the axes that count pages, the slowest first.
        rows: the axis of rows.
        columns: that of columns.
        channels: that of red, green and blue; None of gray.
    """

    shape: tuple[int, ...]
    slices: tuple[int, ...]
    rows: int
    columns: int
    channels: int | None = None

    @property
    def order(self) -> tuple[int, ...]:
        """The axes as pages come: slices, channels, rows, columns."""
        middle = () if self.channels is None else (self.channels,)
        return (*self.slices, *middle, self.rows, self.columns)

    def pages(self, array: np.ndarray) -> np.ndarray:
        """The array as (pages, C, H, W)."""
        moved = array.transpose(self.order)
        inner = moved.shape[len(self.slices) :]
        inner = inner if self.channels is not None else (1, *inner)
        return moved.reshape(-1, *inner)

    def array(self, pages: np.ndarray) -> np.ndarray:
        """Pages (pages, C, H, W) as the file's array."""
        moved = pages.reshape([self.shape[axis] for axis in self.order])
        return moved.transpose(np.argsort(self.order))

    def resized(self, shape: tuple[int, ...]) -> Layout:
        """The layout of pages (pages, C, H, W) of another shape."""
        sizes = list(self.shape)
        sizes[self.rows], sizes[self.columns] = shape[2:]
        counted = int(np.prod([sizes[axis] for axis in self.slices]))
        same = shape[1] == (1 if self.channels is None else sizes[self.channels])
        if counted != shape[0] or not same:
            return plain(shape)
        return replace(self, shape=tuple(sizes))


def plain(shape: tuple[int, ...]) -> Layout:
    """The usual layout of (pages, C, H, W): H x W, with pages before and channels behind."""
    pages, channels, height, width = shape
    sizes = [height, width]
    at = 0
    if pages > 1:
        sizes, at = [pages, *sizes], 1
    if channels > 1:
        sizes = [*sizes, channels]
    colour = at + 2 if channels > 1 else None
    return Layout(tuple(sizes), (0,) if pages > 1 else (), at, at + 1, colour)


def of_axes(shape: tuple[int, ...], axis: int | None = None, colour: bool = False) -> Layout:
    """The layout of an array of unnamed axes.

    Args:
        shape: of the array.
        axis: the one that counts the slices of a volume; None is the first.
        colour: the last axis holds red, green and blue.

    Raises:
        ValueError: for too few axes, or an axis that there is not.
    """
    if 0 in shape:
        raise ValueError(f"it is empty: its shape is {shape}")
    count = len(shape)
    inner = count - 1 if colour else count
    if inner < 2:
        raise ValueError(f"it has shape {shape}, and a picture needs rows and columns")
    channels = count - 1 if colour else None
    if axis is None:
        slices = tuple(range(inner - 2))
        return Layout(shape, slices, inner - 2, inner - 1, channels)
    if inner == 2 or not -inner <= axis < inner:
        raise ValueError(
            f"axis={axis} counts the slices of a volume, and it has shape {shape}: "
            f"{'leave axis out' if inner == 2 else f'take one of 0 to {inner - 1}'}"
        )
    axis %= inner
    rest = [a for a in range(inner) if a != axis]
    return Layout(shape, (axis, *rest[:-2]), rest[-2], rest[-1], channels)


def upright(array: np.ndarray, tag: int, rows: int, columns: int) -> np.ndarray:
    """An array turned as the orientation tag of EXIF and TIFF (1 to 8) says."""
    if tag in (2, 3):
        array = np.flip(array, columns)
    if tag in (3, 4):
        array = np.flip(array, rows)
    if tag in (5, 6, 7, 8):
        array = np.swapaxes(array, rows, columns)
    if tag in (6, 7):
        array = np.flip(array, columns)
    if tag in (7, 8):
        array = np.flip(array, rows)
    return array
