"""Images as planes that densities look at: what is checked, how channels and noise are aligned."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gmdm_prior.ambient import plain_modes
from gmdm_prior.densities.base import DensityModel, PatchDensity
from gmdm_prior.densities.opponent import OpponentModel
from gmdm_prior.gaussian_noise import Noise
from gmdm_prior.images.patches import Run, untraced
from gmdm_prior.images.threads import Workers
from gmdm_prior.images.units import warn_of_units
from gmdm_prior.sigma import compute_dtype, image_level, largest, readable

BOUNDARIES = ("reflect", "circular")


def check_options(model: object, stride: int, boundary: str) -> None:
    """Refuse what image denoisers cannot work with."""
    if not isinstance(model, (PatchDensity, OpponentModel)):
        raise TypeError(
            "model must be a density of patches (PatchModel, PatchMixture, OpponentModel or one of "
            f"your own); got {type(model).__name__}. gmdm_prior.load('gray') gives one. "
            "Densities of whole images have a `denoise` of their own (WaveletDenoiser for batches)"
        )
    if not isinstance(stride, int) or not 1 <= stride <= model.patch_size:
        raise ValueError(
            f"stride must be an integer from 1 to the patch size {model.patch_size}, so that "
            f"patches cover every pixel; got {stride!r}"
        )
    if boundary not in BOUNDARIES:
        raise ValueError(f"boundary must be one of {', '.join(BOUNDARIES)}; got {boundary!r}")


def prepare(model: DensityModel, images: Tensor, sigma: object) -> tuple[Tensor, Any, bool]:
    """Check images (B, C, H, W) and align the noise with them.

    Returns:
        Planes (M, c, H, W) with the c channels of `planes_of(model)`, whose densities take turns,
        in the working dtype; levels, (M,) or maps (M, c, H, W), of a `Noise` a list of levels (),
        maps (c, H, W) or noises; and whether they are maps.
    """
    check_images(model, images)
    if isinstance(sigma, Noise):
        return prepare(model, images, 0.0)[0], plane_noises(model, images, sigma), False
    channels = images.shape[1]
    level, is_map = image_level(sigma, images)
    warn_of_units(images, level)
    planes = images.to(compute_dtype(images.dtype))
    if isinstance(model, OpponentModel):
        levels = model.levels(level.square() if is_map else _flat(level.square()))
        levels = levels.reshape(-1, 1, *planes.shape[2:]) if is_map else levels.flatten()
        return model.enter(planes).reshape(-1, 1, *images.shape[2:]), levels, is_map
    if model.channels == 1 and channels > 1:
        planes = planes.reshape(-1, 1, *images.shape[2:])
        level = level.reshape(planes.shape) if is_map else level.repeat_interleave(channels)
    return planes, level, is_map


def plane_noises(model: DensityModel, images: Tensor, noise: Noise) -> list[Tensor | Noise]:
    """The noise of every plane of `prepare`: a level () or map (c, H, W) where it is white.

    Else a `Noise` of its own.

    Raises:
        ValueError: the noise is that of other images, or it depends on their brightness.
    """
    count, channels = images.shape[:2]
    if len(noise) not in (1, count) or noise.channels not in (1, channels):
        raise ValueError(
            f"sigma is a Noise of {len(noise)} image(s) and {noise.channels} channel(s), for "
            f"images {tuple(images.shape)}; it must be one, or one for each"
        )
    if noise.curve is not None:
        raise ValueError(
            "sigma is a Noise that depends on the brightness. Stabilise its variance first, or "
            "leave the curve out: dataclasses.replace(noise, curve=None)"
        )
    if noise.opponent and not isinstance(model, OpponentModel):
        raise ValueError(
            "sigma is a Noise of luminance and colour differences, which an OpponentModel takes"
        )
    found: list[Tensor | Noise] = []
    for i in range(count):
        own = noise[i % len(noise)]
        if own.map is not None and bool(own.white[0]):
            found += prepare(model, images[i : i + 1], own.map.to(images))[1]
            continue
        if isinstance(model, OpponentModel):
            planes = model.plane_noise(own)
        elif model.channels == 1:
            planes = [own.channel(c) for c in range(channels)]
        else:
            planes = [own]
        found += [p if not p.white else p.sigma[0].to(_like(images)) for p in planes]
    return found


def _like(images: Tensor) -> Tensor:
    return images.new_empty((), dtype=compute_dtype(images.dtype))


def planes_of(model: DensityModel) -> list[DensityModel]:
    """The densities that look at the planes of `prepare`, in turns."""
    return list(model.planes) if isinstance(model, OpponentModel) else [model]


# Long: one sentence for each thing that can be wrong.
def check_images(model: DensityModel, images: Tensor) -> None:
    """Refuse what is no batch of images for this model, with the remedy."""
    if not isinstance(images, Tensor):
        raise TypeError(
            f"images must be a tensor (B, C, H, W); got {type(images).__name__}. "
            "torch.as_tensor(images) makes one of an array or a list"
        )
    if images.is_complex():
        raise TypeError(
            "images must be real; got complex ones. Denoise real and imaginary part as two "
            "channels (deepinv's ComplexDenoiserWrapper does)"
        )
    if not images.is_floating_point():
        raise TypeError(
            f"images must be floating point in [0, 1]; got {images.dtype}. Use images.float() / 255"
        )
    if images.ndim != 4:
        remedy = (
            "Add leading axes with images[None]"
            if images.ndim < 4
            else "Fold time and depth into the batch, images.flatten(0, 1) say"
        )
        raise ValueError(f"images must be (B, C, H, W); got {tuple(images.shape)}. {remedy}")
    if model.channels not in (1, images.shape[1]):
        raise ValueError(
            f"images must have {model.channels} channels for this model; got {images.shape[1]} in "
            f"{tuple(images.shape)}"
        )
    home = next((p.device for p in model.parameters()), images.device)
    if images.device != home:
        raise ValueError(
            f"images must be on the device of the model, {home}; got {images.device}. Move one of "
            f"them: model.to({str(images.device)!r})"
        )
    size = model.patch_size
    if min(images.shape[2:]) < size:
        raise ValueError(
            f"images must be at least one patch, {size}x{size} pixels; got "
            f"{images.shape[2]}x{images.shape[3]}"
        )
    if not readable(images) or not images.numel():
        return
    least, most = (float(end) for end in torch.aminmax(images.detach()))  # NaN where any is
    if not (math.isfinite(least) and math.isfinite(most)):
        raise ValueError(
            "images must be finite; they hold NaN or infinity. Replace those pixels "
            "(torch.nan_to_num) or inpaint them"
        )
    bound = largest(images.dtype)
    if max(-least, most) > bound:
        raise ValueError(
            f"images must lie within ±{bound:.1g} in {images.dtype}, so that squares can be held; "
            f"got values from {least:g} to {most:g}. Scale them to [0, 1]"
        )


def is_gray(image: Tensor) -> bool:
    """Whether all channels of an image (C, H, W) are equal, and their noise the same, too."""
    return len(image) > 1 and bool((image == image[:1]).all())


def white_shared(image: Tensor, level: Tensor) -> Tensor:
    """The white level of an image (C, H, W), as if each of three colours had noise of its own.

    Where they are equal, their mean has all of it, not a third of the variance.
    """
    return level * math.sqrt(3) if len(image) == 3 and is_gray(image) else level


@untraced
@plain_modes
def per_plane(
    model: DensityModel,
    restore: Callable[[DensityModel, Tensor, Tensor, Run], Tensor],
    noisy: Tensor,
    sigma: object,
    kind: str = "image",
) -> Tensor:
    """Restore each plane at its level, and give back shape and dtype.

    `kind` says what `restore` gives: an `"image"`, which without noise stays as it is, a
    `"variance"`, which is then zero, or a `"gradient"`.
    """
    with Workers(_may_be_shared(model, noisy, sigma)) as workers:
        planes, level, is_map = prepare(model, noisy, sigma)
        triples = zip(itertools.cycle(planes_of(model)), planes, level, strict=False)
        restored = [restore(*triple, workers.in_order) for triple in triples]
        out = (torch.stack(restored) if restored else planes).reshape(noisy.shape)
        if isinstance(model, OpponentModel):
            back = {"image": model.leave, "variance": model.spread, "gradient": model.gradient}
            out = back[kind](out)
        if isinstance(sigma, Noise):
            of_one = len(planes) // max(1, len(noisy))
            level = sigma.sigma.expand(len(noisy)).repeat_interleave(of_one).to(planes)
        if not is_map and kind != "gradient":
            of_one = max(1, len(planes) // max(1, len(noisy)))  # planes of an image: one level
            noiseless = (level[::of_one] == 0)[:, None, None, None]
            out = torch.where(noiseless, noisy if kind == "image" else torch.zeros_like(out), out)
    return out.to(noisy.dtype)


def _flat(variance: Tensor) -> Tensor:
    """One level of each image (B,) as that of three colours (B, 3, 1, 1)."""
    return variance[:, None, None, None].expand(-1, 3, 1, 1)


def _may_be_shared(model: DensityModel, *inputs: object) -> bool:
    """Whether threads can work beside one another: not while gradients are recorded or traced."""
    tensors = [t for t in inputs if isinstance(t, Tensor)]
    if torch.is_grad_enabled() and any(t.requires_grad for t in (*model.parameters(), *tensors)):
        return False
    return all(map(readable, tensors))
