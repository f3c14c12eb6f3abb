"""What a run with model=conv measures: PSNR of `denoise` on crops of held-out images.

Crops wrap around where images do not, so a border is not scored. Places and noise are drawn once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gmdm_prior.densities.convolutional.model import ConvolutionalModel
from gmdm_prior.training.data.pool import ImagePool, step_generator
from gmdm_prior.training.settings import FitSettings

PSNR_SIGMA = 25 / 255
LEVELS = (8 / 255, 16 / 255, 32 / 255, 70 / 255)  # of the loss
CROPS, SIDE, BORDER = 12, 128, 8
PATCHES = 200  # for the report
STREAM = 7  # of `step_generator`


@dataclass(frozen=True)
class ConvolutionalHeldOut:
    """Crops (1, h, w) with noise of standard deviation 1, and clean `patches` (N, 1, N, N)."""

    crops: list[Tensor]
    noise: list[Tensor]
    patches: Tensor

    @classmethod
    def draw(cls, pool: ImagePool, settings: FitSettings) -> ConvolutionalHeldOut:
        """Draw from the held-out images, which must be as large as the grid."""
        g = step_generator(settings.seed, STREAM)
        crops = [pool.crop(SIDE, "none", g) for _ in range(CROPS)]
        noise = [torch.randn(crop.shape, generator=g) for crop in crops]
        return cls(crops, noise, pool.patches(PATCHES, settings.patch_size, "none", g))

    @torch.no_grad()
    def psnr(self, model: ConvolutionalModel, sigma: float = PSNR_SIGMA) -> float:
        """PSNR in dB (peak 1, mean over crops) inside the border."""
        total, inner = 0.0, slice(BORDER, -BORDER)
        for crop, noise in zip(self.crops, self.noise, strict=True):
            error = model.denoise(crop + sigma * noise, sigma).clamp(0, 1) - crop
            square = error[:, inner, inner].square().mean()
            total -= 10 * math.log10(max(float(square), 1e-12))
        return total / len(self.crops)

    def loss(self, model: ConvolutionalModel) -> float:
        """Minus the mean PSNR over four levels."""
        return -sum(self.psnr(model, level) for level in LEVELS) / len(LEVELS)

    def figures(self, model: ConvolutionalModel) -> dict[str, float]:
        """What goes on the card of a model."""
        return {f"psnr_{n}": round(self.psnr(model, n / 255), 2) for n in (15, 25, 50)}
