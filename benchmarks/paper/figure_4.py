"""Figure 4 of the paper: the expected negative log-density over the noise's and the model's level.

    python benchmarks/paper/figure_4.py [data=bsds500:ROOT] [weights=bsds-gray-7x7] [count=500]
                                        [steps=24] [out=docs/figures/paper_4.png]

Prints by how much the likeliest level of the model misses the level of the noise. Patches are of
the bundled photographs, or of held-out images of a data source.
"""

import sys
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/

from lib import paper
from lib.figures import with_patch_noise
from lib.words import Options, command
from torch import Tensor

import gmdm_prior as gm

LEAST, MOST = 0.01, 0.4  # noise levels
SLICE = 0.1  # noise level of the slice


def expected(model: gm.DensityModel, noisy: Tensor, sigmas: Tensor) -> Tensor:
    """(S,) means of -log f of patches over the model's levels, the least of them moved to zero."""
    values = torch.stack([-model.log_prob(noisy, float(s)).double().mean() for s in sigmas])
    return values - values.min()


def least(sigmas: Tensor, curve: Tensor) -> float:
    """The level where a parabola through the least value and its neighbours is least."""
    i = min(max(int(curve.argmin()), 1), len(curve) - 2)
    before, at, after = curve[i - 1 : i + 2].tolist()
    shift = (before - after) / (2 * (before - 2 * at + after))
    return float(sigmas[i] * (sigmas[1] / sigmas[0]) ** max(-1.0, min(1.0, shift)))


def valley(axes: Axes, sigmas: Tensor, surface: Tensor, found: Tensor) -> None:
    """The surface, its least values and the diagonal."""
    shown = axes.contourf(sigmas, sigmas, surface.T, torch.linspace(0, 20, 21), extend="max")
    axes.plot(sigmas, found, "r.", label="least")
    axes.plot(sigmas, sigmas, "w--", label="model's level = noise's level")
    axes.set(xscale="log", yscale="log", xlabel="σ of the noise", ylabel="σ of the model")
    axes.legend(fontsize=9, facecolor="0.6")
    axes.figure.colorbar(shown, ax=axes, label="nats per patch, least value 0")


@torch.no_grad()
def run(options: Options) -> None:
    """Draw and measure."""
    model = gm.load(options.weights)
    clean = paper.patches_of(paper.pictures(options.data), model.patch_size, options.count)
    sigmas = torch.logspace(*torch.tensor([LEAST, MOST]).log10().tolist(), options.steps)
    noisy = [with_patch_noise(clean, float(s), torch.Generator().manual_seed(1)) for s in sigmas]
    surface = torch.stack([expected(model, y, sigmas) for y in noisy])
    found = torch.tensor([least(sigmas, curve) for curve in surface])
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    valley(left, sigmas, surface, found)
    y = with_patch_noise(clean, SLICE, torch.Generator().manual_seed(1))
    right.plot(sigmas, expected(model, y, sigmas), label=f"noise of σ = {SLICE}")
    right.axvline(SLICE, color="0.5", linestyle=":", label="the noise's level")
    right.set(xscale="log", ylim=(0, 40), xlabel="σ of the model", ylabel="nats per patch")
    right.legend()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=110)
    for s, f in list(zip(sigmas.tolist(), found.tolist(), strict=True))[::3]:
        print(f"noise {s:.4f}, likeliest level {f:.4f} ({f / s - 1:+.0%})")


main = command(
    run,
    data="",
    weights="bsds-gray-7x7",
    count=500,
    steps=24,
    out=paper.FIGURES / "paper_4.png",
)

if __name__ == "__main__":
    sys.exit(main())
