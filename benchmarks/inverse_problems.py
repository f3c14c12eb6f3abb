"""Every bundled config with every prior, in one table.

    python benchmarks/inverse_problems.py [CONFIG ...] [priors=gmdm,tv,wavelet,pnp,epll]
        [mixture=runs/table/epll-gmm.safetensors] [out=FOLDER]

Restores the same measurement with `gmdm`, total variation, wavelets and plug-and-play with BM3D,
each with the options that the config has for it (the rivals' weights: `recipes/rivals.py`, on
the very picture). deepinv's own EPLL reconstruction takes a minute for 128×128 pixels, so it gets
the middle of the picture, of that size, and `gmdm` restores that too, in the column beside it.
EPLL's mixture is fitted by `recipes/rivals.py`. Its own continuation, beta = 1, 4, … 32 over the
noise variance, is for denoising; elsewhere beta starts at 1 / 0.2², in ten steps, as for `gmdm`. It
is left out where it cannot work: complex images (mri), and photons, which it does not weigh.

Writes inverse_problems.csv, where finished restorations are found again, and .md to `out` (by
default benchmarks/results), and the figure inverse_problems.png of what was restored in this run:
measurement, total variation, plug-and-play, gmdm and truth. PSNR in dB, SSIM, wall
seconds on one thread.
"""

import sys
import time
from pathlib import Path

import torch
from deepinv.loss.metric import SSIM
from deepinv.optim import EPLL
from deepinv_gmdm import physics_sigma, schedule
from deepinv_gmdm.command.config import load_config
from lib import rivals, table
from lib.figures import panel, psnr
from lib.restoration import Problem, config_names
from lib.timing import timed
from lib.words import Options, command
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

PRIORS = ("gmdm", "tv", "wavelet", "pnp")
NAMES = {"gmdm": "`gmdm`", "tv": "`tv`", "wavelet": "`wavelet`", "pnp": "`pnp`, BM3D"}
SMALL = 128  # side of what EPLL restores
BETAS, START, LAST = 10, 0.2, 32**0.5  # steps, levels 1 / sqrt(beta) from START to sigma / LAST
SHOWN = ("measurement", "tv", "pnp", "gmdm", "truth")  # in the figure
COLUMNS = ("config", "method", "psnr", "ssim", "seconds")


def by_epll(epll: EPLL, problem: Problem) -> Tensor:
    """A restoration by EPLL with a mixture around `GRAY`."""
    physics, flat = problem.physics, torch.full_like(problem.scene, rivals.GRAY)
    sigma, y = physics_sigma(physics), problem.measured - physics.A(flat)
    # its own continuation begins at the noise, where no hole is filled and no blur undone
    levels = schedule(sigma, BETAS, START, sigma / LAST)
    if problem.name == "denoise":
        levels = [sigma / b**0.5 for b in (1, 4, 8, 16, 32)]
    betas = [1 / level**2 for level in levels]
    options = {"x_init": problem.image_of(y), "betas": betas, "batch_size": rivals.BATCH}
    return rivals.GRAY + epll(y, physics, sigma=sigma, **options)


def possible(name: str) -> bool:
    """Whether EPLL can take a config."""
    config = load_config(name)
    return config.physics.name != "mri" and config.physics.noise.name == "gaussian"


def measure(problem: Problem, method: str, restore, cache: table.Cache) -> Tensor | None:
    """One restoration, unless it is in the cache; the picture where it was made now."""
    key = (problem.name, method)
    if key in cache:
        return None
    image, seconds = timed(lambda: restore().clamp(0, 1), time.perf_counter)
    cache.add(key, (psnr(image, problem.truth), float(SSIM()(image, problem.truth)), seconds))
    return image


@torch.no_grad()
def run(options: Options) -> None:
    """Restore, write table and figure."""
    cache = table.Cache(options.out / "inverse_problems.csv", COLUMNS, 3)
    strips: dict[str, dict[str, Tensor]] = {}
    for name in tqdm(options.configs or config_names()):
        problem = Problem.of(name)
        measure(problem, "measurement", lambda p=problem: p.seen, cache)
        images = {"measurement": problem.seen}
        for prior in (p for p in PRIORS if p in options.priors):
            words = [f"prior={prior}"]
            found = measure(problem, prior, lambda p=problem, w=words: p.restored(w), cache)
            if found is not None:
                images[prior] = found
        strips[name] = images | {"truth": problem.truth}
        if "epll" in options.priors and possible(name):
            small = Problem.of(name, side=SMALL)
            epll = rivals.epll(*rivals.read_mixture(options.mixture))
            measure(small, "epll 128", lambda p=small, e=epll: by_epll(e, p), cache)
            measure(small, "gmdm 128", lambda p=small: p.restored(["prior=gmdm"]), cache)
    names = sorted({config for config, _ in cache.lines})
    table.write_text(options.out / "inverse_problems.md", report(names, cache))
    whole = {name: images for name, images in strips.items() if set(SHOWN) <= set(images)}
    if whole:
        draw(whole, options.out / "inverse_problems.png")


def report(names: list[str], cache: table.Cache) -> str:
    """The table."""
    rows, first = [], 0
    for name in names:
        found = {p: cache[name, p] for p in PRIORS if (name, p) in cache}
        best = max(found, key=lambda p: round(found[p][0], 2))
        first += best == "gmdm"
        cells = [cell(found.get(p), bold=p == best) for p in PRIORS]
        rows.append([f"`{name}`", f"{cache[name, 'measurement'][0]:.2f}", *cells])
    text = (
        "# Inverse problems\n\n"
        "`python benchmarks/inverse_problems.py`: PSNR in dB / SSIM / seconds on one thread of a "
        "shared machine; the best PSNR in bold.\n\n"
    )
    text += table.markdown(["config", "measurement", *(NAMES[p] for p in PRIORS)], rows)
    text += f"\n\n`gmdm` is first in {first} of {len(names)}; less than 0.05 dB is a tie."
    rows = []
    for name in (name for name in names if (name, "epll 128") in cache):
        ours, theirs = cache[name, "gmdm 128"], cache[name, "epll 128"]
        rows.append([f"`{name}`", cell(ours, ours > theirs), cell(theirs, theirs > ours)])
    if rows:
        text += f"\n\nThe middle {SMALL}×{SMALL} pixels, beside deepinv's EPLL:\n\n"
        text += table.markdown(["config", "`gmdm`", "EPLL"], rows)
    return text


def cell(values: tuple[float, ...] | None, bold: bool) -> str:
    """PSNR / SSIM / seconds."""
    if values is None:
        return ""
    value, quality, seconds = values
    shown = f"**{value:.2f}**" if bold else f"{value:.2f}"
    return f"{shown} / {quality:.3f} / {seconds:.1f}"


def draw(strips: dict[str, dict[str, Tensor]], path: Path) -> None:
    """One row of pictures for each config, with PSNR."""
    size = 2.6 * len(SHOWN), 2.75 * len(strips)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(strips), len(SHOWN), squeeze=False)
    for row, (name, images) in zip(axes, strips.items(), strict=True):
        for place, kind in zip(row, SHOWN, strict=True):
            title = name if kind == "measurement" else kind
            if kind != "truth":
                title += f", {psnr(images[kind], images['truth']):.2f} dB"
            panel(place, images[kind], title)
    figure.savefig(path, dpi=100)


main = command(
    run,
    place="configs",
    configs=(),
    priors=(*PRIORS, "epll"),
    mixture=rivals.MIXTURE,
    out=table.RESULTS,
)

if __name__ == "__main__":
    sys.exit(main())
