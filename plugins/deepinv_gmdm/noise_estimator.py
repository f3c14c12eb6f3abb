"""Noise levels of images in deepinv's form, by likelihood."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import gmdm_prior as gm

DEFAULT_WEIGHTS = "bsds-gray-likelihood"


class GMDMNoiseEstimator(nn.Module):
    """Gaussian noise level of images, one each or one per pixel, by maximum likelihood.

    Args:
        weights: name of bundled weights, path of a `.safetensors` file, or a model of `gmdm_prior`.
            The default was trained by likelihood alone, which reads levels best.
        per_pixel: estimate a map instead of one level for each image.
        window: for maps, the scale in pixels on which levels are smoothed; at least 8.
        device: where the weights live; None leaves them where they are.

    Raises:
        FileNotFoundError: for unknown weights.
        ValueError: for corrupt weights.
    """

    def __init__(
        self,
        weights: str | nn.Module = DEFAULT_WEIGHTS,
        per_pixel: bool = False,
        window: int = 12,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.model = weights if isinstance(weights, nn.Module) else gm.load(weights)
        self.per_pixel, self.window = per_pixel, window
        if device is not None:
            self.to(device)

    def forward(self, x: Tensor) -> Tensor:
        """Estimate noise levels.

        Args:
            x: noisy images (B, C, H, W), real, clean values in [0, 1].

        Returns:
            Standard deviations in the units of `x`: (B,), or with `per_pixel` (B, 1, H, W), which
            `GMDMDenoiser` takes as sigma.

        Raises:
            ValueError: where x does not fit the model, is not finite, or the window is too narrow.
        """
        if self.per_pixel:
            return gm.estimate_sigma_map(self.model, x, self.window)
        return gm.estimate_sigma(self.model, x)

    def with_error(self, x: Tensor) -> gm.NoiseLevel:
        """Levels (B,) with standard errors and intervals (`gmdm_prior.noise_level`)."""
        return gm.noise_level(self.model, x)
