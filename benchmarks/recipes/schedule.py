"""Find the default schedule of half-quadratic splitting: levels and data weights, smooth in sigma.

    python benchmarks/recipes/schedule.py data=bsds500:ROOT [weights=NAME] [steps=200] [crops=16]

Adam on the sixteen coefficients of `gmdm_prior.images.schedule.DEFAULT`, from where they are, the
model fixed: minus the mean PSNR over four noise levels of crops of the 390 training images,
denoised on grids of stride 2 to 4. Prints PSNR on the ten held-out images before and after (sigma =
5, 15, 25, 50, 100; stride 2), and the coefficients.
"""

import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/

from lib.data import held_out_images, training_images
from lib.figures import mean_psnr
from lib.words import BSDS500, Options, command
from torch import Tensor
from tqdm import tqdm

import gmdm_prior as gm
from gmdm_prior.images.schedule import DEFAULT, Schedule
from gmdm_prior.training.data.pool import ImagePool, step_generator
from gmdm_prior.training.score.image_denoiser import CROP, JITTER, LEVELS, STRIDES, split

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
            inner = clean[:, size - 1 : 1 - size, size - 1 : 1 - size]
            square = square + (error - inner).square().mean()
        total = total + 10 * torch.log10(square / (crops // len(LEVELS))) / len(LEVELS)
    return total


def figures(model: gm.PatchMixture, images: list[Tensor], schedule: Schedule) -> list[float]:
    """PSNR on held-out images."""
    hqs = gm.HalfQuadraticSplitting(model, 2)
    hqs.schedule = schedule
    with torch.no_grad():
        return [round(mean_psnr(hqs, images, sigma / 255), 3) for sigma in SIGMAS]


def tune(options: Options) -> None:
    """Tune and print."""
    model = gm.load(options.weights)
    pool, images = ImagePool.of(training_images(options.data)), held_out_images(options.data)
    print("held out before", figures(model, images, DEFAULT))
    coefficients = DEFAULT.coefficients.float().clone().requires_grad_(True)
    optimiser = torch.optim.Adam([coefficients], lr=RATE, betas=(0.9, 0.98))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.steps)
    for step in tqdm(range(options.steps)):
        optimiser.zero_grad()
        loss(model, coefficients, pool, options.crops, step).backward()
        optimiser.step()
        decay.step()
    tuned = coefficients.detach().double()
    print("held out after ", figures(model, images, Schedule(tuned)))
    for row in tuned.tolist():
        print("            [" + ", ".join(f"{value:.4f}" for value in row) + "],")


main = command(tune, data=BSDS500, weights="gray", steps=200, crops=16)

if __name__ == "__main__":
    sys.exit(main())
