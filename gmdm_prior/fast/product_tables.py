"""Experts at one noise level read from tables, and the product of them.

At a fixed level posterior mean, slope and log-density of an expert are functions of one number, its
response, and are read from a table with linear interpolation. A tabulated log-density is the
integral of its tabulated slope, so that value and gradient belong to one function.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gmdm_prior.densities.experts import Mixture1D
from gmdm_prior.densities.mean import MeanPart
from gmdm_prior.densities.product import DiffusedProduct
from gmdm_prior.fast.kernels.tables import read_table
from gmdm_prior.sigma import readable

CORE_CELLS, TAIL_CELLS = 6144, 512  # cells of a table, inside and in each tail
CORE = TAIL_CELLS, TAIL_CELLS + CORE_CELLS  # the first cell inside, and the one after the last
REFINE = 8  # cells from one exact evaluation to the next
EXPERTS_AT_ONCE = 32  # while a table is made
NUMBERS_AT_ONCE = 2**17  # of patches that are read from tables together
ALIGNED = 64  # their count is a multiple, which matrix products like


class TabulatedLevel(DiffusedProduct):
    """A DiffusedProduct read from tables, for image denoisers: within 1e-5 of the exact one.

    It works on columns, (J, N) and (a, N): patches that are views of a matrix (a, N) are taken
    without a copy and given back likewise.
    """

    experts: Any  # `TabulatedExperts`, which work on columns

    @property
    def bytes(self) -> int:
        """Bytes that the tables take."""
        return self.experts.bytes

    def log_prob(self, y: Tensor) -> Tensor:
        """(N,) log-density of patches (N, a)."""
        log = self.norms.log().sum() + self.experts.log_prob(self.filters @ y.T).sum(0)
        return log + self.mean_part.log_prob(y, self.noise)

    def score(self, y: Tensor) -> Tensor:
        """(N, a) gradient of `log_prob`."""
        zero_mean = self.filters.T @ self.experts.score(self.filters @ y.T)
        return zero_mean.T + self.mean_part.score(y, self.noise)

    def posterior_mean(self, y: Tensor) -> Tensor:
        """(N, a) posterior mean: y, moved by sum_j k_j / ‖k_j‖² (E[z_j | y] - z_j)."""
        dual = (self.filters / self.norms.square()[:, None]).T
        wide = max(1, NUMBERS_AT_ONCE // (ALIGNED * len(dual))) * ALIGNED
        means = []
        for columns in y.T.split(wide, 1):
            shift = self.experts.posterior_shift(self.filters @ columns)
            means.append(torch.addmm(columns, dual, shift))
        mean = (torch.cat(means, 1) if len(means) > 1 else means[0]).T
        part = self.mean_part
        if part.variance is None:
            return mean
        flat = MeanPart(part.channels, part.pixels)
        return mean + part.posterior_mean(y, self.noise) - flat.posterior_mean(y, self.noise)


class TabulatedExperts:
    """Mixture1D at one level, read from tables that are made when they are first needed.

    The mixture is evaluated at every eighth node only; its known derivatives (cubic Hermite) give
    the rest. The posterior mean is kept as what it differs from z by. Responses z are (J, N) here,
    not (N, J): expert after expert, so that the table in use stays in the cache.

    Args:
        experts: J experts at a noise variance (J,).
        reach: size of clean responses that the tails extend to, (J,).

    Attributes:
        bytes: what the tables take now. Threads may read it while another makes one.
    """

    def __init__(self, experts: Mixture1D, reach: Tensor) -> None:
        self._experts = exact = experts.double()
        self._dtype = experts.noise.dtype
        bound, width = float(exact.means.abs().max()), math.sqrt(exact.base)
        self._core = bound + 8 * exact.variance.sqrt()  # (J,), where the tails begin
        tail = (reach.double() - bound).clamp(min=width)
        tail = torch.minimum(tail, 30 * exact.variance / width)
        self._steps = torch.stack([2 * self._core / CORE_CELLS, tail / TAIL_CELLS])  # of cells
        fine = self._steps[0, :, None]
        self._offset = (TAIL_CELLS + self._core[:, None] / fine).to(self._dtype)
        self._scale = (1 / fine).to(self._dtype)
        self._tables: dict[str, Tensor] = {}
        self._making = threading.Lock()
        self.bytes = 0

    def posterior_shift(self, z: Tensor) -> Tensor:
        """E[z_0 | z] - z, (J, N)."""
        return self._read("shift", z)

    def score(self, z: Tensor) -> Tensor:
        """Slope of `log_prob`, (J, N)."""
        return self._read("slope", z)

    def log_prob(self, z: Tensor) -> Tensor:
        """The integral of `score`, exact log-density at z = 0, (J, N)."""
        cell, along = self._locate(z)
        left, right = _ends(self._table("slope"), cell)
        node, value = (self._table(name).gather(1, cell) for name in ("node", "value"))
        return value + (z - node) * torch.lerp(left, right, 0.5 * along)

    def _read(self, name: str, z: Tensor) -> Tensor:
        table = self._table(name)
        found = read_table(table, z, self._scale, self._offset, CORE)
        if found is not None:
            return found
        cell, along = self._locate(z)
        left, right = _ends(table, cell)
        return left.lerp_(right, along)

    def _table(self, name: str) -> Tensor:
        """Values (J, cells + 1) at the nodes."""
        with self._making:  # one thread makes them, others wait
            if name not in self._tables:
                make = {"shift": _shift, "slope": _slope, "value": _value, "node": _node}[name]
                with torch.inference_mode(False), torch.no_grad():  # to serve in all modes
                    self._tables[name] = self._by_expert(make)
                self.bytes += self._tables[name].nbytes
            return self._tables[name]

    def _by_expert(self, make: Callable[[Tensor, Tensor, Mixture1D], Tensor]) -> Tensor:
        """`make`(nodes, mean of mu there, experts) for a few experts at a time, in float64."""
        tables, exact = [], self._experts
        for some in torch.arange(len(self._core), device=self._core.device).split(EXPERTS_AT_ONCE):
            part = Mixture1D(exact.log_weights[some], exact.means, exact.base, exact.noise[some])
            nodes = _nodes(self._core[some], self._steps[:, some])
            coarse = nodes[:, ::REFINE]
            centre, spread = part.components_at(coarse)
            bend = spread / part.variance[:, None]  # derivative of `centre`
            centre = _refine(centre, bend, coarse.diff())
            tables.append(make(nodes, centre, part).to(self._dtype))
        return torch.cat(tables)

    def _locate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The cell of each z, and the place in it, mostly 0 to 1."""
        place = (z * self._scale).add_(self._offset)
        if _all_inside(place):
            return place.detach().long(), place.frac_()
        core, (fine, coarse) = self._core.to(z)[:, None], self._steps.to(z)[..., None]
        inside = z.clamp(-core, core)
        place = TAIL_CELLS + (inside + core) / fine + (z - inside) / coarse
        last = CORE_CELLS + 2 * TAIL_CELLS - 1
        cell = place.detach().floor().clamp(0, last).nan_to_num(0).long()
        return cell, place - cell


