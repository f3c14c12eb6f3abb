"""What a solver is told, and the falling noise levels of half-quadratic splitting."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import deepinv

from .physics import parse_level
from .registry import unknown

# the noise level that stands for noise-free data, which no weight can express
SMALLEST_LEVEL = 1 / 1024
NAMES = ("admm", "dpir", "drs", "fista", "gd", "hqs", "pdcp", "pgd")


@dataclass
class SolverConfig:
    """How the problem is solved; None means: derived from the physics and the prior."""

    name: str = "hqs"  # admm, dpir, drs, fista, gd, hqs, pdcp or pgd
    max_iter: int | None = None
    stepsize: float | None = None
    start: float = 0.2  # hqs: first level, as a share of the prior's data range
    stop: Any = None  # hqs: last level; None: half the noise level
    step: str | None = None  # hqs: "mean" or "prox"
    stride: int = 3  # hqs with step="mean": distance between patches
    betas: Any = None  # hqs: EPLL's continuation, such as [1, 4, 8, 16, 32], for start and stop
    anderson: bool = False  # gd, pgd: Anderson acceleration
    backtracking: bool = False  # gd, pgd, fista: shorten steps until the cost falls
    noise_sigma: Any = None  # weight of the data term; None: the physics' noise level
    early_stop: bool = True
    thres_conv: float = 1e-5


def schedule(
    sigma: float, steps: int, start: float = 0.2, stop: float | None = None
) -> list[float]:
    """Noise levels for half-quadratic splitting, falling geometrically.

    Args:
        sigma: noise level of the measurement; 0 is allowed.
        steps: how many levels.
        start: first level.
        stop: last level; None for half of `sigma`. Where it is above `start`, all levels are
            `stop`.

    Returns:
        `steps` levels, never rising, all positive.

    Raises:
        ValueError: for a level that is negative or not finite, or fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"a schedule needs at least one step; got {steps}")
    start, sigma = parse_level(start, "start"), parse_level(sigma, "sigma")
    last = max(sigma / 2 if stop is None else parse_level(stop, "stop"), SMALLEST_LEVEL)
    first = max(start, last)
    ratio = (last / first) ** (1 / max(steps - 1, 1))
    return [first * ratio**i for i in range(steps)]


def as_config(spec: str | Mapping[str, Any] | SolverConfig) -> SolverConfig:
    """A `SolverConfig` of a name or a mapping.

    Raises:
        ValueError: for an unknown solver or option, or fewer than one iteration.
    """
    if isinstance(spec, str):
        config = SolverConfig(name=spec)
    elif isinstance(spec, SolverConfig):
        config = spec
    elif isinstance(spec, Mapping):
        known = list(SolverConfig.__dataclass_fields__)
        for key in spec:
            if key not in known:
                raise ValueError(unknown("solver option", key, known))
        config = SolverConfig(**spec)
    else:
        raise ValueError(f"a solver is a name or a mapping with 'name'; got {spec!r}")
    if config.name not in NAMES:
        raise ValueError(unknown("solver", config.name, NAMES))
    if config.max_iter is not None and config.max_iter < 1:
        raise ValueError(f"solver.max_iter must be at least 1; got {config.max_iter}")
    return config


def as_dpir(config: SolverConfig, noise: float) -> SolverConfig:
    """Half-quadratic splitting as in DPIR, but for what the config says."""
    steps = 8 if config.max_iter is None else config.max_iter
    stop = noise if config.stop is None else config.stop
    return dataclasses.replace(config, name="hqs", max_iter=steps, start=49 / 255, stop=stop)


def levels_of(config: SolverConfig, noise: float, stop: Any, width: float = 1.0) -> list[float]:
    """The levels of half-quadratic splitting, for images whose data range is `width` wide."""
    if config.betas is None:
        steps = 12 if config.max_iter is None else config.max_iter
        return schedule(noise, steps, parse_level(config.start, "solver.start") * width, stop)
    betas = [float(b) for b in config.betas]
    if not betas or not all(0 < b < math.inf for b in betas):
        raise ValueError(f"solver.betas must be positive numbers; got {config.betas}")
    return [noise / math.sqrt(b) for b in betas]


def check_pair(config: SolverConfig, prior: Any) -> None:
    """Refuse a solver that asks a prior for what it has not."""
    solver = config.name
    if solver == "gd" and isinstance(prior, deepinv.optim.PnP):
        raise ValueError(
            "a plug-and-play prior has no gradient; use another solver, or prior=red with gd"
        )
    if solver != "gd" and isinstance(prior, (deepinv.optim.RED, deepinv.optim.ScorePrior)):
        raise ValueError(
            f"{type(prior).__name__} gives a gradient and no proximal map; set solver.name=gd, "
            "or use prior=pnp"
        )
    if config.anderson and solver not in ("gd", "pgd"):
        raise ValueError(
            f"solver.anderson accelerates fixed points of one variable, gd and pgd; got {solver}"
        )
    if config.backtracking and solver not in ("fista", "gd", "pgd"):
        raise ValueError(
            f"solver.backtracking is for solvers of one step size, gd, pgd and fista; got {solver}"
        )
    if config.backtracking and not getattr(prior, "explicit_prior", False):
        raise ValueError(
            f"solver.backtracking needs a cost, which {type(prior).__name__} has none of: use an "
            "explicit prior such as gmdm or tv"
        )
    if config.betas is not None and solver != "hqs":
        raise ValueError(f"solver.betas is a schedule of hqs; got {solver}")


def check_weight(weight: float | None) -> float | None:
    """The weight of the prior, None where none is given; ValueError for what is no weight."""
    if weight is None:
        return None
    if (
        isinstance(weight, bool)
        or not isinstance(weight, (int, float))
        or not 0 <= weight < math.inf
    ):
        raise ValueError(
            f"prior.lambda must be a number that is finite and not negative; got {weight!r}"
        )
    return float(weight)


def trainable_parameters(names: Sequence[str]) -> list[str]:
    """The names of parameters that can be trained; ValueError for others."""
    known = ["g_param", "lambda", "stepsize"]
    for name in names:
        if name not in known:
            raise ValueError(unknown("trainable parameter", name, known))
    return list(names)
