"""Kernels, masks, angles and coil sensitivities, from files or arrays.

Each reader gives a tensor and a sentence on what was found and done.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmdm_prior.files.formats import choose, npy

TEXTS = (".txt", ".csv", ".dat")


def read_array(source: Any, option: str) -> np.ndarray:
    """Numbers from a picture, a .npy, .npz or text file, or as they are.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no numbers.
    """
    if not isinstance(source, (str, os.PathLike)):
        return np.asarray(source)
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{option}={source}: there is no such file")
    try:
        if path.is_dir():
            raise ValueError("it is a folder")
        if path.suffix.lower() in TEXTS:
            return np.loadtxt(path, delimiter="," if "," in path.read_text() else None)
        if choose.kind_of(path) == "npy":
            return npy.load(path)
        picture = choose.read(path)
        if picture.pages > 1:
            raise ValueError(f"it has {picture.pages} pages, and one is needed")
        array = picture.physical(picture.values[0])
        return array[0] if len(array) == 1 else array.mean(0)
    except (ValueError, OSError) as error:
        raise ValueError(f"{option}={source} cannot be read: {error}") from None


def read_kernel(source: Any) -> tuple[Tensor, str]:
    """A blur's kernel (1, 1, h, w), h and w odd, that sums to one: the picture of a point.

    Its middle pixel is where the point is, of an even number of pixels the one after the middle
    (as `scipy.ndimage.convolve` has it). It is not flipped: y = k ∗ x.

    Raises:
        ValueError: for other than two axes, or values that have no positive sum.
    """
    option = "physics.kernel"
    array = _numbers(read_array(source, option), option).astype(np.float64)
    if array.ndim != 2:
        raise ValueError(f"{option} must have rows and columns; its shape is {array.shape}")
    given, total = array.shape, float(array.sum())
    if not total > 0:
        raise ValueError(f"{option} sums to {total:g}; the picture of a point has a positive sum")
    array = np.pad(array, [(0, 1 - side % 2) for side in given]) / total
    places = np.indices(array.shape) - (np.array(array.shape)[:, None, None] - 1) / 2
    away = [float((place * array).sum()) for place in places]
    notes = [f"kernel of {given[0]}x{given[1]} pixels"]
    notes.append("sums to one" if abs(total - 1) < 1e-3 else f"divided by its sum {total:.6g}")
    if array.shape != given:
        notes.append(f"its centre is at pixel {given[0] // 2}, {given[1] // 2} (from 0)")
    if max(map(abs, away)) > 1:
        notes.append(
            f"its mass lies {away[0]:+.1f}, {away[1]:+.1f} pixels (down, right) off its middle, by "
            "which the result is moved the other way"
        )
    if (array < 0).any():
        notes.append("it has negative values")
    return torch.from_numpy(array.astype(np.float32))[None, None], "; ".join(notes)


def read_mask(source: Any, shape: tuple[int, ...]) -> tuple[Tensor, str]:
    """A mask (1, 1, H, W) of zeros and ones: nonzero is seen; one row stands for all rows.

    Raises:
        ValueError: for another shape, or where nothing is seen.
    """
    option = "physics.mask"
    array = _numbers(read_array(source, option), option)
    array = array[None].repeat(shape[0], 0) if array.shape == shape[1:] else array
    if array.shape != shape:
        raise ValueError(
            f"{option} has the shape {sides(array.shape)} and the measurement {sides(shape)}: they "
            "must agree"
        )
    seen = array != 0
    if not seen.any():
        raise ValueError(f"{option} is zero everywhere: nothing is seen; it is nonzero where it is")
    note = f"mask: {100 * seen.mean():.1f} % is seen (nonzero)"
    return torch.from_numpy(seen.astype(np.float32))[None, None], note


def read_angles(source: Any) -> tuple[Tensor, str]:
    """Angles in degrees (n,): as many evenly over half a turn, or those of a file.

    Raises:
        ValueError: for no angles.
    """
    option = "physics.angles"
    if isinstance(source, str) and source.strip().isdigit():
        source = int(source)
    if isinstance(source, (int, float)) and not isinstance(source, bool):
        if source < 1 or int(source) != source:
            raise ValueError(f"{option} must be at least 1; got {source}")
        count = int(source)
        return torch.linspace(0, 180, count + 1)[:-1], f"{count} angles, evenly over 180 degrees"
    array = _numbers(read_array(source, option), option).astype(np.float32).squeeze()
    array = array[None] if array.ndim == 0 else array
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{option} is a list of degrees; its shape is {array.shape}")
    note = f"{len(array)} angles from {array.min():g} to {array.max():g} degrees"
    if len(array) > 3 and np.ptp(array) <= 2 * np.pi + 0.01:
        note += " (these look like radians; degrees are meant)"
    return torch.from_numpy(array), note


def read_coils(source: Any, shape: tuple[int, ...]) -> tuple[Tensor, str]:
    """Complex sensitivities (1, coils, H, W).

    Raises:
        ValueError: for another shape.
    """
    array = read_array(source, "physics.coil_maps")
    if array.dtype.kind != "c" and array.ndim == 4 and array.shape[-1] == 2:
        array = array[..., 0] + 1j * array[..., 1]
    if array.ndim != 3 or array.shape[1:] != shape:
        raise ValueError(
            f"physics.coil_maps have the shape {sides(array.shape)}; complex (coils, H, W) with "
            f"H x W = {sides(shape)} are needed"
        )
    return torch.from_numpy(array.astype(np.complex64))[None], f"{len(array)} coils"


def _numbers(array: np.ndarray, option: str) -> np.ndarray:
    if array.dtype.kind not in "buif" or not array.size or not np.isfinite(array).all():
        raise ValueError(
            f"{option} must hold finite real numbers; it holds {array.dtype} of shape {array.shape}"
        )
    return array


def sides(shape: tuple[int, ...]) -> str:
    """A shape as it is written in messages."""
    return " x ".join(map(str, shape))
