"""Colour images: `bsds-color`, a gray model on channels and on opponents, and BM3D.

    python benchmarks/color.py denoise [weights=bsds-color] [sigmas=15,25,50] [bm3d=true]
    python benchmarks/color.py scales data=bsds500:ROOT

`denoise` prints the mean PSNR and seconds an image on the eight colour photographs and micrographs
in scikit-image's wheel, halved like those of `table.py`, with noise of sigma/255 in each channel
from a generator seeded with the image's index. None of them was looked at in training.

`scales` prints what the scales of `OpponentModel` rest on: the log-likelihood per
dimension of training patches with noise of 2 and 10 of 255 under `bsds-gray-likelihood`, by scale.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from deepinv_gmdm import GMDMDenoiser
from denoising import noisy, psnr
from pictures import halved
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from words import BSDS500, read, status

import gmdm_prior as gm
from gmdm_prior.densities.opponent import OPPONENT
from gmdm_prior.training import find_images, read_images, split_held_out

PICTURES = (
    *("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png"),
    *("motorcycle_left.png", "retina.jpg", "rocket.jpg"),
)
TRIED = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0, 1.4, math.sqrt(3))
EVERY, PATCHES = 16, 1500  # training images, patches of each
Denoise = Callable[[Tensor, float], Tensor]


def pictures() -> list[Tensor]:
    """The colour images (1, 3, H, W) in [0, 1] of scikit-image's wheel."""
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    images = [np.array(Image.open(folder / name).convert("RGB")) for name in PICTURES]
    return [halved(torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255) for x in images]


def bm3d_rgb(y: Tensor, sigma: float) -> Tensor:
    """BM3D for colour, of the `bm3d` package."""
    import bm3d

    restored = bm3d.bm3d_rgb(y[0].permute(1, 2, 0).numpy(), sigma)
    return torch.from_numpy(restored).permute(2, 0, 1)[None].float()


def methods(weights: str, with_bm3d: bool) -> dict[str, Denoise]:
    """The rows of the table."""
    color = gm.load(weights)
    rows: dict[str, Denoise] = {
        "`bsds-gray`, each channel": GMDMDenoiser("bsds-gray"),
        "`bsds-gray`, opponents": GMDMDenoiser("bsds-gray", channels="opponent"),
        f"`{Path(weights).stem}`, one step": gm.PatchAveraging(color),
        f"`{Path(weights).stem}`": gm.HalfQuadraticSplitting(color),
        f"`{Path(weights).stem}`, stride 2": gm.HalfQuadraticSplitting(color, stride=2),
    }
    return rows | ({"BM3D for colour": bm3d_rgb} if with_bm3d else {})


def denoise(options: dict[str, str]) -> None:
    """Print the table."""
    sigmas = [float(s) for s in options["sigmas"].split(",")]
    images = pictures()
    print(f"| | {' | '.join(f'σ{s:g}' for s in sigmas)} | s/image |")
    print("|---|" + "---|" * (len(sigmas) + 1))
    for name, restore in methods(options["weights"], options["bm3d"] == "true").items():
        cells, start = [], time.perf_counter()
        for level in sigmas:
            values = []
            for i, clean in enumerate(tqdm(images, leave=False, desc=f"{name}, {level:g}")):
                values.append(psnr(restore(noisy(clean, level / 255, i), level / 255), clean))
            cells.append(f"{np.mean(values):.2f}")
        seconds = (time.perf_counter() - start) / len(images) / len(sigmas)
        print(f"| {name} | {' | '.join(cells)} | {seconds:.1f} |", flush=True)


def scales(options: dict[str, str]) -> None:
    """Print log-likelihoods by opponent and scale."""
    files = split_held_out(find_images(options["data"]))[0][::EVERY]
    model, generator = gm.load("bsds-gray-likelihood"), torch.Generator().manual_seed(0)
    turn = torch.tensor(OPPONENT)
    patches = []
    for image in read_images(files, channels=3).values():
        planes = torch.einsum("jc,chw->jhw", turn, image)[:, None]
        found = F.unfold(planes, model.patch_size, stride=model.patch_size - 1).mT
        patches.append(found[:, torch.randperm(found.shape[1], generator=generator)[:PATCHES]])
    clean = torch.cat(patches, 1).unflatten(2, (1, model.patch_size, model.patch_size))
    noise = torch.randn(clean.shape, generator=generator)
    dimensions = model.filters.shape[1]
    print(f"| opponent | σ | {' | '.join(f'{s:.3g}' for s in TRIED)} |")
    print("|---|---|" + "---|" * len(TRIED))
    for j in range(3):
        for level in (2, 10):
            sigma = level / 255
            noisy = clean[j] + sigma * noise[j]
            values = [
                model.log_prob(noisy / s, sigma / s).mean().item() / dimensions - math.log(s)
                for s in TRIED
            ]
            print(f"| {j} | {level} | {' | '.join(f'{v:.4f}' for v in values)} |", flush=True)


@torch.no_grad()
def main(words: list[str]) -> int:
    """Run; the exit status."""
    if not words or words[0] not in ("denoise", "scales"):
        print("give denoise or scales", file=sys.stderr)
        return 2
    if words[0] == "scales":
        return status(lambda given: scales(read(given, {"data": ""}, BSDS500)), words[1:])
    defaults = {"weights": "bsds-color", "sigmas": "15,25,50", "bm3d": "true"}
    return status(lambda given: denoise(read(given, defaults, {})), words[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
