"""The regulariser of the likelihood trainer, and what it does to an M-step.

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

from torch import Tensor


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
