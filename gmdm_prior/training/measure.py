"""What a run measures on images that it does not train on.

    PSNR             of a denoiser on crops of the held-out images, in dB
    log-likelihood   of held-out patches, in nats per zero-mean dimension
    score loss       Eq. 4 of the paper on held-out patches with sigma ~ U[sigma_min, sigma_max]

Places and noise are drawn once, so that the curves of a run show the model and not the draw. Where
the images themselves are noisy there is no clean one to compare with: PSNR is None, and the
log-likelihood is that of the noisy patches under the density at the noise level of the data.

`draw` is for densities of patches; `likelihood.wavelet` and `score.convolutional` draw for theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.images.averaging import PatchAveraging
from gmdm_prior.training.data.pool import (
    ImagePool,
    sample_noisy_patches,
    step_generator,
    without_mean,
)
from gmdm_prior.training.score.product_loss import denoising_score_matching
from gmdm_prior.training.settings import FitSettings

PSNR_SIGMA = 25 / 255
LEVELS = (8 / 255, 16 / 255, 32 / 255, 70 / 255)  # that the losses of image denoisers are means of
LIKELIHOOD_SIGMA = 5 / 255  # above the quantisation of 8 bits, below what denoisers are used at
CROPS, CROP_SIZE = 16, 48
PATCHES = 4096
STREAM = 7  # of `step_generator`

Denoiser = Callable[[Tensor, float], Tensor]  # of images (B, C, H, W) at a noise level


@dataclass(frozen=True)
class HeldOut:
    """Crops and patches with noise of their own, drawn once.

    Attributes:
        crops: (C, h, w) each; clean, unless the data are noisy.
        noise: of standard deviation 1, like the crops.
        patches: (N, C, b, b), zero-mean, as they are in the data.
        density: the figures of a model as a density, by name.
        sigma: standard deviation of the noise in the data: a number, or (N,), that of each patch.
        patch_noise: of standard deviation 1, zero-mean, like the patches.
        score_sigma: (N,), of the score loss.
        denoiser: makes what denoises crops of a model.
        border: pixels of a crop that are not scored.
    """

    crops: list[Tensor]
    noise: list[Tensor]
    patches: Tensor
    density: Callable[[HeldOut, DensityModel], dict[str, float]]
    sigma: float | Tensor = 0.0
    patch_noise: Tensor | None = None
    score_sigma: Tensor | None = None
    denoiser: Callable[[DensityModel], Denoiser] = PatchAveraging
    border: int = 0

    @property
    def clean(self) -> bool:
        """Whether the data are said to contain no noise."""
        return not isinstance(self.sigma, Tensor) and self.sigma == 0

    @torch.no_grad()
    def psnr(
        self,
        model: DensityModel,
        sigma: float = PSNR_SIGMA,
        denoiser: Callable[[DensityModel], Denoiser] | None = None,
    ) -> float | None:
        """PSNR in dB (peak 1, mean over crops) of a denoiser, by default `self.denoiser`."""
        if not self.clean:
            return None
        denoise, total = (denoiser or self.denoiser)(model), 0.0
        inner = slice(self.border, -self.border or None)
        for crop, noise in zip(self.crops, self.noise, strict=True):
            error = denoise((crop + sigma * noise)[None], sigma)[0].clamp(0, 1) - crop
            square = error[:, inner, inner].square().mean()
            total -= 10 * math.log10(max(float(square), 1e-12))
        return total / len(self.crops)

    def mean_psnr(
        self, model: DensityModel, denoiser: Callable[[DensityModel], Denoiser] | None = None
    ) -> float:
        """The mean of `psnr` over four levels: minus the loss of training an image denoiser."""
        return sum(self.psnr(model, level, denoiser) for level in LEVELS) / len(LEVELS)

    @torch.no_grad()
    def log_likelihood(self, model: DensityModel, added: float = 0.0) -> float:
        """Nats per zero-mean dimension of the patches; clean ones may have noise `added`."""
        noisy = self.patches + added * self.patch_noise if added else self.patches
        channels, size = model.event_shape[0], model.event_shape[-1]
        value = float(model.log_prob(noisy, added or self.sigma).double().mean())
        return value / (channels * (size**2 - 1))

    @torch.no_grad()
    def score_loss(self, model: DensityModel) -> float:
        """Eq. 4, per patch."""
        noisy = self.patches + self.score_sigma[:, None, None, None] * self.patch_noise
        return float(denoising_score_matching(model, self.patches, noisy, self.score_sigma))

    def figures(self, model: DensityModel) -> dict[str, float]:
        """Give what goes on the card of a model."""
        psnr = {n: self.psnr(model, n / 255) for n in (15, 25, 50)} if self.clean else {}
        return self.density(self, model) | {f"psnr_{n}": round(db, 2) for n, db in psnr.items()}


def draw(pool: ImagePool, settings: FitSettings, crop: int = CROP_SIZE) -> HeldOut:
    """Draw for a density of patches from held-out images, which must be as large as a patch."""
    g, size = step_generator(settings.seed, STREAM), settings.patch_size
    if pool.sigmas is not None:
        patches, sigma, _ = sample_noisy_patches(pool.images, pool.sigmas, PATCHES, size, "none", g)
        return HeldOut([], [], without_mean(patches), _of_patches, sigma)
    crops = [pool.crop(crop, "none", g) for _ in range(CROPS)]
    patches = without_mean(pool.patches(PATCHES, size, "none", g))
    spread = settings.sigma_max - settings.sigma_min
    return HeldOut(
        crops=crops,
        noise=[torch.randn(crop.shape, generator=g) for crop in crops],
        patches=patches,
        density=_of_patches,
        sigma=cast(float, settings.noise),
        patch_noise=without_mean(torch.randn(patches.shape, generator=g)),
        score_sigma=settings.sigma_min + spread * torch.rand(PATCHES, generator=g),
    )


def _of_patches(held_out: HeldOut, model: DensityModel) -> dict[str, float]:
    """The log-likelihood at the data's noise level, or of clean data at 5/255."""
    added = LIKELIHOOD_SIGMA if held_out.clean else 0.0
    level = torch.as_tensor(added or held_out.sigma, dtype=torch.float64).square().mean().sqrt()
    return {
        "log_likelihood_per_dimension": round(held_out.log_likelihood(model, added), 4),
        "log_likelihood_sigma": round(float(level), 6),
    }


def own_denoiser(model: DensityModel) -> Denoiser:
    """The posterior mean of a density of whole images."""
    return model.denoise
