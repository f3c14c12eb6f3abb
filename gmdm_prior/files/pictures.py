"""Single pictures as float tensors in [0, 1], for code that wants no more of a file.

What a file holds besides (pages, units, orientation, resolution) is in `formats`.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor

from gmdm_prior.files.formats import choose
from gmdm_prior.files.formats.choose import check_suffix
from gmdm_prior.files.formats.labels import refuse_labels
from gmdm_prior.files.formats.layout import plain
from gmdm_prior.files.formats.picture import Picture, Range

__all__ = ["check_suffix", "read_image", "read_picture", "save_picture"]

ITU_601 = (0.299, 0.587, 0.114)  # gray of red, green and blue
WHOLE = (19595, 38470, 7471)  # the same in parts of 2^16, as Pillow has them


def read_picture(
    path: str | os.PathLike, data_range: str | Range | None = None
) -> tuple[Tensor, int]:
    """Read a file of one picture, with the channels that it has.

    Args:
        path: a file of any kind that `formats.read` reads; gray or colour.
        data_range: the values of black and white, or `"auto"`; None: what its type says.

    Returns:
        The picture (1, 1 or 3, H, W), float32 in [0, 1], and the bits per channel that hold it, 8
        or 16 (floats count as 16).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is a folder, no picture or a damaged one, too large, holds several
            pages, or values without a known range.
    """
    picture = choose.read(path, data_range=data_range)
    if picture.pages > 1:
        raise ValueError(
            f"image {str(path)!r} holds {picture.pages} pages; gmdm_prior.files.formats.read gives "
            "them all"
        )
    return _page(picture, path), 8 if picture.is_8_bit else 16


def read_image(
    path: str | os.PathLike, channels: int = 1, data_range: str | Range | None = None
) -> Tensor:
    """Read a picture file as gray or as colour, for training.

    Colour becomes gray as Pillow's "L" does (ITU-R 601).

    Args:
        path: as for `read_picture`; of several pages the first.
        channels: 1 or 3.
        data_range: as for `read_picture`.

    Returns:
        The image (C, H, W), float32 in [0, 1].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `channels` is neither 1 nor 3, the file is a mask or holds labels, and as
            `read_picture`.
    """
    return read_pages(path, channels, data_range)[0]


def read_pages(
    path: str | os.PathLike, channels: int = 1, data_range: str | Range | None = None
) -> list[Tensor]:
    """Read every page as `read_image` reads one."""
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (gray) or 3 (colour); got {channels}")
    picture = choose.read(path, data_range=data_range)
    try:
        refuse_labels(picture)
    except ValueError as error:
        raise ValueError(f"image {str(path)!r} cannot be read: {error}") from None
    pages = []
    for index in range(picture.pages):
        page = _page(picture, path, index)[0]
        if channels == 1 and len(page) == 3:
            page = _gray(picture, index, page)
        pages.append(page.expand(channels, -1, -1).contiguous())
    return pages


def save_picture(picture: Tensor, path: str | os.PathLike, bits: int = 8) -> None:
    """Write a picture, clipped to [0, 1].

    Args:
        picture: (1, 1 or 3, H, W).
        path: the file; its suffix chooses the format.
        bits: 8 or 16 per channel.

    Raises:
        ValueError: for a suffix of no format, or one that has no place for 16 bits.
        OSError: where the file cannot be written.
    """
    scaled = (picture.detach().cpu().double().clamp(0, 1) * (2**bits - 1)).round().numpy()
    values = scaled.astype(np.uint16 if bits == 16 else np.uint8)
    choose.write(Picture(values, "png", plain(values.shape)), path)


def _page(picture: Picture, path: str | os.PathLike, index: int = 0) -> Tensor:
    try:
        if picture.dtype == bool:
            return torch.from_numpy(picture.values[index].astype(np.float32))[None]
        return picture.page(index)
    except ValueError as error:
        raise ValueError(f"image {str(path)!r} cannot be read: {error}") from None


def _gray(picture: Picture, index: int, page: Tensor) -> Tensor:
    """(1, H, W) of a colour page (3, H, W); of 8 bits to the bit as Pillow has it."""
    if picture.dtype == np.uint8 and picture.is_8_bit:
        whole = np.tensordot(np.array(WHOLE), picture.values[index].astype(np.int64), 1)
        return torch.from_numpy(((whole + 0x8000) >> 16).astype(np.float32) / np.float32(255))[None]
    return (torch.tensor(ITU_601)[:, None, None] * page).sum(0, keepdim=True)
