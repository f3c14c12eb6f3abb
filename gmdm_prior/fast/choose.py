"""What evaluates the patches of an image. Read this table, then the file that it names.

    density   noise    wanted            evaluated by                     error in an image
    mixture   number   posterior means   kernels.mixture, where it can    1e-6, float32 rounding
    mixture   number   means, densities  kernels.mixture, where it can    1e-6; 1e-3 of a logarithm
    mixture   number   scores            kernels.mixture, from 5e-3 on    1e-4 of their size
    mixture   number   anything          the density itself               none
    mixture   map      means, fast       mixture_maps                     1e-3; of steep maps 4e-3
    mixture   matrix   posterior means   covariances                      1e-2 of the noise level
    product   number   anything          product_tables                   1e-5
    product   map      posterior means   product_surfaces                 1e-5
    any       any      anything          the density itself, in pieces    none

The first row that applies is taken. `kernels.mixture` says where it can: in float32 on the CPU, one
channel, even patches, the symmetries of the square, no gradients. A matrix is the `Covariance` of
the noise of a patch; `covariances` takes flat means in float32 without gradients. Tables of
products are not for float64, nor where their parameters carry a gradient or the noise cannot be
read (inside `torch.func.vmap`), nor those of a number that carries one. "Fast" is the default of
half-quadratic splitting; patch averaging and `stride=` want the density itself. A density of
patches from outside this package is evaluated by the last row.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.densities.mixture.diffused import DiffusedMixture
from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.densities.product import PatchModel
from gmdm_prior.fast.cache import TableCache
from gmdm_prior.fast.covariances import FastCovariance
from gmdm_prior.fast.kernels.mixture import fused
from gmdm_prior.fast.mixture_maps import MixtureOfMap
from gmdm_prior.fast.product_surfaces import (
    SPACING,
    ExpertSurfaces,
    Sheet,
    SurfaceLevel,
    make_sheet,
)
from gmdm_prior.fast.product_tables import TabulatedExperts, TabulatedLevel
from gmdm_prior.gaussian_noise import Covariance
from gmdm_prior.sigma import concrete, readable

NUMBERS = 2**24  # held at a time where the density itself is evaluated
LEAST_NOISE = 2.5e-5  # variance from which (mean - y) / variance keeps four digits of a score


class Evaluator:
    """Evaluates patches by the table of this file, and keeps the tables that it makes.

    Each denoiser, likelihood or estimator has one. Threads may share it. A copy starts without
    tables.

    Methods take a density of patches, an image (or some patches) that gives the type, and the noise
    *variance*: a number (), a `Covariance`, or a map (C, H, W). They return a function of patches
    (N, a), and for a map of patches and the noise variances (N, a) that were cut from it.
    """

    def __init__(self) -> None:
        self._tables = TableCache()

    @property
    def bytes(self) -> int:
        """Bytes that the tables take."""
        return self._tables.bytes

    def forget(self) -> None:
        """Drop all tables."""
        self._tables.clear()

    def posterior_means(
        self, model: DensityModel, image: Tensor, noise: Tensor | Covariance, fast: bool = False
    ) -> Callable[..., Tensor]:
        """Posterior means (N, a); `fast` allows the rounded levels of `mixture_maps`."""
        if isinstance(noise, Covariance):
            return self._at_covariance(model, image, noise).posterior_mean
        if noise.ndim:
            return self._means_of_map(model, image, noise, fast)
        level = self._level(model, image, noise)
        kernel = self._kernel(model, level, image, noise)
        return level.posterior_mean if kernel is None else kernel.posterior_mean

    def scores(
        self, model: DensityModel, image: Tensor, noise: Tensor | Covariance
    ) -> Callable[..., Tensor]:
        """Gradients (N, a) of `log_probs`, of the same interpolant."""
        if isinstance(noise, Covariance):
            return _InPieces(model, noise).score
        if noise.ndim:
            return pixel_by_pixel(model, "score")
        level = self._level(model, image, noise)
        kernel = self._kernel(model, level, image, noise)
        if kernel is None or float(noise) < LEAST_NOISE:
            return level.score
        means = kernel.posterior_mean
        return lambda y: means(y).sub_(y).div_(noise)

    def means_and_log_probs(
        self, model: PatchMixture, image: Tensor, noise: Tensor
    ) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Posterior means (N, a) and log-densities (N,) at a number (), in one."""
        level = self._mixture(model, noise)
        kernel = self._kernel(model, level, image, noise)
        return level.mean_and_log_prob if kernel is None else kernel.mean_and_log_prob

    def _kernel(self, model: DensityModel, level: Any, image: Tensor, noise: Tensor) -> Any:
        """The kernel for a mixture at one noise variance (), where it can."""
        if not isinstance(level, DiffusedMixture):
            return None

        def keep(make: Callable[[], Any]) -> Any:
            return self._tables.get(model, ("kernel", model.symmetries, float(noise)), make)

        return fused(level, image, keep)

    def log_probs(
        self, model: DensityModel, image: Tensor, noise: Tensor | Covariance
    ) -> Callable[..., Tensor]:
        """Log-densities (N,)."""
        if isinstance(noise, Covariance):
            return _InPieces(model, noise).log_prob
        if noise.ndim:
            return pixel_by_pixel(model, "log_prob")
        return self._level(model, image, noise).log_prob

    def posterior_variances(
        self, model: DensityModel, noise: Tensor | Covariance
    ) -> Callable[..., Tensor]:
        """Posterior variances (N, a), always of the density itself."""
        if isinstance(noise, Covariance):
            return _InPieces(model, noise).posterior_variance
        if noise.ndim:
            return pixel_by_pixel(model, "posterior_variance")
        return _InPieces(model, noise).posterior_variance

    def level(self, model: DensityModel, noise: Tensor) -> Any:
        """The density at one noise variance (), from tables in any type: a `Diffused`."""
        if isinstance(model, PatchMixture):
            return self._mixture(model, noise)
        if isinstance(model, PatchModel) and concrete(noise) and not _recorded(noise, model):
            return self._tabulated(model, noise)
        return _InPieces(model, noise)

    def _level(self, model: DensityModel, image: Tensor, noise: Tensor) -> Any:
        if isinstance(model, PatchModel) and image.dtype == torch.float64:
            return _InPieces(model, noise)
        return self.level(model, noise)

    def _at_covariance(
        self, model: DensityModel, image: Tensor, noise: Covariance
    ) -> FastCovariance | _InPieces:
        fast = isinstance(model, PatchMixture) and model.mean_part.variance is None
        if not fast or image.dtype != torch.float32 or not concrete(image):
            return _InPieces(model, noise)
        if _recorded(image, noise.matrix, model):
            return _InPieces(model, noise)

        def make() -> FastCovariance:
            zero = torch.zeros((), dtype=torch.float64, device=image.device)
            return FastCovariance(model.at(zero), noise)

        key = ("covariance", model.symmetries, noise.matrix.detach().cpu().numpy().tobytes())
        return self._tables.get(model, key, make)

    def _means_of_map(
        self, model: DensityModel, image: Tensor, noise: Tensor, fast: bool
    ) -> Callable[[Tensor, Tensor], Tensor]:
        if isinstance(model, PatchMixture):
            if fast and readable(image) and readable(noise):
                return MixtureOfMap(self._mixture(model, noise.new_ones(()))).posterior_mean
        elif isinstance(model, PatchModel) and image.dtype != torch.float64:
            if concrete(image) and concrete(noise) and not _recorded(model):
                return self.surfaces(model, noise.min(), noise.max()).posterior_mean
        return pixel_by_pixel(model, "posterior_mean")

    def _mixture(self, model: PatchMixture, noise: Tensor) -> DiffusedMixture:
        """The matrices of a mixture are the same for every noise variance ()."""
        if _recorded(model):
            return model.at(noise)
        key = ("mixture", model.symmetries, noise.dtype)
        kept = self._tables.get(model, key, lambda: _Mixture(model.at(noise.new_ones(()))))
        return dataclasses.replace(kept.level, noise=noise, mean_part=model.mean_part)

    def _tabulated(self, model: PatchModel, noise: Tensor) -> TabulatedLevel:
        """Tables for patches with pixels from -1/2 to 3/2, plus the noise."""

        def make() -> TabulatedLevel:
            apart = torch.tensor(float(noise), dtype=noise.dtype, device=noise.device)
            level = model.at(apart)
            experts: Any = TabulatedExperts(level.experts, reach=level.filters.abs().sum(1))
            return TabulatedLevel(level.filters, level.norms, experts, apart, level.mean_part)

        key = ("level", model.experts.bound, noise.dtype, float(noise))
        kept = self._tables.get(model, key, make)
        return dataclasses.replace(kept, noise=noise, mean_part=model.mean_part)

    @torch.no_grad()
    def surfaces(self, model: PatchModel, lowest: Tensor, highest: Tensor) -> SurfaceLevel:
        """A product at noise variances between two numbers () that differ from pixel to pixel."""
        filters = model.filters.to(lowest.dtype).flatten(1)
        squares = filters.square().sum(1)

        def sheet(i: int) -> Sheet:
            def make() -> Sheet:
                return make_sheet(model.experts.diffuse(math.exp(i * SPACING) * squares))

            return self._tables.get(model, ("sheet", model.experts.bound, squares.dtype, i), make)

        surfaces = ExpertSurfaces(
            model.experts.diffuse, squares, float(lowest), float(highest), sheet
        )
        return SurfaceLevel(filters, squares, surfaces, model.mean_part)


