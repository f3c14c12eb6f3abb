"""Gaussian-mixture diffusion models as priors and denoisers for deepinv, and a plug-in registry.

The names below are imported at their first use, so that the command line answers `--help` without
waiting for torch and deepinv.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepinv_gmdm.analytic_score import AnalyticScore
    from deepinv_gmdm.denoiser import GMDMDenoiser
    from deepinv_gmdm.metric import GMDMLogLikelihood
    from deepinv_gmdm.noise import HeteroscedasticNoise, WeightedL2
    from deepinv_gmdm.noise_estimator import GMDMNoiseEstimator
    from deepinv_gmdm.noise_map import WithNoiseMap
    from deepinv_gmdm.physics import build_physics, physics_sigma
    from deepinv_gmdm.poisson_gaussian import estimate_poisson_gaussian, poisson_gaussian_map
    from deepinv_gmdm.prior import GMDMPrior
    from deepinv_gmdm.registry import available, build_denoiser, build_noise_estimator, build_prior
    from deepinv_gmdm.score import GMDMScore, GMDMScorePrior
    from deepinv_gmdm.solver import build_solver
    from deepinv_gmdm.solver_config import schedule

__all__ = [
    "AnalyticScore",
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
    "physics_sigma",
    "poisson_gaussian_map",
    "schedule",
]

_HOMES = {
    "analytic_score": ("AnalyticScore",),
    "denoiser": ("GMDMDenoiser",),
    "metric": ("GMDMLogLikelihood",),
    "noise": ("HeteroscedasticNoise", "WeightedL2"),
    "noise_estimator": ("GMDMNoiseEstimator",),
    "noise_map": ("WithNoiseMap",),
    "physics": ("build_physics", "physics_sigma"),
    "poisson_gaussian": ("estimate_poisson_gaussian", "poisson_gaussian_map"),
    "prior": ("GMDMPrior",),
    "registry": ("available", "build_denoiser", "build_noise_estimator", "build_prior"),
    "score": ("GMDMScore", "GMDMScorePrior"),
    "solver": ("build_solver",),
    "solver_config": ("schedule",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(f".{home}", __name__), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
