"""Colour images: a gray model on channels and on opponents, and BM3D.

    python benchmarks/color.py denoise [weights=gray] [sigmas=15,25,50] [bm3d=true]
    python benchmarks/color.py scales data=bsds500:ROOT

`denoise` prints the mean PSNR and seconds an image on the eight colour photographs and micrographs
in scikit-image's wheel, halved like those of `denoising_table.py`, with noise of sigma/255 in each
channel from a generator seeded with the image's index. None of them was looked at in training.

`scales` prints what the scales of `OpponentModel` rest on: the log-likelihood per
dimension of training patches with noise of 2 and 10 of 255 under `gray-likelihood`, by scale.
"""

import functools
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from deepinv_gmdm import GMDMDenoiser
from lib import table
from lib.data import halved, scikit_images, training_images
from lib.figures import psnr_cells
from lib.rivals import Denoise, bm3d_rgb
from lib.timing import timed
from lib.words import BSDS500, Options, choice, command, need
from torch import Tensor

import gmdm_prior as gm
from gmdm_prior.densities.opponent import OPPONENT
from gmdm_prior.training import read_images

PICTURES = (
    *("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png"),
    *("motorcycle_left.png", "retina.jpg", "rocket.jpg"),
)
TRIED = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0, 1.4, math.sqrt(3))
EVERY, PATCHES = 16, 1500  # training images, patches of each


def pictures() -> list[Tensor]:
    """The colour images (1, 3, H, W) in [0, 1] of scikit-image's wheel."""
    images = read_images(scikit_images(PICTURES), channels=3).values()
    return [halved(image[None]) for image in images]


def methods(weights: str, with_bm3d: bool) -> dict[str, Denoise]:
    """The rows of the table."""
    name = f"`{Path(weights).stem}`"
    rows: dict[str, Denoise] = {
        f"{name}, each channel": GMDMDenoiser(weights, channels="independent"),
        f"{name}, opponents": GMDMDenoiser(weights),
        f"{name}, opponents, one step": GMDMDenoiser(weights, method="average"),
        f"{name}, opponents, stride 2": GMDMDenoiser(weights, stride=2),
    }
    return rows | ({"BM3D for colour": bm3d_rgb} if with_bm3d else {})


@torch.no_grad()
def denoise(options: Options) -> None:
    """Print the table."""
    if options.bm3d:
        need("bm3d")
    images, levels = pictures(), options.sigmas

    def rows() -> Iterator[list[str]]:
        for name, restore in methods(options.weights, options.bm3d).items():
            measure = functools.partial(psnr_cells, restore, images, levels)
            cells, seconds = timed(measure, time.perf_counter)
            yield [name, *cells, f"{seconds / len(images) / len(levels):.1f}"]

    table.show(["", *table.sigma_heads(levels), "s/image"], rows())


@torch.no_grad()
def scales(options: Options) -> None:
    """Print log-likelihoods by opponent and scale."""
    model, generator = gm.load("gray-likelihood"), torch.Generator().manual_seed(0)
    turn = torch.tensor(OPPONENT)
    patches = []
    for image in training_images(options.data, channels=3)[::EVERY]:
        planes = torch.einsum("jc,chw->jhw", turn, image)[:, None]
        found = F.unfold(planes, model.patch_size, stride=model.patch_size - 1).mT
        patches.append(found[:, torch.randperm(found.shape[1], generator=generator)[:PATCHES]])
    clean = torch.cat(patches, 1).unflatten(2, (1, model.patch_size, model.patch_size))
    noise = torch.randn(clean.shape, generator=generator)
    dimensions = model.filters.shape[1]

    def rows() -> Iterator[list[object]]:
        for j in range(3):
            for level in (2, 10):
                sigma = level / 255
                y = clean[j] + sigma * noise[j]
                values = [
                    model.log_prob(y / s, sigma / s).mean().item() / dimensions - math.log(s)
                    for s in TRIED
                ]
                yield [j, level, *(f"{v:.4f}" for v in values)]

    table.show(["opponent", "σ", *(f"{s:.3g}" for s in TRIED)], rows())


main = choice(
    denoise=command(denoise, weights="gray", sigmas=(15.0, 25.0, 50.0), bm3d=True),
    scales=command(scales, data=BSDS500),
)

if __name__ == "__main__":
    sys.exit(main())
