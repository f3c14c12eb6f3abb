"""Common diagonalisation: the orthonormal basis in which covariances are most nearly diagonal.

A class of the mixture is a product of Gaussians on the rows a_j of an orthonormal basis A. With
the covariance S_k of the patches of class k, s_kj = a_jᵀ S_k a_j, and variances that may not fall
below c, the best variances are m_kj = max(s_kj, c), and the loss (twice the negative
log-likelihood per unit of weight, up to a constant) is

    F(A) = Σ_k w_k Σ_j φ(s_kj),    φ(s) = log m + s / m,  m = max(s, c).

For c = 0 this is Flury's criterion for common principal components (1984), Σ_k w_k Σ_j log s_kj
plus a constant. Noise of variance σ² in the patches makes c = σ² + floor. φ is continuously
differentiable, φ'(s) = 1/m.

The descent turns A into exp(Ω) A with Ω skew. With M_k = A S_k Aᵀ, to second order about M_k
diagonal,

    F(Ω) - F(0) ≈ Σ_{i<j} 2 n_ij Ω_ij + h_ij Ω_ij²,
    n_ij = Σ_k w_k (M_k)_ij (1/m_ki - 1/m_kj),
    h_ij = Σ_k w_k (s_ki - s_kj) (1/m_kj - 1/m_ki) ≥ 0,

so Ω = -n / h is a Newton step wherever the covariances do commute, and is halved until F falls
elsewhere: F never rises.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gmdm_prior.constraints import polar_factor

DAMPING = 1e-3  # added to h_ij: pairs of directions that no covariance tells apart are left alone
LARGEST_ANGLE = 0.5  # of one step, in radians
HALVINGS = 12


def diagonal(basis: Tensor, covariances: Tensor) -> Tensor:
    """Variances a_jᵀ S_k a_j, (K, J), of covariances (K, J, J) along the rows of a basis (J, J)."""
    return ((basis @ covariances) * basis).sum(-1)


def diagonal_loss(variances: Tensor, least: float = 0.0) -> Tensor:
    """φ(s) = log m + s / m with m = max(s, least), elementwise."""
    bounded = variances.clamp(min=least) if least > 0 else variances
    return bounded.log() + variances / bounded


def _newton_step(rotated: Tensor, weights: Tensor, least: float) -> Tensor:
    """The skew Ω = -n / h for covariances (K, J, J) in the current basis."""
    s = torch.diagonal(rotated, dim1=1, dim2=2)
    inverse = 1 / (s.clamp(min=least) if least > 0 else s)
    difference = inverse[:, :, None] - inverse[:, None, :]
    gradient = torch.einsum("k,kij->ij", weights, rotated * difference)
    curvature = torch.einsum("k,kij->ij", weights, (s[:, None, :] - s[:, :, None]) * difference)
    step = -gradient / (curvature + DAMPING)
    step = 0.5 * (step - step.T)
    return step * min(1.0, LARGEST_ANGLE / max(step.abs().max().item(), 1e-300))


def common_diagonalisation(
    basis: Tensor, covariances: Tensor, weights: Tensor, least: float = 0.0, steps: int = 8
) -> Tensor:
    """Lower F by at most `steps` quasi-Newton rotations of `basis`.

    Args:
        basis: orthonormal rows to start from, (J, J).
        covariances: symmetric, positive on the diagonal in every basis, (K, J, J); K may be 0.
        weights: of the covariances, (K,), non-negative; only their ratios matter.
        least: c, below which a variance may not fall; in the units of the covariances.
        steps: bound on the number of rotations; fewer where none lowers F any more.

    Returns:
        Orthonormal rows (J, J) in float64 whose F is not above that of `basis`.
    """
    basis, covariances = basis.double(), covariances.double()
    if len(covariances) == 0:
        return basis
    weights = weights.double() / weights.double().sum()

    def loss(candidate: Tensor) -> float:
        phi = diagonal_loss(diagonal(candidate, covariances), least)
        return (weights @ phi).sum().item()

    lowest = loss(basis)
    for _ in range(steps):
        step = _newton_step(basis @ covariances @ basis.T, weights, least)
        for _ in range(HALVINGS):
            candidate = polar_factor(torch.linalg.matrix_exp(step) @ basis)
            reached = loss(candidate)
            if reached < lowest:
                break
            step = step / 2
        else:
            break
        basis, lowest = candidate, reached
    return basis
