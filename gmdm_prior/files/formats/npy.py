"""NumPy's .npy and .npz: arrays of any number type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gmdm_prior.files.formats.layout import of_axes
from gmdm_prior.files.formats.picture import Picture


def load(path: Path, key: str | None = None) -> np.ndarray:
    """The array of a .npy file, or one of a .npz file.

    Raises:
        ValueError: it holds objects or no numbers, or a key is missing or wrong.
    """
    content = np.load(path, allow_pickle=False)
    if isinstance(content, np.lib.npyio.NpzFile):
        with content:
            names = content.files
            if key is None and len(names) == 1:
                key = names[0]
            if key not in names:
                asked = "give one of them as key=NAME" if key is None else f"not {key!r}"
                raise ValueError(f"it holds the arrays {', '.join(names)}: {asked}")
            content = content[key]
    if content.dtype.kind not in "buifc":
        raise ValueError(f"it holds {content.dtype}, no numbers")
    return content


def read(path: Path, axis: int | None = None, key: str | None = None) -> Picture:
    """An array (H, W), (H, W, 3 or 4), a volume, or (pages, 1 or 3, H, W)."""
    array = load(path, key)
    if array.dtype.kind == "c":
        raise ValueError("it holds complex numbers; restore them with physics.name=mri")
    others: dict[str, Any] = {}
    if path.suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as content:
            others = {name: content[name] for name in content.files}
        key = key or next(iter(others))
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    first = native.ndim == 4 and native.shape[1] in (1, 3) and native.shape[-1] > 4
    colour = native.ndim > 2 and native.shape[-1] in (3, 4) and axis is None and not first
    layout = of_axes(native.shape, axis, colour)
    if first and native.shape[1] == 3 and axis is None:
        layout = type(layout)(native.shape, (0,), 2, 3, 1)
    values, alpha = layout.pages(native), None
    if colour and native.shape[-1] == 4:
        values, alpha = values[:, :3], values[:, 3:]
    metadata = {"key": key, "others": others}
    notes: tuple[str, ...] = ()
    if axis is None and native.ndim == 3 and len(native) == 3 and not colour:
        notes = (f"shape {native.shape}: three gray slices; of colour the last axis is the three",)
    return Picture(values, "npy", layout, alpha=alpha, metadata=metadata, notes=notes)


def write(picture: Picture, path: Path) -> None:
    """The array as it was laid out."""
    pages = picture.values
    if picture.alpha is not None:
        pages = np.concatenate([pages, picture.alpha], 1)
    array = np.ascontiguousarray(picture.layout.array(pages))
    if (picture.slope, picture.intercept) != (1.0, 0.0):  # of another kind of file
        array = picture.physical(array).astype(np.float32)
    with open(path, "wb") as file:
        if path.suffix.lower() == ".npz":
            key = picture.metadata.get("key") or "picture"
            np.savez(file, **{**picture.metadata.get("others", {}), key: array})
        else:
            np.save(file, array)
