"""What each part of half-quadratic splitting is worth, on the ten held-out training images.

    python benchmarks/hqs_ablation.py data=bsds500:ROOT [weights=bsds-gray] [stride=2]

Prints PSNR at sigma = 15, 25, 50 and 100 of one step, of the paper's kind of schedule, and of the
default one with and without its data weights, its last steps and its coarse scale. Nothing here
looks at test images.
"""

from __future__ import annotations

import dataclasses
import math
import sys

import torch
from denoising import mean_psnr
from words import BSDS500, read, status

import gmdm_prior as gm
from gmdm_prior.images.schedule import DEFAULT, Schedule
from gmdm_prior.training import find_images, read_images, split_held_out

DEFAULTS = {"data": "", "weights": "bsds-gray", "stride": "2"}
SIGMAS = (15, 25, 50, 100)
BETAS = (1, 4, 8, 16, 32)  # of the paper's HQS: level sigma / sqrt(beta)


def paper_schedule() -> Schedule:
    """Levels sigma / sqrt(beta), and the quadratic problem's weight 1 / (1 + beta) of the data."""
    levels = [1 / math.sqrt(beta) for beta in BETAS]
    return Schedule.constant(levels, [1 / (1 + beta) for beta in BETAS])


def variants() -> dict[str, Schedule]:
    """Schedules by what they are."""
    fine = Schedule(DEFAULT.coefficients)
    without_data = DEFAULT.coefficients.clone()
    without_data[2], without_data[3] = -30.0, 0.0
    shares = {f"coarse scale, share {e} for all σ": (e, 0.0) for e in (0.3, 0.6, 0.9)}
    return {
        "β = 1, 4, 8, 16, 32": paper_schedule(),
        "levels of the default, no data weights": Schedule(without_data),
        **{f"first {n} steps of 4": Schedule(DEFAULT.coefficients[:, :n]) for n in (2, 3)},
        "four steps, full size only": fine,
        **{name: dataclasses.replace(fine, coarse=share) for name, share in shares.items()},
        "default": DEFAULT,
    }


def run(options: dict[str, str]) -> None:
    """Print the table, row by row."""
    model, stride = gm.load(options["weights"]), int(options["stride"])
    _, held_out = split_held_out(find_images(options["data"]))
    images = [image[None] for image in read_images(held_out).values()]
    torch.set_grad_enabled(False)
    denoisers = {f"one step, stride {stride}": gm.PatchAveraging(model, stride)}
    for name, schedule in variants().items():
        denoisers[name] = gm.HalfQuadraticSplitting(model, stride)
        denoisers[name].schedule = schedule
    print("| | " + " | ".join(f"σ{s}" for s in SIGMAS) + " |")
    print("|---|" + "---|" * len(SIGMAS))
    for name, denoise in denoisers.items():
        values = [mean_psnr(denoise, images, s / 255)[0] for s in SIGMAS]
        print(f"| {name} | " + " | ".join(f"{v:.2f}" for v in values) + " |", flush=True)


def main(words: list[str]) -> int:
    """The exit status."""
    return status(lambda given: run(read(given, DEFAULTS, BSDS500)), words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
