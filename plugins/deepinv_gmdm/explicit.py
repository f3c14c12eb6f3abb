"""PGD, FISTA, ADMM and DRS for a smooth prior and linear measurements, without inner loops.

They minimise f(x) + λ g(x) as deepinv's classes of these names do. As ∇g is analytic and its
Lipschitz constant L is known, no step solves a proximal map of g; with γ = 1 / (λ L) and
P(z) = argmin γ f(u) + ½ ‖u - z‖², exact or by conjugate gradients,

    PGD         x ← P(x - γ λ ∇g(x))
    FISTA       the same, begun at an extrapolated image
    ADMM, DRS   u = P(x - z),   x ← x - ½ (γ λ ∇g(x) + x - u - z),   z ← z + u - x,
                begun at extrapolated x and z: the middle one is a step down the objective of the
                proximal map, whose curvature is 2 at most

Extrapolation adds k / (k + 4) of the last step, with k counted from 0 again where it led uphill
(O'Donoghue and Candès 2015). There are three stages:

    falling levels   g at levels that fall to its own, those of half-quadratic splitting: at the
                     level s, γ is about s² / λ, so that first steps are long, and (Tweedie)
                     x - s² ∇g(x) is an average of posterior means. Each step takes every fourth row
                     and column of patches, in turns
    ordered subsets  g at its own level, of every second row and column of patches, in turns: their
                     gradients differ little
    all patches      the gradient of g itself, so that the end is a minimum of f + λ g

The second is over when four steps, a turn, have moved no image of a batch by more than 6 % of the
level (root mean square), 2 % in PGD, which has further to go from there; the last one when two
have moved it by half of that. Subsets must cover all pixels alike: patches whose side four does
not divide take every second row and column from the beginning; those with an odd side, open borders
and wavelets have all of them.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import deepinv
import torch
from deepinv.optim.linear import conjugate_gradient
from torch import Tensor, nn
from tqdm import tqdm

import gmdm_prior as gm
from deepinv_gmdm.data_steps import has_closed_form
from deepinv_gmdm.half_quadratic import HalfQuadratic, Plan
from deepinv_gmdm.optim import GMDMPrior
from deepinv_gmdm.solver_config import SMALLEST_LEVEL, SolverConfig
from gmdm_prior.images.patches import grid

NAMES = ("pgd", "fista", "drs", "admm")
STRIDES = (4, 2)  # of patches, in the first two stages
SETTLED = 0.06  # of the level, in a turn of four steps
SETTLED_WITHOUT_MOMENTUM = 0.02
MOST_STEPS = 200  # of a stage
CG_STEPS, CG_TOLERANCE = 60, 0.05  # the latter relative to the gradient of the whole problem


class ExplicitSolver(nn.Module):
    """A solver, `solver(y, physics) -> x`, of a smooth prior; its steps follow from the operator.

    Args:
        name: `"pgd"`, `"fista"`, `"drs"` or `"admm"`.
        prior: g.
        plain: deepinv's class of that name, which takes what this one does not: operators that are
            not linear, and calls that ask for metrics.
        sigma: noise level of the measurements, 0 or more.
        level: at which g is taken; None is the noise level over the operator's norm.
        weight: λ, above 0.
        fidelity: the data term; None is ‖A x - y‖² / (2 sigma²).
        progress: show a progress bar.
    """

    def __init__(
        self,
        name: str,
        prior: GMDMPrior,
        plain: nn.Module,
        *,
        sigma: float,
        level: float | None = None,
        weight: float = 1.0,
        fidelity: Any = None,
        progress: bool = False,
    ) -> None:
        super().__init__()
        self.name, self.prior, self.plain = name, prior, plain
        self.level, self.weight, self.progress = level, weight, progress
        config = SolverConfig(stop=level)
        self.planner = HalfQuadratic(
            prior, config, sigma=sigma, width=prior.frame.width, fidelity=fidelity
        )

    def forward(self, y: Any, physics: Any, init: Any = None, **kwargs: Any) -> Any:
        """Restore measurements.

        Args:
            y: measurements.
            physics: the operator.
            init: the first iterate (B, C, H, W), alone or first in a tuple; None is derived.
            **kwargs: of deepinv's classes: `compute_metrics`, `x_gt`.

        Raises:
            ValueError: for measurements that hold NaN or infinity.
        """
        if kwargs or not isinstance(physics, deepinv.physics.LinearPhysics):
            return self.plain(y, physics, init=init, **kwargs)
        with torch.no_grad():
            return self._solve(y, physics, init)

    def _solve(self, y: Any, physics: Any, init: Any) -> Tensor:
        plan = self.planner.plan(y, physics, init)
        level = plan.sigma if self.level is None else self.level
        closed = has_closed_form(plan.fidelity, y, physics, plan.start)
        problem = Problem(plan.fidelity, y, physics, self.prior, self.weight, level, closed)
        coarse, fine = (parts(self.prior, stride) for stride in STRIDES)
        first, state = itertools.cycle(coarse), State(plan.start)
        step = forward_backward
        if self.name in ("drs", "admm"):
            step = partial(split, longest=self._longest(plan))
        momentum = self.name != "pgd"
        settled = level * (SETTLED if momentum else SETTLED_WITHOUT_MOMENTUM)
        with tqdm(disable=not self.progress) as bar:
            for falling in (s for s in plan.levels if s > level):
                state = forward_backward(replace(problem, level=falling), state, next(first), True)
                bar.update()
            for stage in dict.fromkeys((fine, ALL)):
                turn = max(len(stage), 2)
                recent = deque([state.x], maxlen=turn + 1)
                for part in itertools.islice(itertools.cycle(stage), MOST_STEPS):
                    state = step(problem, state, part, momentum)
                    recent.append(state.x)
                    bar.update()
                    moved = (recent[-1] - recent[0]).square().mean((1, 2, 3)).max().sqrt()
                    if len(recent) > turn and moved <= settled * turn / 4:
                        break
        return state.x

    def _longest(self, plan: Plan) -> float:
        """One over the curvature of the data term."""
        fidelity, sigma = self.planner.fidelity, self.planner.sigma
        if fidelity is None:
            return plan.sigma**2
        lowest = fidelity.norm**-0.5 if hasattr(fidelity, "norm") else fidelity.lowest
        return (plan.sigma * lowest / max(sigma, SMALLEST_LEVEL)) ** 2


Part = tuple[int, int, int]
ALL: tuple[Part | None, ...] = (None,)


def parts(prior: GMDMPrior, stride: int) -> tuple[Part | None, ...]:
    """The parts of all patches, in turn, that cover every pixel as often as any other.

    They are `stride` apart, or as far as they can be.
    """
    if isinstance(prior.model, gm.WaveletModel) or prior.likelihood.boundary != "circular":
        return ALL
    stride = math.gcd(stride, prior.model.patch_size)
    return tuple((*grid(i, stride), stride) for i in range(stride**2)) if stride > 1 else ALL


@dataclass(frozen=True)
class Problem:
    """f + λ g, with g at a level.

    Attributes:
        fidelity: f.
        y: measurements.
        physics: linear.
        prior: g.
        weight: λ.
        level: of g.
        closed: whether the proximal map of f need not be solved for (`has_closed_form`).
    """

    fidelity: Any
    y: Any
    physics: Any
    prior: GMDMPrior
    weight: float
    level: float
    closed: bool

    @cached_property
    def bend(self) -> float:
        """Largest curvature λ L of λ g."""
        return self.weight * self.prior.lipschitz(self.level)

    def slope(self, x: Tensor, part: Part | None) -> Tensor:
        """λ ∇g(x), or what a part of the patches knows of it."""
        return self.weight * self.prior.grad(x, self.level, part=part)

    def proximal(self, z: Tensor, gamma: float, near: Tensor) -> Tensor:
        """P(z), from an image that is already near it.

        By conjugate gradients the change from there, whose right-hand side is the gradient of the
        whole problem: as that vanishes, errors do.
        """
        if self.closed:
            return self.fidelity.prox(z, self.y, self.physics, gamma=gamma)
        slope = z - near - gamma * self.fidelity.grad(near, self.y, self.physics)
        size = slope.abs().max().clamp_min(torch.finfo(slope.dtype).tiny)  # deepinv adds 1e-8
        change = conjugate_gradient(
            lambda d: d + gamma * self.fidelity.norm * self.physics.A_adjoint_A(d),
            slope / size,
            max_iter=CG_STEPS,
            tol=CG_TOLERANCE,
        )
        return near + size * change


@dataclass(frozen=True)
class State:
    """What a step leaves to the next.

    Attributes:
        x: the image (B, C, H, W).
        moved: by how much the last step moved it.
        dual: z; None before ADMM's first step, which begins at γ λ ∇g(x).
        dual_moved: by how much the last step moved it.
        count: k of every image, (B, 1, 1, 1).
    """

    x: Tensor
    moved: Tensor | float = 0.0
    dual: Tensor | None = None
    dual_moved: Tensor | float = 0.0
    count: Tensor | float = 0.0

    def extrapolated(self, value: Tensor, moved: Tensor | float) -> Tensor:
        """A variable, and k / (k + 4) of its last step."""
        return value + self.count / (self.count + 4) * moved


def forward_backward(problem: Problem, state: State, part: Any, momentum: bool) -> State:
    """One step of PGD, or with momentum of FISTA."""
    ahead, gamma = state.extrapolated(state.x, state.moved), 1 / problem.bend
    x = problem.proximal(ahead - gamma * problem.slope(ahead, part), gamma, ahead)
    moved = x - state.x
    uphill = _dot(ahead - x, moved) > 0
    count = torch.where(uphill, 0, state.count + 1) if momentum else 0.0
    return State(x, moved, count=count)


def split(problem: Problem, state: State, part: Any, momentum: bool, longest: float) -> State:
    """One step of ADMM, which is that of DRS in other variables."""
    gamma = min(1 / problem.bend, longest)
    if state.dual is None:
        state = replace(state, dual=gamma * problem.slope(state.x, part))
    ahead = state.extrapolated(state.x, state.moved)
    dual = state.extrapolated(state.dual, state.dual_moved)
    u = problem.proximal(ahead - dual, gamma, ahead)
    down = gamma * problem.slope(ahead, part) + ahead - u - dual
    x = ahead - down / (1 + gamma * problem.bend)
    new = dual + u - x
    moved, dual_moved = x - state.x, new - state.dual
    uphill = _dot(ahead - x, moved) + _dot(dual - new, dual_moved) > 0
    count = torch.where(uphill, 0, state.count + 1) if momentum else 0.0
    return State(x, moved, new, dual_moved, count)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2, 3), keepdim=True)
