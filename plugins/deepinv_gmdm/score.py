"""The score itself, where deepinv would take it from a denoiser.

deepinv's samplers divide denoiser(x) - x by sigma². In float32, of a photograph, that is wrong by
0.04 % at sigma = 1e-3, by 10 % at 3e-4 and by 90 % at 1e-4 (tests/plugins/test_score.py), while the
score of a Gaussian-mixture diffusion model is known in closed form at every level.

    GMDMScore        the score as a `Denoiser`, for `deepinv.distributed.distribute`
    GMDMScorePrior   a `ScorePrior`, for ULA, SKRock and gradient descent
    AnalyticScore    for diffusion SDEs (`analytic_score`)

It is the score whose denoiser is the average of posterior means, `GMDMDenoiser(method="average")`,
or of a `WaveletModel` the exact one. With patches reflected at the border it can be tiled; it is
the gradient of a density with `boundary="circular"`.
"""

from __future__ import annotations

from typing import Any

import deepinv
from torch import Tensor, nn

import gmdm_prior as gm
from deepinv_gmdm.denoiser import GMDMDenoiser


class GMDMScore(deepinv.models.Denoiser):
    """The score as a map of images, where deepinv wants a denoiser.

    Minus it is the gradient of a prior, which `deepinv.distributed.distribute` does not take as a
    `Prior`; tiles with an overlap of at least `halo` give what the whole image gives.

    Args:
        weights: name of bundled weights, path of a `.safetensors` file, or a model of `gmdm_prior`.
        **options: of `GMDMDenoiser`: stride, boundary, channels, data_range, device.

    Raises:
        ValueError: as `GMDMDenoiser` does.
    """

    def __init__(self, weights: str | nn.Module = "bsds-gray", **options: Any) -> None:
        super().__init__()
        model = weights if isinstance(weights, nn.Module) else gm.load(weights)
        method = None if isinstance(model, gm.WaveletModel) else "average"
        self.denoiser = GMDMDenoiser(model, method=method, **options)

    @property
    def halo(self) -> int:
        """How many pixels around a tile influence its result."""
        return self.denoiser.halo

    def forward(self, x: Tensor, sigma: Any = None, **kwargs: Any) -> Tensor:
        """The score at noisy images (B, C, H, W); arguments as those of `GMDMDenoiser`."""
        return self.denoiser.score(x, sigma)


class GMDMScorePrior(deepinv.optim.ScorePrior):
    """deepinv's `ScorePrior` with the score in closed form.

    Args:
        weights: name of bundled weights, path of a `.safetensors` file, or a model of `gmdm_prior`.
        **options: of `GMDMScore`.

    Raises:
        ValueError: as `GMDMDenoiser` does.
    """

    def __init__(self, weights: str | nn.Module = "bsds-gray", **options: Any) -> None:
        super().__init__(denoiser=GMDMScore(weights, **options).denoiser)

    def score(self, x: Tensor, sigma_denoiser: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The score at images (B, C, H, W) and a noise level."""
        return self.denoiser.score(x, sigma_denoiser)

    def grad(self, x: Tensor, sigma_denoiser: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the score."""
        return -self.score(x, sigma_denoiser)
