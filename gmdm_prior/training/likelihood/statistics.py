"""Sufficient statistics of a mixture of zero-mean Gaussians, and the regulariser of its M-step.

The M-step needs, of N patches x_i with responsibilities r_ik, only the counts n_k = Σ_i r_ik and
the scatter matrices Σ_i r_ik x_i x_iᵀ. They are summed chunk by chunk in float64, so that memory
does not grow with N.

To the log-likelihood of the patches is added, per component (or class) k with covariance Σ_k and
weight p_k,

    -½ ν (log det Σ_k + τ tr Σ_k⁻¹) + α log p_k,        subject to Σ_k ⪰ c I, c = σ² + floor:

the likelihood of ν further patches whose mean second moment is τ I (an inverse-Wishart density up
to its constant) and of α further patches known to be of class k (a Dirichlet density). In terms of
the eigenvalues m_kj of Σ_k it is -½ ν Σ_j (log m_kj + τ / m_kj) + α log p_k. Its maximum is that
of the likelihood with statistics that include the further patches, so the M-step stays closed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Statistics:
    """What an E-step hands to an M-step.

    Attributes:
        scatter: Σ_i r_ik x_i x_iᵀ, (K, J, J) float64.
        counts: Σ_i r_ik, (K,) float64.
        log_likelihood: Σ_i log f(x_i) under the parameters of the E-step, without truncation.
    """

    scatter: Tensor
    counts: Tensor
    log_likelihood: float = 0.0

    @classmethod
    def zeros(cls, components: int, dimension: int) -> Statistics:
        """Statistics of no patches."""
        return cls(
            torch.zeros(components, dimension, dimension, dtype=torch.float64),
            torch.zeros(components, dtype=torch.float64),
        )

    def add(self, x: Tensor, responsibilities: Tensor, truncation: float = 0.0) -> None:
        """Add a chunk.

        Args:
            x: patches (n, J).
            responsibilities: (K, n), non-negative.
            truncation: responsibilities up to this are taken for zero, which makes the sum many
                times cheaper; 0 keeps every one.
        """
        for k, r in enumerate(responsibilities):
            kept = (r > truncation).nonzero().squeeze(1)
            if len(kept) == 0:
                continue
            r = r[kept]
            weighted = x[kept].mul_(r.sqrt()[:, None])
            self.scatter[k] += weighted.T @ weighted
            self.counts[k] += r.sum(dtype=torch.float64)


@dataclass(frozen=True)
class Penalty:
    """The regulariser's constants; variances in squared units of the image.

    Attributes:
        least: c, the noise variance of the patches plus the floor.
        patches: ν, pseudo-patches per component.
        variance: τ, their variance per coordinate.
        members: α, pseudo-members per component.
    """

    least: float
    patches: float = 1.0
    variance: float = 1e-3
    members: float = 1e-3

    def shrunk(self, scatter: Tensor, counts: Tensor, identity: Tensor) -> Tensor:
        """Second moments (Σ_i r_ik x_i x_iᵀ + ν τ I) / (n_k + ν), (K, J, J)."""
        total = counts + self.patches
        return (scatter + self.patches * self.variance * identity) / total[:, None, None]

    def mixing_weights(self, counts: Tensor) -> Tensor:
        """The maximising weights p_k ∝ n_k + α."""
        raised = counts + self.members
        return raised / raised.sum()

    def log_density(self, eigenvalues: Tensor, weights: Tensor) -> float:
        """The regulariser's value for eigenvalues (K, J) and weights (K,), up to a constant."""
        spread = (eigenvalues.log() + self.variance / eigenvalues).sum()
        return (-0.5 * self.patches * spread + self.members * weights.log().sum()).item()


def normalise_(logits: Tensor) -> tuple[Tensor, float]:
    """Turn logits (K, n) into responsibilities in place; also their summed log-sum-exp over K."""
    top = logits.amax(0)
    total = logits.sub_(top).exp_().sum(0)
    log_likelihood = (top.double() + total.double().log()).sum().item()
    return logits.div_(total), log_likelihood


def pair_products(x: Tensor) -> Tensor:
    """The products x_i x_j, i ≤ j, of columns: (J, n) -> (J(J+1)/2, n)."""
    dimension = len(x)
    products = x.new_empty(dimension * (dimension + 1) // 2, x.shape[1])
    start = 0
    for i in range(dimension):
        torch.mul(x[i:], x[i], out=products[start : start + dimension - i])
        start += dimension - i
    return products


def packed(matrices: Tensor) -> Tensor:
    """Rows q, (K, J(J+1)/2), with q_k · pair_products(x) = xᵀ M_k x for symmetric M (K, J, J)."""
    rows, columns = torch.triu_indices(*matrices.shape[-2:])
    twice = torch.where(rows == columns, 1.0, 2.0).to(matrices)
    return matrices[:, rows, columns] * twice
