"""Rows of denoising_table.py beside published ones, as CSV, Markdown and a figure."""

import itertools
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import matplotlib.axes
import matplotlib.figure
from matplotlib.lines import Line2D

from lib import table
from lib.data import Picture

MEASURED = "measured"
PAPER = "Zach et al. 2023, Table 1"
RIDGE = "mean of its authors' per-image file"
DNCNN = "Zhang et al. 2017 (DnCNN)"
FIGURE_LEVEL = 25
WAYS = {"one step": "o", "HQS at stride 2": "s", "HQS": "D"}  # of our models, with their markers
RIGHT = ("CRR-NN", "FoE")  # named on their right in the figure


@dataclass(frozen=True)
class Row:
    """A method at a level sigma/255: means over so many images, `seconds` for one of them.

    `numbers` counts stored values, None for methods without any; None also for what a published
    row does not tell. `version` is the one that results are kept by.
    """

    method: str
    numbers: int | None
    sigma: float
    images: int
    psnr: float
    ssim: float | None
    seconds: float | None
    source: str = MEASURED
    version: str = ""


# method, numbers, PSNR on the 68 images of BSD68 at sigma 15, 25, 50 and 100, source
PUBLISHED = (
    ("FoE", 648, (30.18, 27.77, 23.29, 16.68), PAPER),
    ("GMDM 7×7, one step", 8_352, (30.00, 27.47, 24.61, 22.14), PAPER),
    ("GMDM 7×7, HQS", 8_352, (30.37, 28.13, 25.32, 23.07), PAPER),
    ("GMDM 15×15, one step", 78_400, (30.34, 27.81, 24.96, 22.74), PAPER),
    ("GMDM 15×15, HQS", 78_400, (30.69, 28.39, 25.50, 23.12), PAPER),
    ("GMM-EPLL", 819_200, (31.21, 28.72, 25.72, 23.19), PAPER),
    ("CRR-NN", 13_763, (30.54, 28.10), RIDGE),
    ("WCRR-NN", 13_763, (31.21, 28.68), RIDGE),
    ("WNNM", None, (31.37, 28.83, 25.87), DNCNN),
    ("TNRD, a network per σ", 27_000, (31.42, 28.92, 25.97), DNCNN),
    ("DnCNN-S, a network per σ", 560_000, (31.73, 29.23, 26.23), DNCNN),
    ("DRUNet", 32_600_000, (31.91, 29.48, 26.59), "Zhang et al. 2021 (DPIR)"),
)
PUBLISHED_LEVELS = (15, 25, 50, 100)


def published(levels: Sequence[float], images: int) -> list[Row]:
    """The published rows at these levels."""
    return [
        Row(method, numbers, level, images, value, None, None, f"as published: {source}")
        for method, numbers, values, source in PUBLISHED
        for level, value in zip(PUBLISHED_LEVELS, values, strict=False)
        if level in levels
    ]


def is_bsd68(pictures: Sequence[Picture]) -> bool:
    """Whether these are as many images, and of that size, as BSD68 has."""
    return len(pictures) == 68 and all(
        sorted(picture.clean.shape[2:]) == [321, 481] for picture in pictures
    )


def markdown(rows: Sequence[Row]) -> str:
    """A table, a line a method, the best of `FIGURE_LEVEL` (or of the first level) first."""
    levels = sorted({row.sigma for row in rows})
    by_method: dict[tuple, dict[float, Row]] = {}
    for row in rows:
        by_method.setdefault((row.method, row.source), {})[row.sigma] = row
    ranked = FIGURE_LEVEL if FIGURE_LEVEL in levels else levels[0]

    def rank(found: dict[float, Row]) -> float:
        return -found[ranked].psnr if ranked in found else float("inf")

    lines = []
    for (method, source), found in sorted(by_method.items(), key=lambda item: rank(item[1])):
        first = next(iter(found.values()))
        numbers = "–" if first.numbers is None else f"{first.numbers:,}"
        taken = "" if first.seconds is None else f"{first.seconds:.2g}"
        cells = [cell(found[level]) if level in found else "" for level in levels]
        lines.append([method, numbers, *cells, taken, source])
    heads = ["method", "numbers", *table.sigma_heads(levels), "s/image", "source"]
    return table.markdown(heads, lines)


