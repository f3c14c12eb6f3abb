"""Posterior means of a mixture from the few bases that explain a patch: faster, not exact.

A mixture of G bases in |H| positions has S = G |H| oriented bases, but a patch is explained by a
few. Which ones is found out cheaply. In each oriented basis only the first r rows are looked at
(those along which some class varies most); the energy that they leave is taken as isotropic, with
the class's mean variance t_k over the other rows:

    coarse log p(k, h, y) = log w_k - 1/2 sum_j log(v_kj + s)
                            - 1/2 sum_{j <= r} u_j² / (v_kj + s)
                            - 1/2 (‖y‖² - sum_{j <= r} u_j²) / t_k

The bases whose coarse evidence is within a factor exp(`TOLERANCE`) of the best are then evaluated
exactly, and their responsibilities sum to one. What the others would have added is left out:
`benchmarks/results/speed.md` has the error and the gain, which is none above `WORTH_BELOW`. A patch
with more than a share `MOST` of all bases in question is evaluated in all of them: that is faster
then.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gmdm_prior.densities.base import MeanPart
from gmdm_prior.densities.mixture.diffused import DiffusedMixture

MOST = 0.4  # of all oriented bases
TOLERANCE = 3.0  # nats below the best that are looked at exactly
COARSE = 2  # one row in so many is looked at first
WORTH_BELOW = (15 / 255) ** 2  # noise variance; above, most patches need most bases
LEVEL_STEP = 0.05  # of log noise variance, from one level of a map to the next
FAINTEST = 1e-10  # noise variance that counts as none


@dataclass(frozen=True)
class _Basis:
    """One basis and its classes, at a noise variance s.

    Attributes:
        rows: (|H|, J, a), those along which some class varies most first.
        variances: v, (K_g, J).
        log_weights: (K_g,).
        half_precisions: -1 / 2 (v + s), (J, K_g).
        constants: log-weights with the normalisers, (K_g,).
        coarse: (r, K_g), with `rest` (K_g,) the precisions of the coarse density.
        gains: v / (v + s), (K_g, J).
    """

    rows: Tensor
    variances: Tensor
    log_weights: Tensor
    half_precisions: Tensor
    constants: Tensor
    coarse: Tensor
    rest: Tensor
    gains: Tensor


class GatedLevel:
    """A `DiffusedMixture` at a scalar noise variance, in the likeliest bases of each patch.

    Args:
        level: the mixture, `level.noise` ().
        tolerance: nats of evidence below the best basis; with infinity the result is exact.
    """

    def __init__(self, level: DiffusedMixture, tolerance: float = TOLERANCE) -> None:
        sorted_parts = []
        for rows, variances, weights in zip(
            level.bases, level.variances, level.log_weights, strict=True
        ):
            order = variances.amax(0).argsort(descending=True)
            turned = rows.unflatten(0, (-1, len(order)))[:, order].contiguous()
            sorted_parts.append((turned, variances[:, order], weights))
        first = -(-level.variances[0].shape[1] // COARSE)
        self._first = torch.cat([rows[:, :first].flatten(0, 1) for rows, _, _ in sorted_parts])
        self._positions = len(sorted_parts[0][0])
        self._tolerance = tolerance
        self._set(level, sorted_parts)

    def at(self, noise: Tensor) -> GatedLevel:
        """The same at another noise variance ()."""
        other = copy.copy(self)
        other._set(
            self.exact_at(noise), [(b.rows, b.variances, b.log_weights) for b in self._bases]
        )
        return other

    def exact_at(self, noise: Tensor) -> DiffusedMixture:
        """The whole mixture at another noise variance ()."""
        return dataclasses.replace(self._level, noise=noise)

    def _set(self, level: DiffusedMixture, parts: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        first = len(self._first) // (self._positions * len(parts))
        self._level, self._bases = level, [_prepared(*part, level.noise, first) for part in parts]

    def posterior_mean(self, y: Tensor) -> Tensor:
        """(N, a) posterior mean of patches (N, a)."""
        coarse = self._coarse(y)
        kept = coarse >= coarse.amax(1, keepdim=True) - self._tolerance
        many = kept.sum(1) > MOST * kept.shape[1]
        out = torch.empty_like(y)
        out[many] = self._level.posterior_mean(y[many])
        out[~many] = self._in_few(y[~many], coarse[~many], kept[~many])
        return out

    def _in_few(self, y: Tensor, coarse: Tensor, kept: Tensor) -> Tensor:
        """Posterior means in the bases `kept` (N, S)."""
        if not len(y):
            return y
        oriented, patch = kept.T.nonzero().unbind(1)  # pairs, by oriented basis
        sizes = kept.sum(0).tolist()
        parts, evidences = [], []
        for s, rows in enumerate(y[patch].split(sizes)):
            basis = self._bases[s // self._positions]
            part, evidence = _evaluate(basis, basis.rows[s % self._positions], rows)
            parts.append(part)
            evidences.append(evidence)
        evidence = torch.full_like(coarse, -math.inf)
        evidence[patch, oriented] = torch.cat(evidences)
        share = evidence.softmax(1)[patch, oriented, None]
        mean = self._level.mean_part.posterior_mean(y, self._level.noise)
        return mean.index_add(0, patch, share * torch.cat(parts))

    def _coarse(self, y: Tensor) -> Tensor:
        """Coarse log-evidence (N, S) of each oriented basis: that of its best class."""
        part = self._level.mean_part
        flat = MeanPart(part.channels, part.pixels)
        energy = (y - flat.posterior_mean(y, self._level.noise)).square().sum(1)
        squares = (y @ self._first.T).square().unflatten(1, (len(self._bases), self._positions, -1))
        best = []
        for g, basis in enumerate(self._bases):
            log = squares[:, g] @ basis.coarse + energy[:, None, None] * basis.rest
            best.append((log + basis.constants).amax(2))
        return torch.cat(best, 1)


class GatedMap:
    """Posterior means where the noise varies: patches of like mean level are evaluated together.

    The variance of a patch is the mean over its pixels, rounded to the next of levels
    `LEVEL_STEP` apart in log variance: the standard deviation is off by 1.3 % at most where the
    noise is constant over a patch.
    """

    def __init__(self, level: GatedLevel) -> None:
        self._level = level
        self._levels: dict[int, GatedLevel | DiffusedMixture] = {}

    def posterior_mean(self, y: Tensor, noise: Tensor) -> Tensor:
        """(N, a) posterior mean of patches (N, a) with noise variances (N, a)."""
        place = (noise.mean(1).clamp(min=FAINTEST).log() / LEVEL_STEP).round().long()
        order = place.argsort(stable=True)
        found, sizes = place.unique(return_counts=True)  # rising
        parts = [
            self._at(i, y).posterior_mean(rows)
            for i, rows in zip(found.tolist(), y[order].split(sizes.tolist()), strict=True)
        ]
        return torch.cat(parts)[order.argsort()]

    def _at(self, i: int, like: Tensor) -> GatedLevel | DiffusedMixture:
        if i not in self._levels:
            noise = like.new_tensor(math.exp(i * LEVEL_STEP))
            gated = i * LEVEL_STEP < math.log(WORTH_BELOW)
            self._levels[i] = self._level.at(noise) if gated else self._level.exact_at(noise)
        return self._levels[i]


def _prepared(
    rows: Tensor, variances: Tensor, log_weights: Tensor, noise: Tensor, first: int
) -> _Basis:
    total = variances + noise
    rest = total.new_zeros(len(total))
    if total.shape[1] > first:
        rest = -0.5 / total[:, first:].mean(1)
    half = (-0.5 / total).T
    return _Basis(
        rows=rows,
        variances=variances,
        log_weights=log_weights,
        half_precisions=half.contiguous(),
        constants=log_weights - 0.5 * total.log().sum(1),
        coarse=half[:first] - rest,
        rest=rest,
        gains=variances / total,
    )


def _evaluate(basis: _Basis, rows: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Zero-mean posterior means (n, a) under one oriented basis, and its log-evidence (n,)."""
    u = y @ rows.T
    log = torch.addmm(basis.constants, u.square(), basis.half_precisions)
    return (u * (log.softmax(1) @ basis.gains)) @ rows, log.logsumexp(1)
