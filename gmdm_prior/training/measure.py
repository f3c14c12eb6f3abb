"""What a run measures on images that it does not train on.

    PSNR             of one step of `PatchAveraging` on crops of the held-out images, in dB
    log-likelihood   of held-out patches, in nats per zero-mean dimension
    score loss       Eq. 4 of the paper on held-out patches with sigma ~ U[sigma_min, sigma_max]

Places and noise are drawn once, so that the curves of a run show the model and not the draw. Where
the images themselves are noisy there is no clean one to compare with: PSNR is None, and the
log-likelihood is that of the noisy patches under the density at the noise level of the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.images.averaging import PatchAveraging
from gmdm_prior.training.data.pool import ImagePool, step_generator, without_mean
from gmdm_prior.training.score.product_loss import denoising_score_matching
from gmdm_prior.training.settings import FitSettings

PSNR_SIGMA = 25 / 255
LIKELIHOOD_SIGMA = 5 / 255  # above the quantisation of 8 bits, below what denoisers are used at
CROPS, CROP_SIZE = 16, 48
HQS_CROP_SIZE = 128  # its steps reach far, and at the border of a crop they see reflections
PATCHES = 4096
STREAM = 7  # of `step_generator`


@dataclass(frozen=True)
class HeldOut:
    """Crops and patches with their noise, drawn once.

    Attributes:
        crops: (C, h, w) each, clean.
        crop_noise: of standard deviation 1, like the crops.
        patches: (N, C, b, b), zero-mean.
        patch_noise: of standard deviation 1, zero-mean, like the patches.
        sigma: (N,), of the score loss.
        data_noise: standard deviation of the noise in the data.
    """

    crops: list[Tensor]
    crop_noise: list[Tensor]
    patches: Tensor
    patch_noise: Tensor
    sigma: Tensor
    data_noise: float

    @classmethod
    def draw(cls, pool: ImagePool, settings: FitSettings) -> HeldOut:
        """Draw from the held-out images, which must be as large as a patch."""
        g = step_generator(settings.seed, STREAM)
        size = HQS_CROP_SIZE if settings.method == "hqs" else CROP_SIZE
        crops = [pool.crop(size, "none", g) for _ in range(CROPS)]
        patches = without_mean(pool.patches(PATCHES, settings.patch_size, "none", g))
        spread = settings.sigma_max - settings.sigma_min
        return cls(
            crops=crops,
            crop_noise=[torch.randn(crop.shape, generator=g) for crop in crops],
            patches=patches,
            patch_noise=without_mean(torch.randn(patches.shape, generator=g)),
            sigma=settings.sigma_min + spread * torch.rand(PATCHES, generator=g),
            data_noise=settings.noise,
        )

    @torch.no_grad()
    def psnr(
        self, model: DensityModel, sigma: float = PSNR_SIGMA, kind: type = PatchAveraging
    ) -> float | None:
        """PSNR in dB (peak 1, mean over crops) of an image denoiser, by default one step."""
        if self.data_noise:
            return None
        denoiser, total = kind(model), 0.0
        for crop, noise in zip(self.crops, self.crop_noise, strict=True):
            error = denoiser((crop + sigma * noise)[None], sigma)[0].clamp(0, 1) - crop
            total -= 10 * math.log10(max(float(error.square().mean()), 1e-12))
        return total / len(self.crops)

    @torch.no_grad()
    def log_likelihood(self, model: DensityModel) -> float:
        """Nats per zero-mean dimension, at the data's noise level or 5/255 for clean data."""
        sigma = self.data_noise or LIKELIHOOD_SIGMA
        added = 0.0 if self.data_noise else sigma
        noisy = self.patches + added * self.patch_noise
        channels, size = model.event_shape[0], model.event_shape[-1]
        return float(model.log_prob(noisy, sigma).double().mean()) / (channels * (size**2 - 1))

    @torch.no_grad()
    def score_loss(self, model: DensityModel) -> float:
        """Eq. 4, per patch."""
        noisy = self.patches + self.sigma[:, None, None, None] * self.patch_noise
        return float(denoising_score_matching(model, self.patches, noisy, self.sigma))

    def figures(self, model: DensityModel) -> dict[str, float]:
        """What goes on the card of a model."""
        figures = {"log_likelihood_per_dimension": round(self.log_likelihood(model), 4)}
        figures["log_likelihood_sigma"] = round(self.data_noise or LIKELIHOOD_SIGMA, 6)
        if not self.data_noise:
            for level in (15, 25, 50):
                figures[f"psnr_{level}"] = round(self.psnr(model, level / 255), 2)
        return figures
