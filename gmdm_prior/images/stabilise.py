"""A transform after which noise has the same level at every brightness, and its way back.

Noise of level sigma(x) at brightness x has about level 1 after

    f(y) = ∫ dx / sigma(x).

f is curved, so the mean of f(y) is not f of the clean x: the way back is the inverse of the table

    x -> E[f(y) | x],

the exact unbiased inverse (Mäkitalo and Foi 2011, 2013). Where sigma² = gain x + offset is a line,
noise is taken for counts of mean (x - black) / gain, Poisson, with Gaussian noise of variance s²
(in counts) beside them, and f is the generalised Anscombe transform

    f(y) = 2 sqrt(max(0, (y - black) / gain + 3/8 + s²)),

with black = 0 where the offset is positive, s = 0 where it is negative (a black level above 0).
Any other curve is integrated from its table, and noise is taken for Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gmdm_prior.gaussian_noise import NoiseCurve

LIKE_A_LINE = 0.05  # of the largest variance: how far the curve may be from its line
MOST_COUNTS = 200  # summed one by one
MANY = 60.0  # mean counts from which on they are taken for Gaussian
NODES = 101  # of Gaussian noise
POINTS = 1_000  # of the tables
LEAST_SHARE = 0.02  # of the largest level: no noise is thought to be smaller


class Stabiliser:
    """A rising transform of brightness with its unbiased inverse.

    Args:
        forward: the transform, elementwise.
        clean: (n,), brightnesses without noise, rising.
        mean: (n,), the mean of the transform of noisy ones, not falling.
    """

    def __init__(self, forward: Callable[[Tensor], Tensor], clean: Tensor, mean: Tensor) -> None:
        self._forward, self._clean, self._mean = forward, clean, mean.cummax(0)[0]

    def __call__(self, image: Tensor) -> Tensor:
        """The transform of an image, in float64."""
        return self._forward(image.double())

    def back(self, stable: Tensor) -> Tensor:
        """The clean brightness whose noisy transforms have this mean."""
        return interpolated(stable.double(), self._mean, self._clean)


def stabiliser(curve: NoiseCurve, lowest: float = 0.0, highest: float = 1.0) -> Stabiliser:
    """The transform for a noise curve, and values of the noisy image between two ends."""
    line = line_of(curve)
    if line is not None:
        return anscombe(*line, highest + 0.3 * (highest - min(lowest, 0.0)))
    return integral(curve, lowest, highest)


def line_of(curve: NoiseCurve) -> tuple[float, float] | None:
    """Gain and offset of sigma² = gain x + offset where the curve is such a rising line."""
    x, v = curve.brightness, curve.level.square()
    told = v > 0
    x, v = x[told], v[told]
    if len(x) < 2:
        return None
    mx, mv = x.mean(), v.mean()
    gain = float(((x - mx) * (v - mv)).sum() / (x - mx).square().sum())
    offset = float(mv - gain * mx)
    away = float((gain * x + offset - v).abs().max())
    if gain <= 0 or away > LIKE_A_LINE * float(v.max()):
        return None
    return gain, offset


def anscombe(gain: float, offset: float, highest: float = 1.3) -> Stabiliser:
    """Generalised Anscombe's transform for sigma² = gain x + offset, and its inverse."""
    black, read = max(0.0, -offset / gain), max(0.0, offset) / gain**2

    def root(counts: Tensor) -> Tensor:
        return 2 * (counts + 3 / 8 + read).clamp(min=0).sqrt()

    top = max(21.0, (highest - black) / gain)
    few = torch.linspace(0, min(20.0, top), POINTS // 2, dtype=torch.float64)
    many = torch.logspace(math.log10(20.0), math.log10(top), POINTS // 2, dtype=torch.float64)
    mu = torch.cat([few, many[1:]])
    normal = _gaussian_nodes()
    k = torch.arange(MOST_COUNTS, dtype=torch.float64)
    log = k * mu.clamp(min=1e-12)[:, None].log() - mu[:, None] - torch.lgamma(k + 1)
    counted = log.exp() @ root(k[:, None] + math.sqrt(read) * normal).mean(1)
    spread = root(mu[:, None] + (mu + read).sqrt()[:, None] * normal).mean(1)
    mean = torch.where(mu < MANY, counted, spread)
    return Stabiliser(lambda y: root((y - black) / gain), black + gain * mu, mean)


def integral(curve: NoiseCurve, lowest: float, highest: float) -> Stabiliser:
    """The transform for any curve, from its table."""
    wide = 0.3 * max(highest - lowest, 1e-12)
    x = torch.linspace(lowest - wide, highest + wide, POINTS, dtype=torch.float64)
    level = curve.at(x)
    level = level.clamp(min=LEAST_SHARE * float(level.max()))
    steps = x.diff() * (0.5 / level[1:] + 0.5 / level[:-1])
    f = torch.cat([x.new_zeros(1), steps.cumsum(0)])

    def forward(y: Tensor) -> Tensor:
        return interpolated(y, x, f)

    mean = forward(x[:, None] + level[:, None] * _gaussian_nodes()).mean(1)
    return Stabiliser(forward, x, mean)


def interpolated(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Values of the line through points (x, y), x not falling; straight on beyond the ends."""
    x, y = x.to(at), y.to(at)
    right = torch.searchsorted(x, at.contiguous()).clamp(1, len(x) - 1)
    left = right - 1
    run = (x[right] - x[left]).clamp(min=1e-30)
    share = (at - x[left]) / run
    share = torch.where(at < x[0], share.clamp(max=0), share)
    return torch.where(at <= x[0], y[0], y[left] + share * (y[right] - y[left]))


def _gaussian_nodes() -> Tensor:
    """Equally likely values of a standard normal number."""
    share = (torch.arange(NODES, dtype=torch.float64) + 0.5) / NODES
    nodes = math.sqrt(2) * torch.erfinv(2 * share - 1)
    return nodes / nodes.square().mean().sqrt()
