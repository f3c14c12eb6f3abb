"""The table of inverse problems: a row for each problem, a column for each method; what holds."""

import statistics
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from lib import restorers, table
from lib.deep_variation import TDV
from lib.figures import panel, psnr
from lib.problems import CASES

OURS, TUNED = restorers.OURS, restorers.TUNED
RIVALS = (
    *(restorers.FFDNET, restorers.DPIR, restorers.DNCNN, restorers.BM3D, restorers.EPLL),
    *(TDV, "WCRR", "CRR", restorers.TV, restorers.WAVELETS, restorers.FLOOR),
)
SHOWN = (restorers.FLOOR, restorers.FFDNET, OURS, "truth")
ABREAST = 2  # problems in a row of the sheet
NOTE = (
    "`python benchmarks/inverse_problems.py networks=FOLDER`, whose head says what each method is "
    "told. Means over eight pictures of 128×128 pixels: PSNR in dB / SSIM / CPU seconds of one "
    "thread of a busy machine. The best of those that were run is bold, but for `gmdm tuned`; an "
    "empty cell was not run."
)
Row = dict[str, dict[str, tuple[float, ...]]]  # method -> picture -> PSNR, SSIM, seconds


def rows_of(results: table.Cache) -> dict[str, Row]:
    """Problems by their key, in order, of what is known of all their pictures."""
    found: dict[str, Row] = {case.key: {} for case in CASES}
    for (problem, picture, method), values in results.lines.items():
        found.setdefault(problem, {}).setdefault(method, {})[picture] = values
    whole = {}
    for problem, row in found.items():
        most = max(map(len, row.values()), default=0)
        whole[problem] = {method: v for method, v in row.items() if len(v) == most}
    return {problem: row for problem, row in whole.items() if OURS in row}


def mean(row: Row, method: str, which: int = 0) -> float:
    """Of PSNR, SSIM or seconds over pictures."""
    return statistics.fmean(values[which] for values in row[method].values())


def text(results: table.Cache) -> str:
    """The whole page."""
    rows = rows_of(results)
    parts = ["# Inverse problems", NOTE, rivals_table(rows), "\n".join(holds(rows))]
    parts += ["## With no knob, and tuned", KNOB, tuned_table(rows)]
    return "\n\n".join(parts)


KNOB = (
    "`gmdm` less `gmdm tuned`, whose weight, levels and steps were climbed on two other pictures, "
    "in dB: the mean over the eight pictures, and the one where tuning gains most."
)


def rivals_table(rows: dict[str, Row]) -> str:
    """A row for each problem, and means where all methods were run on at least half of them."""
    methods = [m for m in (OURS, TUNED, *RIVALS) if any(m in row for row in rows.values())]
    lines = []
    for problem, row in rows.items():
        best = max(round(mean(row, m), 2) for m in row if m != TUNED)
        lines.append([problem, *(cell(row, m, best) for m in methods)])
    shared = [row for row in rows.values() if all(m in row for m in methods)]
    if 2 * len(shared) >= len(rows):
        means = [
            tuple(statistics.fmean(mean(row, m, i) for row in shared) for i in range(3))
            for m in methods
        ]
        cells = (f"{p:.2f} / {s:.3f} / {t:.1f}" for p, s, t in means)
        lines.append([f"mean of {len(shared)}", *cells])
    return table.markdown(["problem", *(f"`{m}`" if m == OURS else m for m in methods)], lines)


def cell(row: Row, method: str, best: float) -> str:
    """PSNR / SSIM / seconds."""
    if method not in row:
        return ""
    value, quality, seconds = (mean(row, method, i) for i in range(3))
    shown = f"{value:.2f}"
    if method != TUNED and shown == f"{best:.2f}":
        shown = f"**{shown}**"
    return f"{shown} / {quality:.3f} / {seconds:.1f}"


def holds(rows: dict[str, Row]) -> list[str]:
    """A sentence for each rival."""
    lines = []
    for method in RIVALS:
        shared = {problem: row for problem, row in rows.items() if method in row}
        if not shared:
            continue
        gaps = {problem: mean(row, OURS) - mean(row, method) for problem, row in shared.items()}
        average = statistics.fmean(gaps.values())
        times = [statistics.fmean(mean(r, m, 2) for r in shared.values()) for m in (OURS, method)]
        behind = sorted((gap, problem) for problem, gap in gaps.items() if gap < -0.005)
        line = (
            f"- {method}: `gmdm` is {average:+.2f} dB on average over {len(gaps)} problems, at "
            f"{times[0]:.1f} s beside {times[1]:.1f} s"
        )
        if behind:
            named = ", ".join(f"{problem} ({gap:+.2f})" for gap, problem in behind)
            line += f"; behind in {len(behind)}: {named}"
        lines.append(line + ".")
    return lines


def tuned_table(rows: dict[str, Row]) -> str:
    """How far the defaults are from tuned ones."""
    lines = []
    for problem, row in rows.items():
        if TUNED not in row:
            continue
        gaps = {name: v[0] - row[TUNED][name][0] for name, v in row[OURS].items()}
        worst = min(gaps, key=lambda name: gaps[name])
        middle = statistics.fmean(gaps.values())
        numbers = (f"{mean(row, OURS):.2f}", f"{mean(row, TUNED):.2f}", f"{middle:+.2f}")
        lines.append([problem, *numbers, f"{gaps[worst]:+.2f} ({worst})"])
    heads = ("problem", "`gmdm`", "tuned", "mean difference", "worst picture")
    return table.markdown(heads, lines)


def write(path: Path, results: table.Cache) -> None:
    """The table beside the CSV file."""
    table.write_text(path.with_suffix(".md"), text(results))


def draw(strips: dict[str, dict[str, Tensor]], path: Path) -> None:
    """A strip of pictures for each problem, with PSNR."""
    width, height = ABREAST * len(SHOWN), -(-len(strips) // ABREAST)
    figure = Figure(figsize=(1.5 * width, 1.8 * height), dpi=90, layout="constrained")
    axes = figure.subplots(height, width, squeeze=False).reshape(-1, len(SHOWN))
    for place in axes.flat:
        place.set_axis_off()
    for row, (problem, images) in zip(axes, strips.items(), strict=False):
        for place, name in zip(row, SHOWN, strict=True):
            if name in images:
                value = "" if name == "truth" else f" {psnr(images[name], images['truth']):.2f}"
                panel(place, images[name], f"{name}{value}", 7)
        row[0].set_title(f"{problem}\n{row[0].get_title()}", fontsize=7, loc="left")
        row[0].set_title("")
    figure.savefig(path)
