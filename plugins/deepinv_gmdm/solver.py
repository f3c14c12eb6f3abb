"""deepinv's optimisers by name, with step sizes that follow from the physics' own noise level.

All minimise  f(x) + lambda g(x)  with  f(x) = ‖A x - y‖² / (2 sigma_n²)  and sigma_n the
measurement's noise level, so that lambda = 1 is the Bayesian weight of an explicit prior. PGD,
FISTA, GD, DRS, ADMM and PDCP use `fn`, `grad` and `prox` of an explicit prior as they are;
a `GMDMPrior` whose solver is left to itself needs no `prox` (`explicit`);
`schedule` gives the falling levels of half-quadratic splitting (HQS). PDCP splits at the identity
(dual step 1 / primal step), so that any physics with a proximal map will do.

HQS with the Gaussian-mixture prior does what its authors do (Zach et al. 2023, Section 5.2): it
alternates

    u = argmin_u  f(u) + ‖u - x‖² / (2 s²),      x = E[clean | u = clean + noise of level s]

at levels s that fall from far above the noise to it; the inner mode of the prior is replaced by one
exact empirical-Bayes step, the posterior mean at s. With lambda = s² / gamma the first line is the
proximal map of gamma f. That is the default, `step="mean"`, for every prior that offers a denoiser;
`step="prox"` keeps the proximal map of an explicit prior instead, and with it a cost that is
reported. Where the config leaves levels or their number open, they follow from the operator, and
steps are accelerated (`half_quadratic`). Two well-known schedules are configs of HQS, with finite
levels at any noise level:

    DPIR   {"name": "hqs", "max_iter": 8, "start": 49/255, "stop": sigma}, prior_lambda=0.23
    EPLL   {"name": "hqs", "betas": [1, 4, 8, 16, 32]}, prior_lambda=1

EPLL's penalties beta are those in units of 1 / sigma_n², and its mode of a patch's likeliest class
is the posterior mean of all classes here; its first step, from A^T y, is the one on the data.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import deepinv
import numpy as np
import torch
from deepinv.optim.utils import objective_function
from torch import Tensor

import gmdm_prior as gm
from deepinv_gmdm.correlated_noise import CorrelatedL2
from deepinv_gmdm.explicit import NAMES, ExplicitSolver
from deepinv_gmdm.half_quadratic import HalfQuadratic
from deepinv_gmdm.models import GMDMDenoiser
from deepinv_gmdm.noise import WeightedL2
from deepinv_gmdm.optim import GMDMPrior
from deepinv_gmdm.solver_config import (
    SMALLEST_LEVEL,
    SolverConfig,
    as_dpir,
    check_pair,
    check_weight,
    levels_of,
    read_config,
)
from deepinv_gmdm.unfolding import PARAMETERS, keep_positive
from gmdm_prior.messages import unknown
from gmdm_prior.sigma import parse

logger = logging.getLogger(__name__)

MOVING_STRIDE, FIXED_STRIDE = 3, 2  # of grids of patches that move from step to step, or stay
NO_WEIGHT = "half-quadratic splitting with posterior means needs prior.lambda above 0"


# Long: deepinv's classes want all of this at once.
def build_solver(
    spec: str | Mapping[str, Any] | SolverConfig,
    prior: Any,
    *,
    sigma: float | gm.Noise,
    physics_norm: float = 1.0,
    prior_sigma: Any = None,
    prior_lambda: float | None = None,
    data_fidelity: Any = None,
    progress: bool = False,
    trainable: Sequence[str] | None = None,
) -> Any:
    """A deepinv optimiser, `solver(y, physics) -> x`.

    Args:
        spec: the name of a solver, or a mapping with the key `name` and the fields of
            `SolverConfig`.
        prior: a deepinv prior.
        sigma: noise level of the measurement (see `physics_sigma(physics)`), or what its noise is
            like (`physics_noise(physics)`): correlated noise has a data term of its own
            (`CorrelatedL2`), noise that grows with brightness is stabilised, which half-quadratic
            splitting with a `GMDMPrior` does for the physics `Denoising`.
        physics_norm: largest eigenvalue of AᵀA (`physics.compute_sqnorm`); it bounds steps of
            PGD, FISTA and GD.
        prior_sigma: noise level handed to the prior (deepinv's `g_param`); None: the measurement's
            noise level (over the norm of A where steps follow from the operator, `explicit`), but
            for `step="mean"` the schedule's.
        prior_lambda: weight of the prior; None: 1, and for `step="mean"` 0.25, or what follows
            from the operator (`half_quadratic`).
        data_fidelity: the data term f; None is the one above. `sigma` is then the root mean square
            of its levels.
        progress: show a progress bar.
        trainable: unfold: which of `"stepsize"`, `"g_param"` (the prior's noise level) and
            `"lambda"` become parameters, one for each iteration that has its own; they are kept
            positive (learned as logarithms). An empty list unfolds and frees none of them. The
            prior's own parameters are free where its model is `model.trainable()`. None: the
            solver runs without gradients.

    Raises:
        ValueError: for an unknown solver or option, a value out of its range, or noise that the
            solver cannot take.
    """
    config = read_config(spec)
    if isinstance(sigma, gm.Noise):
        if sigma.curve is not None:
            return _stabilised(config, prior, sigma, trainable)
        if sigma.autocovariance is not None and data_fidelity is None:
            data_fidelity = CorrelatedL2(sigma)
        sigma = float(sigma.sigma.square().mean().sqrt())
    noise = parse(sigma)
    if config.noise_sigma is not None:
        noise = parse(config.noise_sigma, "solver.noise_sigma")
    measured, noise = noise, max(noise, SMALLEST_LEVEL)
    weight = check_weight(prior_lambda)
    if config.name == "dpir":
        config, weight = as_dpir(config, noise), 0.23 if weight is None else weight
    check_pair(config, prior)
    if _derives(config, prior, named=read_config(spec).name, trainable=trainable):
        options = {"sigma": measured, "weight": weight, "stop": prior_sigma}
        return _derived(config, prior, **options, fidelity=data_fidelity, progress=progress)
    if isinstance(data_fidelity, (WeightedL2, CorrelatedL2)):
        physics_norm = physics_norm * (noise / data_fidelity.lowest) ** 2
    common = {
        "data_fidelity": deepinv.optim.L2(sigma=noise) if data_fidelity is None else data_fidelity,
        "early_stop": config.early_stop,
        "thres_conv": config.thres_conv,
        "verbose": progress,
        "show_progress_bar": progress,
        **_unfolding(config, trainable),
    }
    if config.name == "hqs" and _step(config, prior) == "mean":
        solver = _mean_steps(config, prior, noise, weight, prior_sigma, common)
    else:
        weight = 1.0 if weight is None else weight
        level = noise if prior_sigma is None else prior_sigma
        steps: Any
        if config.name == "hqs":
            steps = [s * s for s in levels_of(config, noise, config.stop)]
            common["early_stop"] = False
        else:
            steps = _stepsize(config, prior, noise, weight, level, physics_norm)
        params = {"lambda": weight, "g_param": _all_steps(level), "stepsize": steps}
        solver = _optimiser(config, prior, params, common)
    if trainable is not None:
        keep_positive(solver, trainable)
    elif follows_operator(config, prior, prior_sigma, data_fidelity, weight):
        options = {"sigma": measured, "level": prior_sigma, "weight": weight}
        return ExplicitSolver(
            config.name, prior, solver, **options, fidelity=data_fidelity, progress=progress
        )
    return solver


class StabilisedDenoising(torch.nn.Module):
    """Denoises what grows noisier with brightness, called as a solver is.

    Args:
        denoiser: a `GMDMDenoiser`.
        noise: of the measurements, with a curve.
    """

    def __init__(self, denoiser: GMDMDenoiser, noise: gm.Noise) -> None:
        super().__init__()
        self.denoiser, self.noise = denoiser, noise

    def forward(self, y: Tensor, physics: Any, **kwargs: Any) -> Tensor:
        """Restore measurements (B, C, H, W) of the physics `Denoising`.

        Raises:
            ValueError: for other physics.
        """
        if type(physics) is not deepinv.physics.Denoising:
            raise ValueError(
                f"noise that grows with brightness is stabilised for the physics Denoising; got "
                f"{type(physics).__name__}: give its data term, "
                "build_solver(…, sigma=term.level, data_fidelity=term)"
            )
        return self.denoiser(y, self.noise)


def takes_stabilised(config: SolverConfig, prior: Any) -> bool:
    """Whether a solver and a prior can denoise what a transform has made stationary."""
    patches = isinstance(prior, GMDMPrior) and not isinstance(prior.model, gm.WaveletModel)
    return patches and config.name == "hqs" and config.step in (None, "mean")


def _stabilised(
    config: SolverConfig, prior: Any, noise: gm.Noise, trainable: Sequence[str] | None
) -> StabilisedDenoising:
    if not takes_stabilised(config, prior) or trainable is not None:
        raise ValueError(
            "sigma is a Noise that grows with brightness, which solver.name=hqs with a GMDMPrior "
            "of patches takes, not unfolded; give a level and data_fidelity instead (data_term)"
        )
    return StabilisedDenoising(prior.posterior_mean(method="hqs"), noise)


def _optimiser(config: SolverConfig, prior: Any, params: dict[str, Any], common: dict) -> Any:
    """The class of that name in deepinv, with what each needs besides."""
    steps = params["stepsize"]
    count = len(steps) if isinstance(steps, list) else config.max_iter or 100
    options = dict(common)
    if config.name == "fista":
        # deepinv's momentum (k + a - 1) / (k + a) is k / (k + 4) for this a, Chambolle and
        # Dossal's with their a = 3; with a constant it tends to one too fast to converge
        params["a"] = [(k + 4) / 4 - k for k in range(count)]
    elif config.name == "pdcp":
        params["stepsize_dual"] = 1 / steps
        options["custom_init"] = _primal_dual_start
    elif config.anderson:  # deepinv's eps of 0.1 outweighs the residuals of images in [0, 1]
        options["anderson_acceleration"] = deepinv.optim.AndersonAccelerationConfig(
            history_size=5, beta=1.0, eps=1e-8
        )
    elif config.backtracking:  # deepinv's eta of 0.9 gives up at an eighth of the first step
        options["backtracking"] = deepinv.optim.BacktrackingConfig(eta=0.5)
    if not config.backtracking:
        options["cost_fn"] = CostWhenRead
    optimiser = getattr(deepinv.optim, config.name.upper())
    return optimiser(prior=prior, params_algo=params, max_iter=count, **options)


class CostWhenRead:
    """The cost f + lambda g of an iterate, (B,), evaluated where an element of it is read.

    deepinv wants it after every step, and reads it for metrics only; of a mixture it takes as long
    as eight gradients.

    Args:
        *given: of `deepinv.optim.utils.objective_function`.
    """

    def __init__(self, *given: Any) -> None:
        self.given = given

    @cached_property
    def values(self) -> Tensor:
        """The cost of each image."""
        return objective_function(*self.given)

    def __getitem__(self, place: int) -> Tensor:
        """The cost of one image."""
        return self.values[place]


def first_iterate(name: str, start: Tensor) -> tuple[Tensor, ...]:
    """All variables of a solver that begins at an image, to be given as its `init`."""
    if name == "pdcp":  # deepinv's own dual has the measurement's shape
        return start, start, torch.zeros_like(start)
    return start, start


def _primal_dual_start(y: Any, physics: Any) -> dict[str, Any]:
    """Start from A^T y, without a dual."""
    return {"est": first_iterate("pdcp", physics.A_adjoint(y))}


def _unfolding(config: SolverConfig, trainable: Sequence[str] | None) -> dict[str, Any]:
    """The keywords of deepinv for an unfolded solver."""
    if trainable is None:
        return {}
    for name in trainable:
        if name not in PARAMETERS:
            raise ValueError(unknown("trainable parameter", name, PARAMETERS))
    if config.backtracking:
        raise ValueError("an unfolded solver has fixed steps; leave solver.backtracking out")
    return {"unfold": True, "trainable_params": list(trainable), "early_stop": False}


def _all_steps(level: Any) -> Any:
    """Levels of each image, or a map, in a list: else deepinv reads a schedule over its steps."""
    one = isinstance(level, (str, int, float)) or level is None or np.ndim(level) == 0
    return level if one else [level]


def _derives(config: SolverConfig, prior: Any, named: str, trainable: Sequence[str] | None) -> bool:
    """Whether the steps follow from the operator that the solver is called with."""
    whole = None not in (config.start, config.stop, config.max_iter)
    if named != "hqs" or config.betas is not None or whole or trainable is not None:
        return False
    return _step(config, prior) == "mean"


def follows_operator(
    config: SolverConfig, prior: Any, level: Any, fidelity: Any, weight: float | None
) -> bool:
    """Whether an explicit solver is left to itself, with a prior whose gradient is enough."""
    untouched = config == SolverConfig(config.name, noise_sigma=config.noise_sigma)
    number = level is None or isinstance(level, (int, float))
    quadratic = fidelity is None or isinstance(
        fidelity, deepinv.optim.L2 | WeightedL2 | CorrelatedL2
    )
    explicit = config.name in NAMES and isinstance(prior, GMDMPrior)
    return explicit and untouched and number and quadratic and (weight is None or weight > 0)


def _derived(config: SolverConfig, prior: Any, **options: Any) -> HalfQuadratic:
    if options["weight"] is not None and not options["weight"] > 0:
        raise ValueError(NO_WEIGHT)
    low, high = prior.data_range if isinstance(prior, GMDMPrior) else (0.0, 1.0)
    denoiser = _plug_in(config, prior, MOVING_STRIDE).denoiser
    moves = isinstance(denoiser, GMDMDenoiser) and denoiser.method == "average"
    patch = denoiser.model.patch_size if moves else 1
    return HalfQuadratic(denoiser, config, width=high - low, shifting=moves, patch=patch, **options)


def _plug_in(config: SolverConfig, prior: Any, stride: int) -> deepinv.optim.PnP:
    """A prior as a denoiser."""
    if not isinstance(prior, GMDMPrior):
        return prior
    options: dict[str, Any] = {}
    if not isinstance(prior.model, gm.WaveletModel):
        stride = stride if config.stride is None else config.stride
        options = {"method": "average", "stride": min(stride, prior.model.patch_size)}
    return deepinv.optim.PnP(prior.posterior_mean(**options))


def _mean_steps(
    config: SolverConfig, prior: Any, noise: float, weight: float | None, level: Any, common: dict
) -> Any:
    """HQS with posterior-mean steps at falling levels."""
    if weight is None:
        weight = 0.25 if config.betas is None else 1.0
    if not weight > 0:
        raise ValueError(NO_WEIGHT)
    low, high = prior.data_range if isinstance(prior, GMDMPrior) else (0.0, 1.0)
    levels = levels_of(config, noise, config.stop if level is None else level, high - low)
    logger.info("HQS with posterior-mean steps at levels %.4f to %.4f", levels[0], levels[-1])
    params = {
        "lambda": 1.0,
        "g_param": levels,
        "stepsize": [s * s / weight for s in levels],
    }
    plug_in = _plug_in(config, prior, FIXED_STRIDE)
    return _optimiser(config, plug_in, params, {**common, "early_stop": False})


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
    if config.name in ("pgd", "fista"):
        return 1 / curvature
    bend = weight * _curvature(prior, level)
    if config.name == "gd":
        return 1 / (curvature + bend)
    return 1 / bend if bend > 0 else 25 / curvature  # drs, admm, pdcp: its step stays convex


def _curvature(prior: Any, level: Any) -> float:
    """Descent-lemma constant of a prior, 2 for regularisation by denoising, else 0 (not smooth)."""
    if callable(getattr(prior, "lipschitz", None)):
        return float(prior.lipschitz(level))
    return 2.0 if isinstance(prior, deepinv.optim.RED) else 0.0
