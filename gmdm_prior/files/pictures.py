"""Picture files: 8 and 16 bit and floats, gray and colour, as float tensors in [0, 1].

The camera's orientation tag is obeyed, transparency is dropped. Gray pictures of 16 bits and of
floats in [0, 1] keep their precision. Pillow is imported when a picture is read or written.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def read_picture(path: str | os.PathLike) -> tuple[Tensor, int]:
    """Read a picture file with the channels that it has.

    Args:
        path: anything that Pillow reads; gray, palette or colour.

    Returns:
        The picture (1, 1 or 3, H, W), float32 in [0, 1], and the bits per channel that hold it, 8
        or 16 (floats count as 16).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is a folder, no picture or a damaged one, too large, or holds values
            without a known range.
    """
    pixels, bits = _read(path, None)
    return pixels[None], bits


def read_image(path: str | os.PathLike, channels: int = 1) -> Tensor:
    """Read a picture file as gray or as colour.

    Colour becomes gray as Pillow's "L" does (ITU-R 601).

    Args:
        path: as for `read_picture`.
        channels: 1 or 3.

    Returns:
        The image (C, H, W), float32 in [0, 1].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `channels` is neither 1 nor 3, and as `read_picture`.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (gray) or 3 (colour); got {channels}")
    return _read(path, channels)[0]


def save_picture(picture: Tensor, path: str | os.PathLike, bits: int = 8) -> None:
    """Write a picture, clipped to [0, 1]; 16 bits for gray pictures only (Pillow writes no others).

    Args:
        picture: (1, 1 or 3, H, W).
        path: the file; its suffix chooses the format.
        bits: 8 or 16 per channel.

    Raises:
        ValueError: for a suffix that Pillow does not write.
        OSError: where the file cannot be written.
    """
    from PIL import Image

    gray = picture.shape[1] == 1
    bits = bits if gray else 8
    scaled = (picture[0].detach().cpu().double().clamp(0, 1) * (2**bits - 1)).round().numpy()
    values = scaled.astype(np.uint16 if bits == 16 else np.uint8)
    image = Image.fromarray(values[0] if gray else np.moveaxis(values, 0, -1))
    options = {"quality": 95} if Path(path).suffix.lower() in (".jpg", ".jpeg") else {}
    image.save(path, **options)


def check_suffix(path: str | os.PathLike) -> None:
    """Refuse a file name whose suffix names no format that Pillow writes."""
    from PIL import Image

    Image.init()
    suffix = Path(path).suffix.lower()
    if Image.EXTENSION.get(suffix) not in Image.SAVE:
        raise ValueError(
            f"out={str(path)!r}: the suffix {suffix!r} names no picture format; use .png or .tif"
        )


def _read(path: str | os.PathLike, channels: int | None) -> tuple[Tensor, int]:
    """Pixels (C, H, W) and their bits; channels None keeps the file's."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    if path.is_dir():
        raise ValueError(f"image {str(path)!r} is a folder; give a file")
    try:
        with warnings.catch_warnings():
            # Pillow warns from half of the size on that it refuses
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                values, bits = _values(ImageOps.exif_transpose(picture), channels)
    except FileNotFoundError:
        raise FileNotFoundError(f"image {str(path)!r} does not exist") from None
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise ValueError(f"image {str(path)!r} is no picture that Pillow can read") from None
    except Exception as error:  # Pillow's readers raise anything on damaged files
        raise ValueError(f"image {str(path)!r} cannot be read: {error}") from error
    planes = values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)
    if channels == 3 and len(planes) == 1:
        planes = np.repeat(planes, 3, 0)
    return torch.from_numpy(np.ascontiguousarray(planes)), bits


def _values(picture: Any, channels: int | None) -> tuple[np.ndarray, int]:
    """Values in [0, 1], float32 (H, W) or (H, W, 3), and the bits that hold them."""
    mode = picture.mode
    if mode.startswith("I") or mode == "F":  # 16-bit gray comes as I;16, I;16B or as 32-bit I
        values = np.asarray(picture).astype(np.float32)
        values = values if mode == "F" else values / np.float32(65535)
        if not (values.min() >= 0 and values.max() <= 1):
            raise ValueError("its values are neither 16-bit nor floats in [0, 1]")
        return values, 16
    if mode == "P":  # what its colours may hide
        picture = picture.convert("RGBA")
    gray = mode in ("1", "L", "LA", "La") if channels is None else channels == 1
    values = np.asarray(picture.convert("L" if gray else "RGB"))
    return values.astype(np.float32) / np.float32(255), 8
