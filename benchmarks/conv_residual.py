"""By how much the convolutional model misses the heat equation (Theorem 3), up to a constant.

    python benchmarks/conv_residual.py [out=docs/figures/conv_heat_residual.png]

Compares ∂_sigma score with sigma ∇(div score + ‖score‖²) by `ConvolutionalModel.residual`, in the
norm, relative to ∂_sigma score, at a noisy picture (96 x 96 pixels of scikit-image's camera). The
models are band passes whose potentials are fitted to the whole picture; L is the number of
components, J that of the filters. Prints the table and draws it.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from skimage import data
from words import read, status

import gmdm_prior as gm
from gmdm_prior.training import FitSettings
from gmdm_prior.training.data.pool import ImagePool
from gmdm_prior.training.methods import resolved
from gmdm_prior.training.score.convolutional import band_pass_start

SIGMAS = (2, 5, 10, 25, 50, 100, 200)  # of 255
COMPONENTS = (1, 9, 17, 33, 125)
BANKS = ((1, 1), (2, 1), (4, 1), (3, 2), (3, 4), (3, 8))  # octaves, orientations
USUAL = (4, 1)
LEAST = 1e-3  # of what is drawn


def picture() -> torch.Tensor:
    """The whole picture (1, 512, 512) in [0, 1]."""
    return torch.from_numpy(data.camera() / 255.0)[None].float()


def model(bank: tuple[int, int], components: int) -> gm.ConvolutionalModel:
    """A band-pass model in float64; of one component it has the second moments of the picture."""
    settings = resolved(FitSettings(model="conv", octaves=bank[0], orientations=bank[1]))
    fitted = band_pass_start(ImagePool.of([picture()]), settings, max(components, 3)).double()
    if components > 1:
        return fitted
    variance = (fitted.experts.weights * fitted.experts.means.square()).sum(1)
    variance = variance + fitted.experts.base_scale**2
    logits = torch.tensor([[-1e3, 0.0, -1e3]], dtype=torch.float64).expand(len(variance), 3)
    magnitude = fitted.magnitude / variance.sqrt()  # one component of three has width 1
    return gm.ConvolutionalModel(fitted.owner, fitted.phase, magnitude, logits)


@torch.no_grad()
def relative_residuals(density: gm.ConvolutionalModel) -> list[float]:
    """One number for each level."""
    clean = picture()[:, 200:296, 200:296].double()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).double()
    values = []
    for level in SIGMAS:
        rate, missing = density.residual(clean + level / 255 * noise, level / 255)
        values.append((missing.norm() / rate.norm()).item())
    return values


def row(name: str, values: list[float]) -> None:
    """Print a row of the table."""
    print(f"| {name} | " + " | ".join(f"{v:.2g}" for v in values) + " |", flush=True)


def run(options: dict[str, str]) -> None:
    """Print the table and draw it."""
    print("| | " + " | ".join(f"σ {s}" for s in SIGMAS) + " |\n" + "|---" * 8 + "|")
    by_components, by_filters = {}, {}
    for components in COMPONENTS:
        by_components[components] = relative_residuals(model(USUAL, components))
        row(f"J = {math.prod(USUAL) + 1}, L = {components}", by_components[components])
    for bank in BANKS:
        count = math.prod(bank) + 1
        by_filters[count] = relative_residuals(model(bank, 125))
        row(f"J = {count} ({bank[0]} octaves x {bank[1]}), L = 125", by_filters[count])
    draw(by_components, by_filters, Path(options["out"]))


def draw(
    by_components: dict[int, list[float]], by_filters: dict[int, list[float]], path: Path
) -> None:
    """Both halves of the table as curves."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    count = math.prod(USUAL) + 1
    lines = 0
    for components, values in by_components.items():
        if max(values) < LEAST:
            text = f"L = {components}: below {10 ** math.ceil(math.log10(max(values))):.0e}"
            left.text(SIGMAS[0], 1.3 * LEAST * 1.4**lines, text)
            lines += 1
            continue
        left.plot(SIGMAS, values, "o-", label=f"L = {components}", markersize=3)
    for filters, values in by_filters.items():
        right.plot(SIGMAS, values, "o-", label=f"J = {filters}", markersize=3)
    left.set_title(f"J = {count} filters, L components")
    right.set_title("L = 125 components, J filters")
    left.set_ylabel("residual of the heat equation, relative to ∂σ score")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", ylim=(LEAST, 3), xlabel="noise level σ · 255")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main(words: list[str]) -> None:
    """Read the words and run."""
    run(read(words, {"out": "docs/figures/conv_heat_residual.png"}, {}))


if __name__ == "__main__":
    sys.exit(status(main, sys.argv[1:]))
