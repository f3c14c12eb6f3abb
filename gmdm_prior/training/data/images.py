"""Training data: images from a folder, patches from images.

Nothing here needs deepinv.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from gmdm_prior import symmetry
from gmdm_prior.files.pictures import read_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
BSDS500 = "bsds500:"
BSDS500_FOLDERS = ("BSDS500-master/BSDS500", "BSDS500", "BSR/BSDS500", ".")


def _sorted_images(folder: Path) -> list[Path]:
    found = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
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
        source: a folder, searched with its sub-folders (hidden ones excepted) for PNG, JPEG, TIFF
            and BMP files and sorted by path, character by character; or `"bsds500:ROOT"`: the
            training and then the test images of BSDS500, each sorted, with ROOT its folder
            `BSDS500`, `BSDS500-master` or the one above.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the source is no folder, or no image is in it.
    """
    bsds = str(source).startswith(BSDS500)
    folder = Path(str(source).removeprefix(BSDS500)).expanduser()
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


def read_images(files: Iterable[str | Path], channels: int = 1) -> dict[Path, Tensor]:
    """Read images; what cannot be read is named, counted and left out with one warning.

    Returns:
        Images (C, H, W) by file, in the order given.

    Raises:
        ValueError: none of the files could be read.
    """
    images, problems = {}, []
    for file in map(Path, files):
        try:
            images[file] = read_image(file, channels)
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


def named(images: Mapping[Path, Tensor] | Sequence[Tensor]) -> list[tuple[str, Tensor]]:
    """Images with names for messages."""
    if isinstance(images, Mapping):
        return [(str(name), image) for name, image in images.items()]
    return [(f"image {i}", image) for i, image in enumerate(images)]


def _large_enough(images: Mapping[Path, Tensor] | Sequence[Tensor], size: int) -> list[Tensor]:
    pairs = named(images)
    small = [name for name, image in pairs if min(image.shape[-2:]) < size]
    kept = [image for _, image in pairs if min(image.shape[-2:]) >= size]
    if not kept:
        raise ValueError(
            f"images must hold one of at least {size}×{size} pixels; none of {len(pairs)} does: "
            "give larger images or a smaller patch"
        )
    if small:
        message = f"skipped {len(small)} images smaller than a {size}×{size} patch: "
        warnings.warn(message + ", ".join(small), stacklevel=3)
    return kept


def sample_patches(
    images: Mapping[Path, Tensor] | Sequence[Tensor],
    count: int,
    size: int,
    symmetries: str = "d4",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw patches at random positions, equally many from each image as far as that goes.

    Args:
        images: (C, H, W) each, of any sizes, as `read_images` returns them or in a sequence.
        count: number of patches N.
        size: b.
        symmetries: each patch is seen in a random element of this group: `"d4"`, `"flips"`,
            `"none"`.
        generator: source of randomness (CPU); `None` is a generator seeded with 0.

    Returns:
        Patches (N, C, b, b) in random order.

    Raises:
        ValueError: `count` or `size` is below 1, or no image is as large as a patch.
    """
    kept = _large_enough(images, size)
    return _draw(kept, [None] * len(kept), count, size, symmetries, generator)[0]


def sample_noisy_patches(
    images: Sequence[Tensor],
    sigmas: Sequence[Tensor],
    count: int,
    size: int,
    symmetries: str = "d4",
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The patches of `sample_patches`, with their noise and where they come from.

    Args:
        images: (C, H, W) each, none smaller than a patch.
        sigmas: standard deviation of the noise of each, () or a map (1, H, W).
        count: number of patches N.
        size: b.
        symmetries: as in `sample_patches`.
        generator: as in `sample_patches`; its draws are the same ones.

    Returns:
        Patches (N, C, b, b); the standard deviation of the noise of each, (N,), of a map the root
        mean square over the patch; and the number of its image, (N,).
    """
    return _draw(images, sigmas, count, size, symmetries, generator)


def _draw(
    images: Sequence[Tensor],
    sigmas: Sequence[Tensor | None],
    count: int,
    size: int,
    symmetries: str,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Patches, the levels of their noise (0 where none is given) and their images."""
    if count < 1 or size < 1:
        raise ValueError(f"count and size must be at least 1; got count={count}, size={size}")
    elements = symmetry.group(symmetries)
    if generator is None:
        generator = torch.Generator().manual_seed(0)

    def draw(bound: int, number: int) -> Tensor:
        return torch.randint(bound, (number,), generator=generator)

    each, rest = divmod(count, len(images))
    extra = set(torch.randperm(len(images), generator=generator)[:rest].tolist())
    drawn, levels, source = [], [], []
    for i, (image, sigma) in enumerate(zip(images, sigmas, strict=True)):
        windows = image.unfold(1, size, 1).unfold(2, size, 1)
        number = each + (i in extra)
        top, left = draw(windows.shape[1], number), draw(windows.shape[2], number)
        drawn.append(windows[:, top, left].movedim(1, 0))
        levels.append(_levels(sigma, top, left, size))
        source.append(torch.full((number,), i))
    order = torch.randperm(count, generator=generator)
    patches, sigma, image_of = (torch.cat(parts)[order] for parts in (drawn, levels, source))
    seen = draw(len(elements), count)
    for i, element in enumerate(elements):
        patches[seen == i] = symmetry.act(patches[seen == i], element)
    return patches.contiguous(), sigma, image_of


def _levels(sigma: Tensor | None, top: Tensor, left: Tensor, size: int) -> Tensor:
    """The noise level of patches at these corners."""
    if sigma is None or sigma.ndim == 0:
        return torch.full((len(top),), 0.0 if sigma is None else float(sigma))
    windows = sigma[0].square().unfold(0, size, 1).unfold(1, size, 1)
    return windows[top, left].mean((-2, -1)).sqrt()
