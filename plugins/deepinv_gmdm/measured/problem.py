"""Measurements in files: what they are, in which units, and how noisy.

    images     a picture of any kind, in units of its range (blur, inpainting, super_resolution, …)
    kspace     complex (H, W), (coils, H, W), or two channels (2, H, W)
    sinogram   line integrals in units of pixels (as `skimage.transform.radon` has them),
               (detectors, angles) or (angles, detectors)

An operator is linear, so with x = low + width · u its measurement is A x = low · A 1 + width · A u:
solvers see u, with values in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import deepinv
import numpy as np
import torch
from torch import Tensor

from deepinv_gmdm.measured.files import Measurement
from deepinv_gmdm.measured.noise import (
    SMALLEST_COUNTED,
    between_missing,
    corner_noise,
    grows,
    picture_noise,
    sinogram_noise,
)
from deepinv_gmdm.operator_files import read_angles, read_mask, sides
from deepinv_gmdm.physics import PhysicsConfig, build_physics
from deepinv_gmdm.tomography import SinogramPhysics, centred, rotation_axis
from gmdm_prior.files.formats import choose
from gmdm_prior.files.formats.picture import Range
from gmdm_prior.noise.poisson_gaussian import estimate_poisson_gaussian
from gmdm_prior.sigma import parse


@dataclass
class Problem:
    """One page: what was measured, by what, in which units.

    Attributes:
        y: the measurement in units of u.
        physics: with its noise.
        low: x where u is 0.
        width: what a difference of one in u is in x.
        sigma: the noise level in the units of the file (of images, of the range).
        gain: of counted photons, the value of one.
    """

    y: Tensor
    physics: Any
    low: float
    width: float
    sigma: float
    gain: float | None = None


def problem(
    measured: Measurement,
    index: int,
    config: PhysicsConfig,
    data_range: str | Range | None = None,
    truth_side: int | None = None,
    device: Any = "cpu",
) -> tuple[Problem, list[str]]:
    """One page as a problem in units of u, and what is to be said of it.

    Args:
        measured: the file.
        index: of the page.
        config: the physics; `noise.sigma` is a number or `"auto"`.
        data_range: the values of black and white of k-space and sinograms.
        truth_side: of a sinogram, the side of the true picture where that is known.
        device: where to compute.

    Raises:
        ValueError: for shapes that do not fit, or a bad noise level.
    """
    if measured.kind == "image":
        return _of_image(measured, index, config, device)
    if measured.kind == "sinogram":
        return _of_sinogram(measured.pages[index], config, data_range, truth_side, device)
    return _of_kspace(measured.pages[index], config, data_range, device)


def _of_image(
    measured: Measurement, index: int, config: PhysicsConfig, device: Any
) -> tuple[Problem, list[str]]:
    assert measured.picture is not None
    fills = config.name == "inpainting"
    y, notes = measured.picture.page(index, 0.0 if fills else None).to(device), []
    if fills:
        config, said = _without_missing(config, np.asarray(measured.picture.missing(index).any(0)))
        notes.append(said)
    blurs = "blur" in config.name
    if blurs and config.boundary is None:
        config = replace(config, boundary="open")
    shape = tuple(y.shape[1:])
    if config.name == "super_resolution":
        shape = (shape[0], shape[1] * config.factor, shape[2] * config.factor)
    sigma = config.noise.sigma
    known = _with_sigma(config, 0.0 if sigma == "auto" else sigma)
    if sigma == "auto" and (blurs or config.name == "denoise") and config.noise.name == "gaussian":
        if grows(y):
            known = replace(known, noise=replace(known.noise, name="poisson_gaussian"))
    if sigma == "auto" and known.noise.name.startswith("poisson"):
        known, said = _counted(known, y)
        sigma = known.noise.sigma
        notes.append(said)
    physics = build_physics(known, shape, device)
    mask = getattr(physics, "mask", None) if config.name == "inpainting" else None
    if mask is not None:
        y = y * mask
    if sigma == "auto":
        if mask is None:
            kind = "auto" if config.name == "denoise" else "white"
            lossy, step = choose.is_lossy(measured.path), measured.picture.step
            level, said = picture_noise(y, kind, blurs, lossy, step)
            notes.append(said)
        else:
            level = between_missing(y, mask)
            notes.append(f"noise {255 * level:.2f}/255, of neighbouring pixels that are seen")
        physics = build_physics(_with_sigma(config, level), shape, device)
    else:
        level = parse(sigma, "physics.noise.sigma", white=255)
    gain = known.noise.gain if known.noise.name.startswith("poisson") else None
    return Problem(y, physics, 0.0, 1.0, level, gain), notes


def _counted(config: PhysicsConfig, y: Tensor) -> tuple[PhysicsConfig, str]:
    """The config with gain and sigma of counted photons, read off the measurement.

    Raises:
        ValueError: where the noise does not grow with brightness.
    """
    if min(y.shape[-2:]) < SMALLEST_COUNTED:
        raise ValueError(
            f"the measurement is {sides(tuple(y.shape[-2:]))}; gain and noise of counted photons "
            f"are read off {SMALLEST_COUNTED}x{SMALLEST_COUNTED} pixels or more: give "
            "physics.noise.gain"
        )
    gain, sigma = (float(value) for value in estimate_poisson_gaussian(y))
    if not gain > 0:
        raise ValueError(
            f"physics.noise.name={config.noise.name}: the noise of the measurement does not grow "
            "with brightness; use physics.noise.name=gaussian, or give physics.noise.gain"
        )
    noise = replace(config.noise, gain=gain, sigma=sigma)
    said = f"noise of counted photons, variance {gain:.4g} x brightness"
    if config.noise.name == "poisson_gaussian":
        said += f" + {sigma:.4g}²"
    return replace(config, noise=noise), f"{said}, read off the measurement"


def _without_missing(config: PhysicsConfig, missing: np.ndarray) -> tuple[PhysicsConfig, str]:
    """The config with the mask of what is seen: of its file, but for missing values (H, W).

    Raises:
        ValueError: where nothing says what is seen.
    """
    if config.mask is None and not missing.any():
        raise ValueError(
            "measurement= with physics.name=inpainting needs physics.mask=FILE, which pixels are "
            "seen, or a file with missing values (NaN)"
        )
    if config.mask is None:
        seen, said = ~missing, f"mask: {100 * (~missing).mean():.1f} % is seen (not NaN or blank)"
    else:
        mask, said = read_mask(config.mask, missing.shape)
        seen = (mask[0, 0].numpy() > 0) & ~missing
    if not seen.any():
        raise ValueError("nothing is seen: where the mask is nonzero all values are missing")
    return replace(config, mask=seen.astype(np.float32)), said


def _of_sinogram(
    page: np.ndarray,
    config: PhysicsConfig,
    data_range: str | Range | None,
    truth_side: int | None,
    device: Any,
) -> tuple[Problem, list[str]]:
    angles, said = read_angles(config.angles)
    notes = [said]
    count = len(angles)
    if count not in page.shape:
        raise ValueError(
            f"the measurement is {sides(page.shape)} and physics.angles are {count}: one of its "
            "sides must be as many. Give physics.angles=FILE, or how many there are over 180 "
            "degrees"
        )
    if page.shape[1] != count:
        page = page.T
        notes.append("rows are angles: transposed")
    detectors = page.shape[0]
    side = config.side or detectors
    if config.side is None and truth_side and math.ceil(math.sqrt(2) * truth_side) == detectors:
        side = truth_side
    if not 1 <= side <= detectors:
        raise ValueError(f"physics.side={side} must be from 1 to the {detectors} detectors")
    axis = rotation_axis(page, angles.double().numpy())
    if axis != (detectors - 1) / 2:
        notes.append(f"the rotation axis is at detector {axis:g} (from 0), by centres of mass")
    wide = centred(page, axis)
    physics = SinogramPhysics(angles.to(device), len(wide), min(side, len(wide)), device)
    y = torch.from_numpy(np.ascontiguousarray(wide)).float()[None, None].to(device) / side
    if isinstance(data_range, tuple):
        low, high = data_range
    else:
        low, high = 0.0, float(torch.quantile(physics.fbp(y).flatten(), 0.999))
        high = high if high > 0 else 1.0
        notes.append(f"black and white are {low:g} and {high:.4g} (of filtered back-projection)")
    width = high - low
    if low:
        y = y - low * physics.A(torch.ones(1, 1, side, side, device=device))
    sigma = config.noise.sigma
    if sigma == "auto":
        level, where = sinogram_noise(page)
        notes.append(f"noise {level:.4g}, of {where}")
    else:
        level = parse(sigma, "physics.noise.sigma")
    physics.noise_model = deepinv.physics.GaussianNoise(level / side / width)
    return Problem(y / width, physics, low, width, level), notes


def _of_kspace(
    page: np.ndarray, config: PhysicsConfig, data_range: str | Range | None, device: Any
) -> tuple[Problem, list[str]]:
    if page.ndim not in (2, 3):
        raise ValueError(f"k-space is (H, W) or (coils, H, W); this is {sides(page.shape)}")
    coils = config.coil_maps is not None
    if coils != (page.ndim == 3):
        remedy = (
            "leave physics.coil_maps out"
            if coils
            else "give physics.coil_maps=FILE of several coils, or axis=0 of slices"
        )
        raise ValueError(f"the measurement is {sides(page.shape)}: {remedy}")
    shape, notes = page.shape[-2:], []
    corner = _lowest_in_corner(page)
    if config.mask is None:
        seen = (page != 0).reshape(-1, *shape).any(0)
        notes.append(f"{100 * seen.mean():.1f} % of k-space is measured (not zero)")
    else:
        mask, said = read_mask(config.mask, shape)
        seen = mask[0, 0].numpy() > 0
        notes.append(said)
    if corner:
        page, seen = (np.fft.fftshift(a, (-2, -1)) for a in (page, seen))
        notes.append("its lowest frequency was in the corner: moved to the centre")
    page, turned = _about_the_centre(page)
    if turned:
        notes.append("the image's origin was its corner: moved to its centre")
    physics = build_physics(
        _with_sigma(replace(config, mask=seen.astype(np.float32)), 0.0), (2, *shape), device
    )
    parts = np.stack([page.real, page.imag]) * seen
    y = torch.from_numpy(parts.astype(np.float32))[None].to(device)
    if isinstance(data_range, tuple):
        if data_range[0] != 0:
            raise ValueError(f"data_range={data_range}: black is 0 of complex images; give 0,white")
        width = data_range[1]
    else:
        size = physics.A_adjoint(y).square().sum(1).sqrt()
        width = float(torch.quantile(size.flatten(), 0.999)) or 1.0
        notes.append(f"white is {width:.4g} (of the zero-filled image)")
    sigma = config.noise.sigma
    if sigma == "auto":
        level, where = corner_noise(y, torch.from_numpy(seen).to(device))
        notes.append(
            f"noise {level:.4g} of real and imaginary part, of {where} (what the image holds there "
            "counts as noise; physics.noise.sigma says otherwise)"
        )
    else:
        level = parse(sigma, "physics.noise.sigma")
    physics.noise_model = deepinv.physics.GaussianNoise(level / width)
    return Problem(y / width, physics, 0.0, width, level), notes


def _with_sigma(config: PhysicsConfig, sigma: Any) -> PhysicsConfig:
    return replace(config, noise=replace(config.noise, sigma=sigma))


def _lowest_in_corner(page: np.ndarray) -> bool:
    """Whether the most energetic frequency lies in the corner, as `numpy.fft.fft2` leaves it."""
    energy = (np.abs(page) ** 2).reshape(-1, *page.shape[-2:]).sum(0)
    height, width = energy.shape
    down, across = max(1, height // 16), max(1, width // 16)
    moved = np.fft.fftshift(energy)
    middle = (
        slice(height // 2 - down, height // 2 + down),
        slice(width // 2 - across, width // 2 + across),
    )
    return bool(moved[middle].sum() > energy[middle].sum())


def _about_the_centre(page: np.ndarray) -> tuple[np.ndarray, bool]:
    """K-space of an image whose origin is its centre, and whether it had to be made so.

    Of an object in the middle of an image whose origin is its corner, as `numpy.fft.fft2` takes it,
    neighbouring low frequencies have opposite signs.
    """
    turned = False
    for axis in (-2, -1):
        size = page.shape[axis]
        low = np.take(page, range(size // 2 - size // 8, size // 2 + size // 8 + 1), axis)
        here = np.take(low, range(low.shape[axis] - 1), axis)
        there = np.take(low, range(1, low.shape[axis]), axis)
        if (here * there.conj()).real.sum() < 0:
            frequency = np.arange(size) - size // 2
            phase = np.exp(2j * np.pi * frequency * (size // 2) / size)
            page = page * (phase[:, None] if axis == -2 else phase)
            turned = True
    return page, turned
