"""What a solver can be told, and which solvers, options and priors go together.

What deepinv does where they do not go together is silent: Anderson acceleration moves the first
variable of an iterate only, which DRS, ADMM, PDCP and FISTA do not continue from alone;
backtracking without a cost, or with steps that change, is switched off; a prior without a proximal
map has an empty one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gmdm_prior.messages import unknown
from gmdm_prior.sigma_text import one_number, parse

SOLVERS = ("admm", "dpir", "drs", "fista", "gd", "hqs", "pdcp", "pgd")
# the noise level that stands for noise-free data, which no weight can express
SMALLEST_LEVEL = 1 / 1024
ONE_VARIABLE = ("gd", "pgd")  # the iterate is one image and the step stays


@dataclass
class SolverConfig:
    """Says how the problem is solved; None is derived from the physics and the prior.

    Attributes:
        name: `"hqs"`, `"dpir"`, `"pgd"`, `"fista"`, `"gd"`, `"drs"`, `"admm"` or `"pdcp"`.
        max_iter: iterations; None: for hqs as many as its levels ask for (`half_quadratic`; 12 with
            `step="prox"` or unfolded, as many as `betas`); for pgd, fista, drs and admm of a
            `GMDMPrior`, where nothing else is set, until they have settled (`explicit`); else 100.
        stepsize: of all but hqs; of pdcp the primal one, the dual one is its inverse. With
            `backtracking` the first that is tried.
        start: hqs: first level, as a share of the prior's data range; None: derived from what the
            data leave open (0.2 with `step="prox"` or unfolded).
        stop: hqs: last level; None: derived, at most the noise level over the norm of A (half the
            noise level with `step="prox"` or unfolded).
        step: hqs: `"mean"` (posterior means) or `"prox"` (proximal maps of an explicit prior).
        betas: hqs: the penalties of EPLL's continuation in units of 1 / sigma_n², never falling, in
            place of `start` and `stop`: levels are sigma_n / sqrt(beta).
        stride: hqs with `step="mean"`: distance between patches; None: 3 where steps follow from
            the operator, as their grid moves from step to step, else 2.
        noise_sigma: weight of the data term; None: the physics' noise level.
        early_stop: stop where the relative change is below `thres_conv` (not hqs, not unfolded).
        thres_conv: see `early_stop`.
        anderson: pgd and gd: Anderson acceleration, from the last five iterates.
        backtracking: pgd and gd with an explicit prior: shorten the step until the cost falls.
    """

    name: str = "hqs"
    max_iter: int | None = None
    stepsize: float | None = None
    start: float | None = None
    stop: Any = None
    step: str | None = None
    betas: list[float] | None = None
    stride: int | None = None
    noise_sigma: Any = None
    early_stop: bool = True
    thres_conv: float = 1e-5
    anderson: bool = False
    backtracking: bool = False


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
    start, sigma = parse(start, "start"), parse(sigma, "sigma")
    last = max(sigma / 2 if stop is None else parse(stop, "stop"), SMALLEST_LEVEL)
    first = max(start, last)
    ratio = (last / first) ** (1 / max(steps - 1, 1))
    return [first * ratio**i for i in range(steps)]


def levels_of(config: SolverConfig, noise: float, stop: Any, width: float = 1.0) -> list[float]:
    """The falling levels of HQS, for images whose data range is `width` wide."""
    if config.betas is not None:
        return [noise / math.sqrt(beta) for beta in config.betas]
    steps = 12 if config.max_iter is None else config.max_iter
    start = 0.2 if config.start is None else parse(config.start, "solver.start")
    return schedule(noise, steps, start * width, stop)


def as_dpir(config: SolverConfig, noise: float) -> SolverConfig:
    """Half-quadratic splitting as in DPIR, but for what the config says."""
    steps = 8 if config.max_iter is None else config.max_iter
    stop = noise if config.stop is None else config.stop
    return dataclasses.replace(config, name="hqs", max_iter=steps, start=49 / 255, stop=stop)


def check_pair(config: SolverConfig, prior: Any) -> None:
    """Refuse a solver that asks a prior for what it has not."""
    import deepinv  # late: a config is read before

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
    if config.backtracking and not getattr(prior, "explicit_prior", False):
        raise ValueError(
            f"solver.backtracking needs a cost, which {type(prior).__name__} has not; take an "
            "explicit prior (gmdm, tv, wavelet) or leave it out"
        )


def check_weight(weight: Any) -> float | None:
    """The prior's weight, or an error."""
    if weight is None:
        return None
    weight = one_number(weight)
    if (
        isinstance(weight, bool)
        or not isinstance(weight, (int, float))
        or not 0 <= weight < math.inf
    ):
        raise ValueError(
            f"prior.lambda must be a number that is finite and not negative; got {weight!r}"
        )
    return float(weight)


def read_config(spec: str | Mapping[str, Any] | SolverConfig) -> SolverConfig:
    """A checked `SolverConfig` from a name, a mapping or one of its kind."""
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
    if config.name not in SOLVERS:
        raise ValueError(unknown("solver", config.name, SOLVERS))
    if config.max_iter is not None and config.max_iter < 1:
        raise ValueError(f"solver.max_iter must be at least 1; got {config.max_iter}")
    _check_options(config)
    return config


def _check_options(config: SolverConfig) -> None:
    for option in ("anderson", "backtracking"):
        if getattr(config, option) and config.name not in ONE_VARIABLE:
            raise ValueError(
                f"solver.{option} works with {' and '.join(ONE_VARIABLE)}, whose iterate is one "
                f"image and whose step stays; got solver.name={config.name}"
            )
    if config.anderson and config.backtracking:
        raise ValueError("give solver.anderson or solver.backtracking, not both")
    if config.betas is None:
        return
    if config.name != "hqs":
        raise ValueError(f"solver.betas are for hqs; got solver.name={config.name}")
    betas = [parse(beta, "solver.betas") for beta in config.betas]
    if not betas or betas[0] <= 0 or sorted(betas) != betas:
        raise ValueError(f"solver.betas must be positive and never fall; got {config.betas}")
    if config.max_iter not in (None, len(betas)):
        raise ValueError(
            f"solver.max_iter is the number of solver.betas, {len(betas)}; got {config.max_iter}"
        )
