"""Blind denoising where the noise varies: the estimated map beside the true one and one level.

    python benchmarks/noise_level_map.py BSD68 [noise=board] [cell=64] [every=1] [out=FOLDER]
    python benchmarks/noise_level_map.py BSD68 noise=ramps every=16

Gray images in [0, 1], noise from a generator seeded with the image's index; HQS of `gray`, levels
read with `gray-likelihood`. `board`: standard deviations of 0.1 and 0.2 on the fields of a
checkerboard, `cell` pixels wide (the paper's Fig. 3). `ramps`: growing from left to right, or from
the middle to the corners with the squared distance, to 2 or 6 times the least; the geometric mean
of both ends is 0.1. Writes noise_level_map.csv (noise_level_ramps.csv), one row for each image and
kind of noise, and a table beside it as .md into benchmarks/results.
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
from gmdm_prior.messages import unknown

LEVELS = (0.1, 0.2)
RAMPS = {f"{way}, 1:{n}": (way, n) for way in ("across", "from the middle") for n in (2, 6)}
WAYS = ("true map", "estimated map", "one estimated level")


def checkerboard(shape: torch.Size, cell: int) -> Tensor:
    """(1, 1, H, W) levels, for images of that shape."""
    row, column = (torch.arange(n) // cell for n in shape[-2:])
    return torch.tensor(LEVELS)[(row[:, None] + column) % 2][None, None]


def ramp(shape: torch.Size, way: str, ratio: float) -> Tensor:
    """(1, 1, H, W) levels that grow slowly to `ratio` times the least."""
    down, right = (torch.linspace(-1, 1, n) for n in shape[-2:])
    share = (1 + right).expand(shape[-2:]) / 2
    if way != "across":
        share = (down.square()[:, None] + right.square()) / 2
    return (0.1 / ratio**0.5 * (1 + (ratio - 1) * share))[None, None]


def measure(clean: Tensor, truth: Tensor, index: int, model, denoiser) -> list[float]:
    """PSNR in each of `WAYS`, the map's mean and largest |log error|, and seconds for the map."""
    image = noisy(clean, truth, index)
    found, seconds = timed(lambda: gm.estimate_sigma_map(model, image))
    ways = (truth, found, gm.estimate_sigma(model, image))
    values = [psnr(denoiser(image, sigma), clean) for sigma in ways]
    off = (found / truth).log().abs()
    return [*values, float(off.mean()), float(off.max()), seconds]


@torch.no_grad()
def run(options: Options) -> None:
    """Measure a folder of clean images."""
    if options.noise not in ("board", "ramps"):
        raise ValueError(unknown("noise", options.noise, ("board", "ramps")))
    files = png_files(options.images)[:: options.every]
    model = gm.load("gray-likelihood")
    denoiser = gm.HalfQuadraticSplitting(gm.load("gray"))
    rows: dict[str, list[list[float]]] = {}

    def truths(shape: torch.Size) -> dict[str, Tensor]:
        if options.noise == "board":
            return {f"checkerboard of {options.cell} pixels": checkerboard(shape, options.cell)}
        return {name: ramp(shape, *what) for name, what in RAMPS.items()}

    def lines() -> Iterator[list[str]]:
        for i, path in enumerate(tqdm(files)):
            clean = read_gray(path)
            for kind, truth in truths(clean.shape).items():
                values = measure(clean, truth, i, model, denoiser)
                rows.setdefault(kind, []).append(values)
                yield [path.stem, kind, *(f"{value:.4f}" for value in values)]

    name = "noise_level_map" if options.noise == "board" else "noise_level_ramps"
    errors = ("mean_abs_log_error", "largest_abs_log_error")
    heads = ["image", "noise", *WAYS, *errors, "seconds"]
    table.write_csv(options.out / f"{name}.csv", heads, lines())
    means = {kind: np.mean(values, 0) for kind, values in rows.items()}
    shown = [
        [kind, *(f"{value:.2f}" for value in mean[:3]), f"{mean[3]:.3f}", f"{mean[4]:.2f}"]
        for kind, mean in means.items()
    ]
    heads = ["noise", *(f"{way}, dB" for way in WAYS), "mean error", "largest"]
    seconds = np.mean([mean[5] for mean in means.values()])
    text = (
        f"{table.markdown(heads, shown)}\n\n"
        f"{len(files)} images; PSNR of HQS with that level, errors of the map as |log σ error|; "
        f"the map takes {seconds:.1f} s an image of one thread."
    )
    table.write_text(options.out / f"{name}.md", text)
    print(text)


main = command(
    run,
    place="images",
    images=Needed("the folder of clean images"),
    noise="board",
    cell=64,
    every=1,
    out=table.RESULTS,
)

if __name__ == "__main__":
    sys.exit(main())
