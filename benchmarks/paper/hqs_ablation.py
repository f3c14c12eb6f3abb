"""What each part of half-quadratic splitting is worth, on the ten held-out training images.

    python benchmarks/paper/hqs_ablation.py data=bsds500:ROOT [weights=gray] [stride=2]

Prints PSNR at sigma = 15, 25, 50 and 100 of one step, of the paper's kind of schedule, and of the
default one with and without its data weights, its last steps and its coarse scales (at a
contrast of 1e6 all that they say is used, everywhere). Nothing here looks at test images.
"""

import dataclasses
import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/

from lib import table
from lib.data import held_out_images
from lib.figures import psnr_cells
from lib.words import BSDS500, Options, command

import gmdm_prior as gm
from gmdm_prior.images.schedule import DEFAULT, Schedule

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
    contrasts = (0.03, 0.5, 1e6)
    return {
        "β = 1, 4, 8, 16, 32": paper_schedule(),
        "levels of the default, no data weights": Schedule(without_data),
        **{f"first {n} steps of 4": Schedule(DEFAULT.coefficients[:, :n]) for n in (2, 3)},
        "four steps, full size only": fine,
        **{
            f"coarse scales, contrast {c:g}": dataclasses.replace(fine, contrast=c)
            for c in contrasts
        },
        "default": DEFAULT,
    }


@torch.no_grad()
def run(options: Options) -> None:
    """Print the table, row by row."""
    model, stride = gm.load(options.weights), options.stride
    images = held_out_images(options.data)
    denoisers = {f"one step, stride {stride}": gm.PatchAveraging(model, stride)}
    for name, schedule in variants().items():
        denoisers[name] = gm.HalfQuadraticSplitting(model, stride)
        denoisers[name].schedule = schedule
    rows = ([name, *psnr_cells(denoise, images, SIGMAS)] for name, denoise in denoisers.items())
    table.show(["", *table.sigma_heads(SIGMAS)], rows)


main = command(run, data=BSDS500, weights="gray", stride=2)

if __name__ == "__main__":
    sys.exit(main())
