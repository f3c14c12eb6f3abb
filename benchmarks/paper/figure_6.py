"""Figure 6 of the paper: training on a range of noise levels against training on one.

    python benchmarks/paper/figure_6.py [data=bsds500:ROOT] [steps=300] [batch_size=1000] [seed=0]
                                [patches=30000] [out=docs/figures/paper_6.png] [runs=DIR]

Trains the paper's 7×7 model twice with iPALM, once on σ ~ U[0, 0.4] and once on σ = 0.02 only, and
compares its potentials with the empirical marginals of noisy held-out patches: NMSE_κ (Eq. 21, on
negative logarithms) over σ, for κ = 0.005, 0.01 and 0.02, and prints how much of the noise each
leaves in held-out patches. Writes the picture, and beside it the numbers as CSV. With `runs=DIR`
checkpoints are kept there and a second call goes on.

Without `data` it trains on photographs of scikit-image, and compares on the bundled ones: a small
setting. `data=bsds500:ROOT steps=5000 batch_size=3200 patches=100000` is the whole one.
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/

from lib import paper, table
from lib.figures import zero_mean
from lib.words import Options, command
from torch import Tensor

import gmdm_prior as gm
from gmdm_prior.training import (
    Checkpoints,
    FitSettings,
    denoising_score_matching,
    nmse,
    sample_patches,
)

RANGES = {"σ ~ U[0, 0.4]": (0.0, 0.4), "σ = 0.02": (0.02, 0.02)}
SIGMAS = tuple(round(0.005 * i, 3) for i in (*range(1, 10), *range(10, 81, 5)))
LOSS_PATCHES = 40_000
KAPPAS = (0.005, 0.01, 0.02)


@torch.no_grad()
def remaining(model: gm.PatchModel, patches: Tensor, sigma: float) -> float:
    """Squared error of denoised patches, as a share of the noise's: Eq. 4 over its value for y."""
    x = zero_mean(patches[:LOSS_PATCHES])
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    noise = sigma * zero_mean(noise)
    loss = denoising_score_matching(model, x, x + noise, sigma)
    return float(loss) / float(noise.square().sum() / len(noise))


def write_csv(path: Path, found: dict[str, Tensor]) -> None:
    """One row for each model, noise level and κ."""
    rows = (
        [name, sigma, kappa, f"{value:.6g}"]
        for name, values in found.items()
        for sigma, row in zip(SIGMAS, values.tolist(), strict=True)
        for kappa, value in zip(KAPPAS, row, strict=True)
    )
    table.write_csv(path, ["training", "sigma", "kappa", "nmse"], rows)


def draw(path: Path, found: dict[str, Tensor], steps: int) -> None:
    """NMSE over σ, one colour for each model and one line style for each κ."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
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


def run(options: Options) -> None:
    """Train both, measure, write."""
    images = paper.training_pictures(options.data), paper.pictures(options.data)
    models = {}
    for i, (name, (low, high)) in enumerate(RANGES.items()):
        settings = FitSettings(
            model="patch",
            steps=options.steps,
            batch_size=options.batch_size,
            seed=options.seed,
            sigma_min=low,
            sigma_max=high,
        )
        store = Checkpoints(options.runs / str(i)) if options.runs else None
        models[name] = paper.train(images, settings, store)
    generator = torch.Generator().manual_seed(options.seed + 1)
    patches = sample_patches(images[1], options.patches, 7, "d4", generator)
    found = {name: nmse(model, patches, SIGMAS, KAPPAS) for name, model in models.items()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_csv(options.out.with_suffix(".csv"), found)
    draw(options.out, found, options.steps)
    multi, single = (values[:, 1] for values in found.values())
    for sigma, a, b in zip(SIGMAS, multi.tolist(), single.tolist(), strict=True):
        c, d = (remaining(model, patches, sigma) for model in models.values())
        print(
            f"sigma {sigma:<6} NMSE (kappa 0.01): range {a:9.4g}   0.02 only {b:9.4g}   "
            f"remaining error: range {c:.4f}   0.02 only {d:.4f}"
        )


main = command(
    run,
    data="",
    steps=300,
    batch_size=1000,
    seed=0,
    patches=30_000,
    out=paper.FIGURES / "paper_6.png",
    runs=Path,
)

if __name__ == "__main__":
    sys.exit(main())
