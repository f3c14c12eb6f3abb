"""Posterior means of a D4 mixture on the CPU by one compiled kernel, where that is possible.

`fused(level, image)` is a `FusedLevel`, or None where torch has to do it: without llvmlite, on a
GPU, in float64, where a gradient is wanted, inside `torch.func` or a compilation, for several
channels, odd or tiny patches, other symmetries, or noise that varies. It is exact: the sums of the
torch path in another order (the maths: `square_coordinates`, `mixture_code`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from gmdm_prior.densities.mixture.diffused import DiffusedMixture
from gmdm_prior.fast.kernels.mixture_code import Kernel, compiled
from gmdm_prior.fast.kernels.mixture_layout import Layout
from gmdm_prior.fast.kernels.square_coordinates import TURNS, coordinate_matrix
from gmdm_prior.sigma import plain

SMALLEST = 4  # side of a patch


def fused(
    level: DiffusedMixture,
    like: Tensor,
    keep: Callable[[Callable[[], Tables]], Tables] = lambda make: make(),
) -> FusedLevel | None:
    """The level as a compiled kernel, for patches of an image `like`; None where torch does it.

    `keep` gives the kernel's tables of this level: those that it has kept, or what it is handed
    makes.
    """
    tensors = [like, level.noise, *level.bases, *level.variances, *level.log_weights]
    if not all(plain(t) for t in tensors):
        return None
    rows, pixels = level.bases[0].shape
    if rows != TURNS * (pixels - 1) or level.noise.ndim:  # so many: D4, one channel
        return None
    size = math.isqrt(pixels)
    if size % 2 or size < SMALLEST:
        return None
    kernel = compiled(size, tuple(len(v) for v in level.variances))
    if kernel is None:
        return None
    return FusedLevel(level, kernel, keep(lambda: Tables(level, kernel.layout)))


class FusedLevel:
    """A `DiffusedMixture` at a scalar noise variance, evaluated by a compiled kernel."""

    def __init__(self, level: DiffusedMixture, kernel: Kernel, tables: Tables) -> None:
        self._level, self._kernel, self._tables = level, kernel, tables.tensors
        self._offset = tables.offset - 0.5 * kernel.layout.rows * math.log(2 * math.pi)

    def posterior_mean(self, y: Tensor) -> Tensor:
        """(N, a) posterior mean of patches (N, a).

        Patches that are the columns of a contiguous (a, N) matrix are read where they lie, and
        their means lie alike.
        """
        return self._evaluate(y)[0]

    def mean_and_log_prob(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior means (N, a), and log-densities (N,) of patches (N, a), which cost nothing.

        The latter err by float32 rounding of a patch's squares in units of the noise.
        """
        means, (largest, total) = self._evaluate(y)
        logs = (largest + total.log2()) * math.log(2) + self._offset
        return means, logs + self._level.mean_part.log_prob(y, self._level.noise)

    def _evaluate(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Means, laid out like y (N, a), and what tells the densities, (2, N)."""
        if y.T.is_contiguous():
            means, seen = self._of_columns(y.T)
            return means.T, seen
        means, seen = self._of_columns(y.T.contiguous())
        return means.T.contiguous(), seen

    def _of_columns(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Means of the columns of a contiguous (a, N), and what tells their densities, (2, N)."""
        out, width = torch.empty_like(y), self._kernel.layout.width
        seen = y.new_empty(2, y.shape[1])
        tiles, rest = divmod(y.shape[1], width)
        self._run(y, out, seen, tiles)
        if rest:  # a tile of their own, filled up
            last = F.pad(y[:, -rest:], (0, width - rest))
            means, last_seen = torch.empty_like(last), y.new_empty(2, width)
            self._run(last, means, last_seen, 1)
            out[:, -rest:], seen[:, -rest:] = means[:, :rest], last_seen[:, :rest]
        mean_part = self._level.mean_part.posterior_mean(y.T, self._level.noise)
        return out.add_(mean_part[:, 0].contiguous()), seen  # the same in every pixel

    def _run(self, y: Tensor, out: Tensor, seen: Tensor, tiles: int) -> None:
        """Posterior means, the zero-mean part, of the first tiles of columns."""
        if not tiles:
            return
        workspace = y.new_empty(self._kernel.workspace)
        self._kernel.run(
            y.data_ptr(),
            out.data_ptr(),
            seen.data_ptr(),
            workspace.data_ptr(),
            *(table.data_ptr() for table in self._tables),
            tiles,
            y.shape[1],
        )


@lru_cache
def _to_coordinates(size: int) -> Tensor:
    """The matrix (a, a) that turns rows of filters into filters in coordinates."""
    matrix = torch.from_numpy(coordinate_matrix(size))
    return (matrix / matrix.square().sum(1, keepdim=True)).T


class Tables:
    """What `Kernel.run` wants of a level: bases, half precisions, constants and gains."""

    def __init__(self, level: DiffusedMixture, layout: Layout) -> None:
        change, padding = _to_coordinates(layout.size), layout.padded_rows - layout.rows
        noise = level.noise.double()
        bases, half_precisions, constants, gains = [], [], [], []
        for rows, variances, weights in zip(
            level.bases, level.variances, level.log_weights, strict=True
        ):
            first_position = rows[: layout.rows].double()  # of eight; any of them would do
            bases.append(F.pad(first_position @ change, (0, 0, 0, padding)))
            v = variances.double()
            half_precisions.append((-0.5 / (v + noise)).T.flatten())
            constants.append(weights.double() - 0.5 * (v + noise).log().sum(1))
            gains.append(F.pad(v / (v + noise), (0, padding)))
        logs = torch.cat(constants)
        self.offset = float(logs.max())  # apart, so that small numbers keep their digits
        logs -= self.offset
        tables = (
            torch.cat(bases),
            torch.cat(half_precisions) / math.log(2),
            logs / math.log(2),
            torch.cat(gains),
        )
        self.tensors = [table.float().contiguous() for table in tables]
        self.bytes = sum(table.nbytes for table in self.tensors)
