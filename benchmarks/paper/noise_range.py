"""Appendix B of the paper: training on a range of noise levels against training on one.

    python benchmarks/noise_range.py data=bsds500:ROOT [steps=5000] [batch_size=3200] [seed=0]
                                     [patches=100000] [out=docs/figures/noise_range.png] [runs=DIR]

Trains the paper's 7×7 model twice with iPALM, once on σ ~ U[0, 0.4] and once on σ = 0.02 only, and
compares its potentials with the empirical marginals of noisy held-out patches: NMSE_κ (Eq. 21, on
negative logarithms) over σ, for κ = 0.005, 0.01 and 0.02 (Figs. 5 and 6), and prints how much of
the noise each leaves in held-out patches. Writes the picture, and
beside it the numbers as CSV. With `runs=DIR` checkpoints are kept there and a second call goes on.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm
from words import BSDS500, read, status

import gmdm_prior as gm
from gmdm_prior.training import (
    Checkpoints,
    FitSettings,
    denoising_score_matching,
    find_images,
    fit,
    nmse,
    read_images,
    sample_patches,
    split_held_out,
)

RANGES = {"σ ~ U[0, 0.4]": (0.0, 0.4), "σ = 0.02": (0.02, 0.02)}
SIGMAS = tuple(round(0.005 * i, 3) for i in (*range(1, 10), *range(10, 81, 5)))
LOSS_PATCHES = 40_000
KAPPAS = (0.005, 0.01, 0.02)
DEFAULTS = {
    "data": "",
    "steps": "5000",
    "batch_size": "3200",
    "seed": "0",
    "patches": "100000",
    "out": "docs/figures/noise_range.png",
    "runs": "",
}


def train(images: tuple, bounds: tuple[float, float], options: dict, store: Checkpoints | None):
    """One model, for noise levels between two bounds."""
    settings = FitSettings(
        model="patch",
        steps=int(options["steps"]),
        batch_size=int(options["batch_size"]),
        seed=int(options["seed"]),
        sigma_min=bounds[0],
        sigma_max=bounds[1],
    )
    resume = store.latest() if store else None
    records = fit(*images, settings, checkpoints=store, resume=resume)
    done = resume.step if resume else 0
    with tqdm(total=settings.steps, initial=done, desc=f"sigma {bounds}") as bar:
        for record in records:
            bar.update(record.step - bar.n)
            bar.set_postfix_str(f"loss {record.loss:.4g}", refresh=False)
    return record.model


def errors(models: dict[str, gm.PatchModel], patches: Tensor) -> dict[str, Tensor]:
    """NMSE of each model, (noise levels, κ)."""
    return {name: nmse(model, patches, SIGMAS, KAPPAS) for name, model in models.items()}


@torch.no_grad()
def remaining(model: gm.PatchModel, patches: Tensor, sigma: float) -> float:
    """Squared error of denoised patches, as a share of the noise's: Eq. 4 over its value for y."""
    x = patches[:LOSS_PATCHES] - patches[:LOSS_PATCHES].mean((-2, -1), keepdim=True)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    noise = sigma * (noise - noise.mean((-2, -1), keepdim=True))
    loss = denoising_score_matching(model, x, x + noise, sigma)
    return float(loss) / float(noise.square().sum() / len(noise))


def write_csv(path: Path, found: dict[str, Tensor]) -> None:
    """One row for each model, noise level and κ."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["training", "sigma", "kappa", "nmse"])
        for name, values in found.items():
            for sigma, row in zip(SIGMAS, values.tolist(), strict=True):
                for kappa, value in zip(KAPPAS, row, strict=True):
                    rows.writerow([name, sigma, kappa, f"{value:.6g}"])


def draw(path: Path, found: dict[str, Tensor], steps: int) -> None:
    """NMSE over σ, one colour for each model and one line style for each κ."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for colour, (name, values) in enumerate(found.items()):
        for style, kappa, column in zip(("-", "--", ":"), KAPPAS, values.T, strict=True):
            axes.plot(SIGMAS, column, style, color=f"C{colour}", label=f"{name}, κ = {kappa}")
    axes.axvline(0.02, color="0.7", linewidth=0.8)
    axes.text(0.022, 0.98, "σ = 0.02", transform=axes.get_xaxis_transform(), va="top", color="0.5")
    axes.set(
        yscale="log",
        xlabel="noise level σ at which potentials and marginals are compared",
        ylabel="NMSE, summed over the 48 filters",
        title=f"7×7 model after {steps:,} iPALM steps, trained on a range of σ or on one",
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def run(options: dict[str, str]) -> None:
    """Train both, measure, write."""
    files = split_held_out(find_images(options["data"]))
    training, held_out = (list(read_images(part).values()) for part in files)
    models = {}
    for i, (name, bounds) in enumerate(RANGES.items()):
        store = Checkpoints(Path(options["runs"]) / str(i)) if options["runs"] else None
        models[name] = train((training, held_out), bounds, options, store)
    generator = torch.Generator().manual_seed(int(options["seed"]) + 1)
    patches = sample_patches(held_out, int(options["patches"]), 7, "d4", generator)
    found = errors(models, patches)
    out = Path(options["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    write_csv(out.with_suffix(".csv"), found)
    draw(out, found, int(options["steps"]))
    multi, single = (values[:, 1] for values in found.values())
    for sigma, a, b in zip(SIGMAS, multi.tolist(), single.tolist(), strict=True):
        c, d = (remaining(model, patches, sigma) for model in models.values())
        print(
            f"sigma {sigma:<6} NMSE (kappa 0.01): range {a:9.4g}   0.02 only {b:9.4g}   "
            f"remaining error: range {c:.4f}   0.02 only {d:.4f}"
        )


def main(words: list[str]) -> int:
    """The exit status."""
    return status(lambda given: run(read(given, DEFAULTS, BSDS500)), words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
