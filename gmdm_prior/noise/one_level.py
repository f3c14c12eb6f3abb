"""One noise level for each image, and levels of pixels that agree with it.

Both are those of `estimate_noise` where the density can tell other noise from white: one level that
was read as if noise were white is a tenth of the truth where neighbours are correlated.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gmdm_prior.ambient import plain_modes
from gmdm_prior.densities.base import DensityModel
from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.gaussian_noise import Noise
from gmdm_prior.noise.estimate import estimate_noise
from gmdm_prior.noise.level import NoiseLevel, white_level
from gmdm_prior.noise.poisson_gaussian import local_mean

WIDTH = 1.96  # standard errors on each side of an interval
SMALLEST = 16  # pixels, side of an image whose levels are read
SEEN, VARIES, HALVINGS = 0.5, 1.1, 2
WIDEST = 5.0  # of log sigma, on each side


def estimate_sigma(model: DensityModel, images: Tensor, kind: str = "auto") -> Tensor:
    """Noise levels (B,) of images (B, C, H, W); arguments and errors: `noise_level`."""
    return noise_level(model, images, kind).sigma


@torch.no_grad()
def noise_level(model: DensityModel, images: Tensor, kind: str = "auto") -> NoiseLevel:
    """Noise levels of images, with standard errors.

    An image of one grey level has no noise to be seen: its level is 0. What `estimate_noise` notes
    of the images comes as warnings.

    Args:
        model: a `PatchMixture` of gray patches; with another density the noise is taken for white,
            and a warning says so where its classes have no weights. `load("gray-likelihood")` is
            best.
        images: (B, C, H, W), floating point; from two patches a side. A model of one channel reads
            one level from all channels.
        kind: as for `estimate_noise`; `"white"` asks the likelihood of white noise alone.

    Returns:
        Levels and standard errors, (B,) each, in the dtype and on the device of the images. The
        errors are those of the wider side of the interval. Never NaN.

    Raises:
        ValueError: for an unknown kind, or images that do not fit the model or are not finite.
        TypeError: for integer or complex images, or another kind of model.
    """
    if kind == "white" or not tells_kinds(model):
        if kind not in ("auto", "white"):
            raise ValueError(_untold(model, kind))
        return white_level(model, images)
    noise = noise_of(model, images, kind)
    if not len(images):
        return NoiseLevel(images.new_zeros(0), images.new_zeros(0))
    for note in noise.notes:
        warnings.warn(note, stacklevel=3)
    low, high = (end.clamp(min=1e-12) for end in noise.interval())
    level = noise.sigma.clamp(min=1e-12)
    apart = torch.maximum((level / low).log(), (high / level).log()).clamp(0, WIDEST)
    error = noise.sigma * apart / WIDTH
    return NoiseLevel(noise.sigma.to(images), error.to(images))


@torch.no_grad()
@plain_modes
def noise_of(model: DensityModel, images: Tensor, kind: str = "auto") -> Noise:
    """`estimate_noise` by any density of patches.

    One that cannot tell kinds of noise apart reads the level of white noise.

    Raises:
        ValueError: for an unknown kind, one that the model cannot read, and as `noise_level`.
        TypeError: as `noise_level`.
    """
    if not len(images):
        return Noise(0.0)
    if tells_kinds(model):
        return estimate_noise(images, model, kind=kind)
    if kind not in ("auto", "white"):
        raise ValueError(_untold(model, kind))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = white_level(model, images)
    notes = tuple(dict.fromkeys(str(warning.message) for warning in caught))
    sigma = found.sigma.double()
    low, high = (end.double() for end in found.interval())
    return Noise(sigma, bounds=(low, high), notes=notes)


@torch.no_grad()
def agreed_map(
    read: Callable[[Tensor], Tensor], images: Tensor, noise: Noise, smallest: int = SMALLEST
) -> Tensor:
    """Levels of pixels (B, 1, H, W) that agree with what is known of the noise.

    `read` takes noise for white; other noise is often next to none to it. Levels that do not vary,
    or are less than `SEEN` of what the noise is at their size, are read off the image at half that
    size, `HALVINGS` times; those that are found are raised to the image's level as their root mean
    square. Where none are found they are those of the curve at local means, or all the same.

    Args:
        read: images (1, C, h, w) -> levels (1, 1, h, w).
        images: (B, C, H, W).
        noise: of the images.
        smallest: side of an image that `read` still takes, in pixels.
    """
    out = []
    for i, image in enumerate(images[:, None]):
        own = noise[i % len(noise)]
        curve = None if own.curve is None else own.curve[0]
        curve = None if curve is None or len(curve.brightness) < 2 else curve
        if curve is None and bool(own.white[0]):
            out.append(read(image))
            continue
        levels = _seen(read, image, own, smallest)
        if levels is None:
            levels = own.sigma.to(image).expand(1, 1, *image.shape[2:])
            if curve is not None:
                levels = curve.at(local_mean(image.mean(1, keepdim=True).contiguous()))
        out.append(levels)
    return torch.cat(out) if out else images.new_zeros(0, 1, *images.shape[2:])


def _seen(
    read: Callable[[Tensor], Tensor], image: Tensor, noise: Noise, smallest: int
) -> Tensor | None:
    """Levels (1, 1, H, W) at the first size at which `read` sees the noise of an image."""
    small, at_size = image, noise
    for _ in range(HALVINGS + 1):
        levels = read(small)
        size = levels.double().square().mean().sqrt()
        varies = float(levels.max()) > VARIES * float(levels.min())
        if varies and float(size) >= SEEN * float(at_size.sigma):
            levels = levels * float(noise.sigma / torch.minimum(size, at_size.sigma[0]))
            return F.interpolate(levels, size=image.shape[2:], mode="bilinear")
        if min(small.shape[2:]) // 2 < smallest:
            return None
        even = small[..., : small.shape[2] // 2 * 2, : small.shape[3] // 2 * 2]
        small, at_size = F.avg_pool2d(even, 2), at_size.halved()
    return None


def tells_kinds(model: DensityModel) -> bool:
    """Whether `estimate_noise` can read noise by this density: a mixture of gray patches."""
    return isinstance(model, PatchMixture) and model.channels == 1


def slope_and_offset(noise: Noise, image: int = 0) -> tuple[float, float] | None:
    """Gain and offset of sigma² = gain · brightness + offset; None where there is no curve."""
    curve = None if noise.curve is None else noise.curve[image]
    if curve is None or len(curve.brightness) < 2:
        return None
    told = curve.level > 0
    x, v = curve.brightness[told], curve.level[told].square()
    if len(x) < 2:
        return None
    gain = float(((x - x.mean()) * (v - v.mean())).sum() / (x - x.mean()).square().sum())
    return (gain, float(v.mean() - gain * x.mean())) if math.isfinite(gain) else None


def _untold(model: DensityModel, kind: str) -> str:
    channels = getattr(model, "channels", 1)
    return (
        f"kind must be auto or white for a {type(model).__name__} of {channels} channel(s), which "
        f"cannot tell other noise; got {kind!r}. load('gray-likelihood') can"
    )
