"""The noise in training images: how it is written, what it is of each image, what is said of it.

It is written as a number or fraction, as a table of files, as `auto` (one estimate of each image)
or as `map` (one of each pixel). Estimates are those of `estimate_noise`: noise that is correlated
has its own level, but training takes it for white, and a warning says so. A table is a CSV file
whose first line names its columns, `file` and `sigma` among them:

    file,sigma
    monday/01.png,25/255
    02.png,0.06

`file` is the end of an image's path: its name, or as many folders before it as tell it apart.
"""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmdm_prior.files.safetensors import load, write_aside
from gmdm_prior.noise.estimate import READER
from gmdm_prior.noise.one_level import agreed_map, noise_of
from gmdm_prior.noise.prior_free import LEAST, SIDE, local_levels
from gmdm_prior.sigma import parse
from gmdm_prior.training.data.images import expanded
from gmdm_prior.training.data.pool import Images

ESTIMATED = ("auto", "map")
COLUMNS = ("file", "sigma")
NAMED = 3  # files named in a message


def parse_noise(key: str, value: Any) -> float | str:
    """What training images are said to contain: a level, `auto`, `map` or the name of a table."""
    text = str(value).strip()
    if text in ESTIMATED or is_table(text):
        return text
    try:
        return parse(value, key, white=255)
    except ValueError as error:
        raise ValueError(f"{error}, auto, map, or a table levels.csv") from None


def is_table(value: Any) -> bool:
    """Whether this names a table."""
    return isinstance(value, str) and value.lower().endswith(".csv")


def read_table(path: str | Path) -> dict[str, float]:
    """Noise levels by file, as they are written in a table.

    Raises:
        ValueError: the file cannot be read, lacks a column, has no row, names a file twice or gives
            it no level of at least 0.
    """
    path = expanded("noise", path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            names = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = names
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"noise={path} cannot be read: {reason}") from None
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise ValueError(
            f"noise={path} has no column {' nor '.join(missing)}: its first line must name the "
            f"columns file and sigma; it is {','.join(names)!r}"
        )
    levels: dict[str, float] = {}
    for line, row in rows:
        name = (row["file"] or "").strip()
        level = parse(row["sigma"], f"noise={path}, line {line}: sigma")
        if not name or name in levels:
            what = f"{name} twice" if name else "no file"
            raise ValueError(
                f"noise={path}, line {line}: {what}; each row is a file and its own standard "
                "deviation"
            )
        levels[name] = level
    if not levels:
        raise ValueError(f"noise={path} has no rows below its first line")
    return levels


def look_up(table: dict[str, float], files: Iterable[Path], source: str) -> list[float]:
    """The level of every file; the longest of the table's names that end its path counts.

    Raises:
        ValueError: files that are not in the table, the first of them named.
    """
    by_parts = {Path(name).parts: level for name, level in table.items()}
    levels, missing = [], []
    for file in map(Path, files):
        ends = (file.parts[i:] for i in range(len(file.parts)))
        level = next((by_parts[end] for end in ends if end in by_parts), None)
        if level is None:  # a page of a file whose level is given
            whole = Path(str(file).partition("#page")[0]).parts
            ends = (whole[i:] for i in range(len(whole)))
            level = next((by_parts[end] for end in ends if end in by_parts), None)
        missing += [str(file)] if level is None else []
        levels.append(level)
    if missing:
        shown = ", ".join(missing[:NAMED]) + (", …" if len(missing) > NAMED else "")
        raise ValueError(
            f"noise={source} says nothing of {len(missing)} images: {shown}; add a row for each"
        )
    return levels


def write_table(path: Path, files: Iterable[Path], levels: Tensor) -> None:
    """Write a table that `read_table` reads; files whose level is NaN, or is missing, are left out.

    Args:
        path: of the table.
        files: the images.
        levels: of the files, (M,); of the first ones, where there are fewer.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    named = zip(files, levels.tolist(), strict=False)
    rows.writerows([file, f"{level:.6g}"] for file, level in named if math.isfinite(level))
    write_aside(path, text.getvalue().encode())


def image_sigmas(images: Images, noise: float | str) -> list[Tensor] | None:
    """Standard deviations of the noise in images (C, H, W).

    Args:
        images: by file, or in a sequence.
        noise: a level, `"auto"` (one estimate per image), `"map"` (one per pixel) or a table. What
            is estimated of noise that is correlated comes with a warning.

    Returns:
        A level () or a map (1, H, W) for each image, in their order; None for one level of all.

    Raises:
        ValueError: a table that cannot be used (`read_table`), or images without names for it.
    """
    if not isinstance(noise, str):
        return None
    named: dict[Any, Tensor]
    named = dict(images if isinstance(images, Mapping) else enumerate(images))
    if is_table(noise):
        if not all(isinstance(name, (str, Path)) for name in named):
            raise ValueError(f"noise={noise} needs images by file, as read_images gives them")
        return [torch.tensor(level) for level in look_up(read_table(noise), named, noise)]
    if any(min(image.shape[-2:]) < SIDE for image in named.values()):
        raise ValueError(
            f"noise={noise} needs images of at least {SIDE}x{SIDE} pixels: leave smaller ones out, "
            "or give their levels"
        )
    return _estimated(named, of_pixels=noise == "map")


def _estimated(named: Mapping[Any, Tensor], of_pixels: bool) -> list[Tensor]:
    """Levels () or maps (1, H, W) of images by name, and a warning of correlated noise."""
    reader, levels, correlated = load(READER), [], {}
    for name, image in named.items():
        images = image[None].float()
        noise = noise_of(reader, images)
        if not bool(noise.white[0]):
            correlated[name] = next((n for n in noise.notes if "correlated" in n), "correlated")
        if of_pixels:
            levels.append(agreed_map(lambda x: local_levels(x[0])[None], images, noise, SIDE)[0])
        else:
            levels.append(noise.sigma[0].float().clamp(min=LEAST))
    if correlated:
        shown = "; ".join(f"{name}: {note}" for name, note in list(correlated.items())[:NAMED])
        warnings.warn(
            f"the noise of {len(correlated)} of {len(named)} images is correlated, which training "
            f"takes for white: the model will hold some of it. {shown}",
            stacklevel=2,
        )
    return levels


def in_words(noise: float | str, levels: Tensor | None = None) -> str:
    """What a model's card says of the noise in its training images.

    Args:
        noise: a level above 0, or as in `image_sigmas`.
        levels: of the images, (M,), where each has one.
    """
    text = "Gaussian, its level estimated at each pixel"
    if levels is not None:
        source = f"read from {noise}" if is_table(noise) else "estimated of each image"
        low, high, middle = levels.min(), levels.max(), levels.median()
        text = (
            f"Gaussian, its standard deviation {source}: {low:.4f} to {high:.4f}, median "
            f"{middle:.4f}"
        )
    elif not isinstance(noise, str):
        text = f"Gaussian, standard deviation {noise:.6g}"
    return f"{text}; no clean image was used"
