"""Experts as functions of two numbers, response and noise level: for noise that varies in an image.

The clean response is (1 - q) z + q c with q = n / (sigma_0² + n) for a noise variance n of the
response z, and c(z, n) the mean of mu over the components. c is tabulated, value and slope, at
`CELLS` + 1 responses for noise levels on a lattice log(n / ‖k‖²) = i `SPACING`, and read by a cubic
in either direction: Hermite's along z, Lagrange's through four levels along n. Responses beyond the
tables, which hardly occur, are evaluated exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gmdm_prior.densities.experts import Mixture1D
from gmdm_prior.densities.mean import MeanPart
from gmdm_prior.densities.product import DiffusedProduct

CELLS, SPACING = 1024, 0.075
NEGLIGIBLE = 1e-3  # share q of noise below which c, of weight q, is read at that level


@dataclass(frozen=True)
class Sheet:
    """c at one noise level: `table` (J, CELLS + 1, 2), value and slope times the cell's width."""

    table: Tensor
    reach: Tensor

    @property
    def bytes(self) -> int:
        """Bytes that the surfaces take."""
        return self.table.nbytes


def make_sheet(experts: Mixture1D) -> Sheet:
    """The table of J experts at one noise variance (J,); it ends at `reach`, gamma + 8 s."""
    exact = experts.double()
    reach = float(exact.means.abs().max()) + 8 * exact.variance.sqrt()
    nodes = torch.linspace(-1, 1, CELLS + 1, dtype=torch.float64, device=reach.device)
    centre, spread = exact.components_at(reach[:, None] * nodes)
    slope = spread / exact.variance[:, None] * (2 * reach / CELLS)[:, None]
    return Sheet(torch.stack([centre, slope], 2).to(experts.noise), reach.to(experts.noise))


class ExpertSurfaces:
    """Posterior means of J experts at any noise variance within a range.

    Args:
        diffuse: the experts at a noise variance (…, J) of their responses.
        squares: (J,) squared norms of the filters, which turn a pixel's noise into a response's.
        lowest, highest: range of the noise variance of pixels.
        sheet: the table of lattice level i, as `make_sheet` makes it.
    """

    def __init__(
        self,
        diffuse: Callable[[Tensor], Mixture1D],
        squares: Tensor,
        lowest: float,
        highest: float,
        sheet: Callable[[int], Sheet],
    ) -> None:
        self._diffuse, self._squares = diffuse, squares
        base = diffuse(squares).base
        self._floor = max(lowest, NEGLIGIBLE * base / float(squares.max()))
        self._first = math.floor(math.log(self._floor) / SPACING) - 1
        last = math.ceil(math.log(max(highest, self._floor)) / SPACING) + 1
        sheets = [sheet(i) for i in range(self._first, last + 1)]
        self._base, self._count = base, len(sheets)
        self._tables = torch.stack([s.table for s in sheets]).view(-1, 2)
        self._reach = torch.stack([s.reach for s in sheets])

    def posterior_mean(self, z: Tensor, noise: Tensor) -> Tensor:
        """E[z_0 | z] for responses z (N, J) with noise of variance `noise` (N, J)."""
        level = (noise / self._squares).clamp(min=self._floor).log() / SPACING - self._first
        left = level.floor().clamp(1, self._count - 3)
        t = level - left
        weights = (  # Lagrange, nodes -1, 0, 1, 2
            -t * (t - 1) * (t - 2) / 6,
            (t + 1) * (t - 1) * (t - 2) / 2,
            -(t + 1) * t * (t - 2) / 2,
            (t + 1) * t * (t - 1) / 6,
        )
        left, expert = left.long(), torch.arange(z.shape[1], device=z.device)
        centre: Any = sum(
            w * self._read(left + i, expert, z) for w, i in zip(weights, (-1, 0, 1, 2), strict=True)
        )
        beyond = z.abs() > self._reach[left - 1, expert]
        if bool(beyond.any()):
            centre = self._exact(centre, z, noise, beyond.any(1))
        share = noise / (self._base + noise)
        return (1 - share) * z + share * centre

    def _read(self, level: Tensor, expert: Tensor, z: Tensor) -> Tensor:
        """Hermite's cubic through the sheet of a level, (N, J)."""
        place = (z / self._reach[level, expert] + 1) * (CELLS / 2)
        cell = place.floor().clamp(0, CELLS - 1)
        u = place - cell
        index = (level * len(self._squares) + expert) * (CELLS + 1) + cell.long()
        (a, da), (b, db) = self._tables[index].unbind(-1), self._tables[index + 1].unbind(-1)
        return a + u * (da + u * (3 * (b - a) - 2 * da - db + u * (da + db - 2 * (b - a))))

    def _exact(self, centre: Tensor, z: Tensor, noise: Tensor, rows: Tensor) -> Tensor:
        """`centre` with some rows evaluated exactly."""
        at = rows.nonzero().flatten()
        parts = [
            self._diffuse(noise[i]).components(z[i])[0]
            for i in at.split(max(1, 2**22 // (z.shape[1] * len(self._diffuse(noise[0]).means))))
        ]
        return centre.index_copy(0, at, torch.cat(parts).to(centre))


@dataclass(frozen=True)
class SurfaceLevel:
    """The product for noise that varies over a patch, read from tables of response and level."""

    filters: Tensor
    squares: Tensor
    surfaces: ExpertSurfaces
    mean_part: MeanPart

    def posterior_mean(self, y: Tensor, noise: Tensor) -> Tensor:
        """(N, a) posterior mean of patches (N, a) with noise variances (N, a)."""
        added = noise @ self.filters.square().T
        level = DiffusedProduct(self.filters, self.squares.sqrt(), None, noise, self.mean_part)
        return level.assemble(y, self.surfaces.posterior_mean(y @ self.filters.T, added))
