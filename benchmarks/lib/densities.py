"""Densities that benchmarks/likelihood.py compares with, each a log-density in nats of float64.

All are fitted to training images of real numbers: 8-bit pixels with a uniform point of their bin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pywt
import safetensors.torch
import torch
from rivals import GRAY
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]
FAMILIES = ("haar", "db4")
BANDS = 3  # levels of the wavelet transform


def dequantised(images: Tensor, generator: torch.Generator, levels: int = 256) -> Tensor:
    """8-bit images as `gmdm_prior.densities.bits` sees them, in float64."""
    k = (images.double() * (levels - 1)).round()
    return (k + torch.rand(k.shape, generator=generator, dtype=torch.float64)) / levels


def gaussian(patches: Tensor) -> LogDensity:
    """The Gaussian with mean and covariance of patches (N, 1, b, b)."""
    x = patches.flatten(1)
    mean, centred = x.mean(0), x - x.mean(0)
    return _mixture(mean, (centred.T @ centred / len(x))[None], torch.ones(1, dtype=x.dtype))


def full_mixture(path: Path) -> LogDensity:
    """The mixture of `rivals.fit_mixture`: full covariances around `rivals.GRAY`."""
    stored = safetensors.torch.load_file(path)
    covariances = stored["covariances"].double()
    mean = torch.full((covariances.shape[-1],), GRAY, dtype=torch.float64)
    return _mixture(mean, covariances, stored["weights"].double())


def _mixture(mean: Tensor, covariances: Tensor, weights: Tensor) -> LogDensity:
    """The log-density log Σ_k p_k N(x; mean, Σ_k) of patches (N, 1, b, b)."""
    factors = torch.linalg.cholesky(covariances)
    halves = torch.diagonal(factors, dim1=1, dim2=2).log().sum(1)
    constants = weights.log() - halves - 0.5 * len(mean) * math.log(2 * math.pi)

    def log_density(x: Tensor) -> Tensor:
        centred = (x.flatten(1) - mean).T
        joint = []
        for factor, constant in zip(factors, constants, strict=True):
            white = torch.linalg.solve_triangular(factor, centred, upper=False)
            joint.append(constant - 0.5 * white.square().sum(0))
        return torch.logsumexp(torch.stack(joint), 0)

    return log_density


def divisible(image: Tensor) -> Tensor:
    """The top left part of images (…, H, W) whose sides the wavelet transform can halve."""
    height, width = (side - side % 2**BANDS for side in image.shape[-2:])
    return image[..., :height, :width]


def laplace_wavelet(images: Sequence[Tensor], family: str) -> LogDensity:
    """Independent Laplace coefficients of an orthonormal, periodic wavelet transform of images.

    Each sub-band has its own scale, by maximum likelihood: the mean |coefficient|, of the low-pass
    band around its median.

    Args:
        images: (1, H, W) each, `divisible`.
        family: a name PyWavelets knows.

    Returns:
        The log-density of images (B, 1, H, W).
    """
    pooled = [_bands(image[0].numpy(), family) for image in images]
    bands = [np.concatenate([b.ravel() for b in same]) for same in zip(*pooled, strict=True)]
    centres = [float(np.median(bands[0])), *(0.0 for _ in bands[1:])]
    scales = [float(np.abs(b - c).mean()) for b, c in zip(bands, centres, strict=True)]

    def log_density(x: Tensor) -> Tensor:
        total = []
        for image in x[:, 0].numpy():
            parts = zip(_bands(image, family), centres, scales, strict=True)
            total.append(
                sum(float((-np.abs(b - c) / s - np.log(2 * s)).sum()) for b, c, s in parts)
            )
        return torch.tensor(total, dtype=torch.float64)

    return log_density


def _bands(image: np.ndarray, family: str) -> list[np.ndarray]:
    """The low-pass band, then three for each level, coarse to fine."""
    low, *details = pywt.wavedec2(image, family, mode="periodization", level=BANDS)
    return [low, *(band for level in details for band in level)]