def _all_inside(place: Tensor) -> bool:
    """Whether no response lies in the tails, as in natural images; False where unknown."""
    if not place.numel() or not readable(place):
        return False
    least, most = torch.aminmax(place.detach())
    return bool(least >= CORE[0]) and bool(most < CORE[1])


def _ends(table: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Values at both ends of cells (J, N) of a table (J, cells + 1)."""
    return table[:, :-1].gather(1, cell), table[:, 1:].gather(1, cell)


def _node(nodes: Tensor, centre: Tensor, experts: Mixture1D) -> Tensor:
    return nodes


def _shift(nodes: Tensor, centre: Tensor, experts: Mixture1D) -> Tensor:
    """E[z_0 | z] - z."""
    return (experts.noise / experts.variance)[:, None] * (centre - nodes)


def _slope(nodes: Tensor, centre: Tensor, experts: Mixture1D) -> Tensor:
    """Derivative of the log-density."""
    return (centre - nodes) / experts.variance[:, None]


def _value(nodes: Tensor, centre: Tensor, experts: Mixture1D) -> Tensor:
    """Log-density: the integral of the interpolated slope."""
    slope, middle = _slope(nodes, centre, experts), nodes.shape[1] // 2
    rise = torch.cumsum((slope[:, 1:] + slope[:, :-1]) / 2 * nodes.diff(), 1)
    value = torch.cat([torch.zeros_like(rise[:, :1]), rise], 1)
    return value - value[:, middle, None] + experts.log_prob(nodes[:, middle])[:, None]


def _nodes(core: Tensor, steps: Tensor) -> Tensor:
    """(J, cells + 1) places: the left tail, the core, the right tail."""
    inner = torch.arange(CORE_CELLS + 1, dtype=core.dtype, device=core.device)
    outer = torch.arange(1, TAIL_CELLS + 1, dtype=core.dtype, device=core.device)
    right = core[:, None] + outer * steps[1, :, None]
    return torch.cat([-right.flip(1), inner * steps[0, :, None] - core[:, None], right], 1)


def _refine(value: Tensor, slope: Tensor, width: Tensor) -> Tensor:
    """Cubic Hermite interpolation at REFINE places a cell: (J, n + 1) -> (J, REFINE n + 1)."""
    t = torch.arange(REFINE, dtype=value.dtype, device=value.device) / REFINE
    left, rise = value[:, :-1, None], value.diff()[..., None]
    start, end = (slope[:, i : i + width.shape[1], None] * width[..., None] for i in (0, 1))
    inside = left + t * (start + t * (3 * rise - 2 * start - end + t * (start + end - 2 * rise)))
    return torch.cat([inside.flatten(1), value[:, -1:]], 1)
