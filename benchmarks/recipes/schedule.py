"""Find the default schedule of half-quadratic splitting: levels and data weights, smooth in sigma.

    python benchmarks/tune_schedule.py data=bsds500:ROOT [weights=bsds-gray] [steps=200] [crops=16]

Adam on the sixteen coefficients of `gmdm_prior.images.schedule.DEFAULT`, from where they are, the
model fixed: minus the mean PSNR over four noise levels of crops of the 390 training images,
denoised on grids of stride 2 to 4. Prints PSNR on the ten held-out images before and after (sigma =
5, 15, 25, 50, 100; stride 2), and the coefficients.
"""

from __future__ import annotations

import math
import sys

import torch
from denoising import mean_psnr
from torch import Tensor
from tqdm import tqdm
from words import BSDS500, read, status

import gmdm_prior as gm
from gmdm_prior.images.schedule import DEFAULT, Schedule
from gmdm_prior.training import find_images, read_images, split_held_out
from gmdm_prior.training.data.pool import ImagePool, step_generator
from gmdm_prior.training.score.image_denoiser import CROP, JITTER, LEVELS, STRIDES, split

DEFAULTS = {"data": "", "weights": "bsds-gray", "steps": "200", "crops": "16"}
RATE = 2e-2
SIGMAS = (5, 15, 25, 50, 100)


def loss(
    model: gm.PatchMixture, coefficients: Tensor, pool: ImagePool, crops: int, step: int
) -> Tensor:
    """Minus the mean PSNR of a step's crops."""
    generator, total = step_generator(0, 9, step), 0.0
    size = model.patch_size
    for middle in LEVELS:
        sigma = middle * math.exp(JITTER * float(torch.randn((), generator=generator)))
        stride = STRIDES[int(torch.randint(len(STRIDES), (1,), generator=generator))]
        steps = list(Schedule(coefficients).at(torch.tensor(sigma)))
        levels = [model.at(level.square()) for level, _ in steps]
        weights = [weight for _, weight in steps]
        square = 0.0
        for _ in range(crops // len(LEVELS)):
            clean = pool.crop(CROP["hqs"][0], model.symmetries, generator)
            noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
            error = split(levels, noisy, size, stride, weights)
            square = (
                square
                + (error - clean[:, size - 1 : 1 - size, size - 1 : 1 - size]).square().mean()
            )
        total = total + 10 * torch.log10(square / (crops // len(LEVELS))) / len(LEVELS)
    return total


def figures(model: gm.PatchMixture, images: list[Tensor], schedule: Schedule) -> list[float]:
    """PSNR on held-out images."""
    hqs = gm.HalfQuadraticSplitting(model, 2)
    hqs.schedule = schedule
    with torch.no_grad():
        return [round(mean_psnr(hqs, images, sigma / 255)[0], 3) for sigma in SIGMAS]


def tune(options: dict[str, str]) -> None:
    """Tune and print."""
    model = gm.load(options["weights"])
    training, held_out = split_held_out(find_images(options["data"]))
    pool = ImagePool.of(read_images(training).values())
    images = [image[None] for image in read_images(held_out).values()]
    print("held out before", figures(model, images, DEFAULT))
    coefficients = DEFAULT.coefficients.float().clone().requires_grad_(True)
    optimiser = torch.optim.Adam([coefficients], lr=RATE, betas=(0.9, 0.98))
    steps = int(options["steps"])
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in tqdm(range(steps)):
        optimiser.zero_grad()
        loss(model, coefficients, pool, int(options["crops"]), step).backward()
        optimiser.step()
        decay.step()
    tuned = coefficients.detach().double()
    print("held out after ", figures(model, images, Schedule(tuned)))
    for row in tuned.tolist():
        print("            [" + ", ".join(f"{value:.4f}" for value in row) + "],")


def main(words: list[str]) -> int:
    """The exit status."""
    return status(lambda given: tune(read(given, DEFAULTS, BSDS500)), words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
