"""Forward operators by name, without noise: y = A x.

    blur                convolution with a `kernel` of your own
    denoise             A = identity
    gaussian_blur       circular convolution with a Gaussian of `width` pixels (standard deviation)
    motion_blur         circular convolution with a random trajectory's trace, `size` pixels wide
    space_varying_blur  Gaussians whose width grows from the left border to the right one
    inpainting          the pixels of a `mask`, or a random share `keep` of all, are seen
    super_resolution    a bicubic filter, then every `factor`-th pixel in both directions
    compressed_sensing  a random share `keep` of the coefficients of the sine transform of the image
                        with random signs: rows of a random orthogonal matrix
    tomography          parallel-beam line integrals at `angles` angles, in units of the image's
                        side, so that they are about as large as pixels
    mri                 a share 1 / `acceleration` of the columns of the Fourier transform of a
                        complex image, real and imaginary part in two channels, or a `mask` of
                        it, of several coils with `coil_maps`

A `kernel` of one's own takes the place of a made one. Blurs are circular, or with
`boundary="open"` the surroundings of the picture are unknown (`open_border`).

Each has its own seeded generator: the same config measures the same data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import deepinv
import torch
from deepinv.physics import functional as filters
from torch import Tensor

from deepinv_gmdm.open_border import OpenBorder
from deepinv_gmdm.operator_config import OperatorConfig
from deepinv_gmdm.operator_files import read_angles, read_coils, read_kernel, read_mask
from deepinv_gmdm.tomography import ScaledTomography, SinogramPhysics
from gmdm_prior.messages import unknown

KERNELS = 5  # of a blur that varies
CENTRE = 0.08  # share of the columns of an MR image that is always measured, the lowest ones


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


CARRIED_BACK = (deepinv.physics.MRI, deepinv.physics.MultiCoilMRI, RandomTransform)


def build_operator(config: OperatorConfig, shape: tuple[int, ...], device: Any = "cpu") -> Any:
    """A deepinv operator for images of `shape`, (C, H, W).

    Raises:
        ValueError: for an option out of its range, or a size that the operator cannot take.
    """
    return OPERATORS[config.name](config, shape, device)


def picture_title(physics: Any) -> str:
    """What `as_picture` shows of measurements."""
    if isinstance(physics, (ScaledTomography, SinogramPhysics)):
        return "filtered back-projection"
    if isinstance(physics, CARRIED_BACK[:2]):
        return "zero-filled"
    if isinstance(physics, RandomTransform):
        return "adjoint"
    return "enlarged" if isinstance(physics, deepinv.physics.Downsampling) else "measurement"


def as_picture(physics: Any, y: Tensor, like: Tensor) -> Tensor:
    """Measurements as a picture like `like`, (B, C, H, W): as they are, enlarged, or carried back.

    Filtered back-projection of line integrals, the adjoint of incomplete transforms.
    """
    if isinstance(physics, (ScaledTomography, SinogramPhysics)):
        return physics.fbp(y)
    if isinstance(physics, CARRIED_BACK):
        return physics.A_adjoint(y)
    if isinstance(physics, OpenBorder):
        return physics.pad(y)
    if isinstance(physics, deepinv.physics.Downsampling):
        return torch.nn.functional.interpolate(y, like.shape[-2:], mode="bicubic")
    return y


def _denoise(config: OperatorConfig, shape: tuple[int, ...], device: Any) -> Any:
    return deepinv.physics.Denoising(device=device)


def _gaussian(width: float, side: int) -> Tensor:
    return filters.gaussian_blur(psf_size=(side, side), sigma=(width, width))


def _blur(config: OperatorConfig, shape: tuple[int, ...], device: Any) -> Any:
    if config.kernel is None:
        raise ValueError("physics.name=blur needs physics.kernel, the picture of a point")
    return _convolution(config, read_kernel(config.kernel)[0], shape, device, "physics.kernel")


def _gaussian_blur(config: OperatorConfig, shape: tuple[int, ...], device: Any) -> Any:
    if config.kernel is not None:
        return _blur(config, shape, device)
    _positive(config.width, "physics.width")
    kernel = _gaussian(config.width, 2 * math.ceil(3 * config.width) + 1)
    return _convolution(config, kernel, shape, device, "physics.width")


def _convolution(
    config: OperatorConfig, kernel: Tensor, shape: tuple[int, ...], device: Any, option: str
) -> Any:
    """Convolution with a kernel (1, 1, h, w) of odd sides; with an open border of larger images."""
    _fits(kernel.shape[-2:], shape, option)
    if not _is_open(config):
        return deepinv.physics.BlurFFT(img_size=shape, filter=kernel, device=device)
    down, across = (side // 2 for side in kernel.shape[-2:])
    larger = (shape[0], shape[1] + 2 * down, shape[2] + 2 * across)
    inner = deepinv.physics.BlurFFT(img_size=larger, filter=kernel, device=device)
    return OpenBorder(inner, (down, across))


def _is_open(config: OperatorConfig) -> bool:
    if config.boundary not in (None, "open", "circular"):
        raise ValueError(unknown("physics.boundary", config.boundary, ["open", "circular"]))
    return config.boundary == "open"


def _space_varying_blur(config: OperatorConfig, shape: tuple[int, ...], device: Any) -> Any:
    _positive(config.width, "physics.width")
    _positive(config.growth, "physics.growth")
    widths = torch.linspace(1, config.growth, KERNELS) * config.width
    side = 2 * math.ceil(3 * float(widths.max())) + 1
    _fits((side, side), shape, "physics.width and physics.growth")
    reach = side // 2 if _is_open(config) else 0
    measured, shape = shape, (shape[0], shape[1] + 2 * reach, shape[2] + 2 * reach)
    kernels = torch.cat([_gaussian(float(width), side) for width in widths], 1)[:, None]
    place = torch.arange(-reach, measured[-1] + reach) / max(measured[-1] - 1, 1) * (KERNELS - 1)
    place = place.clamp(0, KERNELS - 1)
    hats = (1 - (place - torch.arange(KERNELS)[:, None]).abs()).clamp(min=0)  # they sum to one
    multipliers = hats[None, None, :, None].expand(1, 1, KERNELS, *shape[1:]).contiguous()
    inner = deepinv.physics.SpaceVaryingBlur(
        kernels, multipliers, padding="circular", use_fft=True, mask_first=False, device=device
    )
    return OpenBorder(inner, (reach, reach)) if reach else inner


def _motion_blur(config: OperatorConfig, shape: tuple[int, ...], device: Any) -> Any:
    if config.kernel is not None:
        return _blur(config, shape, device)
    if config.size < 3 or not (config.length > 0 and config.spread > 0):
        raise ValueError(
            "physics.size must be at least 3, physics.length and physics.spread positive; got "
            f"{config.size}, {config.length} and {config.spread}"
        )
    _fits((config.size, config.size), shape, "physics.size")
    generator = deepinv.physics.generator.MotionBlurGenerator(
        (config.size, config.size), l=config.length, sigma=config.spread, rng=torch.Generator()
    )
    kernel = generator.step(seed=config.seed)["filter"]
    if _is_open(config):  # of odd sides, with the same middle
        kernel = torch.nn.functional.pad(kernel, (0, 1 - config.size % 2) * 2)
    return _convolution(config, kernel, shape, device, "physics.size")


def _inpainting(config: OperatorConfig, shape: tuple[int, ...], device: Any) -> Any:
    if config.mask is not None:
        mask, _ = read_mask(config.mask, shape[1:])
        return deepinv.physics.Inpainting(img_size=shape, mask=mask, device=device)
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
    angles, _ = read_angles(config.angles)
    return ScaledTomography(angles, shape[1], device)


def _mri(config: OperatorConfig, shape: tuple[int, ...], device: Any) -> Any:
    height, width = shape[1:]
    if config.mask is None:
        mask = _columns(config, width).expand(1, 1, height, width)
    else:
        mask, _ = read_mask(config.mask, (height, width))
    mask = mask.expand(1, 2, height, width).contiguous()
    if config.coil_maps is not None:
        maps, _ = read_coils(config.coil_maps, (height, width))
        return deepinv.physics.MultiCoilMRI(mask=mask, coil_maps=maps, device=device)
    return deepinv.physics.MRI(mask=mask, img_size=(1, 2, height, width), device=device)


def _columns(config: OperatorConfig, width: int) -> Tensor:
    """Random columns of k-space that are measured, (width,) of zeros and ones."""
    if not 1 <= config.acceleration < math.inf:
        raise ValueError(f"physics.acceleration must be at least 1; got {config.acceleration}")
    generator = torch.Generator().manual_seed(config.seed)
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
    return columns.float()


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


def _fits(sides: tuple[int, ...], shape: tuple[int, ...], option: str) -> None:
    if sides[0] > shape[-2] or sides[1] > shape[-1]:
        raise ValueError(
            f"{option} asks for a kernel of {sides[0]} x {sides[1]} pixels, larger than the image "
            f"({shape[-2]} x {shape[-1]})"
        )


OPERATORS: dict[str, Callable[..., Any]] = {
    "blur": _blur,
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
