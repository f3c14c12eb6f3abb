"""Gaussian-mixture diffusion models as priors and denoisers for deepinv, and a plug-in registry.

The names below are imported at their first use, so that the command line answers `--help` without
waiting for torch and deepinv.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .analytic_score import AnalyticScore
    from .denoiser import GMDMDenoiser
    from .metric import GMDMLogLikelihood
    from .noise import HeteroscedasticNoise, WeightedL2
    from .noise_estimator import GMDMNoiseEstimator
    from .noise_map import WithNoiseMap
    from .physics import build_physics, physics_sigma
    from .poisson_gaussian import estimate_poisson_gaussian, poisson_gaussian_map
    from .prior import GMDMPrior
    from .registry import available, build_denoiser, build_noise_estimator, build_prior
    from .score import GMDMScore, GMDMScorePrior
    from .solver import build_solver
    from .solver_config import schedule

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
