"""Forward operators by name, without noise: y = A x.

    denoise             A = identity
    gaussian_blur       circular convolution with a Gaussian of `width` pixels (standard deviation)
    motion_blur         circular convolution with a random trajectory's trace, `size` pixels wide
    space_varying_blur  Gaussians whose width grows from the left border to the right one
    inpainting          a random share `keep` of the pixels is seen
    super_resolution    a bicubic filter, then every `factor`-th pixel in both directions
    compressed_sensing  a random share `keep` of the coefficients of the sine transform of the image
                        with random signs: rows of a random orthogonal matrix
    tomography          parallel-beam line integrals at `angles` angles, in units of the image's
                        side, so that they are about as large as pixels
    mri                 a share 1 / `acceleration` of the columns of the Fourier transform of a
                        complex image, real and imaginary part in two channels

Each has its own seeded generator: the same config measures the same data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import deepinv
import torch
from deepinv.physics import functional as filters
from torch import Tensor

KERNELS = 5  # of a blur that varies
CENTRE = 0.08  # share of the columns of an MR image that is always measured, the lowest ones


@dataclass
class OperatorConfig:
    """A forward operator; what an operator does not use is ignored."""

    name: str = "denoise"
    width: float = 1.6  # gaussian_blur, space_varying_blur (left): standard deviation in pixels
    growth: float = 3.0  # space_varying_blur: width at the right border over that at the left one
    size: int = 15  # motion_blur: side of the kernel in pixels
    length: float = 0.3  # motion_blur: length scale of the trajectory
    spread: float = 0.25  # motion_blur: how far it strays
    keep: float = 0.5  # inpainting, compressed_sensing: share that is seen
    factor: int = 2  # super_resolution: of each side
    angles: int = 60  # tomography: evenly over half a turn
    acceleration: float = 4.0  # mri
    phase: float = 1.0  # mri: the largest angle of the image's smooth phase, in radians
    seed: int = 0


class ScaledTomography(deepinv.physics.Tomography):
    """deepinv's parallel-beam transform with an exact adjoint, over the side of the image."""

    def __init__(self, angles: int, side: int, device: Any = "cpu") -> None:
        self.side = side
        super().__init__(angles, side, circle=False, normalize=False, device=device)

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Line integrals (B, C, detectors, angles)."""
        return super().A(x, **kwargs) / self.side

    def fbp(self, y: Tensor, **kwargs: Any) -> Tensor:
        """Filtered back-projection (B, C, H, W)."""
        return super().fbp(y, **kwargs) * self.side**2


class RandomTransform(deepinv.physics.DecomposablePhysics):
    """Some coefficients of an orthonormal sine transform after random signs; A Aᵀ = Id."""

    def __init__(self, keep: Tensor, signs: Tensor, device: Any = "cpu") -> None:
        super().__init__(mask=keep.to(device), device=device)
        self.register_buffer("signs", signs.to(device))

    def V_adjoint(self, x: Tensor) -> Tensor:
        """All coefficients of images (B, C, H, W)."""
        return filters.dst1(self.signs * x, dim=(-2, -1))

    def V(self, y: Tensor) -> Tensor:
        """Images of all coefficients."""
        return self.signs * filters.dst1(y, dim=(-2, -1))


def build_operator(config: OperatorConfig, shape: tuple[int, ...], device: Any = "cpu") -> Any:
    """A deepinv operator for images of `shape`, (C, H, W).

    Raises:
        ValueError: for an option out of its range, or a size that the operator cannot take.
    """
    return OPERATORS[config.name](config, shape, device)


def picture_title(physics: Any) -> str:
    """What `as_picture` shows of measurements."""
    if isinstance(physics, ScaledTomography):
        return "filtered back-projection"
    if isinstance(physics, deepinv.physics.MRI):
        return "zero-filled"
    if isinstance(physics, RandomTransform):
        return "adjoint"
    return "enlarged" if isinstance(physics, deepinv.physics.Downsampling) else "measurement"


def as_picture(physics: Any, y: Tensor, like: Tensor) -> Tensor:
    """Measurements as a picture like `like`, (B, C, H, W): as they are, enlarged, or carried back.

    Filtered back-projection of line integrals, the adjoint of incomplete transforms.
    """
    if isinstance(physics, ScaledTomography):
        return physics.fbp(y)
    if isinstance(physics, (deepinv.physics.MRI, RandomTransform)):
        return physics.A_adjoint(y)
    if isinstance(physics, deepinv.physics.Downsampling):
        return torch.nn.functional.interpolate(y, like.shape[-2:], mode="bicubic")
    return y


def _denoise(config: OperatorConfig, shape: tuple[int, ...], device: Any) -> Any:
    return deepinv.physics.Denoising(device=device)


def _gaussian(width: float, side: int) -> Tensor:
    return filters.gaussian_blur(psf_size=(side, side), sigma=(width, width))


def _gaussian_blur(config: OperatorConfig, shape: tuple[int, ...], device: Any) -> Any:
    _positive(config.width, "physics.width")
    side = 2 * math.ceil(3 * config.width) + 1
    _fits(side, shape, "physics.width")
    kernel = _gaussian(config.width, side)
    return deepinv.physics.BlurFFT(img_size=shape, filter=kernel, device=device)


def _space_varying_blur(config: OperatorConfig, shape: tuple[int, ...], device: Any) -> Any:
    _positive(config.width, "physics.width")
    _positive(config.growth, "physics.growth")
    widths = torch.linspace(1, config.growth, KERNELS) * config.width
    side = 2 * math.ceil(3 * float(widths.max())) + 1
    _fits(side, shape, "physics.width and physics.growth")
    kernels = torch.cat([_gaussian(float(width), side) for width in widths], 1)[:, None]
    place = torch.linspace(0, KERNELS - 1, shape[-1])
    hats = (1 - (place - torch.arange(KERNELS)[:, None]).abs()).clamp(min=0)  # they sum to one
    multipliers = hats[None, None, :, None].expand(1, 1, KERNELS, *shape[1:]).contiguous()
    return deepinv.physics.SpaceVaryingBlur(
        kernels, multipliers, padding="circular", use_fft=True, mask_first=False, device=device
    )


def _motion_blur(config: OperatorConfig, shape: tuple[int, ...], device: Any) -> Any:
    if config.size < 3 or not (config.length > 0 and config.spread > 0):
        raise ValueError(
            "physics.size must be at least 3, physics.length and physics.spread positive; got "
            f"{config.size}, {config.length} and {config.spread}"
        )
    _fits(config.size, shape, "physics.size")
    generator = deepinv.physics.generator.MotionBlurGenerator(
        (config.size, config.size), l=config.length, sigma=config.spread, rng=torch.Generator()
    )
    kernel = generator.step(seed=config.seed)["filter"]
    return deepinv.physics.BlurFFT(img_size=shape, filter=kernel, device=device)


def _inpainting(config: OperatorConfig, shape: tuple[int, ...], device: Any) -> Any:
    _share(config.keep)
    generator = torch.Generator().manual_seed(config.seed)
    mask = (torch.rand((1, 1, *shape[1:]), generator=generator) < config.keep).float()
    return deepinv.physics.Inpainting(img_size=shape, mask=mask, device=device)


def _super_resolution(config: OperatorConfig, shape: tuple[int, ...], device: Any) -> Any:
    if config.factor < 1 or any(side % config.factor for side in shape[1:]):
        raise ValueError(
            "physics.factor must be at least 1 and divide both sides of the image; got "
            f"{config.factor} for {shape[1]} x {shape[2]} pixels: crop the image, or take another"
        )
    return deepinv.physics.Downsampling(
        img_size=shape, filter="bicubic", factor=config.factor, padding="circular", device=device
    )


def _compressed_sensing(config: OperatorConfig, shape: tuple[int, ...], device: Any) -> Any:
    _share(config.keep)
    generator = torch.Generator().manual_seed(config.seed)
    keep = (torch.rand((1, *shape), generator=generator) < config.keep).float()
    signs = 2.0 * (torch.rand((1, *shape), generator=generator) < 0.5) - 1
    return RandomTransform(keep, signs, device)


def _tomography(config: OperatorConfig, shape: tuple[int, ...], device: Any) -> Any:
    if shape[1] != shape[2]:
        raise ValueError(
            f"physics.name=tomography needs a square image; got {shape[1]} x {shape[2]} pixels: "
            "crop or pad it"
        )
    if config.angles < 1:
        raise ValueError(f"physics.angles must be at least 1; got {config.angles}")
    return ScaledTomography(config.angles, shape[1], device)


def _mri(config: OperatorConfig, shape: tuple[int, ...], device: Any) -> Any:
    if not 1 <= config.acceleration < math.inf:
        raise ValueError(f"physics.acceleration must be at least 1; got {config.acceleration}")
    generator = torch.Generator().manual_seed(config.seed)
    height, width = shape[1:]
    from_centre = (torch.arange(width) - width // 2).abs()
    always = from_centre < max(1, CENTRE * width / 2)
    count = round(width / config.acceleration) - int(always.sum())
    others = (~always).nonzero().flatten()
    # columns near the centre are likelier, as in deepinv's Gaussian masks
    odds = (-0.5 * (from_centre[others] / (width / 4)).square()).exp()
    columns = always.clone()
    if count > 0:
        chosen = torch.multinomial(odds, min(count, len(others)), generator=generator)
        columns[others[chosen]] = True
    mask = columns.float().expand(1, 2, height, width).contiguous()
    return deepinv.physics.MRI(mask=mask, img_size=(1, 2, height, width), device=device)


def with_phase(picture: Tensor, largest: float) -> Tensor:
    """A real picture (1, 1, H, W) with a smooth phase: real and imaginary part, (1, 2, H, W)."""
    height, width = picture.shape[2:]
    down, across = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    angle = largest * (torch.sin(2 * across) * torch.cos(1.5 * down)).to(picture)
    return torch.cat([picture * angle.cos(), picture * angle.sin()], 1)


def _positive(value: float, option: str) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{option} must be positive; got {value}")


def _share(keep: float) -> None:
    if not 0 < keep <= 1:
        raise ValueError(f"physics.keep must be above 0 and at most 1; got {keep}")


def _fits(side: int, shape: tuple[int, ...], option: str) -> None:
    if side > min(shape[-2:]):
        raise ValueError(
            f"{option} asks for a kernel of {side} x {side} pixels, larger than the image "
            f"({shape[-2]} x {shape[-1]})"
        )


OPERATORS: dict[str, Callable[..., Any]] = {
    "compressed_sensing": _compressed_sensing,
    "denoise": _denoise,
    "gaussian_blur": _gaussian_blur,
    "inpainting": _inpainting,
    "motion_blur": _motion_blur,
    "mri": _mri,
    "space_varying_blur": _space_varying_blur,
    "super_resolution": _super_resolution,
    "tomography": _tomography,
}
