"""Speed and memory, ours and rival in turns: `python benchmarks/speed.py [BSD68] [options]`.

    python benchmarks/speed.py                                 # the quick rows, on a bundled image
    python benchmarks/speed.py BSD68 --rows hqs-bm3d stride    # on every 8th image of BSD68
    python benchmarks/speed.py --rows memory scaling --side 4096
    python benchmarks/speed.py --rows hqs-epll threads training --data bsds500:ROOT

Protocol: float32, one thread unless `--threads` says otherwise, 481×321 pixels, sigma = 25/255;
every row is a ratio measured side by side in one process (speed_rows/). Writes
speed.csv and speed.md as each row finishes, and at the end speed.png; rows that an earlier run left
there stay until they are measured again. What to expect: benchmarks/README.md.
"""

import contextlib
import csv
import functools
import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from lib import table
from lib.data import BUNDLED, png_files, read_gray
from lib.words import Options, command, need
from matplotlib.figure import Figure
from speed_rows import denoising, machine
from speed_rows.bench import HEIGHT, WIDTH, Bench, Measurement, mosaic
from speed_rows.paths import paths
from speed_rows.solvers import solvers
from speed_rows.training import training
from tqdm import tqdm

from gmdm_prior.training import find_images, read_images

ROWS: dict[str, Callable[[Bench], Iterator[Measurement]]] = {
    "product-7x7": functools.partial(denoising.product, size=7, most=0.5),
    "product-15x15": functools.partial(denoising.product, size=15, most=1.0),
    "hqs-bm3d": denoising.hqs_bm3d,
    "hqs-epll": denoising.hqs_epll,
    "stride": denoising.stride,
    "table": denoising.table,
    "memory": machine.memory,
    "scaling": machine.scaling,
    "threads": machine.threads,
    "training": training,
    "paths": paths,
    "solvers": solvers,
}
QUICK = ("product-7x7", "product-15x15", "hqs-bm3d", "stride", "table")
PACKAGES = ("torch", "deepinv", "bm3d", "gmdm-prior")
HEADS = ("row", "ours", "rival", "ours_s", "rival_s", "ratio", "of", "target", "met", "threads")
SHOWN = ("row", "ours", "rival", "ours, s", "rival, s", *HEADS[5:], "note")


def versions() -> str:
    """Versions of what is compared."""
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
    lines = ([*(getattr(m, head) for head in HEADS), m.note, versions()] for m in found)
    table.write_csv(out / "speed.csv", [*HEADS, "note", "versions"], lines)
    rows = []
    for m in found:
        cells = [m.row, m.ours, m.rival, seconds_text(m.ours_s), seconds_text(m.rival_s)]
        rows.append([*cells, f"{m.ratio:.3g}", m.of, m.target, m.met, m.threads, m.note])
    notes = f"{versions()}; {os.cpu_count()} processors."
    table.write_text(out / "speed.md", f"{table.markdown(SHOWN, rows)}\n\n{notes}")


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
    """The rows in the order of `ROWS`."""
    return sorted(found, key=lambda m: list(ROWS).index(m.row))


def draw(path: Path, found: list[Measurement]) -> None:
    """The ratios as bars, with their targets as lines."""
    figure = Figure(figsize=(10, 1.2 + 0.32 * len(found)), layout="constrained")
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


def make_bench(options: Options) -> Bench:
    """Read the images; without any, the bundled pictures."""
    if options.bsd68 is None:
        images = [mosaic()[..., :HEIGHT, :WIDTH].contiguous()]
    else:
        images = [read_gray(f) for f in png_files(options.bsd68)[:: options.every]]
    files = find_images(options.data) if options.data else png_files(BUNDLED)
    pictures = list(read_images(files).values())
    return Bench(images, pictures, options.repeats, options.threads, options.side)


def check(options: Options) -> None:
    """Refuse what cannot be measured, before anything is.

    Raises:
        ValueError: an unknown row, a side too small, or a row without its package.
    """
    for row in options.rows:
        if row not in ROWS:
            raise ValueError(f"rows: {row!r} is none of {', '.join(ROWS)}")
    if options.side < machine.SIDES[0]:
        raise ValueError(f"side must be at least {machine.SIDES[0]}; got {options.side}")
    if "hqs-bm3d" in options.rows:
        need("bm3d")


def run(options: Options) -> None:
    """Measure row by row, write, draw."""
    check(options)
    bench = make_bench(options)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    found = stored(options.out / "speed.csv", options.rows)
    for name in tqdm([row for row in ROWS if row in options.rows], desc="rows"):
        for measurement in ROWS[name](bench):
            found.append(measurement)
            save(options.out, in_order(found))
    draw(options.out / "speed.png", in_order(found))
    print((options.out / "speed.md").read_text(encoding="utf-8"), end="")
    rest = [row for row in ROWS if row not in options.rows]
    if rest:
        print(f"the other rows: python benchmarks/speed.py [BSD68] --rows {' '.join(rest)}")


main = command(
    run,
    place="bsd68",
    bsd68=Path,
    rows=QUICK,
    repeats=int,
    threads=1,
    every=8,
    side=4096,
    data="",
    out=Path("runs/speed"),
)

if __name__ == "__main__":
    sys.exit(main())
