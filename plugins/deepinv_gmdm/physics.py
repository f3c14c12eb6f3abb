"""Operators with their noise, y = noise(A x), and what a solver needs to know of the noise.

    gaussian          y = A x + sigma n
    poisson           y = gain · Poisson(A x / gain): photons counted
    poisson_gaussian  y = gain · Poisson(A x / gain) + sigma n: photons counted and read out

The level of Gaussian noise is read back from the operator itself (`physics_sigma`), so that a
solver needs no second number for it. Counted photons have noise of the variance gain · (A x)_i at
pixel i: `data_term` weighs the pixels by it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import deepinv
import torch
from torch import Tensor

from deepinv_gmdm.noise import WeightedL2
from deepinv_gmdm.operator_config import OperatorConfig
from deepinv_gmdm.operators import OPERATORS, build_operator
from gmdm_prior.messages import unknown
from gmdm_prior.noise.poisson_gaussian import local_mean, poisson_gaussian_map
from gmdm_prior.sigma import parse

NOISES = ("gaussian", "poisson", "poisson_gaussian")


@dataclass
class NoiseConfig:
    """The noise: standard deviation `sigma` of Gaussian, `gain` (one photon's value) of counted."""

    name: str = "gaussian"
    sigma: Any = 0.02
    gain: float = 0.02


@dataclass
class PhysicsConfig(OperatorConfig):
    """A forward operator and its noise; what an operator does not use is ignored."""

    noise: NoiseConfig = field(default_factory=NoiseConfig)


def build_physics(config: PhysicsConfig, shape: tuple[int, ...], device: Any = "cpu") -> Any:
    """A deepinv operator with its noise model.

    Args:
        config: what to build (or an OmegaConf node with the same keys).
        shape: of the image, (C, H, W).
        device: where to build it.

    Raises:
        ValueError: for an unknown operator or noise, or an option out of its range.
    """
    if config.name not in OPERATORS:
        raise ValueError(unknown("physics", config.name, OPERATORS))
    if config.noise.name not in NOISES:
        raise ValueError(unknown("noise", config.noise.name, NOISES))
    sigma = parse(config.noise.sigma, "physics.noise.sigma")
    gain = config.noise.gain
    counted = config.noise.name != "gaussian"
    if counted and not 0 < gain < math.inf:
        raise ValueError(f"physics.noise.gain must be positive; got {gain}")
    if counted and config.name in ("mri", "compressed_sensing"):
        raise ValueError(
            f"physics.noise.name={config.noise.name} counts photons, which physics.name="
            f"{config.name} has none of: its values have both signs. Use gaussian"
        )
    physics = build_operator(config, shape, device)
    rng = torch.Generator(device).manual_seed(config.seed)
    if config.noise.name == "poisson":
        model = deepinv.physics.PoissonNoise(gain, clip_positive=True, rng=rng)
    elif config.noise.name == "poisson_gaussian":
        model = deepinv.physics.PoissonGaussianNoise(gain, sigma, clip_positive=True, rng=rng)
    else:
        model = deepinv.physics.GaussianNoise(sigma=sigma, rng=rng)
    physics.noise_model = model
    return physics


def physics_sigma(physics: Any) -> float:
    """The standard deviation of an operator's own noise.

    Raises:
        ValueError: where the noise model has no single Gaussian level.
    """
    model = physics.noise_model
    if isinstance(model, deepinv.physics.ZeroNoise):
        return 0.0
    sigma = getattr(model, "sigma", None)
    if not isinstance(model, deepinv.physics.GaussianNoise) or sigma is None or sigma.numel() != 1:
        raise ValueError(
            f"the noise model {type(model).__name__} has no single Gaussian level; "
            "give sigma to the solver"
        )
    return float(sigma)


def data_term(physics: Any, y: Tensor, pilot: Tensor | None = None) -> WeightedL2 | None:
    """The Gaussian data term of counted photons, each pixel at its own variance; None of others.

    The variance at a pixel is gain · (A x) + sigma², at least that of one photon.

    Args:
        physics: with its noise model.
        y: measurements (B, C, H, W).
        pilot: an estimate of x; None takes local means of y for A x.
    """
    model = physics.noise_model
    counted = (deepinv.physics.PoissonNoise, deepinv.physics.PoissonGaussianNoise)
    if not isinstance(model, counted):
        return None
    expected = local_mean(y) if pilot is None else physics.A(pilot)
    gain = float(model.gain)
    sigma = float(getattr(model, "sigma", torch.zeros(())))
    return WeightedL2(poisson_gaussian_map(expected.clamp(min=gain), gain, sigma))
