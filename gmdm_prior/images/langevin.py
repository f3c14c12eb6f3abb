"""Annealed Langevin sampling, for densities that have a score but no exact samples.

At each noise level sigma of a falling sequence, the chain

    x <- x + h score(x, sigma) + sqrt(2 h) n,     n ~ N(0, Id),     h = step / lipschitz(sigma)

forgets where it started and tends to the density at sigma. The step is no correction of a
discretisation error but small enough to make it so: along a direction in which a Gaussian density
has the curvature kappa <= lipschitz, the stationary variance of the chain is

    1 / kappa · 1 / (1 - h kappa / 2) <= 1 / kappa · 1 / (1 - step / 2),

so 5 % too large at most for the default step. Directions of small curvature need about
lipschitz / (kappa step) steps to forget their start; annealing is there to bring them near.

For images of whole-image models (`ConvolutionalModel`) and for the composite likelihood of
overlapping patches (`PatchLikelihood`), which is no density of images: what is drawn then is what
has that gradient as its score. Filters are zero-mean, so the mean of an image is flat and would
walk at random: `keep_mean` holds it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor


class Scored(Protocol):
    """What can be sampled: a gradient, and how much it can change."""

    def score(self, x: Tensor, sigma: float) -> Tensor:
        """Gradient of a log-density, shaped like x."""

    def lipschitz(self, sigma: float) -> float:
        """Largest curvature of minus the log-density."""


@torch.no_grad()
def langevin(
    density: Scored,
    start: Tensor,
    sigmas: Sequence[float],
    steps: int = 100,
    step: float = 0.1,
    generator: torch.Generator | None = None,
    keep_mean: bool = True,
) -> Tensor:
    """Approximate samples of a density at the last of falling noise levels.

    Args:
        density: with `score` and `lipschitz`: a `ConvolutionalModel`, a `PatchLikelihood`, or any
            model of patches.
        start: (B, C, H, W), where the chains begin: noise, or an image. Not modified.
        sigmas: falling noise levels, standard deviations in the units of the image.
        steps: at each level.
        step: h lipschitz(sigma), in (0, 1]; see the module for the error it makes.
        generator: of the noise, on the device of `start`; one seed, one sample.
        keep_mean: hold the mean of each channel of each image, which zero-mean filters do not see.
            False for models with a proper mean (`with_mean`).

    Returns:
        Like `start`.

    Raises:
        TypeError: density has no `score` or `lipschitz`, or start is no floating-point tensor.
        ValueError: levels that do not fall, or numbers out of range.
        FloatingPointError: the chain has left the finite numbers.
    """
    levels = _check(density, start, sigmas, steps, step)
    x = start.clone()
    for sigma in levels:
        h = step / density.lipschitz(sigma)
        for _ in range(steps):
            noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
            if keep_mean:
                noise -= noise.mean((-2, -1), keepdim=True)
            x = x + h * density.score(x, sigma) + math.sqrt(2 * h) * noise
        if not bool(torch.isfinite(x).all()):
            raise FloatingPointError(
                f"the chain is not finite at sigma = {sigma:g}; start from smaller values or "
                "lower step"
            )
    return x


def geometric_levels(highest: float, lowest: float, count: int) -> list[float]:
    """Noise levels that fall by one factor, both ends included, for `langevin`.

    Raises:
        ValueError: not highest >= lowest > 0, or no level at all.
    """
    if not 0 < lowest <= highest < math.inf or count < 1:
        raise ValueError(
            "levels need highest >= lowest > 0 and count >= 1; got "
            f"highest={highest}, lowest={lowest}, count={count}"
        )
    if count == 1:
        return [float(lowest)]
    ratio = lowest / highest
    return [highest * ratio ** (i / (count - 1)) for i in range(count)]


def _check(
    density: Scored, start: Tensor, sigmas: Sequence[float], steps: int, step: float
) -> list[float]:
    for name in ("score", "lipschitz"):
        if not callable(getattr(density, name, None)):
            raise TypeError(
                f"density must have a method {name}; {type(density).__name__} has none. Use a "
                "ConvolutionalModel, or PatchLikelihood(model) for a model of patches"
            )
    if not isinstance(start, Tensor) or not start.is_floating_point():
        kind = start.dtype if isinstance(start, Tensor) else type(start).__name__
        raise TypeError(f"start must be a floating-point tensor of images; got {kind}")
    levels = [float(s) for s in sigmas]
    if not levels or not all(0 <= s < math.inf for s in levels):
        raise ValueError(f"sigmas must be at least one finite level, not negative; got {levels}")
    if any(later > earlier for earlier, later in pairwise(levels)):
        raise ValueError(f"sigmas must fall, as geometric_levels gives them; got {levels}")
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be an integer of at least 1; got {steps!r}")
    if not 0 < step <= 1:
        raise ValueError(f"step must be in (0, 1], a share of what is stable at most; got {step}")
    return levels
