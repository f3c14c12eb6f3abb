"""Figure 3 of the paper: blind denoising where the noise is a checkerboard of two levels.

    python benchmarks/paper/figure_3.py [weights=bsds-gray-7x7] [size=256] [cell=64]
                                        [out=docs/figures/paper_3.png]

The 7×7 model estimates the level of every pixel and denoises with it in one step. Prints the PSNR
of the noisy picture and of the results with the estimated map, with the true one and with one level
for all, and by how much the map misses the truth (the median over the pixels).
"""

import sys
import warnings
from pathlib import Path

import torch
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/

from lib import paper
from lib.data import BUNDLED, middle, noisy, read_gray
from lib.figures import psnr
from lib.words import Options, command
from torch import Tensor

import gmdm_prior as gm

LEVELS = (0.1, 0.2)


def checkerboard(height: int, width: int, cell: int) -> Tensor:
    """(1, 1, height, width) noise levels."""
    places = torch.arange(height)[:, None] // cell + torch.arange(width) // cell
    return torch.tensor(LEVELS)[places % 2][None, None]


def draw(path: Path, panels: dict[str, tuple[Tensor, float, float]]) -> None:
    """Pictures side by side, each between its least and largest shade."""
    figure = Figure(figsize=(13, 3.7), layout="constrained")
    for axes, (title, (image, low, high)) in zip(
        figure.subplots(1, len(panels)), panels.items(), strict=True
    ):
        colours = "viridis" if "level" in title else "gray"
        shown = axes.imshow(image[0, 0], cmap=colours, vmin=low, vmax=high, interpolation="nearest")
        axes.set_title(title, fontsize=11)
        axes.set_axis_off()
        if "level" in title or low < 0:
            figure.colorbar(shown, ax=axes, shrink=0.7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


@torch.no_grad()
def run(options: Options) -> None:
    """Draw and measure."""
    model = gm.load(options.weights)
    warnings.filterwarnings("ignore", "a PatchModel has no classes")  # it is the paper's
    clean = middle(read_gray(BUNDLED / "cat.png"), options.size)
    truth = checkerboard(*clean.shape[2:], options.cell)
    y = noisy(clean, truth, 0)
    estimate = gm.estimate_sigma_map(model, y)
    denoise = gm.PatchAveraging(model)
    blind, informed = denoise(y, estimate), denoise(y, truth)
    one = denoise(y, gm.estimate_sigma(model, y))
    error = float((estimate / truth - 1).abs().median())
    for name, image in {"noisy": y, "map": blind, "true map": informed, "one level": one}.items():
        print(f"{name}: {psnr(image, clean):.2f} dB")
    print(f"the map misses the truth by {error:.1%} (median)")
    panels = {
        f"noisy, {psnr(y, clean):.2f} dB": (y, 0, 1),
        "estimated noise level": (estimate, 0, 0.25),
        f"denoised, {psnr(blind, clean):.2f} dB": (blind, 0, 1),
        "difference from the truth": (blind - clean, -0.25, 0.25),
    }
    draw(options.out, panels)


main = command(run, weights="bsds-gray-7x7", size=256, cell=64, out=paper.FIGURES / "paper_3.png")

if __name__ == "__main__":
    sys.exit(main())
