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
        data_range: the values of black and white, (low, high); levels are in the images' units.

    Raises:
        FileNotFoundError: for unknown weights.
        ValueError: for corrupt weights, or a bad data_range.
    """

    def __init__(
        self,
        weights: str | nn.Module = DEFAULT_WEIGHTS,
        per_pixel: bool = False,
        window: int = 12,
        device: torch.device | str | None = None,
        data_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        self.model = weights if isinstance(weights, nn.Module) else gm.load(weights)
        self.frame = gm.ImageFrame(self.model, data_range=data_range)
        self.per_pixel, self.window = per_pixel, window
        if device is not None:
            self.to(device)

    def forward(self, x: Tensor) -> Tensor:
        """Estimate noise levels.

        Args:
            x: noisy images (B, C, H, W), real, clean values in `data_range`.

        Returns:
            Standard deviations in the units of `x`: (B,), or with `per_pixel` (B, 1, H, W), which
            `GMDMDenoiser` takes as sigma.

        Raises:
            ValueError: where x does not fit the model, is not finite, or the window is too narrow.
        """
        planes, _ = self.frame.enter(x, 0.0)
        if self.per_pixel:
            return self.frame.width * gm.estimate_sigma_map(self.model, planes, self.window)
        return self.frame.width * gm.estimate_sigma(self.model, planes)

    def with_error(self, x: Tensor) -> gm.NoiseLevel:
        """Levels (B,) with standard errors and intervals (`gmdm_prior.noise_level`)."""
        planes, _ = self.frame.enter(x, 0.0)
        found = gm.noise_level(self.model, planes)
        return gm.NoiseLevel(self.frame.width * found.sigma, self.frame.width * found.error)
