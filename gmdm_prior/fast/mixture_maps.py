"""Posterior means of a mixture where the noise varies: patches of like level together.

Each patch is evaluated at one level, the mean variance over its pixels, rounded to the next of
levels `LEVEL_STEP` apart in log variance. Rounding moves the standard deviation by 1.3 % at most,
and an image by less than 1e-3. Where the noise varies inside a patch its mean is an approximation:
4e-3 of an image whose noise grows fourfold over a hundred pixels. Exactly, pixel by pixel, it would
take four times as long (benchmarks/speed.md).
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from gmdm_prior.densities.mixture.diffused import DiffusedMixture

LEVEL_STEP = 0.05  # of log noise variance, from one level of a map to the next
FAINTEST = 1e-10  # noise variance that counts as none


class MixtureOfMap:
    """A mixture at the mean level of each patch, for noise that varies from patch to patch.

    Args:
        level: the mixture, at any noise variance ().
    """

    def __init__(self, level: DiffusedMixture) -> None:
        self._level = level

    def posterior_mean(self, y: Tensor, noise: Tensor) -> Tensor:
        """(N, a) posterior mean of patches (N, a) with noise variances (N, a).

        Where the noise carries a gradient, means at the levels below and above are interpolated.
        """
        place = noise.mean(1).clamp(min=FAINTEST).log() / LEVEL_STEP
        if not (place.requires_grad and torch.is_grad_enabled()):
            return self._at(place.round().long(), y)
        below = place.detach().floor()
        means = (self._at(below.long() + i, y) for i in (0, 1))
        low, high = means
        return torch.lerp(low, high, (place - below)[:, None])

    def _at(self, place: Tensor, y: Tensor) -> Tensor:
        """Posterior means of patches at levels of the lattice, (N,) integers."""
        order = place.argsort(stable=True)
        found, sizes = place.unique(return_counts=True)  # rising
        parts = []
        for i, rows in zip(found.tolist(), y[order].split(sizes.tolist()), strict=True):
            level = dataclasses.replace(self._level, noise=y.new_tensor(math.exp(i * LEVEL_STEP)))
            parts.append(level.posterior_mean(rows))
        return torch.cat(parts)[order.argsort()]
