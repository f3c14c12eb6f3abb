"""deepinv's optimisers by name, with step sizes that follow from the physics' own noise level.

All minimise  f(x) + lambda g(x)  with  f(x) = ‖A x - y‖² / (2 sigma_n²)  and sigma_n the
measurement's noise level, so that lambda = 1 is the Bayesian weight of an explicit prior. PGD,
FISTA, GD, DRS, ADMM and PDCP use `fn`, `grad` and `prox` of an explicit prior as they are;
`schedule` gives the falling levels of half-quadratic splitting (HQS).

HQS with the Gaussian-mixture prior does what its authors do (Zach et al. 2023, Section 5.2): it
alternates

    u = argmin_u  f(u) + ‖u - x‖² / (2 s²),      x = E[clean | u = clean + noise of level s]

at levels s that fall from far above the noise to it; the inner mode of the prior is replaced by one
exact empirical-Bayes step, the posterior mean at s. With lambda = s² / gamma the first line is the
proximal map of gamma f. That is the default, `step="mean"`, for every prior that offers a denoiser;
`step="prox"` keeps the proximal map of an explicit prior instead, and with it a cost that is
reported.

Two schedules of others by name: `dpir` is HQS with the levels and the weight of DPIR (Zhang et al.
2021: eight levels from 49/255 down to the noise, which never rise, also for stronger or no noise);
`betas` are those of EPLL (Zoran and Weiss 2011), levels sigma_n / sqrt(beta) with the weight 1.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import deepinv
import torch

import gmdm_prior as gm

from .denoiser import GMDMDenoiser
from .noise import WeightedL2
from .physics import parse_level
from .prior import GMDMPrior
from .registry import unknown
from .solver_config import (
    SMALLEST_LEVEL,
    SolverConfig,
    as_config,
    as_dpir,
    check_pair,
    check_weight,
    levels_of,
    trainable_parameters,
)

logger = logging.getLogger(__name__)


def build_solver(
    spec: str | Mapping[str, Any] | SolverConfig,
    prior: Any,
    *,
    sigma: float,
    physics_norm: float = 1.0,
    prior_sigma: Any = None,
    prior_lambda: float | None = None,
    data_fidelity: Any = None,
    progress: bool = False,
    unfold: bool = False,
    trainable: Sequence[str] = ("stepsize",),
) -> Any:
    """A deepinv optimiser, `solver(y, physics) -> x`.

    Args:
        spec: `"hqs"`, `"dpir"`, `"pgd"`, `"fista"`, `"gd"`, `"drs"`, `"admm"` or `"pdcp"`, or a
            mapping with the key `name` and the fields of `SolverConfig`.
        prior: a deepinv prior.
        sigma: noise level of the measurement (see `physics_sigma(physics)`).
        physics_norm: largest eigenvalue of AᵀA (`physics.compute_sqnorm`); it bounds steps of
            PGD, FISTA and GD.
        prior_sigma: noise level handed to the prior (deepinv's `g_param`); None: the measurement's
            noise level, but for `step="mean"` the schedule's.
        prior_lambda: weight of the prior; None: 1, and 0.25 for `step="mean"`.
        data_fidelity: the data term f; None is the one above. `sigma` is then the root mean square
            of its levels.
        progress: show a progress bar.
        unfold: make it a network whose parameters are the `trainable` ones below and those of the
            prior: the model's own too, where it is `trainable()`.
        trainable: with `unfold`, some of `"stepsize"`, `"lambda"` and `"g_param"`.

    Raises:
        ValueError: for an unknown solver or option, or a value out of its range.
    """
    config = as_config(spec)
    noise = config.noise_sigma if config.noise_sigma is not None else sigma
    noise = max(parse_level(noise, "the data term's noise level"), SMALLEST_LEVEL)
    weight = check_weight(prior_lambda)
    if config.name == "dpir":
        config, weight = as_dpir(config, noise), 0.23 if weight is None else weight
    check_pair(config, prior)
    common = {
        "data_fidelity": deepinv.optim.L2(sigma=noise) if data_fidelity is None else data_fidelity,
        "early_stop": config.early_stop,
        "thres_conv": config.thres_conv,
        "verbose": progress,
        "show_progress_bar": progress,
    }
    if unfold:
        common |= {"unfold": True, "trainable_params": trainable_parameters(trainable)}
    if config.name == "hqs" and _step(config, prior) == "mean":
        return _mean_steps(config, prior, noise, weight, prior_sigma, common)
    if isinstance(data_fidelity, WeightedL2):
        physics_norm = physics_norm * (noise / float(data_fidelity.d.sigma.min())) ** 2
    weight = 1.0 if weight is None else weight
    level = noise if prior_sigma is None else prior_sigma
    params: dict[str, Any] = {"lambda": weight, "g_param": level}
    steps = config.max_iter
    if config.name == "hqs":
        levels = levels_of(config, noise, config.stop)
        steps, params["stepsize"] = len(levels), [s * s for s in levels]
        common["early_stop"] = False
    else:
        params["stepsize"] = _stepsize(config, prior, noise, weight, level, physics_norm)
    if config.name == "fista":
        params["a"] = 3
    if config.name == "pdcp":
        params["stepsize_dual"] = 1 / params["stepsize"]
        common["custom_init"] = _primal_dual_start
    if config.anderson:
        # deepinv's own regularisation of 0.1 is far above the residuals of images in [0, 1]
        common["anderson_acceleration"] = deepinv.optim.AndersonAccelerationConfig(
            history_size=5, beta=1.0, eps=1e-8
        )
    if config.backtracking:
        common["backtracking"] = deepinv.optim.BacktrackingConfig(max_iter=100)
    optimiser = getattr(deepinv.optim, config.name.upper())
    return optimiser(prior=prior, params_algo=params, max_iter=steps or 100, **common)


def _primal_dual_start(y: Any, physics: Any) -> dict[str, Any]:
    """The adjoint of the measurements, and a dual variable of 0 (deepinv's own is y)."""
    start = physics.A_adjoint(y)
    return {"est": (start, start, torch.zeros_like(start))}


def _mean_steps(
    config: SolverConfig, prior: Any, noise: float, weight: float | None, level: Any, common: dict
) -> Any:
    """HQS with posterior-mean steps at falling levels."""
    if weight is None:
        weight = 0.25 if config.betas is None else 1.0
    if not weight > 0:
        raise ValueError("half-quadratic splitting with posterior means needs prior.lambda above 0")
    low, high = prior.data_range if isinstance(prior, GMDMPrior) else (0.0, 1.0)
    levels = levels_of(config, noise, config.stop if level is None else level, high - low)
    logger.info("HQS with posterior-mean steps at levels %.4f to %.4f", levels[0], levels[-1])
    params = {
        "lambda": 1.0,
        "g_param": levels,
        "stepsize": [s * s / weight for s in levels],
    }
    if isinstance(prior, GMDMPrior):
        prior = deepinv.optim.PnP(_posterior_mean(prior, config.stride))
    common = {**common, "early_stop": False}
    return deepinv.optim.HQS(prior=prior, params_algo=params, max_iter=len(levels), **common)


def _posterior_mean(prior: GMDMPrior, stride: int) -> GMDMDenoiser:
    """The denoiser of a prior's own density."""
    options: dict[str, Any] = {"data_range": prior.data_range}
    if not isinstance(prior.model, gm.WaveletModel):
        options |= {"method": "average", "stride": min(stride, prior.model.patch_size)}
    return GMDMDenoiser(prior.model, **options)


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
    if config.backtracking:
        curvature = curvature / 16  # a long step, which is shortened
    if config.name in ("pgd", "fista"):
        return 1 / curvature
    bend = weight * _curvature(prior, level)
    if config.name == "gd":
        return 1 / (curvature + bend)
    return 1 / bend if bend > 0 else 25 / curvature


def _curvature(prior: Any, level: Any) -> float:
    """Descent-lemma constant of a prior, 2 for regularisation by denoising, else 0 (not smooth)."""
    if callable(getattr(prior, "lipschitz", None)):
        return float(prior.lipschitz(level))
    return 2.0 if isinstance(prior, deepinv.optim.RED) else 0.0
