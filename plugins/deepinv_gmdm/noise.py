"""Noise whose level differs from pixel to pixel, and the data term that knows it.

    y = A x + sigma ⊙ n,  n ~ N(0, I):        -log p(y | x) = ½ Σ_i (A x - y)_i² / sigma_i²

deepinv's own `GaussianNoise` and `L2` have one level for each image.
"""

from __future__ import annotations

import math
from typing import Any

import deepinv
import torch
from deepinv.optim.linear import conjugate_gradient
from torch import Tensor


class HeteroscedasticNoise(deepinv.physics.NoiseModel):
    """Additive Gaussian noise with a map of standard deviations.

    Args:
        sigma: in the units of the measurements: a number, (B,) or a map (B or 1, C or 1, H, W).
        rng: source of randomness, as in every noise model of deepinv.

    Raises:
        ValueError: for a negative or non-finite level.
    """

    def __init__(self, sigma: Any = 0.1, rng: torch.Generator | None = None) -> None:
        super().__init__(noise_model=self.forward, rng=rng)  # what `*` of two noise models calls
        self.register_buffer("sigma", levels_of(sigma))

    def forward(
        self, x: Tensor, sigma: Any = None, seed: int | None = None, **kwargs: Any
    ) -> Tensor:
        """Measurements with noise.

        Args:
            x: (B, C, H, W).
            sigma: replaces the map from now on, as deepinv's noise models do.
            seed: of the generator.
            **kwargs: what deepinv passes besides; not used.

        Raises:
            ValueError: where the map does not fit `x`.
        """
        if sigma is not None:
            self.sigma = levels_of(sigma)
        self.to(x.device)
        return x + _fitted(self.sigma, x) * self.randn_like(x, seed=seed)


class _WeightedDistance(deepinv.optim.Distance):
    """½ Σ_i (u - y)_i² / sigma_i²."""

    def __init__(self, sigma: Tensor) -> None:
        super().__init__()
        self.register_buffer("sigma", sigma)

    def weights(self, y: Tensor) -> Tensor:
        """1 / sigma², shaped like `y`."""
        return _fitted(self.sigma.to(y.device), y).square().reciprocal().expand_as(y)

    def fn(self, x: Tensor, y: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Values (B,) of the data term."""
        return 0.5 * (self.weights(y) * (x - y).square()).flatten(1).sum(1)

    def grad(self, x: Tensor, y: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Gradient of the data term in x."""
        return self.weights(y) * (x - y)

    def prox(
        self, x: Tensor, y: Tensor, *args: Any, gamma: float | Tensor = 1.0, **kwargs: Any
    ) -> Tensor:
        """argmin_u gamma · distance(u, y) + ½ ‖u - x‖², in closed form."""
        share = gamma * self.weights(y)
        return (x + share * y) / (1 + share)


class WeightedL2(deepinv.optim.DataFidelity):
    """½ Σ_i (A x - y)_i² / sigma_i²: minus the log-likelihood of `HeteroscedasticNoise`.

    Args:
        sigma: as in `HeteroscedasticNoise`, but above 0 everywhere.
        max_iter: most conjugate-gradient steps of `prox`.
        tol: where they stop: the residual's norm relative to the right-hand side's.

    Raises:
        ValueError: for a level that is not positive and finite.
    """

    def __init__(self, sigma: Any, max_iter: int = 100, tol: float = 1e-6) -> None:
        super().__init__()
        level = levels_of(sigma)
        if not bool((level > 0).all()):
            raise ValueError(
                f"sigma must be above 0 at every pixel, or its weight is infinite; got "
                f"{float(level.min()):g}: raise it to a small level such as 1e-3"
            )
        self.d = _WeightedDistance(level)
        self.max_iter, self.tol = max_iter, tol

    @property
    def level(self) -> float:
        """The root mean square of the levels."""
        return float(self.d.sigma.square().mean().sqrt())

    @property
    def lowest(self) -> float:
        """The lowest level."""
        return float(self.d.sigma.min())

    def prox(
        self,
        x: Tensor,
        y: Tensor,
        physics: Any,
        *args: Any,
        gamma: float | Tensor = 1.0,
        **kwargs: Any,
    ) -> Tensor:
        """argmin_u gamma · fidelity(u) + ½ ‖u - x‖²; linear physics only.

        In closed form where the operator is the identity, else by conjugate gradients on
        (I + gamma Aᵀ W A) u = x + gamma Aᵀ W y.
        """
        return prox_of(self, x, y, physics, gamma)


def prox_of(term: Any, x: Tensor, y: Tensor, physics: Any, gamma: float | Tensor) -> Tensor:
    """The proximal map of a data term whose distance `d` is ½ (u - y)ᵀ W (u - y).

    In closed form where the operator is the identity, else by conjugate gradients on
    (I + gamma Aᵀ W A) u = x + gamma Aᵀ W y, as many as `term.max_iter`, down to `term.tol`.
    """
    if type(physics) is deepinv.physics.Denoising:
        return term.d.prox(x, y, gamma=gamma)
    zero = torch.zeros_like(y)
    right = x + gamma * physics.A_adjoint(term.d.grad(y, zero))

    def normal(u: Tensor) -> Tensor:
        return u + gamma * physics.A_adjoint(term.d.grad(physics.A(u), zero))

    return conjugate_gradient(normal, right, max_iter=term.max_iter, tol=term.tol, init=x)


def levels_of(sigma: Any) -> Tensor:
    """A level or levels as a tensor, checked."""
    level = torch.as_tensor(sigma, dtype=None if isinstance(sigma, Tensor) else torch.float32)
    if not bool(((level >= 0) & (level < math.inf)).all()):
        raise ValueError("sigma must be finite and not negative at every pixel")
    return level.detach().clone()


def _fitted(sigma: Tensor, x: Tensor) -> Tensor:
    """The levels, shaped so that they broadcast to measurements (B, …)."""
    level = sigma.to(x.dtype)
    if level.ndim == 1 and len(level) in (1, len(x)):
        level = level.reshape(-1, *[1] * (x.ndim - 1))
    try:
        fits = torch.broadcast_shapes(level.shape, x.shape) == x.shape
    except RuntimeError:
        fits = False
    if not fits or (level.ndim not in (0, x.ndim)):
        raise ValueError(
            f"sigma must be a number, ({len(x)},) or a map that fits measurements "
            f"{tuple(x.shape)}; got shape {tuple(sigma.shape)}"
        )
    return level
