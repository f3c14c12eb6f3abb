"""The format of a file, by its first bytes or its name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gmdm_prior.files.formats import dicom, fits, mrc, nifti, npy, pillow, tiff
from gmdm_prior.files.formats.picture import Picture, Range

KINDS: dict[str, Any] = {
    "dicom": dicom,
    "fits": fits,
    "mrc": mrc,
    "nifti": nifti,
    "npy": npy,
    "tiff": tiff,
    "pillow": pillow,
}
SUFFIXES = {
    ".dcm": "dicom",
    ".dicom": "dicom",
    ".fits": "fits",
    ".fit": "fits",
    ".fts": "fits",
    ".mrc": "mrc",
    ".mrcs": "mrc",
    ".rec": "mrc",
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".npy": "npy",
    ".npz": "npy",
    ".tif": "tiff",
    ".tiff": "tiff",
}
MAGIC = (  # where, what, which
    (128, b"DICM", "dicom"),
    (0, b"SIMPLE  =", "fits"),
    (208, b"MAP ", "mrc"),
    (344, b"n+1\0", "nifti"),
    (0, b"\x93NUMPY", "npy"),
    (0, b"II*\0", "tiff"),
    (0, b"MM\0*", "tiff"),
    (0, b"II+\0", "tiff"),
    (0, b"MM\0+", "tiff"),
    (0, b"\x89HDF\r\n", "hdf5"),
)
LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".gif", ".jp2", ".j2k", ".avif")
LOSSLESS = ".png"  # what pictures become that came in a lossy format


def suffix_of(path: str | os.PathLike) -> str:
    """The suffix in small letters; of `.nii.gz` both."""
    path = Path(path)
    suffixes = [s.lower() for s in path.suffixes[-2:]]
    return ".nii.gz" if suffixes == [".nii", ".gz"] else path.suffix.lower()


def kind_of(path: str | os.PathLike) -> str:
    """The module that reads a file: by its content where that says, else by its suffix.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with open(path, "rb") as file:
        head = file.read(512)
    for start, mark, kind in MAGIC:
        if head[start : start + len(mark)] == mark:
            return kind
    return SUFFIXES.get(suffix_of(path), "pillow")


def read(
    path: str | os.PathLike,
    *,
    data_range: str | Range | None = None,
    axis: int | None = None,
    key: str | None = None,
) -> Picture:
    """Read a picture file.

    Args:
        path: PNG, JPEG and what else Pillow reads, TIFF, .npy, .npz, DICOM, FITS, MRC or NIfTI.
        data_range: the values of black and white, `"auto"`, or None: what the type says.
        axis: of a volume, the axis that counts its slices; None is the usual one of the format.
        key: which array of a .npz file.

    Returns:
        All pages, with a known range where anything says what it is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is a folder, no picture, damaged or too large, or its library is
            missing.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"image {str(path)!r} is a folder; give a file")
    try:
        kind = kind_of(path)
        if kind == "hdf5":
            raise ValueError(
                "HDF5 is read as a measurement: `gmdm restore denoise measurement=FILE key=NAME`"
            )
        picture = KINDS[kind].read(path, axis, key)
        if picture.dtype.kind == "c":
            raise ValueError("it holds complex numbers; restore them with physics.name=mri")
        if axis is not None and kind == "pillow":
            raise ValueError("axis is for volumes, and this is a picture: leave it out")
        return picture.ranged(data_range)
    except FileNotFoundError:
        raise FileNotFoundError(f"image {str(path)!r} does not exist") from None
    except MemoryError:
        raise
    except Exception as error:  # readers raise anything on damaged files
        if type(error).__name__ == "UnidentifiedImageError":
            raise ValueError(f"image {str(path)!r} is no picture that can be read") from None
        raise ValueError(f"image {str(path)!r} cannot be read: {error}") from error


def write(picture: Picture, path: str | os.PathLike) -> None:
    """Write a picture; the suffix chooses the format.

    Raises:
        ValueError: for a suffix of no format, or a picture that the format has no place for.
        OSError: where the file cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    try:
        KINDS[SUFFIXES.get(suffix_of(path), "pillow")].write(picture, path)
    except ValueError as error:
        raise ValueError(f"out={path.name!r}: {error}") from None
    except OSError as error:
        reason = error.strerror or f"{error} (is the disk full?)"  # NumPy's says bytes only
        raise OSError(f"out={path.name!r} cannot be written: {reason}") from error


def check_place(picture: Picture, path: str | os.PathLike) -> None:
    """Refuse a file whose format has no place for a picture, before the picture is worked on.

    Raises:
        ValueError: with the remedy.
    """
    path = Path(path)
    refuse = getattr(KINDS[SUFFIXES.get(suffix_of(path), "pillow")], "refuse", None)
    try:
        if refuse is not None:
            refuse(picture, path)
    except ValueError as error:
        raise ValueError(f"out={path.name!r}: {error}") from None


def check_suffix(path: str | os.PathLike) -> None:
    """Refuse a file name whose suffix names no format that can be written."""
    suffix = suffix_of(path)
    if suffix in SUFFIXES:
        return
    from PIL import Image

    Image.init()
    if Image.EXTENSION.get(suffix) not in Image.SAVE:
        raise ValueError(
            f"out={str(path)!r}: the suffix {suffix!r} names no picture format; use .png or .tif"
        )


def is_lossy(path: str | os.PathLike) -> bool:
    """Whether the suffix is that of a format that changes values when it is written."""
    return suffix_of(path) in LOSSY


def suffix_for(path: str | os.PathLike) -> str:
    """The suffix of what is made of a file: its own, or a lossless one where it is lossy or none.

    Raises:
        FileNotFoundError: there is no such file.
    """
    suffix, kind = suffix_of(path), kind_of(path)
    if suffix in LOSSY:
        return ".tif" if kind == "pillow" and suffix != ".mpo" and _moves(path) else LOSSLESS
    if SUFFIXES.get(suffix, "pillow") != kind:  # named as something else, or not at all
        return next((own for own, module in SUFFIXES.items() if module == kind), LOSSLESS)
    try:
        check_suffix(path)
    except ValueError:
        return LOSSLESS
    return suffix


def _moves(path: str | os.PathLike) -> bool:
    """Whether a file holds several pictures, such as an animation."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO"
    except (OSError, Image.DecompressionBombError):  # said when it is read
        return False
