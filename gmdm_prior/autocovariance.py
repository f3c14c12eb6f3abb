"""Autocovariances of stationary noise: what is one, and how to make one of a longer one.

An autocovariance is symmetric, r(-d) = r(d), largest at lag 0, and its spectrum is nowhere
negative. Cutting one off makes a spectrum that is: `taper` weighs lags instead.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gmdm_prior.covariance import TOLERANCE


def taper(autocovariance: Tensor, reach: int) -> Tensor:
    """An autocovariance (…, 2m+1, 2m+1) with lags up to `reach` only, times a window.

    Bohman's window, of all that are positive definite and zero from lag `reach` + 1 on the one
    that is flattest around 0; of an autocovariance whose spectrum is nowhere negative it makes
    another.
    """
    m = autocovariance.shape[-1] // 2
    x = torch.arange(-reach, reach + 1, device=autocovariance.device).abs() / (reach + 1)
    window = (1 - x) * (math.pi * x).cos() + (math.pi * x).sin() / math.pi
    window = torch.outer(window, window).to(autocovariance)
    return F.pad(autocovariance, (reach - m,) * 4) * window


def checked_autocovariance(value: object) -> Tensor:
    """Return the autocovariance (B, C, 2m+1, 2m+1) after checks."""
    r = torch.as_tensor(value).double()
    if not 2 <= r.ndim <= 4 or r.shape[-1] != r.shape[-2] or r.shape[-1] % 2 == 0 or not r.numel():
        raise ValueError(
            "autocovariance must be (B, C, 2m+1, 2m+1), (C, 2m+1, 2m+1) or (2m+1, 2m+1), with lag "
            f"0 in the middle; got {tuple(r.shape)}"
        )
    r = r.reshape((1,) * (4 - r.ndim) + r.shape)
    if not bool(torch.isfinite(r).all()):
        raise ValueError("autocovariance must be finite; it holds NaN or infinity")
    m = r.shape[-1] // 2
    scale = r[:, :, m, m]
    if not bool((scale > 0).all()):
        raise ValueError(
            f"autocovariance at lag 0, the variance, must be positive; got {scale.min():g}. Noise "
            "of level 0 is Noise(0.0)"
        )
    if bool(((r - r.flip(-2, -1)).abs().amax((-2, -1)) > TOLERANCE * scale).any()):
        raise ValueError(
            "autocovariance must be symmetric, r(-d) = r(d); use (r + r.flip(-2, -1)) / 2"
        )
    r = (r + r.flip(-2, -1)) / 2
    side = 4 * m + 2
    spectrum = torch.fft.fft2(torch.roll(F.pad(r, (0, side - 2 * m - 1) * 2), (-m, -m), (-2, -1)))
    least = (spectrum.real.amin((-2, -1)) / spectrum.real.amax((-2, -1))).min()
    if least < -TOLERANCE:
        raise ValueError(
            f"autocovariance has a negative spectrum, down to {least:.2g} of its maximum, which no "
            "noise has: one that was cut off, say. gaussian_noise.taper shortens one that is valid"
        )
    return r


def agreed(sigma: Tensor | None, r: Tensor) -> tuple[Tensor, Tensor]:
    """Levels (B,) and autocovariances for as many images, which must agree at lag 0."""
    m = r.shape[-1] // 2
    found = r[:, :, m, m].mean(1).sqrt()
    if sigma is None:
        return found, r
    count = max(len(sigma), len(r))
    found, r = of_images("autocovariance", found, count), r.expand(count, -1, -1, -1)
    sigma = of_images("sigma", sigma, count).to(found.device)
    if bool(((sigma - found).abs() > 1e-3 * found).any()):
        raise ValueError(
            f"sigma² must be the autocovariance at lag 0; got sigma {sigma.tolist()} beside a "
            f"level of {found.tolist()}. Leave sigma out, or scale the autocovariance"
        )
    return found, r


def is_white(r: Tensor | None, sigma: Tensor) -> Tensor:
    """Tell of which images every lag but 0 is zero and all channels have one level, (B,)."""
    if r is None:
        return torch.ones_like(sigma, dtype=torch.bool)
    m = r.shape[-1] // 2
    delta = torch.zeros_like(r[:1, :1])
    delta[..., m, m] = 1
    difference = (r - sigma.square()[:, None, None, None] * delta).abs().amax((1, 2, 3))
    return difference <= TOLERANCE * sigma.square()


def of_images(name: str, value: Tensor, count: int) -> Tensor:
    """A value of one image, or one of each of `count`, as one of each."""
    if len(value) not in (1, count):
        raise ValueError(f"{name} must be one, or one for each of {count} images; got {len(value)}")
    return value.expand(count)
