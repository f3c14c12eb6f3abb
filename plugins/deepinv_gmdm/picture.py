"""Pictures in and out: 8 and 16 bit, gray and colour, as float tensors (1, C, H, W) in [0, 1]."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

MOST_PIXELS = 100_000_000


def read_picture(path: str | os.PathLike) -> tuple[Tensor, int]:
    """Read a picture file.

    Args:
        path: anything that Pillow reads; gray, palette or colour. Alpha is dropped.

    Returns:
        The picture (1, 1 or 3, H, W), float32 in [0, 1], and its bits per channel, 8 or 16.

    Raises:
        ValueError: where the file is missing, a folder, no picture or a damaged one, too large, or
            holds values without a known range.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"image {str(path)!r} {what}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    raise ValueError(f"image {str(path)!r} has more than {MOST_PIXELS} pixels")
                picture.load()
                values, bits = _values(picture, path)
    except UnidentifiedImageError:
        raise ValueError(f"image {str(path)!r} is no picture that Pillow can read") from None
    except (OSError, SyntaxError, EOFError, Warning, Image.DecompressionBombError) as error:
        raise ValueError(f"image {str(path)!r} cannot be read: {error}") from None
    channels_first = values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)
    scaled = torch.from_numpy(np.ascontiguousarray(channels_first, dtype=np.float32))
    return scaled[None] / (2**bits - 1), bits


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
    gray = picture.shape[1] == 1
    bits = bits if gray else 8
    scaled = (picture[0].detach().cpu().double().clamp(0, 1) * (2**bits - 1)).round().numpy()
    values = scaled.astype(np.uint16 if bits == 16 else np.uint8)
    image = Image.fromarray(values[0] if gray else np.moveaxis(values, 0, -1))
    if Path(path).suffix.lower() in (".jpg", ".jpeg"):
        image.save(path, quality=95)
    else:
        image.save(path)


def check_suffix(path: str | os.PathLike) -> None:
    """Refuse a file name whose suffix names no format that Pillow writes."""
    Image.init()
    suffix = Path(path).suffix.lower()
    if Image.EXTENSION.get(suffix) not in Image.SAVE:
        raise ValueError(
            f"out={str(path)!r}: the suffix {suffix!r} names no picture format; use .png or .tif"
        )


def _values(picture: Image.Image, path: Path) -> tuple[np.ndarray, int]:
    mode = picture.mode
    if mode.startswith("I"):  # 16-bit gray comes as I;16, I;16B or as 32-bit integers
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"image {str(path)!r} holds values outside 16 bits")
        return values, 16
    if mode == "F":
        raise ValueError(f"image {str(path)!r} holds floating-point values of unknown range")
    gray = mode in ("1", "L", "LA", "La")
    return np.asarray(picture.convert("L" if gray else "RGB")), 8
