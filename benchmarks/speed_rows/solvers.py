"""Rows of benchmarks/speed.py: the solvers of an explicit prior beside half-quadratic splitting.

A solver is at its own optimum where its cost f + g is within 1e-3 (relative) of the minimum that
L-BFGS finds from there, and its PSNR within 0.05 dB of that minimum's.
"""

from collections.abc import Iterator

import deepinv
import torch
from deepinv_gmdm import GMDMPrior, build_solver, physics_sigma
from deepinv_gmdm.half_quadratic import measured_of
from lib.figures import psnr
from lib.restoration import Problem
from lib.timing import medians
from torch import Tensor

from speed_rows.bench import Bench, Measurement

SMALL = 64
PROBLEMS = {  # configs, their picture and its middle; HQS of 256×256 takes minutes in tomography
    "denoise": ("camera.png", 256),
    "deblur": ("camera.png", 256),
    "inpainting": ("camera.png", 256),
    "tomography": ("ct.png", 128),
}
SOLVERS = {"pgd": "PGD", "fista": "FISTA", "admm": "ADMM, DRS"}
GRADIENTS = 100  # of L-BFGS
COST, DECIBELS = 1e-3, 0.05
LONG = 30  # seconds: what takes more has one turn


class Cost:
    """What the explicit solvers minimise, with the gray weights."""

    def __init__(self, problem: Problem, prior: GMDMPrior) -> None:
        self.problem, self.prior = problem, prior
        sigma = physics_sigma(problem.physics)
        self.fidelity = deepinv.optim.L2(sigma=sigma)
        self.level = sigma / measured_of(problem.physics, problem.scene).norm

    def value(self, x: Tensor) -> float:
        """F + g."""
        data = self.fidelity(x, self.problem.measured, self.problem.physics)
        return float(data) + float(self.prior.fn(x, self.level))

    def minimum(self, x: Tensor) -> Tensor:
        """The one next to an image, by L-BFGS without a line search."""
        y, physics = self.problem.measured, self.problem.physics
        x = x.clone()
        options = {"tolerance_grad": 0, "tolerance_change": -1, "max_iter": GRADIENTS}
        optimiser = torch.optim.LBFGS([x], max_eval=GRADIENTS, history_size=20, **options)

        def slope() -> float:
            x.grad = self.fidelity.grad(x, y, physics) + self.prior.grad(x, self.level)
            return 0.0

        optimiser.step(slope)
        return x


def solvers(bench: Bench) -> Iterator[Measurement]:
    """Time to its own optimum of each solver, in units of half-quadratic splitting."""
    prior = GMDMPrior("gray")
    for name, (picture, side) in PROBLEMS.items():
        small, problem = (Problem.of(name, [f"image={picture}"], s) for s in (SMALL, side))
        sigma, found = physics_sigma(problem.physics), {}

        def restore(solver: str, case: Problem, level: float = sigma, kept: dict = found) -> None:
            run = build_solver(solver, prior, sigma=level)
            kept[solver] = run(case.measured, case.physics)

        names = ["hqs", *SOLVERS]
        for solver in names:  # compiles the kernel
            restore(solver, small)
        runs = [lambda _, s=s, p=problem, r=restore: r(s, p) for s in names]
        rival, *ours = medians(*runs, turns=bench.turns(3), warm=0, long=LONG)
        cost = Cost(problem, prior)
        for solver, seconds in zip(SOLVERS, ours, strict=True):
            yield bench.timed(
                "solvers",
                f"{SOLVERS[solver]}, {name}, {side}×{side}",
                "HQS",
                (rival, seconds),
                most=5,
                note=note(cost, found, solver),
            )


def note(cost: Cost, found: dict[str, Tensor], name: str) -> str:
    """PSNR and cost beside those of the minimum."""
    truth = cost.problem.truth
    least = cost.minimum(found[name])
    value, lowest = cost.value(found[name]), cost.value(least)
    above, here, there = (
        (value - lowest) / abs(lowest),
        psnr(found[name], truth),
        psnr(least, truth),
    )
    reached = above <= COST and abs(here - there) <= DECIBELS
    return (
        f"{here:.2f} dB, the minimum beside it {there:.2f} dB, cost within {max(above, 0):.0e}"
        f"{'' if reached else ': not reached'}; HQS {psnr(found['hqs'], truth):.2f} dB"
    )
