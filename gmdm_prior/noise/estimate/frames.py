"""Noise from two pictures of the same scene: what changes between them is noise, without any model.

    (a - b) / √2  has the noise of either,  (a + b) / 2  the scene with half its variance.

The autocovariance of all blocks of the difference, a curve from their variances over the mean's
brightness, and a test of whiteness: of N independent pixels the correlation of neighbours has the
standard error 1 / √N, and noise is called white where none of a dozen neighbours is correlated by
more than `SURE` of them (by chance once in a thousand) and by more than `LEAST_LAG`.
Where the scene moved, blocks of the difference hold edges: the flattest half of them is taken.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gmdm_prior.densities.opponent import OPPONENT
from gmdm_prior.gaussian_noise import NoiseCurve
from gmdm_prior.noise.estimate.autocovariance import cut_blocks, lags_of, read_autocovariance
from gmdm_prior.noise.estimate.curve import BINS, SIDE, Line, weighted_line

SURE, LEAST_LAG = 4.0, 0.03  # standard errors, and a correlation that makes no difference
SHARE = 0.5  # of the blocks
UNLIKE = 1.15  # ends of the curve


def of_two_frames(
    a: Tensor, b: Tensor, lying: Tensor, kind: str = "auto"
) -> tuple[float, tuple[float, float], tuple[Tensor, ...], NoiseCurve | None, tuple[str, ...]]:
    """Level, interval, autocovariances (none if white), curve and notes, of images (C, H, W)."""
    difference, mean = (a - b) / math.sqrt(2), (a + b) / 2
    notes = ["read off the difference of two frames"]
    planes = difference
    if len(planes) == 3:
        turn = torch.tensor(OPPONENT, dtype=planes.dtype, device=planes.device)
        planes, lying = torch.einsum("oc,chw->ohw", turn, planes), lying.any(0).expand(a.shape)
    read = [read_autocovariance(p, h, share=SHARE) for p, h in zip(planes, lying, strict=True)]
    if any(r is None for r in read):
        return 0.0, (0.0, 0.0), (), None, ("the two frames are the same: they show no noise",)
    sigma = math.sqrt(sum(r.sigma**2 for r in read) / len(read))
    error = 1.96 * math.hypot(1 / math.sqrt(2 * a.numel()), 0.01)
    bounds = (sigma * math.exp(-4 * error), sigma * math.exp(4 * error))
    line = _line(planes[0], mean.mean(0), lying[0]) if kind in ("auto", "poisson") else None
    curve = None
    if line is not None and (kind == "poisson" or line.ratio > UNLIKE):
        curve = line.curve(min(float(mean.min()), 0.0), float(torch.maximum(a, b).max()))
        notes.append("the noise grows with brightness")
    white = kind == "white" or (kind != "correlated" and all(map(_is_white, planes, lying)))
    if not white:
        notes.append(
            "the noise is correlated: neighbours by {:.2f} and {:.2f}".format(*read[0].lag1)
        )
    return sigma, bounds, () if white else tuple(r.lags for r in read), curve, tuple(notes)


def _is_white(plane: Tensor, lying: Tensor) -> bool:
    """Whether neighbours of a plane of pure noise are uncorrelated."""
    r = lags_of(cut_blocks(plane, lying).flattest(SHARE), reach=2)
    r = (r / r[2, 2]).flatten()
    away = float(torch.cat([r[:12], r[13:]]).abs().max())
    return away < max(SURE / math.sqrt(SHARE * plane.numel()), LEAST_LAG)


def _line(plane: Tensor, mean: Tensor, lying: Tensor) -> Line | None:
    """Variance of the difference over brightness of the mean, block by block."""
    noise, scene = cut_blocks(plane, lying, SIDE), cut_blocks(mean, lying, SIDE)
    if len(noise.means) != len(scene.means) or len(noise.means) < 3 * BINS:
        return None
    parts = scene.means.argsort().tensor_split(BINS)
    x = torch.stack([scene.means[p].mean() for p in parts])
    v = torch.stack([noise.variances[p].median() for p in parts])
    if float(x[-1] - x[0]) < 1e-9:
        return None
    gain, offset, spread = weighted_line(x, v, v / math.sqrt(len(noise.means) / BINS))
    ends = (gain * x[[0, -1]] + offset).clamp(min=1e-12)
    return Line(gain, offset, gain / spread, float((ends[1] / ends[0]).sqrt()))
