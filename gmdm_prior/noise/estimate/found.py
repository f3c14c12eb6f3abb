"""What was found out about the noise of each image, and the `Noise` of a batch made of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gmdm_prior.gaussian_noise import Noise, NoiseCurve

LEAST = 1e-4  # level of an image without noise beside one whose noise is correlated


@dataclass(frozen=True)
class Found:
    """The noise of one image: planes are opponent ones where `opponent`."""

    sigma: float
    bounds: tuple[float, float]
    lags: tuple[Tensor, ...] = ()
    curve: NoiseCurve | None = None
    notes: tuple[str, ...] = ()
    opponent: bool = False
    levels: Tensor | None = None  # (H, W), of white noise that differs from place to place

    def scaled(self, factor: float, shift: float) -> Found:
        """What was found, for the image times a factor plus a shift."""
        curve = self.curve
        if curve is not None:
            curve = NoiseCurve(curve.brightness * factor + shift, curve.level * factor)
        return Found(
            self.sigma * factor,
            (self.bounds[0] * factor, self.bounds[1] * factor),
            tuple(r * factor**2 for r in self.lags),
            curve,
            self.notes,
            self.opponent,
            None if self.levels is None else self.levels * factor,
        )

    def repeated(self, channels: int) -> Found:
        """For an image of equal channels, of which this is the noise of one.

        Three are turned into planes: the noise of all is in the first of them.
        """
        if not self.lags:
            return self
        r = self.lags[0]
        if channels != 3:
            return replace(self, lags=(r,) * channels)
        none = next_to_none(r)
        return replace(self, lags=(3 * r - 2 * none, none, none), opponent=True)


def joined(found: list[Found]) -> Noise:
    """The noise of a batch."""
    sigma = torch.tensor([f.sigma for f in found], dtype=torch.float64)
    low, high = (torch.tensor([f.bounds[i] for f in found], dtype=torch.float64) for i in (0, 1))
    notes = [
        f"image {i}: {n}" if len(found) > 1 else n for i, f in enumerate(found) for n in f.notes
    ]
    correlated = [f for f in found if f.lags]
    lags = None
    if correlated:
        like = torch.stack(correlated[0].lags)
        lags = torch.stack([torch.stack(f.lags) if f.lags else _white_lags(f, like) for f in found])
    curves = None
    if any(f.curve is not None for f in found):
        curves = tuple(f.curve or NoiseCurve([0.5], [f.sigma]) for f in found)
    white = torch.tensor([not f.lags for f in found])
    opponent = bool(correlated) and correlated[0].opponent
    level = None if correlated else sigma
    levels = tuple(f.levels for f in found) if any(f.levels is not None for f in found) else None
    return Noise(level, lags, curves, white, (low, high), tuple(notes), opponent, levels)


def _white_lags(found: Found, like: Tensor) -> Tensor:
    lags = torch.zeros_like(like)
    m = like.shape[-1] // 2
    lags[:, m, m] = max(found.sigma, LEAST) ** 2
    return lags


def next_to_none(like: Tensor) -> Tensor:
    """The lags of white noise that is next to none beside others."""
    lags = torch.zeros_like(like)
    m = len(lags) // 2
    lags[m, m] = 1e-6 * float(like[m, m])
    return lags
