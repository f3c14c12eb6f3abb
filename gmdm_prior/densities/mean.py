"""The mean grey level of a patch, in which densities of zero-mean patches are flat or Gaussian."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class MeanPart:
    """The mean of each channel of a patch, which zero-mean filters do not see.

    It is flat (a constant density, so that the mean is kept and its posterior variance is sigma²),
    or with a `variance` a Gaussian N(1/2, variance) of the channel's mean grey level. In
    orthonormal coordinates d = (sum of the pixels) / b the level is d / b. Noise variances are (),
    (N, 1), or (N, a) of every pixel, of which the mean is taken.
    """

    def __init__(self, channels: int, pixels: int, variance: float | None = None) -> None:
        self.channels, self.pixels = channels, pixels
        self.variance = variance
        self.centre = 0.5 * math.sqrt(pixels)

    @property
    def flat(self) -> MeanPart:
        """Give the same without a density of the mean."""
        return MeanPart(self.channels, self.pixels)

    def _coordinates(self, y: Tensor) -> Tensor:
        return y.unflatten(-1, (self.channels, self.pixels)).sum(-1) / math.sqrt(self.pixels)

    def _pixels(self, d: Tensor) -> Tensor:
        return (d / math.sqrt(self.pixels)).repeat_interleave(self.pixels, -1)

    def log_prob(self, y: Tensor, noise: Tensor) -> Tensor | float:
        """(N,) log-density of the means of patches (N, a)."""
        if self.variance is None:
            return 0.0
        total = self.variance * self.pixels + _of_mean(noise)
        square = (self._coordinates(y) - self.centre).square()
        return -0.5 * (square / total + (2 * math.pi * total).log()).sum(-1)

    def score(self, y: Tensor, noise: Tensor) -> Tensor:
        """(N, a) gradient of `log_prob`."""
        if self.variance is None:
            return torch.zeros_like(y)
        total = self.variance * self.pixels + _of_mean(noise)
        return self._pixels((self.centre - self._coordinates(y)) / total)

    def posterior_mean(self, y: Tensor, noise: Tensor) -> Tensor:
        """(N, a) posterior mean of the patch's mean part."""
        d = self._coordinates(y)
        if self.variance is not None:
            prior = self.variance * self.pixels
            gain = prior / (prior + _of_mean(noise))
            d = self.centre + gain * (d - self.centre)
        return self._pixels(d)

    def posterior_variance(self, noise: Tensor) -> Tensor:
        """() or (N, 1): the variance it adds to every pixel."""
        noise = _of_mean(noise)
        if self.variance is None:
            return noise / self.pixels
        prior = self.variance * self.pixels
        return prior * noise / (prior + noise) / self.pixels

    def posterior_covariance(self, noise: Tensor) -> Tensor:
        """(1 or N, a, a): the same for all pairs of pixels of a channel."""
        pairs = torch.block_diag(*[noise.new_ones(self.pixels, self.pixels)] * self.channels)
        return self.posterior_variance(noise).reshape(-1, 1, 1) * pairs

    def sample(self, count: int, noise: Tensor, generator: torch.Generator | None) -> Tensor:
        """(count, a) samples; zero where the mean is flat."""
        shape = (count, self.channels)
        if self.variance is None:
            return self._pixels(noise.new_zeros(shape))
        normal = torch.randn(shape, generator=generator, dtype=noise.dtype, device=noise.device)
        return self._pixels(self.centre + (self.variance * self.pixels + noise).sqrt() * normal)


def _of_mean(noise: Tensor) -> Tensor:
    """() or (N, 1): the noise variance of a patch's mean, in orthonormal coordinates."""
    return noise.mean(1, keepdim=True) if noise.ndim and noise.shape[1] > 1 else noise
