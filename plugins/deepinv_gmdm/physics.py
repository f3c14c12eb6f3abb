"""Operators with their noise, y = noise(A x), and what a solver needs to know of the noise.

    gaussian          y = A x + sigma n
    poisson           y = gain · Poisson(A x / gain): photons counted
    poisson_gaussian  y = gain · Poisson(A x / gain) + sigma n: photons counted and read out
    correlated        y = A x + sigma k ∗ n / ‖k‖: Gaussian, white noise filtered by a kernel k

The level of Gaussian noise is read back from the operator itself (`physics_sigma`), so that a
solver needs no second number for it; `physics_noise` gives all of it as a `gmdm_prior.Noise`.
Counted photons have noise of the variance gain · (A x)_i at pixel i: `data_term` weighs the pixels
by it, or the frequencies by the spectrum of what is correlated.
"""

from __future__ import annotations

import math
from typing import Any

import deepinv
import torch
from torch import Tensor

import gmdm_prior as gm
from deepinv_gmdm.correlated_noise import CorrelatedL2, CorrelatedNoise
from deepinv_gmdm.noise import WeightedL2
from deepinv_gmdm.operator_config import NOISES, NoiseConfig, PhysicsConfig
from deepinv_gmdm.operators import OPERATORS, build_operator
from gmdm_prior.messages import unknown
from gmdm_prior.noise.poisson_gaussian import local_mean, poisson_gaussian_map
from gmdm_prior.sigma import parse

__all__ = [
    "COUNTED",
    "NoiseConfig",
    "PhysicsConfig",
    "build_physics",
    "data_term",
    "physics_noise",
    "physics_sigma",
]

COUNTED = (deepinv.physics.PoissonNoise, deepinv.physics.PoissonGaussianNoise)
KERNELS = {
    "binomial": [[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]],
    "row": [[1.0] * 7],
    "high": [[-1.0, -2.0, -1.0], [-2.0, 12.0, -2.0], [-1.0, -2.0, -1.0]],
}


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
    counted = config.noise.name.startswith("poisson")
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
    elif config.noise.name == "correlated" and sigma > 0:
        model = CorrelatedNoise(kernel=_kernel(config.noise.kernel), sigma=sigma, rng=rng)
    else:
        model = deepinv.physics.GaussianNoise(sigma=sigma, rng=rng)
    physics.noise_model = model
    return physics


def _kernel(kernel: Any) -> list[list[float]]:
    """The rows of a kernel, by name or as they are.

    Raises:
        ValueError: for an unknown name, or what are no rows of numbers.
    """
    if isinstance(kernel, str):
        if kernel not in KERNELS:
            raise ValueError(unknown("physics.noise.kernel", kernel, KERNELS))
        return KERNELS[kernel]
    try:
        rows = [[float(value) for value in row] for row in kernel]
    except (TypeError, ValueError):
        rows = []
    if not rows or not rows[0] or len({len(row) for row in rows}) > 1 or not any(map(any, rows)):
        raise ValueError(
            "physics.noise.kernel must be a name or rows of numbers, such as [[1, 2, 1]]; got "
            f"{kernel!r}"
        )
    return rows


def physics_sigma(physics: Any) -> float:
    """The standard deviation of an operator's own noise, correlated or not.

    Raises:
        ValueError: where the noise model has no single Gaussian level.
    """
    model = physics.noise_model
    if isinstance(model, deepinv.physics.ZeroNoise):
        return 0.0
    sigma = getattr(model, "sigma", None)
    gaussian = isinstance(model, (deepinv.physics.GaussianNoise, CorrelatedNoise))
    if not gaussian or sigma is None or sigma.numel() != 1:
        raise ValueError(
            f"the noise model {type(model).__name__} has no single Gaussian level; "
            "give sigma to the solver"
        )
    return float(sigma)


def physics_noise(physics: Any, brightest: float = 1.0) -> gm.Noise:
    """Give an operator's own noise, for `build_solver` and `GMDMDenoiser`.

    Args:
        physics: with its noise model.
        brightest: value of A x up to which the curve of counted photons is tabulated.

    Returns:
        White or correlated noise, or a curve sigma² = gain · (A x) + sigma² of counted photons,
        whose level is then that of half the brightest value.

    Raises:
        ValueError: as `physics_sigma`; several gains or levels count as none.
    """
    model = physics.noise_model
    if isinstance(model, CorrelatedNoise):
        return model.noise
    if not isinstance(model, COUNTED):
        return gm.Noise(physics_sigma(physics))
    gain, sigma = _counts(model)
    x = torch.linspace(0, brightest, 65, dtype=torch.float64)
    curve = gm.NoiseCurve(x, (gain * x + sigma**2).sqrt())
    return gm.Noise(float(curve.level[32]), curve=curve)


def _counts(model: Any) -> tuple[float, float]:
    """Gain and sigma of counted photons."""
    values = [model.gain, getattr(model, "sigma", torch.zeros(()))]
    if any(value.numel() != 1 for value in values):
        raise ValueError(
            f"the noise model {type(model).__name__} must have one gain and one sigma for all "
            "images; restore images of other noise one by one"
        )
    return float(values[0]), float(values[1])


def data_term(
    physics: Any, y: Tensor, pilot: Tensor | None = None
) -> WeightedL2 | CorrelatedL2 | None:
    """The Gaussian data term of noise that is not white with one level; None of such.

    Counted photons have the variance gain · (A x) + sigma² at a pixel, at least that of one photon;
    correlated noise has a covariance.

    Args:
        physics: with its noise model.
        y: measurements (B, C, H, W).
        pilot: an estimate of x; None takes local means of y for A x.
    """
    model = physics.noise_model
    if isinstance(model, CorrelatedNoise):
        return CorrelatedL2(model)
    if not isinstance(model, COUNTED):
        return None
    expected = local_mean(y) if pilot is None else physics.A(pilot)
    gain, sigma = _counts(model)
    return WeightedL2(poisson_gaussian_map(expected.clamp(min=gain), gain, sigma))