class _Mixture:
    """The matrices of a mixture, as a table that can be kept."""

    def __init__(self, level: DiffusedMixture) -> None:
        self.level = level
        tensors = [*level.bases, *level.members, *level.variances, *level.log_weights]
        self.bytes = sum(t.nbytes for t in tensors)


class _InPieces:
    """A density itself at one noise variance () or `Covariance`, a few patches (N, a) at a time."""

    def __init__(self, model: DensityModel, noise: Tensor | Covariance) -> None:
        self._level = model.at(noise)
        several = torch.ones(1, 2) if isinstance(noise, Covariance) else noise
        self._rows = max(1, NUMBERS // model.numbers_per_patch(several))

    def log_prob(self, y: Tensor) -> Tensor:
        """(N,) log-densities."""
        return self._joined(self._level.log_prob, y)

    def score(self, y: Tensor) -> Tensor:
        """(N, a) gradients of `log_prob`."""
        return self._joined(self._level.score, y)

    def posterior_mean(self, y: Tensor) -> Tensor:
        """(N, a) posterior means."""
        return self._joined(self._level.posterior_mean, y)

    def posterior_variance(self, y: Tensor) -> Tensor:
        """(N, a) posterior variances."""
        return self._joined(self._level.posterior_variance, y)

    def _joined(self, method: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        return torch.cat([method(some) for some in y.split(self._rows)]).to(y.dtype)


def pixel_by_pixel(model: DensityModel, method: str) -> Callable[[Tensor, Tensor], Tensor]:
    """A method of the density itself, of patches and their noise variances (N, a), in pieces."""

    def evaluate(patches: Tensor, noises: Tensor) -> Tensor:
        rows = max(1, NUMBERS // model.numbers_per_patch(noises))
        pairs = zip(patches.split(rows), noises.split(rows), strict=True)
        return torch.cat([getattr(model.at(n), method)(p) for p, n in pairs])

    return evaluate


def _recorded(*sources: Tensor | DensityModel) -> bool:
    """Whether a gradient, backward or forward, is wanted with respect to any of these."""
    for source in sources:
        for values in (source,) if isinstance(source, Tensor) else source.parameters():
            if values.requires_grad and torch.is_grad_enabled():
                return True
            if forward_ad.unpack_dual(values).tangent is not None:
                return True
    return False
