"""Denoisers of whole images under stationary noise of any autocovariance.

Half-quadratic splitting couples the image with its patches in *white* noise, so that the density is
evaluated as fast as ever, and has the data term in the Fourier domain, where stationary noise is
diagonal. With λ the spectrum of the noise and β_i the variance of what a step gets wrong,

    z = average of posterior means of the patches of x at the level ρ_i,
    x = z + β_i / (β_i + λ) (y - z),

for every frequency. Where there is little noise the image stays what it is. What is left in x has
the spectrum β_i λ / (β_i + λ), and the level at which the density sees noise that is not white is
that of its power, weighted by itself: ‖λ‖² / ‖λ‖₁, twice the level for noise that is narrow in the
Fourier domain. The steps' factors are those of `schedule` at that level: of white noise this
is `hqs`, step for step.

As in `hqs`, where an image is flat against its noise, what images of half the size restore
otherwise is added, and there likewise, `HALVINGS` times at most.

The step of the data is not local, but what is far away hardly matters. Tiles that overlap by the
denoiser's `halo` agree with the whole image to 3e-5 for noise filtered by a 3×3 binomial, and to
6e-3 at a few pixels (4e-4 root mean square) for a row of 7 at 50/255.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gmdm_prior.gaussian_noise import Noise
from gmdm_prior.images.half_size import (
    HALVINGS,
    MARGIN,
    SEEN,
    double,
    halve,
    local_variance,
)
from gmdm_prior.images.patches import inner, pad
from gmdm_prior.images.schedule import Schedule

REACH = 32  # pixels around an image that the Fourier transform takes
WEAKER = 6  # power of how much weaker noise is at half the size than white noise would be
SIDE = 64  # least side of the grid on which a spectrum is averaged

Denoise = Callable[[Tensor, Tensor, int], Tensor]


def restore(
    image: Tensor,
    noise: Noise,
    schedule: Schedule,
    denoise: Denoise,
    border: int,
    boundary: str,
    halvings: int = HALVINGS,
) -> Tensor:
    """An image (c, H, W) restored under the noise of one image, of 1 or c channels.

    Args:
        image: (c, H, W).
        noise: what it holds.
        schedule: of white noise.
        denoise: takes an image padded by `border`, a level () and the number of the step.
        border: b - 1.
        boundary: `"reflect"` or `"circular"`.
        halvings: how often half the size is looked at.
    """
    x = _split(image, noise, schedule, denoise, border, boundary)
    half, (height, width) = noise.halved(), image.shape[1:]
    small = min(height + 1, width + 1) // 2 <= border
    if not halvings or small or not schedule.has_coarse_scale:
        return x
    half_image = halve(_even(image, boundary))
    coarse = restore(half_image, half, schedule, denoise, border, boundary, halvings - 1)
    correction = pad(coarse - halve(_even(x, boundary)), MARGIN // 2, MARGIN // 2, boundary)
    variance = local_variance(pad(x, SEEN, SEEN, boundary))
    share = schedule.coarse_share(_coarse_level(noise, half).to(x), variance)
    return x + share * double(correction)[:, :height, :width]


def _split(
    image: Tensor,
    noise: Noise,
    schedule: Schedule,
    denoise: Denoise,
    border: int,
    boundary: str,
) -> Tensor:
    """All steps at one scale."""
    power = _power(noise)
    start = white_level(power)
    steps = list(schedule.at(start))
    x, level = image, steps[0][0]
    spectrum = _half_spectrum(image, noise, boundary)
    for i, (_, weight) in enumerate(steps):
        z = denoise(pad(x, border, border, boundary), level.to(image), i)
        error = start.square() * weight / (1 - weight)
        x = z + _filtered(image - z, spectrum, error.to(image), boundary)
        if i + 1 < len(steps):
            remaining = error * power / (error + power)  # of white noise: start² times the weight
            level = steps[i + 1][0] / (start * weight.sqrt()) * white_level(remaining)
    return x


def white_level(power: Tensor) -> Tensor:
    """The level () at which a density of white noise sees noise of this spectrum (…)."""
    return (power.square().sum() / power.sum()).sqrt()


def _power(noise: Noise) -> Tensor:
    """The spectrum (1, C, side, side) on a grid that resolves it."""
    side = max(SIDE, 4 * noise.reach + 4)
    return noise.spectrum(side, side)


def _coarse_level(noise: Noise, half: Noise) -> Tensor:
    """The level () that coarse restorations are believed by: of white noise its own.

    It is that of white noise as strong as this at half the size; much less where that is weaker
    than the noise is here, as then the frequencies that the half-size image holds come unharmed.
    """
    level, coarse = white_level(_power(noise)), 2 * white_level(_power(half))
    return coarse * (coarse / level).clamp(max=1) ** WEAKER


def _half_spectrum(image: Tensor, noise: Noise, boundary: str) -> Tensor:
    """The spectrum at the frequencies of an image (c, H, W), whose other half mirrors them."""
    reach = 0 if boundary == "circular" else REACH
    height, width = (side + 2 * reach for side in image.shape[1:])
    return noise.spectrum(height, width)[0, :, :, : width // 2 + 1].to(image)


def _filtered(difference: Tensor, spectrum: Tensor, error: Tensor, boundary: str) -> Tensor:
    """β / (β + λ) of an image (c, H, W), frequency by frequency."""
    reach = 0 if boundary == "circular" else REACH
    wide = pad(difference, reach, reach, boundary)
    filtered = torch.fft.irfft2(
        torch.fft.rfft2(wide) * (error / (error + spectrum)), s=wide.shape[1:]
    )
    return inner(filtered, reach)


def _even(image: Tensor, boundary: str) -> Tensor:
    """The image with a row and a column more where there is an odd number."""
    height, width = image.shape[1:]
    if height % 2 == 0 and width % 2 == 0:
        return image
    wide = pad(image, 0, 1, boundary)
    return wide[:, : height + height % 2, : width + width % 2]