def cell(row: Row) -> str:
    """PSNR, and SSIM where it is known."""
    return f"{row.psnr:.2f}" + ("" if row.ssim is None else f" / {row.ssim:.3f}")


def draw(path: Path, many: Sequence[Row], few: Sequence[Row], name: str) -> None:
    """PSNR against numbers, on all images, and against time, on the few that all methods saw.

    Ours in colour, with a legend; rivals dark, and published ones hollow, with their names.
    """
    level = FIGURE_LEVEL if any(r.sigma == FIGURE_LEVEL for r in many) else many[0].sigma
    figure = matplotlib.figure.Figure(figsize=(13, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    counted = (left, "numbers", "stored numbers (hollow or dotted: as published)", many)
    timed = (right, "seconds", "CPU seconds for the first image, one thread", few)
    models = list(dict.fromkeys(row.method.split(", ")[0] for row in many if is_ours(row)))
    colours = {model: f"C{place}" for place, model in enumerate(models)}
    for axes, what, label, rows in (counted, timed):
        shown = [row for row in rows if row.sigma == level]
        for row in shown:
            if is_ours(row):
                model, way = row.method.split(", ")
                axes.plot(getattr(row, what), row.psnr, WAYS[way], color=colours[model])
            else:
                other(axes, getattr(row, what), row)
        images = max((row.images for row in shown), default=0)
        title = f"{name}, {images} images, σ = {level:g}/255"
        axes.set(xscale="log", xlabel=label, ylabel="mean PSNR in dB", title=title)
        axes.grid(alpha=0.3)
        axes.margins(x=0.12)
    key = [Line2D([], [], color=c, marker="o", ls="", label=m) for m, c in colours.items()]
    key += [Line2D([], [], color="0.5", marker=m, ls="", label=way) for way, m in WAYS.items()]
    figure.legend(handles=key, loc="outside lower center", ncols=len(key), fontsize=8)
    figure.savefig(path, dpi=110)


def is_ours(row: Row) -> bool:
    """Whether this is one of the bundled models, `NAME, WAY`."""
    return row.method.split(", ")[-1] in WAYS and row.source == MEASURED


def other(axes: matplotlib.axes.Axes, place: float | None, row: Row) -> None:
    """A named marker, hollow for what is published; a line, dotted then, for what has no place."""
    text: dict[str, Any] = {"fontsize": 7, "va": "center"}
    hollow = row.source != MEASURED
    if place is None:
        axes.axhline(row.psnr, color="0.4", linestyle=":" if hollow else "--", linewidth=0.9)
        text |= {"va": "bottom", "ha": "right", "transform": axes.get_yaxis_transform()}
        axes.text(0.995, row.psnr, row.method, **text)
        return
    axes.plot(place, row.psnr, "o", color="0.2", markerfacecolor="none" if hollow else "0.2")
    side = 1 if row.method in RIGHT else -1
    text |= {"ha": "left" if side > 0 else "right", "textcoords": "offset points"}
    axes.annotate(row.method, (place, row.psnr), (6 * side, 0), **text)


def report(parts: list[list[Row]], name: str, pictures: Sequence[Picture], out: Path) -> str:
    """Write denoising.csv, .md and .png; the Markdown.

    Args:
        parts: rows for all images, and, where there are more than a few, those for a few.
        name: of the set.
        pictures: all of it that was looked at.
        out: the folder.
    """
    levels = sorted({row.sigma for part in parts for row in part})
    also = published(levels, len(pictures)) if is_bsd68(pictures) else []
    parts = [part for part in (parts[0] + also, *parts[1:]) if part]
    heads, rows = [field.name for field in fields(Row)], map(astuple, itertools.chain(*parts))
    lines = ([f"{v:.5g}" if isinstance(v, float) else v for v in row] for row in rows)
    table.write_csv(out / "denoising.csv", heads, lines)
    text = ""
    for part in parts:
        images = part[0].images
        text += f"{name}, {images} images: PSNR in dB / SSIM\n\n{markdown(part)}\n\n"
    first = pictures[0]
    text += (
        "Noise seeded with the image's index in the whole set, results clipped to [0, 1]. s/image: "
        f"CPU seconds on one thread for {first.name} ({first.clean.shape[2]}×"
        f"{first.clean.shape[3]}) at σ = 25/255, methods in turn in one process.\n"
    )
    table.write_text(out / "denoising.md", text)
    draw(out / "denoising.png", parts[0], parts[-1], name)
    return text
