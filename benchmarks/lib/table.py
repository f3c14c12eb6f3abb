"""Tables as Markdown and CSV, and a CSV file that keeps the results of an unfinished run."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "results"


def line(cells: Iterable[object]) -> str:
    """A row in Markdown."""
    return f"| {' | '.join(map(str, cells))} |"


def head(heads: Sequence[object]) -> str:
    """The two lines above the rows."""
    return f"{line(heads)}\n{'|---' * len(heads)}|"


def markdown(heads: Sequence[object], rows: Iterable[Iterable[object]]) -> str:
    """A table, without a last line break."""
    return "\n".join([head(heads), *map(line, rows)])


def show(heads: Sequence[object], rows: Iterable[Iterable[object]]) -> None:
    """Print a table, each row as soon as it is known."""
    print(head(heads), flush=True)
    for row in rows:
        print(line(row), flush=True)


def sigma_heads(levels: Iterable[float]) -> list[str]:
    """Heads of columns for noise of level/255."""
    return [f"σ{level:g}" for level in levels]


def write_csv(path: Path, heads: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file, each row as soon as it is known."""
    path.parent.mkdir(parents=True, exist_ok=True)  # else what took hours is lost
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(heads)
        for row in rows:
            table.writerow(row)
            file.flush()


def write_text(path: Path, text: str) -> None:
    """Write a text with one line break at its end."""
    path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


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
        for cells in list(csv.reader(whole.splitlines()))[1:]:
            self.lines[tuple(cells[:-values])] = tuple(map(float, cells[-values:]))

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
