"""The explicit prior g(x) = -log f(x, sigma) of whole images, as deepinv's solvers want it.

f is the composite density of an image: the density of every overlapping patch to the power 1/b² (b
the patch size), so that lambda = 1 beside a Gaussian data term at the true noise level is the
Bayesian weight. It is a composite likelihood, not a normalised density of images. Of a
`gmdm_prior.WaveletModel`, a density of whole images, f is that density itself, and both sides of an
image must be multiples of its `patch_size`. With the score s = grad log f:

    fn    g(x)                                     (B,)
    grad  -s(x, sigma)                             analytic: no automatic differentiation inside
    prox  argmin_z  gamma g(z) + ½ ‖z - x‖²        accelerated descent, step 1 / (1 + gamma L)

L is the constant of the descent lemma: g(z + d) <= g(z) + <grad g(z), d> + L/2 ‖d‖². The level
sigma smooths g: at 0 it is the density of clean images, sharp and far from convex; larger levels
are milder. `prox` is the true proximal map (the mode of a posterior); the posterior mean is
`deepinv.optim.PnP(GMDMDenoiser(...))`.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import deepinv
import torch
from torch import Tensor, nn

import gmdm_prior as gm
from deepinv_gmdm.models import GMDMDenoiser, GMDMScore
from deepinv_gmdm.noise_estimator import loaded
from gmdm_prior.images.data_range import Framed, in_colour, seen_by

logger = logging.getLogger(__name__)


class GMDMPrior(Framed, deepinv.optim.Prior):
    """Negative composite log-density of a GMDM, with gradient, proximal map and score.

    Args:
        weights: name of bundled weights, path of a `.safetensors` file, or a model of `gmdm_prior`.
        sigma: noise level of the density, in the image's units, where a call gives none; None is
            2 % of the data range.
        boundary: `"circular"` (default: every pixel has the same weight, so `grad` is a gradient
            everywhere) or, of patches, what else `gmdm_prior.PatchLikelihood` offers.
        channels: what the channels of an image are to a model of one: `"independent"` planes, or
            red, green and blue, which `"opponent"` takes for luminance and two differences, each at
            a scale of its own (`gmdm_prior.OpponentModel`). `"auto"` takes three channels for red,
            green and blue, and any other number for independent ones. `"strict"` refuses images of
            other channels than the model's.
        data_range: the values of black and white, (low, high); (0, 255) for 8 bits, say. Exact:
            noise levels scale, and the log-density by
            the volume.
        max_iter: most descent steps of one `prox`.
        tol: `prox` stops for an image once the root mean square over its pixels of the proximal
            objective's gradient is below this, in units of the data range; that also bounds the
            error where the objective is convex. 0 runs all `max_iter` steps without looking at
            values (for `torch.func` and CUDA graphs).
        device: where the weights live; None leaves them where they are.

    Raises:
        ValueError: for unknown or corrupt weights, or a bad channels, data_range,
            max_iter or tol.
    """

    def __init__(
        self,
        weights: str | nn.Module = "gray",
        sigma: Any = None,
        boundary: str = "circular",
        channels: str = "auto",
        data_range: tuple[float, float] = (0.0, 1.0),
        max_iter: int = 100,
        tol: float = 1e-5,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.explicit_prior = True
        if max_iter < 1:
            raise ValueError(f"max_iter must be at least 1; got {max_iter}")
        if not tol >= 0:
            raise ValueError(f"tol must not be negative; got {tol}")
        self.model, self.frame = seen_by(loaded(weights), channels, data_range)
        if isinstance(self.model, gm.WaveletModel):
            if boundary != "circular":
                raise ValueError(
                    f"boundary must be 'circular' for a WaveletModel, which is periodic; got "
                    f"{boundary!r}"
                )
            self.likelihood: Any = gm.WaveletLikelihood(self.model)
        else:
            self.likelihood = gm.PatchLikelihood(self.model, boundary=boundary)
        colour = in_colour(self.model, channels)
        self.colour = None if colour is None else gm.PatchLikelihood(colour, boundary=boundary)
        self.sigma = 0.02 * self.frame.width if sigma is None else sigma
        self.max_iter = max_iter
        self.tol = tol
        if device is not None:
            self.to(device)

    def fn(self, x: Tensor, sigma_denoiser: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        """The prior's value, in nats.

        Args:
            x: images (B, C, H, W).
            sigma_denoiser: noise level (deepinv's `g_param`): None for the constructor's, a number,
                tensor or list of one or B levels.
            *args: what deepinv passes besides; not used.
            **kwargs: likewise.

        Returns:
            (B,), in the dtype and on the device of `x`.
        """
        planes, level = self.frame.enter(x, self._level(sigma_denoiser))
        likelihood = self._likelihood_for(x)
        log_prob = likelihood.log_prob(planes, level)
        stretched = likelihood.dimensions(planes) * math.log(self.frame.width)
        return (stretched - log_prob).to(x.dtype)

    def grad(self, x: Tensor, sigma_denoiser: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        """Gradient of `fn` with respect to `x`, analytic; arguments as of `score`."""
        return -self.score(x, sigma_denoiser, **kwargs)

    def score(
        self,
        x: Tensor,
        sigma_denoiser: Any = None,
        *args: Any,
        part: tuple[int, int, int] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Gradient of the composite log-density (for deepinv's samplers); shaped like `x`.

        Args:
            x: images (B, C, H, W).
            sigma_denoiser: noise level, as in `fn`.
            *args: what deepinv passes besides; not used.
            part: some of the patches, as of `gmdm_prior.PatchLikelihood.score`.
            **kwargs: not used.
        """
        planes, level = self.frame.enter(x, self._level(sigma_denoiser))
        chosen = {} if part is None else {"part": part}
        return self.frame.gradient(self._likelihood_for(x).score(planes, level, **chosen), x)

    def lipschitz(self, sigma: Any = None) -> float:
        """Descent-lemma constant L of `fn` at a noise level: steps up to 1/L never raise it.

        It holds for images of any channels.
        """
        both = (self.likelihood, self.colour)
        return max(self._lipschitz(each, sigma) for each in both if each is not None)

    def _lipschitz(self, likelihood: Any, sigma: Any) -> float:
        width = self.frame.width
        return likelihood.lipschitz(_lowest(self._level(sigma)) / width) / width**2

    def posterior_mean(self, **options: Any) -> GMDMDenoiser:
        """The denoiser of the prior's density, which sees range and channels as the prior does.

        Args:
            **options: of `GMDMDenoiser`: method, stride, boundary.
        """
        return GMDMDenoiser(
            self.model, data_range=self.data_range, channels=self.frame.channels, **options
        )

    def prox(
        self, x: Tensor, sigma_denoiser: Any = None, *args: Any, gamma: Any = 1.0, **kwargs: Any
    ) -> Tensor:
        """Proximal map argmin_z gamma fn(z) + ½ ‖z - x‖², by accelerated descent with restarts.

        Each image of a batch has its own momentum and stops on its own, so that a batch equals a
        loop.

        Args:
            x: images (B, C, H, W).
            sigma_denoiser: noise level, as in `fn`.
            *args: what deepinv passes besides; not used.
            gamma: step size, a number or a tensor of one or B values; not negative.
            **kwargs: `max_iter_inter` and `tol_inter` (deepinv's names) replace the constructor's
                `max_iter` and `tol`.

        Raises:
            TypeError: `x` is no tensor of real floating-point numbers.
            ValueError: gamma is negative, not finite or of another shape, or as in `fn`.

        Returns:
            Shaped like `x`. The minimiser where gamma fn + ½ ‖·‖² is convex, a critical point below
            `x`'s value elsewhere; the last iterate, and a logged note, where `max_iter` did not
            suffice.
        """
        steps = int(kwargs.get("max_iter_inter", self.max_iter))
        tol = float(kwargs.get("tol_inter", self.tol)) * self.frame.width
        if not isinstance(x, Tensor) or not x.is_floating_point():
            self.grad(x, sigma_denoiser)  # refuses it, with the remedy
        start = x if x.dtype == torch.float64 else x.float()  # half types accumulate in float32
        gamma = _per_image(gamma, start)
        step = 1 / (1 + gamma * self._lipschitz(self._likelihood_for(start), sigma_denoiser))
        root = step.sqrt()  # the objective's condition number is at most 1 + gamma L
        momentum = (1 - root) / (1 + root)
        z, ahead = start, start
        done = torch.zeros((x.shape[0], 1, 1, 1), dtype=torch.bool, device=x.device)
        for _ in range(steps):
            slope = gamma * self.grad(ahead, sigma_denoiser) + (ahead - start)
            new = ahead - step * slope
            uphill = (slope * (new - z)).sum((1, 2, 3), keepdim=True) > 0
            moved = torch.where(uphill, new, new + momentum * (new - z))
            z, ahead = torch.where(done, z, new), torch.where(done, ahead, moved)
            if tol > 0:
                done = done | (slope.square().mean((1, 2, 3), keepdim=True) <= tol * tol)
                if bool(done.all()):
                    return z.to(x.dtype)
        if tol > 0:
            logger.info("prox stopped after %d steps above its tolerance %g", steps, tol)
        return z.to(x.dtype)

    def _likelihood_for(self, x: Tensor) -> Any:
        """The density of images with the channels of x, or what refuses them."""
        colour = isinstance(x, Tensor) and x.ndim == 4 and x.shape[1] == 3
        return self.colour if colour and self.colour is not None else self.likelihood

    def _level(self, sigma: Any) -> Any:
        """Give the level for the core; deepinv hands over a (1, 1, H, W) map as (1, H, W)."""
        level = self.sigma if sigma is None else sigma
        if isinstance(level, Tensor) and level.ndim == 3:
            level = level[None]
        elif isinstance(level, Tensor) and level.ndim == 4 and level.shape[1:] == (1, 1, 1):
            level = level.flatten()
        elif isinstance(level, (list, tuple)) and len(level) == 1:
            return self._level(level[0])
        elif isinstance(level, (list, tuple)) and all(isinstance(v, (int, float)) for v in level):
            level = torch.tensor(level, dtype=torch.float64, device="cpu")
        if isinstance(level, Tensor) and level.numel() == 1:
            level = level.flatten()[0]
        return level


def _lowest(level: Any) -> float:
    """The smallest of one or more noise levels, for the largest curvature."""
    try:
        if isinstance(level, str):
            raise TypeError
        values = level
        if not isinstance(level, Tensor):
            values = torch.as_tensor(level, dtype=torch.float64, device="cpu")
        values = values.detach()
        lowest = float(values.min()) if values.is_floating_point() else float(values.real.min())
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"sigma must be numeric, with values; got {level!r}") from None
    if not 0 <= lowest < math.inf:
        raise ValueError(f"sigma must be finite and not negative; got {lowest}")
    return lowest


