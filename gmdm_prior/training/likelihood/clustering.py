"""Clustering of covariances into a few eigenbases up to symmetry: the second stage of `fit_em`.

Given the full mixture (Σ_k, p_k), give every component a basis g(k) and a symmetry h(k) such that
P_h Σ_k P_hᵀ is nearly diagonal in A_g. Making it diagonal costs, in log-likelihood per patch of
the component (a Kullback-Leibler divergence),

    ℓ_k(g, h) = ½ Σ_j log (A_g P_h Σ_k P_hᵀ A_gᵀ)_jj - ½ log det Σ_k ≥ 0.

k-means on this loss, Σ_k p_k min_{g,h} ℓ_k(g, h): assignment is a table look-up, a basis's centre
is the common diagonalisation of its members (`diagonalise`). First centres are eigenbases
of components drawn in proportion to p_k times their loss so far (as k-means++), several restarts,
the best kept. Then classes of the same basis are merged two by two, always the pair whose merging
costs least likelihood, until K are left:

    cost(i, l) = (w_i + w_l) Σ_j log m̄_j - w_i Σ_j log m_ij - w_l Σ_j log m_lj,

with m̄ the weighted mean of m_i and m_l.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gmdm_prior.training.likelihood.diagonalise import common_diagonalisation, diagonal
from gmdm_prior.training.likelihood.full_mixture import FullMixture
from gmdm_prior.training.likelihood.statistics import packed, pair_products
from gmdm_prior.training.likelihood.tied_mixture import TiedMixture

RESTARTS = 3
SWEEPS = 12  # of the k-means; it stops earlier once no component moves
ROTATIONS = 8  # quasi-Newton rotations of a centre per sweep


def diagonal_losses(bases: Tensor, mixture: FullMixture, symmetries: Tensor) -> Tensor:
    """ℓ_k(g, h), shape (K, G, H), of bases (G, J, J) in coordinates."""
    forms = packed(mixture.covariances)
    turned = (bases[:, None] @ symmetries).flatten(0, 1)  # (G H, J, J), rows a_j P_h
    spread = torch.stack([(forms @ pair_products(a.T)).log().sum(1) for a in turned], 1)
    losses = 0.5 * (spread - torch.linalg.slogdet(mixture.covariances)[1][:, None])
    return losses.clamp(min=0).unflatten(1, (len(bases), len(symmetries)))


def _eigenbasis(covariance: Tensor) -> Tensor:
    return torch.linalg.eigh(covariance)[1].T


def _first_bases(
    count: int, mixture: FullMixture, symmetries: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Eigenbases of components drawn as in k-means++."""
    chosen = int(torch.multinomial(mixture.weights, 1, generator=generator))
    bases = _eigenbasis(mixture.covariances[chosen])[None]
    while len(bases) < count:
        loss = diagonal_losses(bases, mixture, symmetries).flatten(1).amin(1)
        chance = (mixture.weights * loss).clamp(min=1e-12)
        chosen = int(torch.multinomial(chance, 1, generator=generator))
        bases = torch.cat([bases, _eigenbasis(mixture.covariances[chosen])[None]])
    return bases


def _assign(bases: Tensor, mixture: FullMixture, symmetries: Tensor) -> tuple[Tensor, Tensor]:
    """Basis and symmetry (K,) that suit each component best; every basis is given a component."""
    losses = diagonal_losses(bases, mixture, symmetries)
    loss, best = losses.flatten(1).min(1)
    basis, element = best // len(symmetries), best % len(symmetries)
    for g in range(len(bases)):
        if (basis == g).any():
            continue
        movable = torch.bincount(basis, minlength=len(bases))[basis] > 1
        worst = torch.where(movable, mixture.weights * loss, -1.0).argmax()
        bases[g] = _eigenbasis(mixture.covariances[worst])
        loss[worst], basis[worst], element[worst] = 0.0, g, 0
    return basis, element


def _turned(mixture: FullMixture, symmetries: Tensor, element: Tensor) -> Tensor:
    """P_h Σ_k P_hᵀ for each component's symmetry."""
    turn = symmetries[element]
    return turn @ mixture.covariances @ turn.mT


def cluster(
    mixture: FullMixture,
    bases: int,
    symmetries: Tensor,
    generator: torch.Generator | None = None,
) -> TiedMixture:
    """The components of a full mixture as classes tied to a few bases, one class per component.

    Args:
        mixture: the full mixture, K components, K ≥ bases.
        bases: number of bases G.
        symmetries: P_h, (H, J, J) float64.
        generator: source of the random starts.
    """
    lowest = None
    for _ in range(RESTARTS):
        centres = _first_bases(bases, mixture, symmetries, generator)
        before = None
        for _ in range(SWEEPS):
            basis, element = _assign(centres, mixture, symmetries)
            turned = _turned(mixture, symmetries, element)
            after = torch.stack([basis, element])
            if before is not None and torch.equal(before, after):
                break
            before = after
            for g in range(bases):
                k = basis == g
                centres[g] = common_diagonalisation(
                    centres[g], turned[k], mixture.weights[k], steps=ROTATIONS
                )
        variances = torch.stack(
            [diagonal(centres[g], s) for g, s in zip(basis.tolist(), turned, strict=True)]
        )
        total = (mixture.weights * variances.log().sum(1)).sum().item()
        if lowest is None or total < lowest[0]:
            lowest = total, centres, variances, basis
    _, centres, variances, basis = lowest
    order = basis.argsort(stable=True)
    return TiedMixture(centres, variances[order], mixture.weights[order], basis[order])


def _merging_costs(variances: Tensor, weights: Tensor, i: int) -> Tensor:
    """cost(i, ·), (K,)."""
    together = weights + weights[i]
    mean = (weights[:, None] * variances + weights[i] * variances[i]) / together[:, None]
    apart = weights * variances.log().sum(1)
    return together * mean.log().sum(1) - apart - apart[i]


def merge(mixture: TiedMixture, classes: int) -> TiedMixture:
    """Merge classes of the same basis until `classes` are left, G ≤ classes ≤ K."""
    variances, weights, basis = mixture.variances, mixture.weights, mixture.basis
    costs = torch.stack([_merging_costs(variances, weights, i) for i in range(len(weights))])
    costs[basis[:, None] != basis] = torch.inf
    costs.fill_diagonal_(torch.inf)
    variances, weights = variances.clone(), weights.clone()
    live = torch.ones_like(basis, dtype=torch.bool)
    for _ in range(len(weights) - classes):
        i, j = divmod(int(costs.argmin()), len(weights))
        total = weights[i] + weights[j]
        variances[i] = (weights[i] * variances[i] + weights[j] * variances[j]) / total
        weights[i], live[j] = total, False
        costs[j] = costs[:, j] = torch.inf
        allowed = live & (basis == basis[i])
        allowed[i] = False
        fresh = torch.where(allowed, _merging_costs(variances, weights, i), torch.inf)
        costs[i] = costs[:, i] = fresh
    return TiedMixture(
        mixture.bases, variances[live], weights[live] / weights[live].sum(), basis[live]
    )
