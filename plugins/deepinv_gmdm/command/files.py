"""Which files a command reads and writes, and what it says of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepinv_gmdm.command.output_folder import refuse_loss
from deepinv_gmdm.command.words import PAGES, expanded
from gmdm_prior.files.formats import choose
from gmdm_prior.files.formats.labels import refuse_labels
from gmdm_prior.files.formats.picture import Picture, parse_range

if TYPE_CHECKING:
    from torch import Tensor


def plan(
    sources: Sequence[Path],
    out: str | None,
    ending: str,
    overwrite: bool,
    suffix: str | None = None,
) -> list[Path]:
    """The file that is written for each source: beside nothing of the user's.

    Args:
        sources: what is read.
        out: a file, of several sources a folder; None: the working directory.
        ending: what the names of results end with there, such as `-denoised`.
        overwrite: files that are no sources may be replaced.
        suffix: of the results; None: as the source has it.

    Raises:
        ValueError: two results of one name, a suffix of no format, or a file that is there.
    """
    if out is None:
        targets = [Path(_stem(s) + ending + (suffix or choose.suffix_for(s))) for s in sources]
    else:
        path = expanded(out, "out")
        if len(sources) > 1 and path.exists() and not path.is_dir():
            raise ValueError(f"out={out} is a file; of {len(sources)} pictures give a folder")
        if len(sources) > 1 or path.is_dir() or out.endswith(os.sep):
            targets = [path / (_stem(s) + (suffix or choose.suffix_for(s))) for s in sources]
        else:
            choose.check_suffix(path)
            targets = [path]
    names = [str(target).lower() for target in targets]
    for target, name in zip(targets, names, strict=True):
        alike = [str(s) for s, other in zip(sources, names, strict=True) if other == name]
        if len(alike) > 1:
            raise ValueError(
                f"{' and '.join(alike)} would both be written to {target}: give them one at a "
                "time, each with its out="
            )
    refuse_loss(targets, sources, overwrite)
    return targets


def _stem(path: Path) -> str:
    return path.name.removesuffix(path.name[len(path.name) - len(choose.suffix_of(path)) :])


def read_noisy(path: Path, options: Mapping[str, str]) -> Picture:
    """A picture whose noise is asked about; what was assumed in reading is said.

    Raises:
        ValueError: for what cannot be read, a mask or labels, or values of unknown range.
    """
    picture = choose.read(
        path,
        data_range=parse_range(options.get("data_range")),
        axis=whole(options.get("axis"), "axis"),
        key=options.get("key"),
    )
    try:
        refuse_labels(picture)
        for index in range(picture.pages):
            picture.check_page(index)
    except ValueError as error:
        raise ValueError(f"image {str(path)!r}: {error}") from None
    for note in picture.notes:
        say(f"{path}: {note}")
    return picture


def save(picture: Picture, pages: Sequence[Tensor], source: Path, path: Path, name: str) -> None:
    """Write pages in the place of those of a picture; says where a format loses or gains.

    Args:
        picture: what was read.
        pages: (1, C, H, W) each, in units of the range.
        source: where it was read.
        path: where it is written for now.
        name: the name that it will have, for what is said.
    """
    if choose.is_lossy(name):
        say(f"{name}: the format is lossy; .png would keep every value")
    elif choose.is_lossy(source):
        say(f"{source} came in a lossy format; {name} keeps every value")
    choose.write(picture.with_pages(pages), path)


def say(text: str) -> None:
    """A note on standard error."""
    print(f"note: {text}", file=sys.stderr)


def whole(text: str | None, name: str) -> int | None:
    """A whole number of an option, or None.

    Raises:
        ValueError: for anything else.
    """
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name}={text} is no whole number") from None


def shared_pages(options: Mapping[str, str]) -> bool:
    """Whether the pages of a file have one noise level, which is read from all of them.

    Raises:
        ValueError: for another word than each or shared.
    """
    word = options.get("pages", "each")
    if word not in PAGES:
        raise ValueError(f"pages={word} is neither each (its own noise) nor shared (one for all)")
    return word == "shared"
