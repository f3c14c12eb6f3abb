"""Forward operators by name, each with its noise operator: y = A x + noise.

    denoise        A = identity
    gaussian_blur  circular convolution with a Gaussian of `width` pixels (standard deviation)
    motion_blur    circular convolution with a random trajectory's trace, `size` pixels wide
    inpainting     a random share `keep` of the pixels is seen

The level of the noise is read back from the operator itself (`physics_sigma`), so that a solver
needs no second number for it. Operators and noise have their own seeded generators: the same config
measures the same data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import deepinv
import torch
from deepinv.physics import functional as filters

from .registry import unknown


@dataclass
class NoiseConfig:
    """The noise operator: additive Gaussian noise of standard deviation `sigma`."""

    name: str = "gaussian"
    sigma: Any = 0.02


@dataclass
class PhysicsConfig:
    """A forward operator; what an operator does not use is ignored."""

    name: str = "denoise"
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    width: float = 1.6  # gaussian_blur: standard deviation in pixels
    size: int = 15  # motion_blur: side of the kernel in pixels
    length: float = 0.3  # motion_blur: length scale of the trajectory
    spread: float = 0.25  # motion_blur: how far it strays
    keep: float = 0.5  # inpainting: share of the pixels that are seen
    seed: int = 0


def parse_level(value: Any, name: str) -> float:
    """A noise level from a number or a text such as `25/255` or `26.6/255`.

    Raises:
        ValueError: for anything else, and where it is negative, NaN or infinite.
    """
    try:
        if isinstance(value, bool):
            raise ValueError
        numerator, slash, denominator = str(value).partition("/")
        level = float(numerator) / (float(denominator) if slash else 1)
    except (TypeError, ValueError, ZeroDivisionError):
        raise ValueError(
            f"{name} must be a number or a fraction such as 25/255; got {value!r}"
        ) from None
    if not 0 <= level < math.inf:
        raise ValueError(f"{name} must be finite and not negative; got {value}")
    return level


def build_physics(config: PhysicsConfig, shape: tuple[int, ...], device: Any = "cpu") -> Any:
    """A deepinv operator with its noise model.

    Args:
        config: what to build (or an OmegaConf node with the same keys).
        shape: of the image, (C, H, W).
        device: where to build it.

    Raises:
        ValueError: for an unknown operator or noise, or an option out of its range.
    """
    if config.name not in _OPERATORS:
        raise ValueError(unknown("physics", config.name, _OPERATORS))
    if config.noise.name != "gaussian":
        raise ValueError(unknown("noise", config.noise.name, ["gaussian"]))
    sigma = parse_level(config.noise.sigma, "physics.noise.sigma")
    physics = _OPERATORS[config.name](config, shape, device)
    rng = torch.Generator(device).manual_seed(config.seed)
    physics.noise_model = deepinv.physics.GaussianNoise(sigma=sigma, rng=rng)
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


def _denoise(config: PhysicsConfig, shape: tuple[int, ...], device: Any) -> Any:
    return deepinv.physics.Denoising(device=device)


def _gaussian_blur(config: PhysicsConfig, shape: tuple[int, ...], device: Any) -> Any:
    if not 0 < config.width < math.inf:
        raise ValueError(f"physics.width must be positive; got {config.width}")
    side = 2 * math.ceil(3 * config.width) + 1
    _fits(side, shape, "physics.width")
    kernel = filters.gaussian_blur(psf_size=(side, side), sigma=(config.width, config.width))
    return deepinv.physics.BlurFFT(img_size=shape, filter=kernel, device=device)


def _motion_blur(config: PhysicsConfig, shape: tuple[int, ...], device: Any) -> Any:
    if config.size < 3 or not (config.length > 0 and config.spread > 0):
        raise ValueError(
            "physics.size must be at least 3, physics.length and physics.spread positive; got "
            f"{config.size}, {config.length} and {config.spread}"
        )
    _fits(config.size, shape, "physics.size")
    generator = deepinv.physics.generator.MotionBlurGenerator(
        (config.size, config.size), l=config.length, sigma=config.spread, rng=torch.Generator()
    )
    kernel = generator.step(seed=config.seed)["filter"]
    return deepinv.physics.BlurFFT(img_size=shape, filter=kernel, device=device)


def _inpainting(config: PhysicsConfig, shape: tuple[int, ...], device: Any) -> Any:
    if not 0 < config.keep <= 1:
        raise ValueError(f"physics.keep must be above 0 and at most 1; got {config.keep}")
    generator = torch.Generator().manual_seed(config.seed)
    mask = (torch.rand((1, 1, *shape[1:]), generator=generator) < config.keep).float()
    return deepinv.physics.Inpainting(img_size=shape, mask=mask, device=device)


def _fits(side: int, shape: tuple[int, ...], option: str) -> None:
    if side > min(shape[-2:]):
        raise ValueError(
            f"{option} asks for a kernel of {side} x {side} pixels, larger than the image "
            f"({shape[-2]} x {shape[-1]})"
        )


_OPERATORS: dict[str, Callable[..., Any]] = {
    "denoise": _denoise,
    "gaussian_blur": _gaussian_blur,
    "motion_blur": _motion_blur,
    "inpainting": _inpainting,
}
