"""Blind denoising where the noise varies: the estimated map beside the true one and one level.

    python benchmarks/noise_level_map.py BSD68 [cell=64] [every=1] [out=benchmarks]

Gray images in [0, 1] with noise of standard deviation 0.1 and 0.2 on the fields of a checkerboard,
`cell` pixels wide (the paper's Fig. 3), from a generator seeded with the image's index; HQS of
`bsds-gray`, levels read with `bsds-gray-likelihood`. Writes noise_level_map.csv, one row for each
image, and noise_level_map.md.
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path

import numpy as np
import torch
from denoising import psnr, read_gray
from torch import Tensor
from tqdm import tqdm
from words import with_folder

import gmdm_prior as gm

LEVELS = (0.1, 0.2)
WAYS = ("true map", "estimated map", "one estimated level")
DEFAULTS = {"cell": "64", "every": "1", "out": "benchmarks"}


def checkerboard(shape: torch.Size, cell: int) -> Tensor:
    """(1, 1, H, W) levels, for images of that shape."""
    row, column = (torch.arange(n) // cell for n in shape[-2:])
    return torch.tensor(LEVELS)[(row[:, None] + column) % 2][None, None]


def measure(clean: Tensor, index: int, cell: int, model, denoiser) -> list[float]:
    """PSNR in each of `WAYS`, the map's mean |log error|, and seconds for the map."""
    truth = checkerboard(clean.shape, cell)
    generator = torch.Generator().manual_seed(index)
    image = clean + truth * torch.randn(clean.shape[-2:], generator=generator)
    start = time.process_time()
    found = gm.estimate_sigma_map(model, image)
    seconds = time.process_time() - start
    ways = (truth, found, gm.estimate_sigma(model, image))
    values = [psnr(denoiser(image, sigma), clean) for sigma in ways]
    return [*values, float((found / truth).log().abs().mean()), seconds]


def run(folder: str, options: dict[str, str]) -> None:
    """Measure a folder of clean images."""
    files = sorted(Path(folder).glob("*.png"))[:: int(options["every"])]
    if not files:
        raise ValueError(f"no PNG image in {folder!r}")
    cell, out = int(options["cell"]), Path(options["out"])
    model, denoiser = (
        gm.load("bsds-gray-likelihood"),
        gm.HalfQuadraticSplitting(gm.load("bsds-gray")),
    )
    rows = []
    with open(out / "noise_level_map.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["image", *WAYS, "mean_abs_log_error", "seconds"])
        for i, path in enumerate(tqdm(files)):
            rows.append(measure(read_gray(path), i, cell, model, denoiser))
            table.writerow([path.stem, *(f"{value:.4f}" for value in rows[-1])])
            file.flush()
    best, blind, one, off, seconds = np.mean(rows, 0)
    lines = [
        "| noise level given to HQS | PSNR, dB | less than the true map |",
        "|---|---|---|",
        f"| the true map | {best:.2f} | |",
        f"| the estimated map | {blind:.2f} | {best - blind:.2f} |",
        f"| one estimated level | {one:.2f} | {best - one:.2f} |",
        "",
        f"{len(files)} images, checkerboard of {LEVELS[0]} and {LEVELS[1]}, fields of "
        f"{cell} pixels; mean |log σ error| of the map {off:.3f}, {seconds:.1f} s an image of one "
        "thread.",
    ]
    (out / "noise_level_map.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def main(words: list[str]) -> int:
    """The exit status."""
    return with_folder(run, words, DEFAULTS, {})


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main(sys.argv[1:]))
