"""The rivals: denoisers as `denoise(noisy, sigma)`, and densities as log-densities of float64.

BM3D, EPLL, total variation and wavelets with the weights that recipes/rivals.py finds for them, the
Gaussian, EPLL's mixture and Laplace densities of wavelet coefficients. Densities are fitted to
training images of real numbers: 8-bit pixels with a uniform point of their bin.
"""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pywt
import safetensors.torch
import torch
from deepinv.models import TVDenoiser, WaveletDictDenoiser
from deepinv.optim import EPLL
from deepinv.optim.utils import GaussianMixtureModel
from deepinv.physics import Denoising, GaussianNoise
from torch import Tensor

from lib.words import need

Denoise = Callable[[Tensor, float], Tensor]
LogDensity = Callable[[Tensor], Tensor]

MIXTURE = Path("runs/table/epll-gmm.safetensors")
FIT_MIXTURE = "`python benchmarks/recipes/rivals.py denoising data=bsds500:ROOT"
COMPONENTS, SIZE, PATCHES = 200, 8, 200_000  # of EPLL's mixture, and what it is fitted to
BATCH = 250  # patches that EPLL takes at a time: its fastest
GRAY = 0.5  # what EPLL's mixture is centred on
LEVELS = (15, 25, 50, 100)  # of 255, that weights are tuned at
WEIGHTS = {
    "TV": (0.626, 0.701, 0.878, 0.983),
    "wavelets, soft": (1.07, 1.23, 1.43, 1.65),
    "wavelets, hard": (2.51, 2.51, 2.71, 3.15),
}
DAUBECHIES = [f"db{order}" for order in range(1, 9)]
FAMILIES = ("haar", "db4")  # of Laplace densities
BANDS = 3  # levels of their wavelet transform


def bm3d_denoiser(threads: int) -> Denoise:
    """BM3D of the bm3d package, its standard profile."""
    need("bm3d")
    import bm3d

    profile = bm3d.BM3DProfile()
    profile.num_threads = threads

    def denoise(y: Tensor, sigma: float) -> Tensor:
        result = bm3d.bm3d(y[0, 0].numpy(), sigma_psd=sigma, profile=profile)
        return torch.from_numpy(result).float()[None, None]

    return denoise


def bm3d_rgb(y: Tensor, sigma: float) -> Tensor:
    """BM3D for colour, of the `bm3d` package."""
    import bm3d

    restored = bm3d.bm3d_rgb(y[0].permute(1, 2, 0).numpy(), sigma)
    return torch.from_numpy(restored).permute(2, 0, 1)[None].float()


def read_mixture(path: Path) -> tuple[Tensor, Tensor]:
    """Covariances (K, 64, 64) and weights (K,) of EPLL's mixture.

    Raises:
        FileNotFoundError: it is not fitted yet.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"EPLL's mixture {path} is missing: fit it with {FIT_MIXTURE} out={path}`, or leave "
            "EPLL out"
        )
    stored = safetensors.torch.load_file(path)
    return stored["covariances"], stored["weights"]


def epll(covariances: Tensor, weights: Tensor) -> EPLL:
    """Deepinv's EPLL with a mixture of zero-mean Gaussians of patches."""
    mixture = GaussianMixtureModel(*covariances.shape[:2])
    mixture.set_cov(covariances)
    mixture.set_weights(weights)
    return EPLL(mixture, pretrained=None, patch_size=math.isqrt(covariances.shape[1]))


def epll_denoiser(path: Path) -> Denoise:
    """Deepinv's EPLL with a fitted mixture, around `GRAY`.

    Around zero, its inverse covariances in float32 cost 0.1 dB at a sigma of 15.

    Raises:
        FileNotFoundError: the mixture is not fitted yet.
    """
    reconstruct = epll(*read_mixture(path))

    def denoise(y: Tensor, sigma: float) -> Tensor:
        physics = Denoising(GaussianNoise(sigma))
        return GRAY + reconstruct(y - GRAY, physics, sigma=sigma, batch_size=BATCH)

    return denoise


def tv(y: Tensor, weight: float) -> Tensor:
    """Deepinv's total variation; a new object each time, for it starts where it last ended."""
    return TVDenoiser()(y, weight)


def wavelets(y: Tensor, weight: float, kind: str) -> Tensor:
    """Deepinv's shrinkage in eight wavelet bases at once; its usual two do worse."""
    return WaveletDictDenoiser(list_wv=DAUBECHIES, non_linearity=kind, mode="reflect")(y, weight)


TUNED: dict[str, Denoise] = {
    "TV": tv,
    "wavelets, soft": functools.partial(wavelets, kind="soft"),
    "wavelets, hard": functools.partial(wavelets, kind="hard"),
}


def tuned_denoiser(name: str) -> Denoise:
    """One of `TUNED` with its weight, a multiple of sigma that is interpolated over sigma."""

    def denoise(y: Tensor, sigma: float) -> Tensor:
        factor = float(np.interp(255 * sigma, LEVELS, WEIGHTS[name]))
        return TUNED[name](y, factor * sigma)

    return denoise


def dequantised(images: Tensor, generator: torch.Generator, levels: int = 256) -> Tensor:
    """8-bit images as `bits_per_dim` sees them: each pixel a uniform point of its bin, float64."""
    k = (images.double() * (levels - 1)).round()
    return (k + torch.rand(k.shape, generator=generator, dtype=torch.float64)) / levels


def gaussian(patches: Tensor) -> LogDensity:
    """The Gaussian with mean and covariance of patches (N, 1, b, b)."""
    x = patches.flatten(1)
    mean, centred = x.mean(0), x - x.mean(0)
    return _mixture(mean, (centred.T @ centred / len(x))[None], torch.ones(1, dtype=x.dtype))


def full_mixture(path: Path) -> LogDensity:
    """EPLL's mixture: full covariances around `GRAY`.

    Raises:
        FileNotFoundError: it is not fitted yet.
    """
    covariances, weights = (x.double() for x in read_mixture(path))
    mean = torch.full((covariances.shape[-1],), GRAY, dtype=torch.float64)
    return _mixture(mean, covariances, weights)


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
