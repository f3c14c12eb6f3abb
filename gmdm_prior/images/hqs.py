"""Half-quadratic splitting (HQS) of whole images.

For falling levels sigma_i, one empirical-Bayes step on the current image, then the data term in
closed form,

    z = average of posterior means of the patches of x at sigma_i,
    x = (1 - w_i) z + w_i y,

on grids of patches that shift from step to step, so that a coarse `stride` costs little. The image
is padded once, by all that the steps reach; each takes its border off again. Levels
sigma_i and data weights w_i are smooth functions of the input sigma (`schedule`), of a noise map
pixel by pixel. A patch does not see structures that are wider than itself, and what is left of
the noise in flat areas is wide: the same steps with the same density also restore the image of half
the size, and that of a quarter, and where an image is flat, against its noise, what they differ by
there is added (`half_size`, `Schedule.coarse_share`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.fast.choose import Evaluator
from gmdm_prior.gaussian_noise import Noise
from gmdm_prior.images import correlated
from gmdm_prior.images.averaging import Step, multiple, pad_both
from gmdm_prior.images.half_size import (
    HALVINGS,
    MARGIN,
    SEEN,
    double,
    halve,
    halve_level,
    local_variance,
)
from gmdm_prior.images.patches import Run, grid, inner
from gmdm_prior.images.planes import check_options, per_plane
from gmdm_prior.images.schedule import DEFAULT, Schedule

DEFAULT_STRIDE = 4
BEYOND = 2  # pixels around a half-size image that are restored with it; even, and half of it used


class HalfQuadraticSplitting(nn.Module):
    """A few empirical-Bayes steps at falling noise levels, on shifting grids of patches.

    Args:
        model: a density of patches, as for `PatchAveraging`.
        stride: distance of neighbouring patches, each of them evaluated exactly. None is the fast
            default: up to `DEFAULT_STRIDE` but at most half a patch; a `PatchMixture` then takes a
            noise map patch by patch, at rounded levels (`fast.mixture_maps`).
        boundary: `"reflect"` or `"circular"`.
        levels: noise level of each step, in units of the input sigma, at full size only; None is
            the default schedule.
        data_shares: weight of the noisy image after each step, from 0 to 1; None with `levels`.
    """

    def __init__(
        self,
        model: DensityModel,
        stride: int | None = None,
        boundary: str = "reflect",
        levels: Sequence[float] | None = None,
        data_shares: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check_options(model, 1 if stride is None else stride, boundary)
        self.exact, self._evaluator = stride is not None, Evaluator()
        if stride is None:
            stride = min(DEFAULT_STRIDE, max(1, model.patch_size // 2))
        self.model, self.stride, self.boundary = model, stride, boundary
        self.schedule = DEFAULT
        if levels is not None or data_shares is not None:
            self.schedule = Schedule.constant(list(levels or ()), list(data_shares or ()))

    @property
    def halo(self) -> int:
        """How many pixels away an input pixel can change an output pixel, up to two whole strides.

        Tiles that begin at multiples of four times the stride (the grid of patches, at a quarter of
        the size too), each with so much around it, give what the whole image gives.
        """
        halvings = HALVINGS if self.schedule.has_coarse_scale else 0
        return multiple(self._around(halvings), 2**halvings * self.stride)

    @property
    def _reach(self) -> int:
        """How many pixels around a result the steps take, at one scale."""
        return len(self.schedule) * (self.model.patch_size - 1)

    def _around(self, halvings: int) -> int:
        """How many pixels around a result are taken, at so many scales besides its own."""
        if not halvings:
            return self._reach
        around = max(self._reach + SEEN, 2 * (self._around(halvings - 1) + BEYOND))
        return multiple(around, 2**halvings)

    def forward(self, noisy: Tensor, sigma: object) -> Tensor:
        """Denoise images; arguments, result and errors are those of `PatchAveraging.forward`."""
        return per_plane(self.model, self._restore, noisy, sigma)

    def _restore(
        self, model: DensityModel, image: Tensor, level: Tensor | Noise, run: Run
    ) -> Tensor:
        """An image (c, H, W) at all its scales."""
        if isinstance(level, Noise):
            return self._restore_correlated(model, image, level, run)
        height, width = image.shape[1:]
        halvings = self._halvings(model, height, width)
        around, sides = self._around(halvings), 2**halvings
        image, level = pad_both(image, level, around, around + sides - 1, self.boundary)
        whole = (slice(None), *(slice(side - side % sides) for side in image.shape[1:]))
        image, level = image[whole], level[whole] if level.ndim else level
        return self._scales(model, image, level, run, halvings)[:, :height, :width]

    def _halvings(self, model: DensityModel, height: int, width: int) -> int:
        """How many scales an image has besides its own: each has room for a patch."""
        count, side = 0, min(height, width)
        while self.schedule.has_coarse_scale and count < HALVINGS:
            side = (side + 1) // 2
            if side < model.patch_size:
                break
            count += 1
        return count

    def _scales(
        self,
        model: DensityModel,
        image: Tensor,
        level: Tensor,
        run: Run,
        halvings: int,
        margin: int = 0,
    ) -> Tensor:
        """All steps on an image (c, H, W) at all its scales, less `_around(halvings)` pixels.

        `margin` is that of `_split`, and even where there are scales to come.
        """
        if not halvings:
            return self._split(model, image, level, run, margin)
        around = self._around(halvings)
        off = around - self._reach - SEEN
        x = self._split(model, inner(image, off), inner(level, off), run, margin + SEEN)
        off = around - 2 * (self._around(halvings - 1) + BEYOND)
        small, half = halve(inner(image, off)), halve_level(inner(level, off))
        coarse = self._scales(model, small, half, run, halvings - 1, margin // 2 + BEYOND)
        change = double(coarse - halve(inner(x, SEEN - 2 * BEYOND)))
        share = self.schedule.coarse_share(inner(level, around), local_variance(x))
        return inner(x, SEEN) + share * inner(change, 2 * BEYOND - MARGIN)

    def _restore_correlated(
        self, model: DensityModel, image: Tensor, noise: Noise, run: Run
    ) -> Tensor:
        """An image (c, H, W) with noise that is not white."""

        def denoise(x: Tensor, level: Tensor, i: int) -> Tensor:
            phase = grid(i, self.stride)
            return Step(self._evaluator, model, self.stride, run, phase, fast=not self.exact)(
                x, level
            )

        border = model.patch_size - 1
        return correlated.restore(image, noise, self.schedule, denoise, border, self.boundary)

    def _split(
        self, model: DensityModel, image: Tensor, level: Tensor, run: Run, margin: int = 0
    ) -> Tensor:
        """All steps on an image (c, H, W) at one scale, less the border that each takes.

        The result begins `margin` pixels above and left of where the grids of patches are counted
        from.
        """
        x, s, border = image, self.stride, model.patch_size - 1
        for i, (at, weight) in enumerate(self.schedule.at(level)):
            beyond = margin + self._reach - (i + 1) * border  # of the result
            phase = tuple((first + beyond) % s for first in grid(i, s))
            step = Step(self._evaluator, model, s, run, phase, fast=not self.exact)
            x = step(x, inner(at, i * border))
            taken = (i + 1) * border
            x = torch.lerp(x, inner(image, taken), inner(weight, taken))
        return x
