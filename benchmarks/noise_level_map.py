"""Blind denoising where the noise varies: the estimated map beside the true one and one level.

    python benchmarks/noise_level_map.py BSD68 [cell=64] [every=1] [out=FOLDER]

Gray images in [0, 1] with noise of standard deviation 0.1 and 0.2 on the fields of a checkerboard,
`cell` pixels wide (the paper's Fig. 3), from a generator seeded with the image's index; HQS of
`gray`, levels read with `gray-likelihood`. Writes noise_level_map.csv, one row for each
image, and noise_level_map.md into benchmarks/results.
"""

import sys
from collections.abc import Iterator

import numpy as np
import torch
from lib import table
from lib.data import noisy, png_files, read_gray
from lib.figures import psnr
from lib.timing import timed
from lib.words import Needed, Options, command
from torch import Tensor
from tqdm import tqdm

import gmdm_prior as gm

LEVELS = (0.1, 0.2)
WAYS = ("true map", "estimated map", "one estimated level")


def checkerboard(shape: torch.Size, cell: int) -> Tensor:
    """(1, 1, H, W) levels, for images of that shape."""
    row, column = (torch.arange(n) // cell for n in shape[-2:])
    return torch.tensor(LEVELS)[(row[:, None] + column) % 2][None, None]


def measure(clean: Tensor, index: int, cell: int, model, denoiser) -> list[float]:
    """PSNR in each of `WAYS`, the map's mean |log error|, and seconds for the map."""
    truth = checkerboard(clean.shape, cell)
    image = noisy(clean, truth, index)
    found, seconds = timed(lambda: gm.estimate_sigma_map(model, image))
    ways = (truth, found, gm.estimate_sigma(model, image))
    values = [psnr(denoiser(image, sigma), clean) for sigma in ways]
    return [*values, float((found / truth).log().abs().mean()), seconds]


@torch.no_grad()
def run(options: Options) -> None:
    """Measure a folder of clean images."""
    files = png_files(options.images)[:: options.every]
    model = gm.load("gray-likelihood")
    denoiser = gm.HalfQuadraticSplitting(gm.load("gray"))
    rows = []

    def lines() -> Iterator[list[str]]:
        for i, path in enumerate(tqdm(files)):
            rows.append(measure(read_gray(path), i, options.cell, model, denoiser))
            yield [path.stem, *(f"{value:.4f}" for value in rows[-1])]

    heads = ["image", *WAYS, "mean_abs_log_error", "seconds"]
    table.write_csv(options.out / "noise_level_map.csv", heads, lines())
    best, blind, one, off, seconds = np.mean(rows, 0)
    lost = [f"{best - value:.2f}" for value in (blind, one)]
    shown = [
        ["the true map", f"{best:.2f}", ""],
        ["the estimated map", f"{blind:.2f}", lost[0]],
        ["one estimated level", f"{one:.2f}", lost[1]],
    ]
    heads = ["noise level given to HQS", "PSNR, dB", "less than the true map"]
    text = (
        f"{table.markdown(heads, shown)}\n\n"
        f"{len(files)} images, checkerboard of {LEVELS[0]} and {LEVELS[1]}, fields of "
        f"{options.cell} pixels; mean |log σ error| of the map {off:.3f}, {seconds:.1f} s an image "
        "of one thread."
    )
    table.write_text(options.out / "noise_level_map.md", text)
    print(text)


main = command(
    run,
    place="images",
    images=Needed("the folder of clean images"),
    cell=64,
    every=1,
    out=table.RESULTS,
)

if __name__ == "__main__":
    sys.exit(main())
