"""Patches of photographs beside patches that the models draw, at several noise levels (Fig. 2).

Samples are exact: a class, a symmetry and Gaussian responses of the mixture; a component for each
expert of the paper's product. Their means are zero, as those of the patches shown.
"""

import matplotlib.figure
import torch
from deepinv_gmdm.command.config import shipped
from matplotlib.axes import Axes

import gmdm_prior as gm
from gmdm_prior.constraints import zero_mean_basis
from gmdm_prior.files.pictures import read_picture
from gmdm_prior.training import sample_patches

LEVELS = (0, 10 / 255, 25 / 255, 50 / 255)
MODELS = {"mixture": "gray-likelihood", "product": "bsds-gray-7x7"}
ROWS, COLUMNS = 6, 10  # patches shown
BINS = 30  # of a histogram, either side of its middle
REACH = 0.35  # grey levels from black to white, either side of a patch's mean
COLOURS = {"photographs": "black", "mixture": "C0", "product": "C1"}


def seeded(seed: int) -> torch.Generator:
    """The same draws at every run."""
    return torch.Generator().manual_seed(seed)


def photographs(size: int, count: int) -> torch.Tensor:
    """Patches (count, 1, b, b) of the bundled pictures, less their means."""
    names = ("camera.png", "cat.png", "coffee.png")
    images = [read_picture(shipped("images") / name)[0][0, :1] for name in names]
    patches = sample_patches(images, count, size, generator=seeded(0))
    return patches - patches.mean((-2, -1), keepdim=True)


def noisy(patches: torch.Tensor, sigma: float) -> torch.Tensor:
    """Patches with noise, less its mean."""
    noise = torch.randn(patches.shape, generator=seeded(1))
    return patches + sigma * (noise - noise.mean((-2, -1), keepdim=True))


def responses(patches: torch.Tensor) -> dict[str, torch.Tensor]:
    """Responses (N,) to three filters that patches of all sizes hold."""
    x = patches[:, 0, :6, :6]
    return {
        "neighbouring pixels": x[:, 2, 2] - x[:, 2, 3],
        "2×2 checkerboard": (x[:, 2, 2] - x[:, 2, 3] - x[:, 3, 2] + x[:, 3, 3]) / 2,
        "halves of 6×6 pixels": x[..., :3].mean((1, 2)) - x[..., 3:].mean((1, 2)),
    }


def mosaic(axes: Axes, patches: torch.Tensor) -> None:
    """The first patches, on one grey scale."""
    size = patches.shape[-1]
    canvas = torch.full((ROWS * (size + 1) - 1, COLUMNS * (size + 1) - 1), float("nan"))
    for i, patch in enumerate(patches[: ROWS * COLUMNS, 0]):
        top, left = (i // COLUMNS) * (size + 1), (i % COLUMNS) * (size + 1)
        canvas[top : top + size, left : left + size] = patch
    axes.imshow(canvas, cmap="gray", vmin=-REACH, vmax=REACH, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def marginal(axes: Axes, name: str, drawn: dict[str, torch.Tensor]) -> None:
    """Histograms of a response, as densities on a logarithmic scale."""
    width = max(1, round(4 * 255 * drawn["photographs"].std().item() / BINS)) / 255
    low = -(BINS + 0.5) * width - 0.25 / 255  # between the values that 8-bit pixels can give
    high = low + (2 * BINS + 1) * width
    for source, values in drawn.items():
        density = torch.histc(values, 2 * BINS + 1, low, high) / len(values) / width
        centres = low + (torch.arange(2 * BINS + 1) + 0.5) * width
        axes.semilogy(centres, density.clamp(min=1e-9), color=COLOURS[source], label=source)
    axes.set(title=name, xlabel="response", ylim=(0.5 / len(values) / width, None))
    axes.title.set_size(10)


def variances(patches: torch.Tensor) -> torch.Tensor:
    """Variances (J,) of the zero-mean cosine coefficients of patches."""
    basis = zero_mean_basis(1, patches.shape[-1]).to(patches)
    return (patches.flatten(1) @ basis.T).square().mean(0)


def main(out: str = "demo_sampling.png", count: int = 40_000) -> float:
    """Draw patches, marginals, covariances; returns the mixture's distance (Kolmogorov), no noise.

    That of the response to neighbouring pixels, between patches of the photographs and samples.
    """
    models = {kind: gm.load(name) for kind, name in MODELS.items()}
    drawn = {"photographs": [noisy(photographs(8, count), sigma) for sigma in LEVELS]}
    for kind, model in models.items():
        drawn[kind] = [model.sample((count,), sigma, seeded(2)) for sigma in LEVELS]

    figure = matplotlib.figure.Figure(figsize=(13, 11), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.9, 1))
    for row, (source, patches) in zip(above.subplots(3, 4), drawn.items(), strict=True):
        for axes, sigma, some in zip(row, LEVELS, patches, strict=True):
            mosaic(axes, some)
            axes.set_title(f"{source}, σ = {255 * sigma:.0f}", fontsize=10)
    panels = below.subplots(1, 4)
    seen = {source: responses(patches[0]) for source, patches in drawn.items()}
    for axes, name in zip(panels, seen["mixture"], strict=False):
        marginal(axes, name, {source: values[name] for source, values in seen.items()})
    panels[0].set_ylabel("density, no noise")
    panels[0].legend(fontsize=9)
    for kind, model in models.items():
        data = variances(photographs(model.patch_size, count))
        found = variances(drawn[kind][0])
        panels[3].loglog(data, found, ".", color=COLOURS[kind], label=kind)
    ends = panels[3].get_xlim()
    panels[3].loglog(ends, ends, "k--", linewidth=1)
    panels[3].set(xlabel="of photographs", ylabel="of samples")
    panels[3].set_title("variances of cosine coefficients", fontsize=10)
    panels[3].legend(fontsize=9)
    figure.savefig(out, dpi=110)

    distances = {kind: _distance(seen["photographs"], seen[kind]) for kind in MODELS}
    print(f"Kolmogorov distances: {distances}")
    return distances["mixture"]


def _distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    a, b = (x["neighbouring pixels"].sort().values for x in (one, other))
    return (torch.searchsorted(a, b) / len(a) - torch.arange(len(b)) / len(b)).abs().max().item()


if __name__ == "__main__":
    main()
