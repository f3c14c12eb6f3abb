"""Results of an unfinished run in a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path


class Cache:
    """Lines of a CSV file by all columns but the last few, each written as soon as it is known.

    A line that was cut off is dropped.
    """

    def __init__(self, path: Path, heads: Sequence[str], values: int) -> None:
        self.path, self.values, self.lines = path, values, {}
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        whole = text[: text.rfind("\n") + 1]
        if not whole or whole != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(whole or ",".join(heads) + "\n", encoding="utf-8")
        for line in list(csv.reader(whole.splitlines()))[1:]:
            self.lines[tuple(line[:-values])] = tuple(map(float, line[-values:]))

    def __contains__(self, key: tuple[str, ...]) -> bool:
        """Whether there is such a line."""
        return key in self.lines

    def __getitem__(self, key: tuple[str, ...]) -> tuple[float, ...]:
        """The values of the last line with this key."""
        return self.lines[key]

    def add(self, key: tuple[str, ...], values: Sequence[float]) -> None:
        """Remember a line, on disk too."""
        self.lines[key] = tuple(values)
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow([*key, *(f"{v:.6g}" for v in values)])
