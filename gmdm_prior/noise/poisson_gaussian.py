"""Poisson–Gaussian noise: its two numbers from one image, and the map of levels that they give.

Photons counted and electronics read out leave, of a clean image x, noise of variance

    sigma_i² = gain · x_i + sigma²

(deepinv's `PoissonGaussianNoise`; clipping aside). Gain and sigma are found from pairs of local
means and variances (after Foi et al., "Practical Poissonian-Gaussian noise modeling and fitting for
single-image raw-data", 2008): pixels are sorted by local brightness, of each brightness the half
with the flattest surroundings is kept, and the variance is the square of the median size of their
finest diagonal detail, which smooth content does not reach. A line with gain >= 0 and sigma² >= 0
through the pairs, weighed by how well each is known, is fitted with few outliers in mind.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gmdm_prior.noise.prior_free import MEDIAN, diagonal_detail

SMOOTH = 9  # pixels, side of the window of a local mean
BINS = 32  # of brightness, each with as many pixels
ROUNDS = 12  # of reweighting
CUT = 2.5  # pairs further from the line than this many of their standard errors count less
LEAST = 1e-8  # variance: no pair is thought to be known better


def estimate_poisson_gaussian(images: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and sigma of Poisson–Gaussian noise.

    Args:
        images: noisy, (B, C, H, W), at least 32×32 pixels, not clipped; all channels together.

    Returns:
        `gain` and `sigma`, (B,) each, as deepinv's `PoissonGaussianNoise` takes them.

    Raises:
        ValueError: for images of another shape, too small, or not finite.
    """
    if images.ndim != 4 or min(images.shape[2:]) < 32:
        raise ValueError(
            f"images must be (B, C, H, W) of at least 32x32 pixels; got {tuple(images.shape)}"
        )
    if not bool(torch.isfinite(images).all()):
        raise ValueError("images must be finite; they hold NaN or infinity")
    pairs = [_line(*_mean_variance_pairs(image)) for image in images.double()]
    gain, variance = torch.stack(pairs).to(images).unbind(1)
    return gain, variance.sqrt()


def poisson_gaussian_map(pilot: Tensor, gain: Tensor | float, sigma: Tensor | float) -> Tensor:
    """Standard deviations, shaped like `pilot`, (B, C, H, W): a first estimate of the clean image.

    Args:
        pilot: its values below 0 count as 0.
        gain: number or (B,).
        sigma: number or (B,).
    """
    gain, sigma = (
        torch.as_tensor(v, dtype=pilot.dtype, device=pilot.device).reshape(-1, 1, 1, 1)
        for v in (gain, sigma)
    )
    return (gain * pilot.clamp(min=0) + sigma.square()).sqrt()


def local_mean(images: Tensor, side: int = SMOOTH) -> Tensor:
    """Means over windows of `side` × `side` pixels, reflected at the border: a first pilot."""
    half = side // 2
    return F.avg_pool2d(F.pad(images, (half,) * 4, mode="reflect"), side, 1)


def _mean_variance_pairs(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means, variances and numbers of pixels, (BINS,) each, of an image (C, H, W)."""
    detail = diagonal_detail(image).abs()
    mean = local_mean(image[None])[0]
    pad = F.pad(mean[None], (4,) * 4, mode="reflect")[0]
    across = (pad[:, 4:-4, 8:] - pad[:, 4:-4, :-8]).square()
    slope = across + (pad[:, 8:, 4:-4] - pad[:, :-8, 4:-4]).square()
    inside = (slice(None), slice(1, -2), slice(1, -2))  # centres of the detail's windows
    brightness, order = mean[inside].flatten().sort()
    size, slope = detail.flatten()[order], slope[inside].flatten()[order]
    pairs = []
    for m, d, s in zip(*(t.tensor_split(BINS) for t in (brightness, size, slope)), strict=True):
        flat = s <= s.median()
        variance = (d[flat].median() / MEDIAN).square()
        pairs.append(torch.stack([m[flat].mean(), variance, flat.sum().to(m)]))
    means, variances, counts = torch.stack(pairs).unbind(1)
    return means, variances, counts


def _line(mean: Tensor, variance: Tensor, count: Tensor) -> Tensor:
    """Gain and variance at 0, (2,), of the line through the pairs."""
    gain, offset = variance.new_zeros(()), variance.median()
    for _ in range(ROUNDS):
        expected = (gain * mean + offset).clamp(min=LEAST)
        error = expected * (5.4 / count).sqrt()  # a variance from a median: 2 / 0.37 of count
        distance = ((variance - expected) / error).abs()
        weight = error.square().reciprocal() * (CUT / distance.clamp(min=CUT))
        gain, offset = _non_negative_line(mean, variance, weight)
    return torch.stack([gain, offset])


def _non_negative_line(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The least-squares line with slope and offset of at least 0: three candidates, the best."""
    total = weight.sum()
    mx, my = (weight * x).sum() / total, (weight * y).sum() / total
    spread = (weight * (x - mx).square()).sum()
    slope = (weight * (x - mx) * (y - my)).sum() / spread if spread > 0 else total.new_zeros(())
    offset, zero = my - slope * mx, total.new_zeros(())
    through = (weight * x * y).sum() / (weight * x * x).sum().clamp(min=1e-30)
    candidates = [(slope, offset)] if slope >= 0 and offset >= 0 else []
    candidates += [(zero, my.clamp(min=0)), (through.clamp(min=0), zero)]
    return min(candidates, key=lambda c: float((weight * (y - c[0] * x - c[1]).square()).sum()))
