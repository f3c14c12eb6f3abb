"""Gaussian noise of any kind as a frozen value: `Noise` of images, `Covariance` of patches.

Noise that is stationary has an autocovariance r(d), the covariance of two pixels d apart. It is
symmetric, r(-d) = r(d), zero beyond the lags that are given, and its Fourier transform, the
spectrum, is nowhere negative. The noise of a patch of b×b pixels has the Toeplitz matrix

    S_ij = r(place of i - place of j),

which point reflection of the patch leaves as it is. A pixel of the half-size image is the mean of
2×2 pixels, so that noise has the autocovariance

    r_half(d) = (r * t)(2 d),     t = [1 2 1] ⊗ [1 2 1] / 16

there: white noise of level sigma stays white at sigma / 2, noise that is wide keeps its level.
Nothing is cut: an autocovariance that is cut off has a spectrum that is negative somewhere.
`taper` multiplies it by a positive-definite window instead, under which it stays one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from gmdm_prior.autocovariance import agreed, checked_autocovariance, is_white, of_images
from gmdm_prior.covariance import Covariance

HALVING = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4


@dataclass(frozen=True, eq=False)
class NoiseCurve:
    """Says how the noise level of one image grows with its brightness.

    Args:
        brightness: (n,), rising, in units of the image.
        level: (n,), the noise level there, not negative.

    Raises:
        ValueError: the two do not fit, brightness does not rise, or a level is negative.
    """

    brightness: Tensor
    level: Tensor

    if TYPE_CHECKING:  # what may be given is wider than what the fields hold

        def __init__(
            self, brightness: Tensor | Sequence[float], level: Tensor | Sequence[float]
        ) -> None: ...

    def __post_init__(self) -> None:
        """Check the values and make them float64."""
        brightness = torch.as_tensor(self.brightness, dtype=torch.float64)
        level = torch.as_tensor(self.level, dtype=torch.float64)
        if brightness.ndim != 1 or brightness.shape != level.shape or not len(level):
            raise ValueError(
                "brightness and level of a NoiseCurve must both be (n,); got "
                f"{tuple(brightness.shape)} and {tuple(level.shape)}"
            )
        if not bool((brightness.diff() > 0).all()):
            raise ValueError("brightness of a NoiseCurve must rise; sort it, without repetitions")
        if not bool(((level >= 0) & (level < math.inf)).all()):
            raise ValueError("level of a NoiseCurve must be finite and not negative")
        object.__setattr__(self, "brightness", brightness)
        object.__setattr__(self, "level", level)

    def at(self, brightness: Tensor) -> Tensor:
        """The level at each brightness, shaped like it: linear between, constant beyond."""
        x, y = self.brightness.to(brightness), self.level.to(brightness)
        if len(x) == 1:
            return y.expand(brightness.shape)
        right = torch.searchsorted(x, brightness.detach()).clamp(1, len(x) - 1)
        share = ((brightness - x[right - 1]) / (x[right] - x[right - 1])).clamp(0, 1)
        return torch.lerp(y[right - 1], y[right], share)

    def scaled(self, factor: float) -> NoiseCurve:
        """Give the curve of the image times a positive factor."""
        return NoiseCurve(self.brightness * factor, self.level * factor)


@dataclass(frozen=True, eq=False)
class Noise:
    """Says what the noise of a batch of B images is like, each image's for itself.

    Args:
        sigma: level of each image, a number or (B,), in units of the image; None takes it from the
            autocovariance. With several channels its square is their mean variance.
        autocovariance: r(d) of each channel, (B, C, 2m+1, 2m+1), (C, …) or (…) alone, lag 0 in the
            middle, zero beyond lag m; None is white noise.
        curve: a `NoiseCurve`, one for each image, or None where brightness does not matter.
        white: whether each image's noise is white, bool or (B,); None reads it off the
            autocovariance.
        bounds: low and high end of an interval for each level; None where the level is known.
        notes: sentences about the noise.
        opponent: whether the three channels of the autocovariance are luminance and differences,
            as `OpponentModel` turns red, green and blue into, in its unscaled coordinates.
        levels: of each image the levels of its pixels, (H, W), where its noise is white and differs
            from place to place, else None; None where that holds for none.

    Raises:
        ValueError: an argument does not fit, the level is not that of the autocovariance at lag 0,
            or the latter is not symmetric, not positive, or has a negative spectrum.
    """

    sigma: Tensor = None
    autocovariance: Tensor | None = None
    curve: tuple[NoiseCurve, ...] | None = None
    white: Tensor = None
    bounds: tuple[Tensor, Tensor] = None
    notes: tuple[str, ...] = ()
    opponent: bool = False
    levels: tuple[Tensor | None, ...] | None = None

    if TYPE_CHECKING:  # what may be given is wider than what the fields hold

        def __init__(
            self,
            sigma: Tensor | float | None = None,
            autocovariance: Tensor | None = None,
            curve: Sequence[NoiseCurve] | NoiseCurve | None = None,
            white: Tensor | bool | None = None,
            bounds: tuple[Tensor | float, Tensor | float] | None = None,
            notes: Sequence[str] = (),
            opponent: bool = False,
            levels: Sequence[Tensor | None] | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        """Check the values and bring them to their shapes, in float64."""
        r = None if self.autocovariance is None else checked_autocovariance(self.autocovariance)
        if self.sigma is None and r is None:
            raise ValueError("a Noise wants a sigma or an autocovariance; got neither")
        sigma = _level("sigma", self.sigma) if self.sigma is not None else None
        if r is not None:
            sigma, r = agreed(sigma, r)
        if self.opponent and (r is None or r.shape[1] != 3):
            raise ValueError(
                "opponent=True names the three planes of an autocovariance (B, 3, 2m+1, 2m+1); got "
                f"{None if r is None else tuple(r.shape)}"
            )
        count = len(sigma)
        bounds = (sigma, sigma) if self.bounds is None else self.bounds
        low, high = (of_images("bounds", _level("bounds", b), count) for b in bounds)
        white = is_white(r, sigma) if self.white is None else torch.as_tensor(self.white)
        curve = (self.curve,) * count if isinstance(self.curve, NoiseCurve) else self.curve
        if curve is not None and len(curve) != count:
            raise ValueError(f"curve must be one for each of {count} images; got {len(curve)}")
        if self.levels is not None and len(self.levels) != count:
            raise ValueError(
                f"levels must be one map (H, W) or None for each of {count} images; got "
                f"{len(self.levels)}"
            )
        levels = None if self.levels is None else tuple(map(_map, self.levels))
        notes = (self.notes,) if isinstance(self.notes, str) else tuple(self.notes)
        values = {
            "sigma": sigma,
            "autocovariance": r,
            "curve": None if curve is None else tuple(curve),
            "white": of_images("white", white.bool().reshape(-1), count),
            "bounds": (low, high),
            "notes": notes,
            "levels": levels,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        """The number of images B."""
        return len(self.sigma)

    def __getitem__(self, index: int) -> Noise:
        """The noise of one image, B = 1."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} images; got index {index}")
        one = slice(index % len(self), index % len(self) + 1)
        return replace(
            self,
            sigma=self.sigma[one],
            autocovariance=None if self.autocovariance is None else self.autocovariance[one],
            curve=None if self.curve is None else self.curve[one],
            white=self.white[one],
            bounds=(self.bounds[0][one], self.bounds[1][one]),
            levels=None if self.levels is None else self.levels[one],
        )

    @property
    def map(self) -> Tensor | None:
        """Levels (1, 1, H, W) of the pixels of one image, B = 1; None where there is but one."""
        levels = None if self.levels is None else self.levels[0]
        return None if levels is None else levels[None, None]

    def channel(self, index: int) -> Noise:
        """The noise of one channel of each image, C = 1."""
        if self.autocovariance is None:
            return self
        one = min(index, self.channels - 1)
        return replace(self, opponent=False)._with(self.autocovariance[:, one : one + 1], None)

    def interval(self) -> tuple[Tensor, Tensor]:
        """Low and high end of each level, (B,) each."""
        return self.bounds

    @property
    def channels(self) -> int:
        """Channels C of the autocovariance; one where the noise is white."""
        return 1 if self.autocovariance is None else self.autocovariance.shape[1]

    @property
    def reach(self) -> int:
        """The widest lag m; 0 where the noise is white."""
        return 0 if self.autocovariance is None else self.autocovariance.shape[-1] // 2

    @property
    def lag1(self) -> Tensor:
        """Correlation of neighbours, (B, C, 2): vertical, horizontal."""
        m = self.reach
        if m == 0:
            return self.sigma.new_zeros(len(self), self.channels, 2)
        r = self.autocovariance
        return torch.stack([r[..., m + 1, m], r[..., m, m + 1]], -1) / r[..., m, m, None]

    def covariance(self, channel: int, patch_size: int, image: int = 0) -> Covariance:
        """Give the covariance of a patch of b×b pixels in one channel of one image."""
        r = self._lags(patch_size - 1)[image, min(channel, self.channels - 1)]
        place = torch.arange(patch_size, device=r.device)
        lag = place[:, None] - place + patch_size - 1
        matrix = r[lag[:, None, :, None], lag[None, :, None, :]]
        return Covariance(matrix.reshape(patch_size**2, patch_size**2))

    def halved(self) -> Noise:
        """The noise of the half-size image, whose pixels are means of 2×2 pixels."""
        if self.autocovariance is None:
            return self._with(None, 0.5)
        b, c, side, _ = self.autocovariance.shape
        window = torch.outer(HALVING, HALVING).to(self.autocovariance)[None, None]
        wide = F.conv2d(self.autocovariance.reshape(-1, 1, side, side), window, padding=2)
        first = (side // 2 + 1) % 2  # lag 0 is at m + 1
        r = wide[..., first::2, first::2]
        return self._with(r.reshape(b, c, *r.shape[2:]), None)

    def scaled(self, factor: float | Tensor) -> Noise:
        """The noise of the images times a factor, a number or (B,)."""
        factor = torch.as_tensor(factor, dtype=torch.float64, device=self.sigma.device)
        r = self.autocovariance
        if r is not None:
            r = r * factor.square().expand(len(self))[:, None, None, None]
        curve = self.curve
        if curve is not None:
            factors = factor.expand(len(self)).tolist()
            curve = tuple(c.scaled(f) for c, f in zip(curve, factors, strict=True))
        levels = self.levels
        if levels is not None:
            factors = factor.abs().expand(len(self)).tolist()
            levels = tuple(
                None if own is None else own * f for own, f in zip(levels, factors, strict=True)
            )
        return replace(self._with(r, factor.abs()), curve=curve, levels=levels)

    def low_frequency_sigma(self, reach: int) -> Tensor:
        """Level (B, C) of white noise whose means over `reach`² pixels vary as much as this one's.

        Its square is the spectrum around 0, within about 1 / `reach`; white noise has its level.
        """
        if reach < 1:
            raise ValueError(f"reach must be a positive number of pixels; got {reach}")
        if self.autocovariance is None:
            return self.sigma[:, None].clone()
        lags = torch.arange(-self.reach, self.reach + 1, device=self.sigma.device)
        window = (1 - lags.abs() / reach).clamp(min=0).to(self.autocovariance)
        total = (self.autocovariance * torch.outer(window, window)).sum((-2, -1))
        return total.clamp(min=0).sqrt()

    def spectrum(self, height: int, width: int) -> Tensor:
        """Spectrum (B, C, height, width) on a periodic grid, wide lags folded; its mean is r(0)."""
        r = self._lags(self.reach)
        place = torch.arange(-self.reach, self.reach + 1, device=r.device)
        for axis, side in ((-2, height), (-1, width)):
            shape = list(r.shape)
            shape[axis] = side
            r = r.new_zeros(shape).index_add(axis, place % side, r)
        return torch.fft.fft2(r).real.clamp(min=0)

    def sample(self, shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
        """Stationary noise of shape (B, C, H, W), whatever the curve says; B = 1 suits any batch.

        White noise is filtered on a periodic grid, larger by the widest lag than the image, so that
        no pixels are neighbours around its border: the autocovariance is exact.
        """
        count, channels, height, width = shape
        if len(self) not in (1, count) or self.channels not in (1, channels):
            raise ValueError(
                f"shape must be that of {len(self)} images of {self.channels} channels; got "
                f"{tuple(shape)}"
            )
        m = self.reach
        side = max(height + m, 2 * m + 1), max(width + m, 2 * m + 1)
        white = torch.randn(
            (count, channels, *side),
            generator=generator,
            dtype=torch.float64,
            device=self.sigma.device,
        )
        if self.autocovariance is None:
            return white * self.sigma[:, None, None, None]
        coloured = torch.fft.ifft2(torch.fft.fft2(white) * self.spectrum(*side).sqrt()).real
        return coloured[..., :height, :width]

    def _lags(self, reach: int) -> Tensor:
        """The autocovariance with lags up to `reach`, (B, C, 2 reach + 1, 2 reach + 1)."""
        if self.autocovariance is None:
            r = self.sigma.square()[:, None, None, None]
        else:
            r = self.autocovariance
        return F.pad(r, (reach - r.shape[-1] // 2,) * 4)  # a negative number crops

    def _with(self, autocovariance: Tensor | None, factor: float | Tensor | None) -> Noise:
        """The noise with another autocovariance or, where it is white, with scaled levels."""
        if autocovariance is not None:
            m = autocovariance.shape[-1] // 2
            sigma = autocovariance[:, :, m, m].mean(1).sqrt()
            factor = torch.where(self.sigma > 0, sigma / self.sigma, 1.0)
        else:
            sigma = self.sigma * factor
        low, high = (b * factor for b in self.bounds)
        return replace(
            self, sigma=sigma, autocovariance=autocovariance, bounds=(low, high), levels=None
        )


def _level(name: str, value: object) -> Tensor:
    """Levels (B,), checked."""
    level = torch.as_tensor(value, dtype=torch.float64)
    if level.ndim > 1 and level.numel() == len(level):
        level = level.flatten()  # (B, 1, 1, 1)
    if level.ndim > 1:
        raise ValueError(
            f"{name} of a Noise must be a number or one for each image, (B,); got "
            f"{tuple(level.shape)}. A map, one level for each pixel, goes to a denoiser by itself"
        )
    level = level.reshape(-1)
    if not len(level) or not bool(((level >= 0) & (level < math.inf)).all()):
        raise ValueError(f"{name} of a Noise must be finite and not negative; got {value}")
    return level


def _map(levels: Tensor | None) -> Tensor | None:
    """Levels of the pixels of one image (H, W), checked."""
    if levels is None:
        return None
    levels = torch.as_tensor(levels)
    if levels.ndim != 2:
        raise ValueError(
            f"levels of a Noise must be maps (H, W), one for each image; got {tuple(levels.shape)}"
        )
    if not bool(((levels >= 0) & (levels < math.inf)).all()):
        raise ValueError("levels of a Noise must be finite and not negative")
    return levels
