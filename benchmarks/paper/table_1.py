"""Table 1 of the paper: PSNR of one step and of HQS, of the 7×7 and the 15×15 model.

    python benchmarks/paper/table_1.py [BSD68] [every=8] [sigmas=15,25,50,100] [side=128]

Beside each figure stands the published one, which is of all of BSD68. Without a folder the images
are the middles of the three bundled photographs, so that only differences between columns can be
compared: what larger patches gain over smaller ones, and HQS over one step. On a folder the whole
images count, every `every`-th of them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/

import torch
from lib import paper, table
from lib.data import load, middle, read_pictures
from lib.figures import mean_psnr
from lib.words import Options, command
from torch import Tensor

import gmdm_prior as gm

PUBLISHED = {  # one step of 7×7 and 15×15, HQS of 7×7 and 15×15
    15: (30.00, 30.34, 30.37, 30.69),
    25: (27.47, 27.81, 28.13, 28.39),
    50: (24.61, 24.96, 25.32, 25.50),
    100: (22.14, 22.74, 23.07, 23.12),
}


def images_of(options: Options) -> list[Tensor]:
    """Images (1, 1, H, W) to denoise."""
    if options.test:
        return [picture.clean for picture in read_pictures(options.test)[:: options.every]]
    return [middle(image, options.side)[None] for image in paper.pictures()]


@torch.no_grad()
def run(options: Options) -> None:
    """Print the table, row by row."""
    ways = {
        f"{way}, {size}": kind(load(name))
        for way, kind, ending in (
            ("one step", gm.PatchAveraging, ""),
            ("HQS", gm.HalfQuadraticSplitting, "-hqs"),
        )
        for size, name in (("7×7", options.small + ending), ("15×15", options.large + ending))
    }
    images = images_of(options)
    found = {
        level: [mean_psnr(denoise, images, level / 255) for denoise in ways.values()]
        for level in options.sigmas
    }
    rows = (
        [f"{level:g}", *(f"{f:.2f} ({p:.2f})" for f, p in zip(row, PUBLISHED[level], strict=True))]
        for level, row in found.items()
    )
    table.show(["255 σ", *ways], rows)
    for name, larger, smaller in (
        ("15×15 over 7×7, one step", 1, 0),
        ("15×15 over 7×7, HQS", 3, 2),
        ("HQS over one step, 7×7", 2, 0),
    ):
        gains = [
            (row[larger] - row[smaller], PUBLISHED[level][larger] - PUBLISHED[level][smaller])
            for level, row in found.items()
        ]
        print(f"{name}: {', '.join(f'{ours:+.2f} ({theirs:+.2f})' for ours, theirs in gains)}")


main = command(
    run,
    place="test",
    test="",
    every=8,
    sigmas=(15, 25, 50, 100),
    side=128,
    small="bsds-gray-7x7",
    large="bsds-gray-15x15",
)

if __name__ == "__main__":
    sys.exit(main())
