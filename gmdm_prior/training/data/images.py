"""Training images: found in a folder or in BSDS500, split, and read."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from gmdm_prior.files.formats.choose import suffix_of
from gmdm_prior.files.formats.picture import Range
from gmdm_prior.files.pictures import read_pages

SUFFIXES: tuple[str, ...]
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".npy", ".dcm", ".fits")
SUFFIXES += (".mrc", ".nii", ".nii.gz")
BSDS500 = "bsds500:"
BSDS500_FOLDERS = ("BSDS500-master/BSDS500", "BSDS500", "BSR/BSDS500", ".")


def expanded(key: str, path: str | Path) -> Path:
    """A path with a user's home in place of its ~; `key` is what the message of an error names.

    Raises:
        ValueError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{key}={path} names a home folder that does not exist: write the path out"
        ) from None


def _sorted_images(folder: Path) -> list[Path]:
    found = (p for p in folder.rglob("*") if suffix_of(p) in SUFFIXES and p.is_file())
    shown = (p for p in found if not any(s.startswith(".") for s in p.relative_to(folder).parts))
    return sorted(shown, key=lambda p: p.relative_to(folder).as_posix())


def _bsds500(root: Path) -> list[Path]:
    for inside in BSDS500_FOLDERS:
        images = root / inside / "data" / "images"
        if all((images / part).is_dir() for part in ("train", "test")):
            return _sorted_images(images / "train") + _sorted_images(images / "test")
    raise ValueError(
        f"data={BSDS500}{root} holds no BSDS500: "
        "give the folder that has data/images/train and data/images/test inside"
    )


def find_images(source: str | Path) -> list[Path]:
    """The image files of a data source, always in the same order.

    Args:
        source: a folder, searched with its sub-folders (hidden ones excepted) for pictures (those
            of `SUFFIXES`) and sorted by path, character by character; or `"bsds500:ROOT"`: the
            training and then the test images of BSDS500, each sorted, with ROOT its folder
            `BSDS500`, `BSDS500-master` or the one above.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the source is no folder, or no image is in it.
    """
    bsds = str(source).startswith(BSDS500)
    folder = expanded("data", str(source).removeprefix(BSDS500))
    if not folder.exists():
        raise FileNotFoundError(f"data={source} does not exist: give an existing folder of images")
    if not folder.is_dir():
        raise ValueError(f"data={source} is not a folder: give the folder that holds the images")
    files = _bsds500(folder) if bsds else _sorted_images(folder)
    if not files:
        raise ValueError(
            f"data={source} holds no image: give a folder of {', '.join(SUFFIXES)} files"
        )
    return files


def split_held_out(files: Sequence[Path], every: int = 40) -> tuple[list[Path], list[Path]]:
    """Training files, and every `every`-th file from the first on, which is held out.

    Raises:
        ValueError: `every` is below 2, or fewer than two files.
    """
    if every < 2:
        raise ValueError(f"every must be at least 2, or nothing is left to train on; got {every}")
    if len(files) < 2:
        raise ValueError(f"files must be at least two to hold one out; got {len(files)}")
    training = [file for i, file in enumerate(files) if i % every]
    return training, list(files[::every])


def read_images(
    files: Iterable[str | Path], channels: int = 1, data_range: str | Range | None = None
) -> dict[Path, Tensor]:
    """Read images; what cannot be read is named, counted and left out with one warning.

    Args:
        files: pictures of any kind, also of several pages.
        channels: 1 or 3.
        data_range: the values of black and white, or `"auto"`; None: what their type says.

    Returns:
        Images (C, H, W) by file, in the order given; of the second page of a file on the names are
        `FILE#page2` and so on.

    Raises:
        ValueError: none of the files could be read.
    """
    images, problems = {}, []
    for file in map(Path, files):
        try:
            for number, page in enumerate(read_pages(file, channels, data_range), 1):
                name = file if number == 1 else file.with_name(f"{file.name}#page{number}")
                images[name] = page
        except (FileNotFoundError, ValueError) as error:
            problems.append(str(error))
    if not images:
        detail = f": {problems[0]}" if problems else ""
        raise ValueError(f"files hold no readable image among {len(problems)}{detail}")
    if problems:
        total = len(problems) + len(images)
        message = f"skipped {len(problems)} of {total} images: " + "; ".join(problems)
        warnings.warn(message, stacklevel=2)
    return images
