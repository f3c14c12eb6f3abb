"""Likelihood training of a `WaveletModel`: EM of the mixture of its trees (`likelihood.em`).

The trees of an image are the tiles of `wavelet.transform.to_tiles`, a rotation of the image, so the
likelihood of images is that of tiles, and noise of one level in the images is the same noise in the
tiles. Of each image, the largest part whose sides are multiples of 2^levels is taken, at a random
place, in a random element of the symmetries; up to 2^levels - 1 rows and columns are left out. The
low-pass band, N(1/2, variance), takes the mean square of the tiles' means around 1/2, less the
noise.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from gmdm_prior.densities.wavelet.model import WaveletModel
from gmdm_prior.densities.wavelet.transform import filter_bank, to_tiles
from gmdm_prior.training.data.pool import ImagePool, part_of, step_generator, without_mean
from gmdm_prior.training.likelihood.problem import EMProblem
from gmdm_prior.training.likelihood.trainer import LikelihoodTrainer, em_settings_for
from gmdm_prior.training.measure import STREAM, HeldOut, own_denoiser
from gmdm_prior.training.settings import FitSettings

LEAST_MEAN_VARIANCE = 1e-4
TILE_STREAM = 0  # of `step_generator`
IMAGES, SIDE, TILES = 16, 256, 8192  # held out: so many images at most, cut to this side; tiles


class WaveletTrainer:
    """EM step by step; the loss is minus the log-likelihood in nats per detail coefficient.

    Args:
        pool: training images of one channel.
        settings: `patch_size` is 2^levels, `wavelet` the name of the transform.
    """

    def __init__(self, pool: ImagePool, settings: FitSettings) -> None:
        self._pool, self._settings = pool, settings
        self._trees = LikelihoodTrainer(pool, settings, settings.steps, self._problem)
        self._mean_variance: float | None = None
        self.steps = self._trees.steps

    @property
    def step(self) -> int:
        """Completed steps."""
        return self._trees.step

    @property
    def stage(self) -> str:
        """`"full"` or `"tied"`."""
        return self._trees.stage

    def advance(self) -> float:
        """One EM iteration."""
        return self._trees.advance()

    def state(self) -> dict:
        """The state of EM."""
        return self._trees.state()

    def restore(self, state: dict) -> None:
        """Go on from a state; the tiles are drawn anew, the same ones."""
        self._trees.restore(state)

    def model(self) -> WaveletModel | None:
        """The present model; None in the full-covariance stage."""
        trees = self._trees.model()
        if trees is None:
            return None
        proper = trees.with_mean(self._mean_variance)
        return WaveletModel(cast(Any, proper), self._settings.wavelet).requires_grad_(False)

    def held_out_loss(self, held_out: HeldOut, model: WaveletModel) -> float:
        """Give the same loss on held-out tiles as they are."""
        return self._trees.held_out_loss(held_out, self._trees.model())

    def _problem(self, pool: ImagePool, settings: FitSettings) -> EMProblem:
        """Draw tiles, as many of each image as that goes, and say what to fit to them."""
        generator = step_generator(settings.seed, TILE_STREAM)
        side = settings.patch_size
        available = int((pool.shapes[:, 1:] // side).prod(1).sum())
        count = min(settings.patches, available)
        chosen = em_settings_for(settings, count, available)
        images = [
            largest_part(image, side, settings.symmetries, generator) for image in pool.images
        ]
        tiles = [tiles_of(image, settings) for image in images]
        share = count / available
        drawn = [
            t[torch.randperm(len(t), generator=generator)[: math.ceil(share * len(t))]]
            for t in tiles
        ]
        kept = torch.cat(drawn)
        square = (kept.mean((1, 2, 3)).double() - 0.5).square().mean().item()
        noise = cast(float, settings.noise) ** 2 / side**2
        self._mean_variance = max(square - noise, LEAST_MEAN_VARIANCE)
        return EMProblem.from_patches(kept, chosen)


def held_out_tiles(pool: ImagePool, settings: FitSettings) -> HeldOut:
    """Parts of the held-out images, which must hold a tile, and some of their tiles."""
    g = step_generator(settings.seed, STREAM)
    images, size = [], max(SIDE, settings.patch_size)
    for image in pool.images[:IMAGES]:
        images.append(largest_part(image, settings.patch_size, "none", g)[:, :size, :size])
    tiles = torch.cat([tiles_of(image, settings) for image in images])
    chosen = torch.randperm(len(tiles), generator=g)[:TILES]
    return HeldOut(
        crops=images,
        noise=[torch.randn(image.shape, generator=g) for image in images],
        patches=without_mean(tiles[chosen]),
        density=partial(_of_images, seed=settings.seed),
        sigma=cast(float, settings.noise),
        denoiser=own_denoiser,
    )


@torch.no_grad()
def _of_images(held_out: HeldOut, model: WaveletModel, seed: int) -> dict[str, float]:
    """Nats per pixel of noisy images, bits per pixel of clean ones."""
    images = held_out.crops
    if not held_out.clean:
        nats = [float(model.log_prob(x, held_out.sigma)) / x.numel() for x in images]
        return {"log_likelihood_per_pixel": round(sum(nats) / len(nats), 4)}
    g = step_generator(seed, STREAM, 1)  # of the uniform points of `bits_per_dim`
    bits = [float(model.bits_per_dim(x, generator=g)) for x in images]
    return {"bits_per_pixel": round(sum(bits) / len(bits), 4)}


def check_wavelet(settings: FitSettings) -> None:
    """Refuse what a `WaveletModel` cannot be trained with.

    Raises:
        ValueError: channels, sides or noise that it does not take, or an unknown wavelet.
    """
    if settings.channels != 1:
        raise ValueError(
            f"channels must be 1 with model=wavelet; got {settings.channels}. It takes channels "
            "one by one"
        )
    if settings.patch_size & (settings.patch_size - 1):
        raise ValueError(
            "patch_size must be 2^levels with model=wavelet (2, 4, 8, 16); got "
            f"{settings.patch_size}"
        )
    filter_bank(settings.wavelet)


def largest_part(image: Tensor, side: int, symmetries: str, generator: torch.Generator) -> Tensor:
    """The largest part (1, h, w) of an image with sides that `side` divides, turned at random."""
    extent = [n // side * side for n in image.shape[1:]]
    return part_of(image, extent, symmetries, generator)


def tiles_of(image: Tensor, settings: FitSettings) -> Tensor:
    """Tiles (N, 1, b, b) of an image (1, h, w)."""
    bank = filter_bank(settings.wavelet).to(image)
    return to_tiles(image, bank, settings.patch_size.bit_length() - 1).flatten(0, 2)
