"""The score of a GMDM for deepinv's diffusion SDEs, without the difference of two images.

An SDE of deepinv knows a prior by its denoiser D and computes the score by Tweedie's formula,

    s(x, sigma) = (D(x, sigma) - x) / sigma²,

with D in float32: the rounding of images near 1 is divided by sigma², an error of 0.04 % at
sigma = 1e-3, of 3 to 14 % at 1e-4 and of about the whole at 3e-5. A Gaussian-mixture diffusion
model has its score in closed form, and the one that belongs to the average of its patches'
posterior means is `GMDMPrior.score` (circular borders, every patch). `AnalyticScore` puts it in
the place of the formula:

    class Exploding(AnalyticScore, deepinv.sampling.VarianceExplodingDiffusion):
        pass

    sde = Exploding(prior=GMDMPrior("gray"), solver=deepinv.sampling.EulerSolver(...))

A state of the SDE is x = scale · u, and with `minus_one_one` u = 2 v - 1 for an image v in [0, 1],
whose noise level is sigma / 2; hence s_x(x) = s_u(u) / scale and s_u(u) = s_v(v, sigma / 2) / 2.
deepinv's Langevin samplers (ULA, SKRock) take `GMDMPrior` itself, whose gradient is analytic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import gmdm_prior as gm
from deepinv_gmdm.models import GMDMDenoiser
from deepinv_gmdm.optim import GMDMPrior

if TYPE_CHECKING:
    Host: Any = object  # deepinv's SDE, which stands after `AnalyticScore` among the bases
else:
    Host = object


class AnalyticScore(Host):
    """Mixin: put it before a `deepinv.sampling.EDMDiffusionSDE` (or one of its kinds) as a base.

    The denoiser of the SDE, which data terms such as `PiGDMDataFidelity` and the last step of
    `PosteriorDiffusion` still call, is the `GMDMDenoiser` to which the score belongs.

    Args:
        *args: those of the SDE.
        prior: a `GMDMPrior` with `boundary="circular"`; its noise level is the SDE's.
        **kwargs: those of the SDE, without `denoiser`.

    Raises:
        TypeError: prior is no `GMDMPrior`, or a denoiser is given besides.
        ValueError: its boundary is another, so that no denoiser has its score.
    """

    def __init__(self, *args: Any, prior: GMDMPrior, **kwargs: Any) -> None:
        if not isinstance(prior, GMDMPrior):
            raise TypeError(
                f"prior must be a GMDMPrior; got {type(prior).__name__}. Other priors have no "
                "analytic score: give deepinv's SDE their denoiser"
            )
        if "denoiser" in kwargs:
            raise TypeError("denoiser must be left out: it is the one that belongs to the prior")
        super().__init__(*args, denoiser=averaging_denoiser(prior), **kwargs)
        self.prior = prior

    def score(self, x: Tensor, t: Tensor | float, *args: Any, **kwargs: Any) -> Tensor:
        """Score of the SDE's states (B, C, H, W) at time t, in the SDE's dtype."""
        return self._score_from_model_output(x, None, self.sigma_t(t), self.scale_t(t))

    def _score_from_model_output(
        self, x: Tensor, model_output: Tensor | None, sigma: Tensor, scale: Tensor
    ) -> Tensor:
        """What `PosteriorDiffusion` calls with a data term's denoised image, which is not used."""
        u = x.to(self.dtype) / scale
        with torch.no_grad():
            if self.minus_one_one:
                return self.prior.score((u + 1) / 2, sigma / 2) / (2 * scale)
            return self.prior.score(u, sigma) / scale


def averaging_denoiser(prior: GMDMPrior) -> GMDMDenoiser:
    """The denoiser D of the prior's score s: D(x) = x + sigma² s(x, sigma).

    Raises:
        ValueError: the prior's boundary is not circular.
    """
    if isinstance(prior.model, gm.WaveletModel):
        return prior.posterior_mean()
    if prior.likelihood.boundary != "circular":
        raise ValueError(
            f"prior must have boundary='circular'; got {prior.likelihood.boundary!r}, whose score "
            "weighs pixels near the border less: no denoiser has it"
        )
    return prior.posterior_mean(method="average", boundary="circular")
