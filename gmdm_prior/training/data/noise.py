"""Noise levels as they are written: a number or fraction, a table of files, `auto` or `map`.

A table is a CSV file whose first line names its columns, `file` and `sigma` among them:

    file,sigma
    monday/01.png,25/255
    02.png,0.06

`file` is the end of an image's path: its name, or as many folders before it as tell it apart.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gmdm_prior.sigma import parse

ESTIMATED = ("auto", "map")
COLUMNS = ("file", "sigma")
NAMED = 3  # files named in a message


def training_noise(key: str, value: Any) -> float | str:
    """What training images are said to contain: a level, `auto`, `map` or the name of a table."""
    text = str(value).strip()
    if text in ESTIMATED or is_table(text):
        return text
    try:
        return parse(value, key)
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
    path = Path(path).expanduser()
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
        missing += [str(file)] if level is None else []
        levels.append(level)
    if missing:
        shown = ", ".join(missing[:NAMED]) + (", …" if len(missing) > NAMED else "")
        raise ValueError(
            f"noise={source} says nothing of {len(missing)} images: {shown}; add a row for each"
        )
    return levels
