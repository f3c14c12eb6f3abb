"""One-dimensional mixtures with equidistant means, their diffusion and tables (paper, Eq. 6).

    psi_j(z; s) = sum_l w_jl N(z; mu_l, s_j),   mu_l equidistant in [-gamma, gamma],   s_j =
    sigma_0² + added variance

with sigma_0 = 2 gamma / (L - 1) and w = softmax(logits). Given a noisy response z = z_0 + noise of
variance n,

    E[z_0 | z]   = sum_l r_l m_l,     m_l = mu_l + sigma_0² / (sigma_0² + n) (z - mu_l)
    Var[z_0 | z] = sigma_0² n / (sigma_0² + n) + sum_l r_l (m_l - E[z_0 | z])²

with r_l proportional to w_l N(z; mu_l, sigma_0² + n). At a fixed level each of these is a function
of one number, so the image denoisers read them from a table with linear interpolation. A tabulated
log-density is the integral of its tabulated slope, so that value and gradient belong to one
function.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gmdm_prior.fast.kernels.tables import read_table
from gmdm_prior.sigma import readable

CORE_CELLS, TAIL_CELLS = 6144, 512  # cells of a table, inside and in each tail
CORE = TAIL_CELLS, TAIL_CELLS + CORE_CELLS  # the first cell inside, and the one after the last
REFINE = 8  # cells from one exact evaluation to the next
EXPERTS_AT_ONCE = 32  # while a table is made


class EquidistantExperts(nn.Module):
    """J experts of L components each, with shared equidistant means and one width (Section 4.1).

    Args:
        logits: (J, L); the weights of expert j are softmax(logits[j]).
        bound: gamma, the outermost mean, in units of a filter response.
    """

    def __init__(self, logits: Tensor, bound: float = 1.0) -> None:
        super().__init__()
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise ValueError(f"logits must be (J, L) with L >= 2; got {tuple(logits.shape)}")
        if not 0 < bound < math.inf:
            raise ValueError(f"bound must be positive and finite; got {bound}")
        self.logits = nn.Parameter(logits.detach().clone())
        self.bound = float(bound)

    @property
    def base_scale(self) -> float:
        """Standard deviation sigma_0 of a component at sigma = 0."""
        return 2 * self.bound / (self.logits.shape[1] - 1)

    @property
    def means(self) -> Tensor:
        """(L,) the component means, always in float64."""
        return torch.linspace(
            -self.bound,
            self.bound,
            self.logits.shape[1],
            dtype=torch.float64,
            device=self.logits.device,
        )

    @property
    def weights(self) -> Tensor:
        """(J, L) component weights."""
        return torch.softmax(self.logits, 1)

    def diffuse(self, variance: Tensor) -> Mixture1D:
        """The experts after adding noise of a variance (…, J) to the responses."""
        dtype = variance.dtype
        return Mixture1D(
            log_weights=torch.log_softmax(self.logits.to(dtype), 1),
            means=self.means.to(dtype),
            base=self.base_scale**2,
            noise=variance,
        )


@dataclass(frozen=True)
class Mixture1D:
    """J mixtures at a level: `log_weights` (J, L), `means` (L,), `noise` (…, J); z is (…, J)."""

    log_weights: Tensor
    means: Tensor
    base: float
    noise: Tensor

    @property
    def variance(self) -> Tensor:
        """(…, J) variance of the components, sigma_0² + noise."""
        return self.base + self.noise

    def _log_joint(self, z: Tensor) -> Tensor:
        total = self.variance[..., None]
        square = (z[..., None] - self.means).square() / total
        return self.log_weights - 0.5 * (square + (2 * math.pi * total).log())

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density, shaped like z."""
        return torch.logsumexp(self._log_joint(z), -1)

    def components(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of mu over the component that z comes from, shaped like z."""
        weights = torch.softmax(self._log_joint(z), -1)
        centre = weights @ self.means
        return centre, (weights * (self.means - centre[..., None]).square()).sum(-1)

    def components_at(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """`components` at many nodes (J, n) of each of J experts, a few at a time."""
        parts = [self.components(z) for z in nodes.T.split(64)]
        centre, spread = (torch.cat(columns).T for columns in zip(*parts, strict=True))
        return centre, spread

    def double(self) -> Mixture1D:
        """The same in float64."""
        return Mixture1D(
            self.log_weights.double(), self.means.double(), self.base, self.noise.double()
        )

    def score(self, z: Tensor) -> Tensor:
        """Derivative of `log_prob`, shaped like z."""
        centre = torch.softmax(self._log_joint(z), -1) @ self.means
        return (centre - z) / self.variance

    def posterior(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the clean response, both shaped like z."""
        centre, between = self.components(z)
        gain = self.base / self.variance
        mean = gain * z + (self.noise / self.variance) * centre
        return mean, gain * self.noise + (self.noise / self.variance).square() * between

    def tabulate(self, reach: Tensor) -> TabulatedExperts:
        """Tables of posterior mean, slope and log-density at one noise variance (J,) per expert.

        Fine cells cover [-gamma - 8 s, gamma + 8 s], coarser ones the tails, to clean responses of
        size `reach` (J,) or until the outermost component outweighs its neighbour by e^30. The last
        cell goes on as a straight line.
        """
        return TabulatedExperts(self, reach)


class TabulatedExperts:
    """Mixture1D at one level, read from tables that are made when they are first needed.

    The mixture is evaluated at every eighth node only; its known derivatives (cubic Hermite) give
    the rest. The posterior mean is kept as what it differs from z by. Responses z are (J, N) here,
    not (N, J): expert after expert, so that the table in use stays in the cache.

    Args:
        experts: J experts at a noise variance (J,).
        reach: size of clean responses that the tails extend to, (J,).
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

    @property
    def bytes(self) -> int:
        """What the tables take now."""
        return sum(t.numel() * t.element_size() for t in self._tables.values())

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
