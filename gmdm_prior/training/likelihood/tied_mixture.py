"""EM of the tied mixture: the last stage of `fit_em`.

    f(x) = 1/|H| Σ_h Σ_k w_k Π_j N(a_g(k)j · P_h x; 0, m_kj),   m_kj ≥ c = σ² + floor,

with orthonormal A_g.

The m_kj describe the patches as they are given; without the noise a class has variances m_kj -
σ². With the statistics S_k = Σ_h P_h (Σ_i r_ihk x_i x_iᵀ) P_hᵀ, n_k = Σ_i Σ_h r_ihk and T_k = (S_k
+ ν τ I) / (n_k + ν), the M-step maximises

    -½ Σ_k (n_k + ν) Σ_j [log m_kj + (A_g T_k A_gᵀ)_jj / m_kj] + Σ_k (n_k + α) log w_k.

Weights and, for given bases, variances m_kj = max((A_g T_k A_gᵀ)_jj, c) are exact; what is left, a
function of each basis alone, is `likelihood.diagonalise`'s F with weights n_k + ν, which it lowers
without ever raising it. So a whole iteration is a generalised EM step: the penalised likelihood
cannot fall.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gmdm_prior.training.likelihood.diagonalise import common_diagonalisation, diagonal
from gmdm_prior.training.likelihood.statistics import Penalty, Statistics, normalise_

CHUNK = 8192  # patches whose responsibilities are held at a time
ROTATIONS = 6  # quasi-Newton rotations of each basis per iteration


@dataclass(frozen=True)
class TiedMixture:
    """Parameters, in zero-mean coordinates.

    Attributes:
        bases: A_g, orthonormal rows, (G, J, J) float64.
        variances: m_kj of the patches as given, noise included, (K, J) float64.
        weights: w_k, (K,) float64.
        basis: g(k), (K,) int64, non-decreasing.
    """

    bases: Tensor
    variances: Tensor
    weights: Tensor
    basis: Tensor

    def raised(self, variance: float) -> TiedMixture:
        """The mixture with noise of this variance added."""
        return TiedMixture(self.bases, self.variances + variance, self.weights, self.basis)


def log_penalty(mixture: TiedMixture, penalty: Penalty) -> float:
    """The regulariser's value: see `Penalty`."""
    return penalty.log_density(mixture.variances, mixture.weights)


def expect(
    x: Tensor, mixture: TiedMixture, symmetries: Tensor, truncation: float = 0.0
) -> Statistics:
    """The E-step over patches x (N, J), in their dtype, for symmetries P_h (H, J, J).

    Returns:
        Statistics summed over the symmetries: scatter S_k and counts n_k of the K classes.
    """
    order, classes = len(symmetries), len(mixture.weights)
    members = [(mixture.basis == g).nonzero().squeeze(1) for g in range(len(mixture.bases))]
    rows = (mixture.bases[:, None] @ symmetries).to(x)  # (G, H, J, J)
    exponents = (-0.5 / mixture.variances).to(x)
    log_det = (2 * math.pi * mixture.variances).log().sum(1)
    offsets = (mixture.weights.log() - 0.5 * log_det - math.log(order)).to(x)[:, None]
    every = Statistics.zeros(order * classes, x.shape[1])
    for part in x.split(CHUNK):
        columns = part.T.contiguous()
        logits = x.new_empty(order, classes, len(part))
        for g, k in enumerate(members):
            for h in range(order):
                energy = (rows[g, h] @ columns).square_()
                logits[h, k] = torch.addmm(offsets[k], exponents[k], energy)
        responsibilities, log_likelihood = normalise_(logits.flatten(0, 1))
        every.add(part, responsibilities, truncation)
        every.log_likelihood += log_likelihood
    scatter = every.scatter.reshape(order, classes, *every.scatter.shape[1:])
    turned = symmetries[:, None] @ scatter @ symmetries.mT[:, None]
    counts = every.counts.reshape(order, classes).sum(0)
    return Statistics(turned.sum(0), counts, every.log_likelihood)


def maximise(mixture: TiedMixture, statistics: Statistics, penalty: Penalty) -> TiedMixture:
    """The M-step: weights and variances exactly, each basis by a descent from where it was."""
    identity = torch.eye(statistics.scatter.shape[-1], dtype=torch.float64)
    moments = penalty.shrunk(statistics.scatter, statistics.counts, identity)
    influence = statistics.counts + penalty.patches
    bases, variances = mixture.bases.clone(), mixture.variances.clone()
    for g in range(len(bases)):
        k = mixture.basis == g
        bases[g] = common_diagonalisation(
            bases[g], moments[k], influence[k], penalty.least, ROTATIONS
        )
        variances[k] = diagonal(bases[g], moments[k]).clamp(min=penalty.least)
    return TiedMixture(bases, variances, penalty.mixing_weights(statistics.counts), mixture.basis)
