"""Noise levels of places on a grid, jumping or growing slowly: a Potts field around a surface.

Place i has log-likelihoods at the steps t_l of a ladder of log sigma. Its level is one step of the
ladder, l_i, moved by a smooth surface s (`surface`), s_i steps high there. The l_i jump, for
neighbours are likely to have like ones, and some are more common than others in the image:

    p(l_1, l_2, …) ∝ prod_i rho(l_i) exp(beta/n sum_{j ~ i} k(l_i, l_j)),
    k(l, m) = exp(-(t_l - t_m)² / 2 h²),

a field of Potts type. Independent q_i approximate its posterior (mean field), rho is the mean of
the q_i, and s is the likeliest surface. Both lower the free energy

    F(q, s) = sum_i sum_l q_i(l) (log q_i(l) - log rho(l) - log f(y_i; t_l + s_i))
              - beta/2n sum_{i ~ j} sum_{l m} q_i(l) k(l, m) q_j(m) + bending(s).

They take turns: s for given q by Newton's steps that lower F, q by sweeps; a turn that does not
lower F is not taken. In the end each step of the ladder moves to where the places assigned to it
are likeliest, and level i is the mean of the steps under q_i, plus s_i.

How stiff the surface is, or whether there is none, the image decides (`chosen`): tiles of the grid
that share no pixel, as on a chessboard, black ones foretell the levels of white ones and the other
way round, and the stiffness under which those are likeliest is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gmdm_prior.noise.surface import Surface, expected, interpolated, shifted

COUPLING, LIKENESS = 6.0, 0.2  # beta for all neighbours together, and h
START = 2  # radius, in places, of the window whose likelihood the field starts from
SWEEPS, TURNS = 15, 3
RAREST = 1e-5  # added to rho
REACH = 12  # steps of the ladder up and down that a surface is looked for
STIFFNESS = (4.0, 12.0, 40.0)  # steps: the spread of bends of surfaces that are tried
TILES = 6  # a side, the fewest that a surface is looked for in
GAIN, TEXTURE = 0.05, 1.2e-4  # of log-likelihood a tile that a surface must gain


@dataclass(frozen=True, eq=False)
class Grid:
    """Places on a grid and the ladder of their levels.

    Attributes:
        rows: (R,), rising, in pixels.
        columns: (Q,).
        ladder: (L,), the levels t_l, evenly apart.
        start: the step of the ladder that a surface starts from.
        radius: of a place's neighbourhood, in places.
    """

    rows: Tensor
    columns: Tensor
    ladder: Tensor
    start: int
    radius: int

    @property
    def step(self) -> float:
        """From one level of the ladder to the next."""
        return float(self.ladder[-1] - self.ladder[-2])

    def levels(self, logs: Tensor, tau: float | None) -> Tensor:
        """Levels (R, Q) of log sigma for log-likelihoods (L, R, Q).

        Args:
            logs: the log-likelihoods.
            tau: how the surface bends, as for `Surface`; None for no surface.
        """
        if tau is None:
            q = potts(logs, self.ladder, self.radius)[0]
            return self._means(q, logs)
        surface = Surface(self.rows, self.columns, tau)
        q = torch.zeros_like(logs)
        q[self.start] = 1
        coefficients, least = surface.flat(), math.inf
        found = self.ladder[self.start].expand(logs.shape[1:])
        for _ in range(TURNS):
            coefficients = surface.fitted(expected(logs, q, REACH).double(), coefficients)
            heights = surface.at(coefficients).to(logs)
            own = shifted(logs, heights)
            q, energy = potts(own, self.ladder, self.radius)
            energy += surface.bending(coefficients)
            if energy >= least:
                break
            least, found = energy, self._means(q, own) + heights * self.step
        return found

    def chosen(self, logs: Tensor) -> float | None:
        """The tau, None for no surface, of the stiffest that foretells about as well as the best.

        Args:
            logs: (L, R, Q), of tiles that share no pixel.
        """
        if min(logs.shape[1:]) < TILES:
            return None
        scores = {tau: self.foretold(logs, tau) for tau in (None, *STIFFNESS)}
        least = max(scores.values()) - self.margin(logs)
        return next(tau for tau, score in scores.items() if score >= least)

    def margin(self, logs: Tensor) -> float:
        """By how much one explanation must be likelier than another to be believed."""
        texture = TEXTURE * math.exp(-2 * float(self.ladder[self.start]))
        return (GAIN + texture) * logs[0].numel()

    def foretold(self, logs: Tensor, tau: float | None) -> float:
        """How likely tiles are at the levels that the tiles beside them foretell."""
        row, column = (torch.arange(n, device=logs.device) for n in logs.shape[1:])
        black = ((row[:, None] + column) % 2).to(logs)
        score = 0.0
        for seen in (black, 1 - black):
            score += self.likelihood(logs * (1 - seen), self.levels(logs * seen, tau))
        return score

    def likelihood(self, logs: Tensor, levels: Tensor) -> float:
        """Log-likelihood of log levels (R, Q)."""
        down = (levels - self.ladder[-1]) / self.step
        return float(interpolated(logs, down, len(logs) - 1)[0].double().sum())

    def _means(self, q: Tensor, logs: Tensor) -> Tensor:
        """Means (R, Q) of levels under q (L, R, Q), once each has moved to its likeliest place."""
        pooled = torch.einsum("lij,mij->lm", q, logs)
        return torch.einsum("l,lij->ij", self._moved(pooled), q)

    def _moved(self, pooled: Tensor) -> Tensor:
        """The level likeliest by a parabola for the places of each step, from (L, L)."""
        place = pooled.argmax(1, keepdim=True).clamp(1, len(self.ladder) - 2)
        below, here, above = (pooled.gather(1, place + d)[:, 0] for d in (-1, 0, 1))
        bend = (2 * here - below - above).clamp(min=1e-9)
        moves = (0.5 * (above - below) / bend).clamp(-1, 1)
        return self.ladder[place[:, 0]] + self.step * moves


def potts(logs: Tensor, ladder: Tensor, radius: int) -> tuple[Tensor, float]:
    """The q_i (L, R, Q) of a field without a surface, and the free energy."""
    likeness = (-0.5 * ((ladder[:, None] - ladder) / LIKENESS).square()).exp()
    q = ((2 * START + 1) ** 2 * _average(logs, START)).softmax(0)
    window = (2 * radius + 1) ** 2
    for _ in range(SWEEPS):
        common, agreement = _beliefs(q, likeness, radius, window)
        q = (logs + COUPLING * agreement + common).softmax(0)
    common, agreement = _beliefs(q, likeness, radius, window)
    energy = q * (q.clamp(min=1e-30).log() - common - logs - 0.5 * COUPLING * agreement)
    return q, float(energy.double().sum())


def _beliefs(q: Tensor, likeness: Tensor, radius: int, window: int) -> tuple[Tensor, Tensor]:
    """What all places and the neighbours say of the level: log rho (L, 1, 1), and (L, R, Q)."""
    common = (q.mean((1, 2)) + RAREST).log()[:, None, None]
    others = (window * _average(q, radius) - q) / (window - 1)
    return common, torch.einsum("lm,mij->lij", likeness, others)


def _average(values: Tensor, radius: int) -> Tensor:
    """Mean over a square of places, of those inside, for (L, R, Q)."""
    kernel = 2 * radius + 1
    return F.avg_pool2d(values[:, None], kernel, 1, radius, count_include_pad=False)[:, 0]
