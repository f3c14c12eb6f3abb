"""Figure 2 of the paper: noisy patches of photographs, and patches that the 7×7 model draws.

    python benchmarks/paper/figure_2.py [data=bsds500:ROOT] [weights=bsds-gray-7x7] [count=40000]
                                        [out=docs/figures/paper_2.png]

Prints how far apart the laws of the difference of neighbouring pixels are (Kolmogorov's distance)
at each noise level, and the share of nearly flat patches in both. Photographs are the bundled
ones, or held-out images of a data source.
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/

from lib import paper
from lib.figures import with_patch_noise, zero_mean
from lib.words import Options, command
from torch import Tensor

import gmdm_prior as gm

SIGMAS = (0.0, 0.025, 0.1, 0.2)
ROWS, COLUMNS = 4, 8  # patches shown
REACH = 0.5  # gray levels from black to white, either side of a patch's mean
FLAT = 0.01  # a patch is nearly flat if its standard deviation is below


def distance(one: Tensor, other: Tensor) -> float:
    """Kolmogorov's distance of two samples of the same size."""
    places = torch.cat([one, other]).sort().values
    shares = [
        torch.searchsorted(x.sort().values, places, right=True) / len(x) for x in (one, other)
    ]
    return float((shares[0] - shares[1]).abs().max())


def step(patches: Tensor) -> Tensor:
    """(N,) difference of two neighbouring pixels in the middle."""
    middle = patches.shape[-1] // 2
    return patches[:, 0, middle, middle] - patches[:, 0, middle, middle - 1]


def flat(patches: Tensor) -> float:
    """Share of the patches that are nearly flat."""
    return float((patches.flatten(1).std(1) < FLAT).double().mean())


def mosaic(patches: Tensor) -> Tensor:
    """The first patches on one canvas, NaN between them."""
    size = patches.shape[-1] + 1
    framed = torch.nn.functional.pad(patches[: ROWS * COLUMNS, 0], (0, 1, 0, 1), value=torch.nan)
    canvas = framed.unflatten(0, (ROWS, COLUMNS)).movedim(2, 1)
    return canvas.reshape(ROWS * size, COLUMNS * size)[:-1, :-1]


@torch.no_grad()
def run(options: Options) -> None:
    """Draw and measure."""
    model = gm.load(options.weights)
    seed = torch.Generator().manual_seed
    clean = paper.patches_of(paper.pictures(options.data), model.patch_size, options.count)
    figure = Figure(figsize=(12, 3.9), layout="constrained")
    for column, sigma in zip(figure.subplots(2, len(SIGMAS)).T, SIGMAS, strict=True):
        seen = with_patch_noise(clean, sigma, seed(1))
        drawn = zero_mean(model.sample((options.count,), sigma, seed(2)))
        for axes, name, patches in zip(
            column, ("photographs", "model"), (seen, drawn), strict=True
        ):
            axes.imshow(mosaic(patches), cmap="gray", vmin=-REACH, vmax=REACH)
            axes.set_title(f"{name}, σ = {sigma:g}", fontsize=10)
            axes.set_axis_off()
        print(
            f"sigma {sigma:<5}: distance {distance(step(seen), step(drawn)):.3f}, "
            f"nearly flat {flat(seen):.1%} of photographs, {flat(drawn):.1%} of samples"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=110)


main = command(
    run,
    data="",
    weights="bsds-gray-7x7",
    count=40_000,
    out=paper.FIGURES / "paper_2.png",
)

if __name__ == "__main__":
    sys.exit(main())
