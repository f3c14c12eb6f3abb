"""What a run measures on held-out images whose noise has several levels.

There is no clean image to compare with, so the measure is the likelihood alone: of held-out patches
as they are, each under the density at its own noise level (that of `training.image_noise`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.training.convolutional_held_out import ConvolutionalHeldOut
from gmdm_prior.training.data.images import sample_noisy_patches
from gmdm_prior.training.data.pool import ImagePool, step_generator, without_mean
from gmdm_prior.training.measure import PATCHES, STREAM, HeldOut
from gmdm_prior.training.settings import FitSettings
from gmdm_prior.training.wavelet_held_out import WaveletHeldOut


@dataclass(frozen=True)
class NoisyHeldOut:
    """Patches (N, C, b, b), zero-mean but noisy, drawn once, and their noise levels (N,)."""

    patches: Tensor
    sigma: Tensor

    @classmethod
    def draw(cls, pool: ImagePool, settings: FitSettings) -> NoisyHeldOut:
        """Draw from the held-out images, which must be as large as a patch."""
        generator = step_generator(settings.seed, STREAM)
        patches, sigma, _ = sample_noisy_patches(
            pool.images, pool.sigmas, PATCHES, settings.patch_size, "none", generator
        )
        return cls(without_mean(patches), sigma)

    def psnr(self, model: DensityModel) -> None:
        """None: nothing clean is there."""

    @torch.no_grad()
    def log_likelihood(self, model: DensityModel) -> float:
        """Nats per zero-mean dimension."""
        channels, size = model.event_shape[0], model.event_shape[-1]
        value = float(model.log_prob(self.patches, self.sigma).double().mean())
        return value / (channels * (size**2 - 1))

    def figures(self, model: DensityModel) -> dict[str, float]:
        """What goes on the card of a model."""
        return {
            "log_likelihood_per_dimension": round(self.log_likelihood(model), 4),
            "log_likelihood_sigma": round(float(self.sigma.square().mean().sqrt()), 6),
        }


def draw_held_out(
    pool: ImagePool, settings: FitSettings
) -> HeldOut | NoisyHeldOut | WaveletHeldOut | ConvolutionalHeldOut:
    """What a run with these settings measures on."""
    if settings.model == "wavelet":
        return WaveletHeldOut.draw(pool, settings)
    if settings.model == "conv":
        return ConvolutionalHeldOut.draw(pool, settings)
    return (HeldOut if pool.sigmas is None else NoisyHeldOut).draw(pool, settings)
