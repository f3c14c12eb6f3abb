"""Speed and memory, ours and rival in turns: `python benchmarks/speed.py [BSD68] [options]`.

    python benchmarks/speed.py                                 # the quick rows, on a bundled image
    python benchmarks/speed.py BSD68 --rows hqs-bm3d stride    # on every 8th image of BSD68
    python benchmarks/speed.py --rows memory scaling --side 4096
    python benchmarks/speed.py --rows hqs-epll threads training --data bsds500:ROOT

Protocol: float32, one thread unless `--threads` says otherwise, 481×321 pixels, sigma = 25/255;
every row is a ratio measured side by side in one process (benchmarks/speed_rows.py). Writes
speed.csv and speed.md as each row finishes, and at the end speed.png; rows that an earlier run left
there stay until they are measured again. What to expect: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.metadata
import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib.figure
import torch
from denoising import read_gray
from speed_paths import paths
from speed_rows import HEIGHT, PICTURES, QUICK, SIDES, WIDTH, Bench, Measurement, mosaic, peak
from speed_rows import ROWS as TIMED_ROWS
from tqdm import tqdm

from gmdm_prior.training import find_images, read_images

ROWS = TIMED_ROWS | {"paths": paths}
PACKAGES = ("torch", "deepinv", "bm3d", "gmdm-prior")


def versions() -> str:
    """Of what is compared."""
    found = []
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(found)


def seconds_text(value: float | None) -> str:
    """Three digits, or nothing."""
    return "" if value is None else f"{value:.3g}"


def save(out: Path, found: list[Measurement]) -> None:
    """All measurements so far, as speed.csv and speed.md."""
    heads = ["row", "ours", "rival", "ours_s", "rival_s", "ratio", "of", "target", "met", "threads"]
    with open(out / "speed.csv", "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([*heads, "note", "versions"])
        for m in found:
            rows.writerow([*(getattr(m, head) for head in heads), m.note, versions()])
    shown = ["row", "ours", "rival", "ours, s", "rival, s", "ratio", "of", "target", "met"]
    lines = [f"| {' | '.join([*shown, 'threads', 'note'])} |", "|" + "---|" * (len(shown) + 2)]
    for m in found:
        times = [seconds_text(m.ours_s), seconds_text(m.rival_s)]
        cells = [m.row, m.ours, m.rival, *times, f"{m.ratio:.3g}", m.of, m.target, m.met, m.threads]
        lines.append(f"| {' | '.join([*cells, m.note])} |")
    text = "\n".join([*lines, "", f"{versions()}; {os.cpu_count()} processors."])
    (out / "speed.md").write_text(text + "\n", encoding="utf-8")


def stored(path: Path, renewed: Sequence[str]) -> list[Measurement]:
    """What an earlier run left in a speed.csv, without the rows that are measured anew."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["row"] not in renewed]
    found = []
    for line in lines:
        bounds = dict(bound.split() for bound in line["target"].split(" and ") if bound)
        found.append(
            Measurement(
                **{name: line[name] for name in ("row", "ours", "rival", "of", "threads", "note")},
                **{name: number(line[name]) for name in ("ours_s", "rival_s", "ratio")},
                least=number(bounds.get("≥", "")),
                most=number(bounds.get("≤", "")),
            )
        )
    return found


def number(text: str) -> float | None:
    """A number, or nothing."""
    return float(text) if text else None


def in_order(found: list[Measurement]) -> list[Measurement]:
    """In the order of `ROWS`."""
    return sorted(found, key=lambda m: list(ROWS).index(m.row))


def draw(path: Path, found: list[Measurement]) -> None:
    """The ratios as bars, with their targets as lines."""
    figure = matplotlib.figure.Figure(figsize=(10, 1.2 + 0.32 * len(found)), layout="constrained")
    axes = figure.subplots()
    colours = {"yes": "tab:green", "no": "tab:red", "": "0.6"}
    for place, m in enumerate(found):
        axes.barh(place, m.ratio, color=colours[m.met])
        for bound in (m.least, m.most):
            if bound is not None:
                axes.plot([bound, bound], [place - 0.45, place + 0.45], color="black")
    labels = [f"{m.row}: {m.ours}   {m.ratio:.3g}" for m in found]
    axes.set_yticks(range(len(found)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="ratio (speed.md says of what); black: its target, green: met")
    axes.margins(x=0.1)
    figure.savefig(path, dpi=110)


class Parser(argparse.ArgumentParser):
    """Refuses in one sentence, without the usage."""

    def error(self, message: str) -> None:
        """Exit with status 2."""
        self.exit(2, f"{message}\n")


def positive(text: str) -> int:
    """A number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1; got {text!r}")
    return int(text)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Options, checked; leaves with status 2 where they cannot be used."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("bsd68", type=Path, nargs="?", help="folder of clean 481x321 PNG images")
    known, quick = ", ".join(ROWS), ", ".join(QUICK)
    parser.add_argument(
        "--rows",
        nargs="+",
        metavar="ROW",
        default=list(QUICK),
        choices=list(ROWS),
        help=f"of {known}; default {quick}",
    )
    parser.add_argument("--repeats", type=positive, help="turns of a row; default 1 to 5, by row")
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--every", type=positive, default=8, help="take every n-th image")
    parser.add_argument("--side", type=positive, default=4096, help="of the largest image, pixels")
    parser.add_argument("--data", help="training images, FOLDER or bsds500:ROOT")
    parser.add_argument("--out", type=Path, default=Path("runs/speed"))
    parser.add_argument("--memory-case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.bsd68 is not None and not options.bsd68.is_dir():
        parser.error(f"folder {options.bsd68} does not exist")
    if options.bsd68 is not None and not list(options.bsd68.glob("*.png")):
        parser.error(f"no PNG image in {options.bsd68}")
    if options.side < SIDES[0]:
        parser.error(f"--side must be at least {SIDES[0]}; got {options.side}")
    if "hqs-bm3d" in options.rows and importlib.util.find_spec("bm3d") is None:
        parser.error('row hqs-bm3d needs the package bm3d: pip install -e ".[bench]"')
    try:
        options.training = find_images(options.data) if options.data else None
        if not options.memory_case:
            options.out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return options


def make_bench(options: argparse.Namespace) -> Bench:
    """Read the images; without any, the bundled pictures."""
    if options.bsd68 is None:
        images = [mosaic()[..., :HEIGHT, :WIDTH].contiguous()]
    else:
        images = [read_gray(f) for f in sorted(options.bsd68.glob("*.png"))[:: options.every]]
    if options.training is None:
        pictures = [read_gray(f)[0] for f in sorted(PICTURES.glob("*.png"))]
    else:
        pictures = list(read_images(options.training).values())
    return Bench(images, pictures, options.repeats, options.threads, options.side)


def main(argv: list[str] | None = None) -> None:
    """Measure row by row, write, draw."""
    options = parse(argv)
    torch.set_num_threads(options.threads)
    if options.memory_case:
        print(json.dumps(peak(*options.memory_case, options.side)))
        return
    bench, found = make_bench(options), stored(options.out / "speed.csv", options.rows)
    for name in tqdm([row for row in ROWS if row in options.rows], desc="rows"):
        for measurement in ROWS[name](bench):
            found.append(measurement)
            save(options.out, in_order(found))
    draw(options.out / "speed.png", in_order(found))
    print((options.out / "speed.md").read_text(encoding="utf-8"), end="")
    rest = [row for row in ROWS if row not in options.rows]
    if rest:
        print(f"the other rows: python benchmarks/speed.py [BSD68] --rows {' '.join(rest)}")


if __name__ == "__main__":
    main()