def _per_image(gamma: Any, x: Tensor) -> Tensor:
    """A step size as (1 or B, 1, 1, 1), in the dtype and on the device of `x`."""
    if not isinstance(gamma, Tensor) and not 0 <= float(gamma) < math.inf:
        raise ValueError(f"gamma must be finite and not negative; got {gamma}")
    value = torch.as_tensor(gamma, dtype=x.dtype, device=x.device).flatten()
    if value.numel() not in (1, x.shape[0]):
        raise ValueError(
            f"gamma must be a number or one value per image ({x.shape[0]}); got {value.numel()}"
        )
    return value.reshape(-1, 1, 1, 1)


class GMDMScorePrior(deepinv.optim.ScorePrior):
    """deepinv's `ScorePrior` with the score in closed form.

    Args:
        weights: name of bundled weights, path of a `.safetensors` file, or a model of `gmdm_prior`.
        **options: of `GMDMScore`.

    Raises:
        ValueError: as `GMDMDenoiser` does.
    """

    def __init__(self, weights: str | nn.Module = "gray", **options: Any) -> None:
        super().__init__(denoiser=GMDMScore(weights, **options).denoiser)

    def score(self, x: Tensor, sigma_denoiser: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The score at images (B, C, H, W) and a noise level."""
        return self.denoiser.score(x, sigma_denoiser)

    def grad(self, x: Tensor, sigma_denoiser: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the score."""
        return -self.score(x, sigma_denoiser)
