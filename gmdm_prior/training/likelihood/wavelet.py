"""Likelihood training of a `WaveletModel`: EM of the mixture of its trees (`training.em`).

The trees of an image are the tiles of `wavelet_transform.to_tiles`, a rotation of the image, so the
likelihood of images is that of tiles, and noise of one level in the images is the same noise in the
tiles. Of each image, the largest part whose sides are multiples of 2^levels is taken, at a random
place, in a random element of the symmetries; up to 2^levels - 1 rows and columns are left out. The
low-pass band, N(1/2, variance), takes the mean square of the tiles' means around 1/2, less the
noise.
"""

from __future__ import annotations

import math

import torch

from gmdm_prior.densities.wavelet.model import WaveletModel
from gmdm_prior.training.data.pool import ImagePool, step_generator
from gmdm_prior.training.likelihood import em
from gmdm_prior.training.methods import LikelihoodTrainer, em_settings
from gmdm_prior.training.settings import FitSettings
from gmdm_prior.training.wavelet_held_out import WaveletHeldOut, tiles_of, turned_cut

LEAST_MEAN_VARIANCE = 1e-4
TILE_STREAM = 0  # of `step_generator`


class WaveletTrainer:
    """EM step by step; the loss is minus the log-likelihood in nats per detail coefficient.

    Args:
        pool: training images of one channel.
        settings: `patch_size` is 2^levels, `wavelet` the name of the transform.
    """

    def __init__(self, pool: ImagePool, settings: FitSettings) -> None:
        self._pool, self._settings = pool, settings
        self._trees = LikelihoodTrainer(pool, settings, self._problem)
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
        """That of EM."""
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
        return WaveletModel(proper, self._settings.wavelet).requires_grad_(False)

    def held_out_loss(self, held_out: WaveletHeldOut, model: WaveletModel) -> float:
        """The same on held-out tiles as they are."""
        return self._trees.held_out_loss(held_out, self._trees.model())

    def _problem(self, pool: ImagePool, settings: FitSettings) -> em.EMProblem:
        """Draw tiles, as many of each image as that goes, and say what to fit to them."""
        generator = step_generator(settings.seed, TILE_STREAM)
        side = settings.patch_size
        available = int((pool.shapes[:, 1:] // side).prod(1).sum())
        count = min(settings.patches, available)
        chosen = em_settings(settings, count, available)
        images = [turned_cut(image, side, settings.symmetries, generator) for image in pool.images]
        tiles = [tiles_of(image, settings) for image in images]
        share = count / available
        drawn = [
            t[torch.randperm(len(t), generator=generator)[: math.ceil(share * len(t))]]
            for t in tiles
        ]
        kept = torch.cat(drawn)
        square = (kept.mean((1, 2, 3)).double() - 0.5).square().mean().item()
        noise = settings.noise**2 / side**2
        self._mean_variance = max(square - noise, LEAST_MEAN_VARIANCE)
        return em.EMProblem.from_patches(kept, chosen)
