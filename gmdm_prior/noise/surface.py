"""Smooth surfaces through log-likelihoods on a grid: noise levels that change slowly.

Places i of a grid have log-likelihoods C_i(k) at whole steps k = -m … m of log sigma away from a
level, joined by cubics between them. A surface of tensor products of cubic B-splines,

    s_i = sum_ab A_ab phi_a(row of i) psi_b(column of i),

is stiff, with tau the spread of its second derivatives over the whole image, which the second
differences of coefficients stand for (Eilers and Marx 1996): with n intervals between knots,

    E(A) = - sum_i C_i(s_i) + 1 / (2 tau²) (|D A|² + |A Dᵀ|²),
    D A = n² (A_{a-1} - 2 A_a + A_{a+1}).

A plane costs nothing. `Surface.fitted` takes damped Newton steps from a given A and accepts only
those that lower E.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

INTERVAL, MOST = 64, 8  # pixels of an interval between knots, and how many there are at most
STEPS, ENOUGH = 12, 1e-3  # Newton's steps, and what a step must lower E by for another
DAMPING, DAMPED = 1e-6, 12  # the least, relative to the curvature, and how often it grows tenfold


class Surface:
    """Splines over a grid of R rows and Q columns of places.

    Args:
        rows: (R,), rising, in pixels.
        columns: (Q,), rising.
        tau: the spread of second derivatives from one side to the other, in steps.
    """

    def __init__(self, rows: Tensor, columns: Tensor, tau: float) -> None:
        self._bases = [_splines(places) for places in (rows, columns)]
        sizes = [basis.shape[1] for basis in self._bases]
        bends = [(n - 3) ** 2 * torch.eye(n, dtype=torch.float64).diff(n=2, dim=0) for n in sizes]
        bends = [d.T @ d for d in bends]
        ones = [torch.eye(n, dtype=torch.float64) for n in sizes]
        stiff = torch.kron(bends[0], ones[1]) + torch.kron(ones[0], bends[1])
        self._stiff = (stiff / tau**2).to(rows.device)

    def flat(self) -> Tensor:
        """The coefficients of the surface 0."""
        return self._stiff.new_zeros([basis.shape[1] for basis in self._bases])

    def at(self, coefficients: Tensor) -> Tensor:
        """(R, Q) heights of the surface of these coefficients."""
        rows, columns = self._bases
        return rows @ coefficients @ columns.T

    def energy(self, tables: Tensor, coefficients: Tensor) -> float:
        """E of these coefficients under the log-likelihoods (2 m + 1, R, Q)."""
        values = interpolated(tables, self.at(coefficients), len(tables) // 2)[0]
        return self.bending(coefficients) - float(values.sum())

    def fitted(self, tables: Tensor, coefficients: Tensor) -> Tensor:
        """Coefficients after Newton's steps from these, E lower at each.

        Args:
            tables: (2 m + 1, R, Q), float64, the log-likelihoods.
            coefficients: where to begin.
        """
        now, damping = self.energy(tables, coefficients), DAMPING
        for _ in range(STEPS):
            slope, curvature = self._derivatives(tables, coefficients)
            scale = curvature.diagonal().mean()
            for _ in range(DAMPED):
                damped = curvature + damping * scale * torch.eye(len(slope)).to(curvature)
                step = torch.linalg.solve(damped, slope).reshape(coefficients.shape)
                then = self.energy(tables, coefficients - step)
                if then < now:
                    break
                damping *= 10
            else:
                return coefficients
            gained, now, coefficients = now - then, then, coefficients - step
            damping = max(damping / 10, DAMPING)
            if gained < ENOUGH:
                break
        return coefficients

    def bending(self, coefficients: Tensor) -> float:
        """What E charges for these coefficients."""
        flat = coefficients.flatten()
        return float(0.5 * flat @ self._stiff @ flat)

    def _derivatives(self, tables: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient (K,) of E and its curvature (K, K), where data bend the wrong way without."""
        rows, columns = self._bases
        _, first, second = interpolated(tables, self.at(coefficients), len(tables) // 2)
        slope = self._stiff @ coefficients.flatten() - (rows.T @ first @ columns).flatten()
        weights = (-second).clamp(min=0)
        pairs = [(basis[:, :, None] * basis[:, None]).flatten(1) for basis in self._bases]
        joined = pairs[0].T @ weights @ pairs[1]
        n, m = rows.shape[1], columns.shape[1]
        joined = joined.reshape(n, n, m, m).transpose(1, 2).reshape(n * m, n * m)
        return slope, joined + self._stiff


def interpolated(tables: Tensor, heights: Tensor, zero: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values, first and second derivatives (R, Q) of tables (L, R, Q) at heights (R, Q), in steps.

    Height 0 is step `zero` of the tables. Between steps runs the cubic through the four nearest;
    beyond the ends tables go on as they end.
    """
    inside = heights.clamp(-zero, len(tables) - 1 - zero)
    below = inside.floor().clamp(1 - zero, len(tables) - 3 - zero)
    taps = below.long() + zero + torch.arange(-1, 3, device=heights.device)[:, None, None]
    near = tables.gather(0, taps)
    value, first, second = ((w * near).sum(0) for w in _cubic(inside - below))
    free = heights == inside
    return value, first * free, second * free


def shifted(tables: Tensor, heights: Tensor) -> Tensor:
    """Tables (L, R, Q) whose place l holds what l + heights (R, Q) held, as in `interpolated`."""
    last = len(tables) - 1
    below = heights.floor()
    weights = _cubic(heights - below)[0]
    start = torch.arange(last + 1, device=heights.device)[:, None, None] + below.long()
    return torch.stack(
        [
            w * tables.gather(0, (start + d).clamp(0, last))
            for d, w in zip(range(-1, 3), weights, strict=True)
        ]
    ).sum(0)


def expected(tables: Tensor, shares: Tensor, most: int) -> Tensor:
    """(2 `most` + 1, R, Q): means of tables (L, R, Q) under shares (L, R, Q), moved by k steps."""
    wide = F.pad(tables[None, None], (0, 0, 0, 0, most, most), mode="replicate")[0, 0]
    return torch.stack([(wide[k : k + len(tables)] * shares).sum(0) for k in range(2 * most + 1)])


def _cubic(share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (4, …) of the values at -1, 0, 1 and 2 at `share` of the way from 0 to 1.

    Of the cubic through them, and of its first and second derivatives.
    """
    x = share
    value = (
        -x * (x - 1) * (x - 2) / 6,
        (x + 1) * (x - 1) * (x - 2) / 2,
        -(x + 1) * x * (x - 2) / 2,
        (x + 1) * x * (x - 1) / 6,
    )
    first = (
        -(3 * x * x - 6 * x + 2) / 6,
        (3 * x * x - 4 * x - 1) / 2,
        -(3 * x * x - 2 * x - 2) / 2,
        (3 * x * x - 1) / 6,
    )
    second = (1 - x, 3 * x - 2, 1 - 3 * x, x)
    return torch.stack(value), torch.stack(first), torch.stack(second)


def _splines(places: Tensor) -> Tensor:
    """(n, K) of the cubic B-splines of even knots from the first place to the last."""
    places = places.double()
    wide = max(float(places[-1] - places[0]), 1.0)
    count = min(max(1, round(wide / INTERVAL)), MOST)
    knots = torch.arange(-1, count + 2, device=places.device)
    away = ((places[:, None] - places[0]) * (count / wide) - knots).abs()
    near = 2 / 3 - away.square() + away**3 / 2
    return torch.where(away < 1, near, (2 - away).clamp(min=0) ** 3 / 6)
