"""deepinv's optimisers by name, with step sizes that follow from the physics' own noise level.

All minimise  f(x) + lambda g(x)  with  f(x) = ‖A x - y‖² / (2 sigma_n²)  and sigma_n the
measurement's noise level, so that lambda = 1 is the Bayesian weight of an explicit prior. PGD, GD,
DRS and ADMM use `fn`, `grad` and `prox` of an explicit prior as they are; `schedule` gives the
falling levels of half-quadratic splitting (HQS).

HQS with the Gaussian-mixture prior does what its authors do (Zach et al. 2023, Section 5.2): it
alternates

    u = argmin_u  f(u) + ‖u - x‖² / (2 s²),      x = E[clean | u = clean + noise of level s]

at levels s that fall from far above the noise to it; the inner mode of the prior is replaced by one
exact empirical-Bayes step, the posterior mean at s. With lambda = s² / gamma the first line is the
proximal map of gamma f. That is the default, `step="mean"`, for every prior that offers a denoiser;
`step="prox"` keeps the proximal map of an explicit prior instead, and with it a cost that is
reported.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import deepinv
import numpy as np

import gmdm_prior as gm

from .denoiser import GMDMDenoiser
from .physics import parse_level
from .prior import GMDMPrior
from .registry import unknown

logger = logging.getLogger(__name__)
SMALLEST_LEVEL = (
    1 / 1024
)  # stands for the noise level of noise-free data, which no weight can express


@dataclass
class SolverConfig:
    """How the problem is solved; None means: derived from the physics and the prior."""

    name: str = "hqs"
    max_iter: int | None = None
    stepsize: float | None = None
    start: float = 0.2  # hqs: first level
    stop: Any = None  # hqs: last level; None: half the noise level
    step: str | None = None  # hqs: "mean" or "prox"
    stride: int = 3  # hqs with step="mean": distance between patches
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


def build_solver(
    spec: str | Mapping[str, Any] | SolverConfig,
    prior: Any,
    *,
    sigma: float,
    physics_norm: float = 1.0,
    prior_sigma: Any = None,
    prior_lambda: float | None = None,
    progress: bool = False,
) -> Any:
    """A deepinv optimiser, `solver(y, physics) -> x`.

    Args:
        spec: `"hqs"`, `"pgd"`, `"gd"`, `"drs"` or `"admm"`, or a mapping with the key `name` and
            the fields of `SolverConfig`.
        prior: a deepinv prior.
        sigma: noise level of the measurement (see `physics_sigma(physics)`).
        physics_norm: largest eigenvalue of AᵀA (`physics.compute_sqnorm`); it bounds steps of
            PGD and GD.
        prior_sigma: noise level handed to the prior (deepinv's `g_param`); None: the measurement's
            noise level, but for `step="mean"` the schedule's.
        prior_lambda: weight of the prior; None: 1, and 0.25 for `step="mean"`.
        progress: show a progress bar.

    Raises:
        ValueError: for an unknown solver or option, or a value out of its range.
    """
    config = _config(spec)
    noise = config.noise_sigma if config.noise_sigma is not None else sigma
    noise = max(parse_level(noise, "the data term's noise level"), SMALLEST_LEVEL)
    weight = _check_weight(prior_lambda)
    _check_pair(config.name, prior)
    common = {
        "data_fidelity": deepinv.optim.L2(sigma=noise),
        "early_stop": config.early_stop,
        "thres_conv": config.thres_conv,
        "verbose": progress,
        "show_progress_bar": progress,
    }
    if config.name == "hqs" and _step(config, prior) == "mean":
        return _mean_steps(config, prior, noise, weight, prior_sigma, common)
    weight = 1.0 if weight is None else weight
    level = noise if prior_sigma is None else prior_sigma
    params: dict[str, Any] = {"lambda": weight, "g_param": _all_steps(level)}
    steps = config.max_iter
    if config.name == "hqs":
        steps = 12 if steps is None else steps
        levels = schedule(noise, steps, config.start, config.stop)
        params["stepsize"] = [s * s for s in levels]
        common["early_stop"] = False
    else:
        params["stepsize"] = _stepsize(config, prior, noise, weight, level, physics_norm)
    optimiser = getattr(deepinv.optim, config.name.upper())
    return optimiser(prior=prior, params_algo=params, max_iter=steps or 100, **common)


def _all_steps(level: Any) -> Any:
    """Levels of each image, or a map, in a list: else deepinv reads a schedule over its steps."""
    one = isinstance(level, (str, int, float)) or level is None or np.ndim(level) == 0
    return level if one else [level]


def _check_pair(solver: str, prior: Any) -> None:
    """Refuse a solver that asks a prior for what it has not."""
    if solver == "gd" and isinstance(prior, deepinv.optim.PnP):
        raise ValueError(
            "a plug-and-play prior has no gradient; use another solver, or prior=red with gd"
        )
    if solver != "gd" and isinstance(prior, (deepinv.optim.RED, deepinv.optim.ScorePrior)):
        raise ValueError(
            f"{type(prior).__name__} gives a gradient and no proximal map; set solver.name=gd, "
            "or use prior=pnp"
        )


def _mean_steps(
    config: SolverConfig, prior: Any, noise: float, weight: float | None, level: Any, common: dict
) -> Any:
    """HQS with posterior-mean steps at falling levels."""
    weight = 0.25 if weight is None else weight
    if not weight > 0:
        raise ValueError("half-quadratic splitting with posterior means needs prior.lambda above 0")
    steps = 12 if config.max_iter is None else config.max_iter
    stop = config.stop if level is None else level
    levels = schedule(noise, steps, config.start, stop)
    logger.info("HQS with posterior-mean steps at levels %.4f to %.4f", levels[0], levels[-1])
    params = {
        "lambda": 1.0,
        "g_param": levels,
        "stepsize": [s * s / weight for s in levels],
    }
    if isinstance(prior, GMDMPrior):
        whole = isinstance(prior.model, gm.WaveletModel)
        options = {} if whole else {"method": "average", "stride": config.stride}
        prior = deepinv.optim.PnP(GMDMDenoiser(prior.model, **options))
    common = {**common, "early_stop": False}
    return deepinv.optim.HQS(prior=prior, params_algo=params, max_iter=steps, **common)


def _step(config: SolverConfig, prior: Any) -> str:
    """Which prior step HQS takes: the config's, else posterior means where there is a denoiser."""
    has_mean = isinstance(prior, (GMDMPrior, deepinv.optim.PnP))
    if config.step is None:
        return "mean" if has_mean else "prox"
    if config.step not in ("mean", "prox"):
        raise ValueError(unknown("solver.step", config.step, ["mean", "prox"]))
    if config.step == "mean" and not has_mean:
        raise ValueError(
            "solver.step=mean needs a prior with a denoiser (gmdm or pnp); "
            f"{type(prior).__name__} has none"
        )
    return config.step


def _stepsize(
    config: SolverConfig, prior: Any, noise: float, weight: float, level: Any, norm: float
) -> float:
    """The solver's step size: the config's, else one from the curvatures of both terms."""
    if config.stepsize is not None:
        if not 0 < config.stepsize < math.inf:
            raise ValueError(f"solver.stepsize must be positive; got {config.stepsize}")
        return config.stepsize
    curvature = norm / noise**2  # of the data term
    if config.name == "pgd":
        return 1 / curvature
    bend = weight * _curvature(prior, level)
    if config.name == "gd":
        return 1 / (curvature + bend)
    return 1 / bend if bend > 0 else 25 / curvature  # drs, admm: the prior's step stays convex


def _curvature(prior: Any, level: Any) -> float:
    """Descent-lemma constant of a prior, 2 for regularisation by denoising, else 0 (not smooth)."""
    if callable(getattr(prior, "lipschitz", None)):
        return float(prior.lipschitz(level))
    return 2.0 if isinstance(prior, deepinv.optim.RED) else 0.0


def _check_weight(weight: float | None) -> float | None:
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


def _config(spec: str | Mapping[str, Any] | SolverConfig) -> SolverConfig:
    names = ["admm", "drs", "gd", "hqs", "pgd"]
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
    if config.name not in names:
        raise ValueError(unknown("solver", config.name, names))
    if config.max_iter is not None and config.max_iter < 1:
        raise ValueError(f"solver.max_iter must be at least 1; got {config.max_iter}")
    return config
