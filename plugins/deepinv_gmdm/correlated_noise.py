"""Stationary Gaussian noise whose neighbours are correlated, and the data term that knows it.

    y = A x + n,  n ~ N(0, S):        -log p(y | x) = ½ (A x - y)ᵀ S⁻¹ (A x - y)

S⁻¹ is diagonal in the Fourier domain if the noise goes on periodically, which the data term takes
for granted: of an image much larger than the widest lag that matters at the border only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import deepinv
import torch
from torch import Tensor

import gmdm_prior as gm
from deepinv_gmdm.noise import levels_of, prox_of
from gmdm_prior.densities.opponent import OPPONENT

LEAST_SHARE = 1e-3  # of the noise's variance: what its spectrum is at least in a data term
SIDE = 64  # least side of the grid on which the smallest level is looked for


class CorrelatedNoise(deepinv.physics.NoiseModel):
    """Additive stationary Gaussian noise whose neighbours are correlated.

    Args:
        noise: what it is like, a `gmdm_prior.Noise` without a curve; None with another of these.
        kernel: (k, l), a filter of white noise; (C, k, l) has one for each channel.
        autocovariance: of the noise, as a `Noise` takes it.
        sigma: level that the noise is scaled to, a number or (B,); None is its own, of a kernel the
            root of the sum of squares.
        rng: source of randomness, as in every noise model of deepinv.

    Raises:
        ValueError: for none or several of the first three, noise that grows with brightness, or a
            bad autocovariance.
    """

    def __init__(
        self,
        noise: gm.Noise | None = None,
        kernel: Any = None,
        autocovariance: Any = None,
        sigma: Any = None,
        rng: torch.Generator | None = None,
    ) -> None:
        super().__init__(noise_model=self.forward, rng=rng)  # what `*` of two noise models calls
        if sum(v is not None for v in (noise, kernel, autocovariance)) != 1:
            raise ValueError("CorrelatedNoise wants one of noise, kernel and autocovariance")
        if noise is None:
            lags = _lags_of(kernel) if autocovariance is None else autocovariance
            noise = gm.Noise(autocovariance=lags)
        if noise.curve is not None:
            raise ValueError(
                "noise grows with brightness, which is not stationary: "
                "deepinv.physics.PoissonGaussianNoise simulates it"
            )
        lags = noise.autocovariance
        if lags is None:  # white: lag 0 alone
            lags = noise.sigma.square()[:, None, None, None]
        self.opponent = noise.opponent
        self.autocovariance = lags.clone()  # float64: no buffer, which `.float()` would round
        if sigma is not None:
            self.scale_to(sigma)

    @property
    def noise(self) -> gm.Noise:
        """Says what the noise is like."""
        return gm.Noise(autocovariance=self.autocovariance, opponent=self.opponent)

    @property
    def sigma(self) -> Tensor:
        """The level of the noise, (1,) or (B,)."""
        m = self.autocovariance.shape[-1] // 2
        return self.autocovariance[..., m, m].mean(1).sqrt()

    def update_parameters(self, sigma: Any = None, **kwargs: Any) -> None:
        """Change the level, as physics do with the parameters that they are given."""
        if sigma is not None:
            self.scale_to(sigma)

    def scale_to(self, sigma: Any) -> None:
        """Give it another level, a number or (B,), above 0."""
        level = levels_of(sigma).to(self.autocovariance).reshape(-1)
        if not bool((level > 0).all()):
            raise ValueError(
                f"sigma of correlated noise must be above 0; got {float(level.min())}. "
                "deepinv.physics.ZeroNoise is none"
            )
        self.autocovariance = self.autocovariance * (level / self.sigma).square().reshape(
            -1, 1, 1, 1
        )

    def forward(
        self, x: Tensor, sigma: Any = None, seed: int | None = None, **kwargs: Any
    ) -> Tensor:
        """Measurements with noise.

        Args:
            x: (B, C, H, W).
            sigma: replaces the level from now on, as deepinv's noise models do.
            seed: of the generator.
            **kwargs: what deepinv passes besides; not used.

        Raises:
            ValueError: where the noise does not fit `x`.
        """
        if x.ndim != 4:
            raise ValueError(f"measurements must be (B, C, H, W); got {tuple(x.shape)}")
        self.update_parameters(sigma=sigma)
        self.to(x.device)
        self.autocovariance = self.autocovariance.to(x.device)
        self.rng_manual_seed(seed)
        n = self.noise.sample(x.shape, generator=self.rng)
        if self.opponent:
            n = torch.einsum("oc,bohw->bchw", _turn(n), n)
        return x + n.to(x.dtype)


class _CorrelatedDistance(deepinv.optim.Distance):
    """½ (u - y)ᵀ S⁻¹ (u - y), with S diagonal in the Fourier domain."""

    def __init__(self, noise: gm.Noise) -> None:
        super().__init__()
        lags = noise.autocovariance
        lags = noise.sigma.square()[:, None, None, None] if lags is None else lags
        self.opponent = noise.opponent
        self.autocovariance = lags.clone()  # float64: no buffer, which `.float()` would round

    def spectrum(self, height: int, width: int) -> Tensor:
        """The spectrum, (1 or B, C or 1, height, width), at least `LEAST_SHARE` of the variance."""
        noise = gm.Noise(autocovariance=self.autocovariance, opponent=self.opponent)
        power = noise.spectrum(height, width)
        return torch.maximum(power, LEAST_SHARE * power.mean((-2, -1), keepdim=True))

    def filtered(self, values: Tensor, gain: Callable[[Tensor], Tensor]) -> Tensor:
        """Measurements (B, C, H, W) times a gain at each frequency, a function of the spectrum."""
        height, width = values.shape[-2:]
        spectrum = self.spectrum(height, width)[..., : width // 2 + 1].to(values.device)
        factor = gain(spectrum).to(values)
        if self.opponent:
            values = torch.einsum("oc,bchw->bohw", _turn(values), values)
        values = torch.fft.irfft2(torch.fft.rfft2(values) * factor, s=(height, width))
        return torch.einsum("oc,bohw->bchw", _turn(values), values) if self.opponent else values

    def fn(self, x: Tensor, y: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Values (B,) of the data term."""
        return 0.5 * ((x - y) * self.grad(x, y)).flatten(1).sum(1)

    def grad(self, x: Tensor, y: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Gradient of the data term in x."""
        return self.filtered(x - y, torch.reciprocal)

    def prox(
        self, x: Tensor, y: Tensor, *args: Any, gamma: float | Tensor = 1.0, **kwargs: Any
    ) -> Tensor:
        """argmin_u gamma · distance(u, y) + ½ ‖u - x‖², in closed form."""
        return x + self.filtered(y - x, lambda power: gamma / (gamma + power))


class CorrelatedL2(deepinv.optim.DataFidelity):
    """½ (A x - y)ᵀ S⁻¹ (A x - y): minus the log-likelihood of `CorrelatedNoise`.

    Args:
        noise: what the noise of the measurements is like, a `gmdm_prior.Noise` without a curve, or
            a `CorrelatedNoise`.
        max_iter: most conjugate-gradient steps of `prox`.
        tol: where they stop: the residual's norm relative to the right-hand side's.

    Raises:
        ValueError: for noise that grows with brightness, or of level 0.
    """

    def __init__(
        self, noise: gm.Noise | CorrelatedNoise, max_iter: int = 100, tol: float = 1e-6
    ) -> None:
        super().__init__()
        noise = noise.noise if isinstance(noise, CorrelatedNoise) else noise
        if noise.curve is not None or not bool((noise.sigma > 0).all()):
            raise ValueError(
                "noise must be stationary and of a level above 0: leave its curve out, "
                "dataclasses.replace(noise, curve=None)"
            )
        self.d = _CorrelatedDistance(noise)
        self.max_iter, self.tol = max_iter, tol

    @property
    def level(self) -> float:
        """The root mean square of the levels."""
        m = self.d.autocovariance.shape[-1] // 2
        return float(self.d.autocovariance[..., m, m].mean().sqrt())

    @property
    def lowest(self) -> float:
        """The root of a bound from below on the spectrum, between half and all of its minimum."""
        side = max(SIDE, 4 * self.d.autocovariance.shape[-1])
        power = self.d.spectrum(side, side)
        floor = LEAST_SHARE * power.mean((-2, -1))
        return float(torch.maximum(power.amin((-2, -1)) / 2, floor).min().sqrt())

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

        In closed form where the operator is the identity, else by conjugate gradients.
        """
        return prox_of(self, x, y, physics, gamma)


def _lags_of(kernel: Any) -> Tensor:
    """The autocovariance (C, 2m+1, 2m+1) of white noise of level 1, filtered."""
    taps = torch.as_tensor(kernel, dtype=torch.float64)
    if taps.ndim not in (2, 3) or not bool(torch.isfinite(taps).all()):
        raise ValueError(
            f"kernel must be (k, l) or (C, k, l), of finite numbers; got {tuple(taps.shape)}"
        )
    taps = taps if taps.ndim == 3 else taps[None]
    m = max(taps.shape[1:]) - 1
    power = torch.fft.fft2(taps, s=(2 * m + 1, 2 * m + 1)).abs().square()
    return torch.fft.fftshift(torch.fft.ifft2(power).real, dim=(-2, -1))


def _turn(like: Tensor) -> Tensor:
    return torch.tensor(OPPONENT, dtype=like.dtype, device=like.device)
