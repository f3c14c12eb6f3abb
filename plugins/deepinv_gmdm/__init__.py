"""Gaussian-mixture diffusion models as priors and denoisers for deepinv, and a plug-in registry.

Files are named as deepinv names its parts:

    models      GMDMDenoiser, GMDMScore, WithNoiseMap
    noise_estimator  GMDMNoiseEstimator
    optim       GMDMPrior, GMDMScorePrior
    sampling    AnalyticScore
    metric      GMDMLogLikelihood
    physics     build_physics, physics_sigma, physics_noise: operators (operators) with their noise
    noise       HeteroscedasticNoise, WeightedL2; correlated_noise: CorrelatedNoise, CorrelatedL2
    solver      build_solver: deepinv's optimisers by name (solver_config, unfolding)
    restoration restore_measurement: all of it in one call; `measured`: your own files
    registry    build_prior, build_denoiser, build_noise_estimator, available: plug-ins by name
    command     `python -m deepinv_gmdm`

The names below are imported at their first use, so that the command line answers `--help` without
waiting for torch and deepinv.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gmdm_prior.at_first_use import at_first_use

if TYPE_CHECKING:
    from deepinv_gmdm.correlated_noise import CorrelatedL2, CorrelatedNoise
    from deepinv_gmdm.metric import GMDMLogLikelihood
    from deepinv_gmdm.models import GMDMDenoiser, GMDMScore, WithNoiseMap
    from deepinv_gmdm.noise import HeteroscedasticNoise, WeightedL2
    from deepinv_gmdm.noise_estimator import GMDMNoiseEstimator
    from deepinv_gmdm.optim import GMDMPrior, GMDMScorePrior
    from deepinv_gmdm.physics import build_physics, physics_noise, physics_sigma
    from deepinv_gmdm.registry import available, build_denoiser, build_noise_estimator, build_prior
    from deepinv_gmdm.restoration import restore_measurement
    from deepinv_gmdm.sampling import AnalyticScore
    from deepinv_gmdm.solver import build_solver
    from deepinv_gmdm.solver_config import schedule
    from gmdm_prior.noise.poisson_gaussian import estimate_poisson_gaussian, poisson_gaussian_map

__all__ = [
    "AnalyticScore",
    "CorrelatedL2",
    "CorrelatedNoise",
    "GMDMDenoiser",
    "GMDMLogLikelihood",
    "GMDMNoiseEstimator",
    "GMDMPrior",
    "GMDMScore",
    "GMDMScorePrior",
    "HeteroscedasticNoise",
    "WeightedL2",
    "WithNoiseMap",
    "available",
    "build_denoiser",
    "build_noise_estimator",
    "build_physics",
    "build_prior",
    "build_solver",
    "estimate_poisson_gaussian",
    "physics_noise",
    "physics_sigma",
    "poisson_gaussian_map",
    "restore_measurement",
    "schedule",
]

_HOMES = {
    "deepinv_gmdm.correlated_noise": ("CorrelatedL2", "CorrelatedNoise"),
    "deepinv_gmdm.metric": ("GMDMLogLikelihood",),
    "deepinv_gmdm.models": ("GMDMDenoiser", "GMDMScore", "WithNoiseMap"),
    "deepinv_gmdm.noise": ("HeteroscedasticNoise", "WeightedL2"),
    "deepinv_gmdm.noise_estimator": ("GMDMNoiseEstimator",),
    "deepinv_gmdm.optim": ("GMDMPrior", "GMDMScorePrior"),
    "deepinv_gmdm.physics": ("build_physics", "physics_noise", "physics_sigma"),
    "deepinv_gmdm.registry": (
        "available",
        "build_denoiser",
        "build_noise_estimator",
        "build_prior",
    ),
    "deepinv_gmdm.restoration": ("restore_measurement",),
    "deepinv_gmdm.sampling": ("AnalyticScore",),
    "deepinv_gmdm.solver": ("build_solver",),
    "deepinv_gmdm.solver_config": ("schedule",),
    "gmdm_prior.noise.poisson_gaussian": ("estimate_poisson_gaussian", "poisson_gaussian_map"),
}

__getattr__, __dir__ = at_first_use(globals(), _HOMES)
