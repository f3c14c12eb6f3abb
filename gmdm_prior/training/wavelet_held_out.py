"""What a run with model=wavelet measures on held-out images.

    PSNR             of the posterior mean of images, in dB
    log-likelihood   of their details, in nats per coefficient, and bits per pixel

Where the images themselves are noisy, the likelihood of the noisy ones alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gmdm_prior import symmetry
from gmdm_prior.densities.wavelet.model import WaveletModel
from gmdm_prior.densities.wavelet.transform import filter_bank, to_tiles
from gmdm_prior.training.data.pool import ImagePool, step_generator, without_mean
from gmdm_prior.training.settings import FitSettings

PSNR_SIGMA = 25 / 255
IMAGES, SIDE = 16, 256  # as many images at most, cut to this side
TILES = 8192
STREAM = 7  # of `step_generator`


@dataclass(frozen=True)
class WaveletHeldOut:
    """What a run measures on held-out images, drawn once.

    Attributes:
        images: (1, h, w) each, of sides that the model can take.
        noise: of standard deviation 1, like the images.
        patches: (N, 1, b, b), their tiles, zero-mean.
        data_noise: standard deviation of the noise in the data.
        seed: of the uniform points of `bits_per_dim`.
    """

    images: list[Tensor]
    noise: list[Tensor]
    patches: Tensor
    data_noise: float
    seed: int

    @classmethod
    def draw(cls, pool: ImagePool, settings: FitSettings) -> WaveletHeldOut:
        """Cut the held-out images, which must hold a tile."""
        g = step_generator(settings.seed, STREAM)
        images, size = [], max(SIDE, settings.patch_size)
        for image in pool.images[:IMAGES]:
            images.append(turned_cut(image, settings.patch_size, "none", g)[:, :size, :size])
        tiles = torch.cat([tiles_of(image, settings) for image in images])
        chosen = torch.randperm(len(tiles), generator=g)[:TILES]
        noise = [torch.randn(image.shape, generator=g) for image in images]
        return cls(images, noise, without_mean(tiles[chosen]), settings.noise, settings.seed)

    @torch.no_grad()
    def psnr(self, model: WaveletModel, sigma: float = PSNR_SIGMA) -> float | None:
        """PSNR in dB (peak 1, mean over images) of the posterior mean; None for noisy images."""
        if self.data_noise:
            return None
        total = 0.0
        for image, noise in zip(self.images, self.noise, strict=True):
            error = model.denoise(image + sigma * noise, sigma).clamp(0, 1) - image
            total -= 10 * math.log10(max(float(error.square().mean()), 1e-12))
        return total / len(self.images)

    @torch.no_grad()
    def figures(self, model: WaveletModel) -> dict[str, float]:
        """What goes on the card of a model."""
        if self.data_noise:
            nats = [float(model.log_prob(x, self.data_noise)) / x.numel() for x in self.images]
            return {"log_likelihood_per_pixel": round(sum(nats) / len(nats), 4)}
        g = step_generator(self.seed, STREAM, 1)
        bits = [float(model.bits_per_dim(x, generator=g)) for x in self.images]
        figures = {"bits_per_pixel": round(sum(bits) / len(bits), 4)}
        for level in (15, 25, 50):
            figures[f"psnr_{level}"] = round(self.psnr(model, level / 255), 2)
        return figures


def turned_cut(image: Tensor, side: int, symmetries: str, generator: torch.Generator) -> Tensor:
    """The largest part (1, h, w) of an image with sides that `side` divides, turned at random."""
    extent = [n // side * side for n in image.shape[1:]]
    top, left = (
        int(torch.randint(n - e + 1, (1,), generator=generator))
        for n, e in zip(image.shape[1:], extent, strict=True)
    )
    elements = symmetry.group(symmetries)
    chosen = int(torch.randint(len(elements), (1,), generator=generator))
    part = image[:, top : top + extent[0], left : left + extent[1]]
    return symmetry.act(part, elements[chosen]).contiguous()


def tiles_of(image: Tensor, settings: FitSettings) -> Tensor:
    """Tiles (N, 1, b, b) of an image (1, h, w)."""
    bank = filter_bank(settings.wavelet).to(image)
    return to_tiles(image, bank, settings.patch_size.bit_length() - 1).flatten(0, 2)
