"""EM of a mixture of zero-mean Gaussians with full covariances: the first stage of `fit_em`.

    f(x) = Σ_k p_k N(x; 0, Σ_k),   x in R^J,   Σ_k ⪰ c I,   c = σ² + floor

The Σ_k describe the patches as they are given: of patches that contain noise of variance σ², what
is left of a component without the noise is Σ_k - σ² I. The E-step writes xᵀ Σ_k⁻¹ x = Σ_{i ≤ j}
q_ij x_i x_j, so that the exponents of all components are one product of the (K, J(J+1)/2)
coefficients and the pair products of a chunk of patches. The M-step is the exact maximiser of the
penalised likelihood of `likelihood.em`:

    Σ_k = clip(T_k), T_k = (Σ_i r_ik x_i x_iᵀ + ν τ I) / (n_k + ν),   p_k ∝ n_k + α,

where clip raises the eigenvalues below c to c.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gmdm_prior.training.likelihood.statistics import (
    Penalty,
    Statistics,
    normalise_,
    packed,
    pair_products,
)

CHUNK = 4096  # patches whose pair products are held at a time
LEVELS = 8  # of contrast, in the initial partition
DIRECTION_SWEEPS = 5  # of the k-means on directions, in the initial partition


@dataclass(frozen=True)
class FullMixture:
    """Parameters: covariances (K, J, J) of the patches as given, and weights (K,), both float64."""

    covariances: Tensor
    weights: Tensor

    def raised(self, variance: float) -> FullMixture:
        """The mixture with noise of this variance added."""
        identity = torch.eye(self.covariances.shape[-1], dtype=torch.float64)
        return FullMixture(self.covariances + variance * identity, self.weights)


def maximise(statistics: Statistics, penalty: Penalty) -> FullMixture:
    """The M-step, exact."""
    identity = torch.eye(statistics.scatter.shape[-1], dtype=torch.float64)
    values, vectors = torch.linalg.eigh(
        penalty.shrunk(statistics.scatter, statistics.counts, identity)
    )
    values = values.clamp(min=penalty.least)
    covariances = (vectors * values[:, None, :]) @ vectors.mT
    return FullMixture(covariances, penalty.mixing_weights(statistics.counts))


def log_penalty(mixture: FullMixture, penalty: Penalty) -> float:
    """The regulariser's value: see `Penalty`."""
    return penalty.log_density(torch.linalg.eigvalsh(mixture.covariances), mixture.weights)


def _quadratic_forms(covariances: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients of -½ xᵀ Σ⁻¹ x over i ≤ j, (K, J(J+1)/2), and -½ log det(2π Σ), (K,)."""
    factor = torch.linalg.cholesky(covariances)
    inverse = torch.cholesky_inverse(factor)
    half_log_det = torch.diagonal(factor, dim1=1, dim2=2).log().sum(1)
    constants = -half_log_det - 0.5 * covariances.shape[-1] * math.log(2 * math.pi)
    return packed(-0.5 * inverse), constants


def expect(x: Tensor, mixture: FullMixture, truncation: float = 0.0) -> Statistics:
    """The E-step over patches x (N, J), in their dtype."""
    coefficients, constants = _quadratic_forms(mixture.covariances)
    coefficients = coefficients.to(x)
    offsets = (constants + mixture.weights.log()).to(x)[:, None]
    statistics = Statistics.zeros(len(mixture.weights), x.shape[1])
    for part in x.split(CHUNK):
        logits = torch.addmm(offsets, coefficients, pair_products(part.T.contiguous()))
        responsibilities, log_likelihood = normalise_(logits)
        statistics.add(part, responsibilities, truncation)
        statistics.log_likelihood += log_likelihood
    return statistics


def _directions(x: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Nearest of `count` directions (N,): k-means that ignores sign and contrast."""
    start = torch.randperm(len(x), generator=generator)[:count]
    centres = F.normalize(x[start], dim=1)
    for _ in range(DIRECTION_SWEEPS):
        sums = torch.zeros_like(centres)
        nearest = []
        for part in x.split(CHUNK):
            unit = part / (part.norm(dim=1, keepdim=True) + 1e-4)
            cosine = unit @ centres.T
            index = cosine.abs().argmax(1)
            sign = cosine.gather(1, index[:, None]).sign()
            sums.index_add_(0, index, unit * sign)
            nearest.append(index)
        centres = F.normalize(sums, dim=1)
    return torch.cat(nearest)


def initial_mixture(
    x: Tensor,
    components: int,
    penalty: Penalty,
    generator: torch.Generator | None = None,
    surplus: Tensor | None = None,
) -> FullMixture:
    """A first mixture: a hard partition by contrast and direction, then one M-step.

    Args:
        x: patches (N, J), N ≥ components.
        components: K.
        penalty: the regulariser.
        generator: source of the random first directions.
        surplus: noise variance of each patch beyond the reference, (N,) float64; None is 0.
    """
    levels = min(LEVELS, components)
    contrast = x.norm(dim=1)
    if surplus is not None:
        contrast = contrast.double().square() - x.shape[1] * surplus
    ranks = torch.empty_like(contrast, dtype=torch.int64)
    ranks[contrast.argsort(stable=True)] = torch.arange(len(x))
    level = ranks * levels // len(x)
    cell = (_directions(x, -(-components // levels), generator) * levels + level) % components
    statistics = Statistics.zeros(components, x.shape[1])
    for k in range(components):
        members = x[cell == k]
        statistics.scatter[k] = (members.T @ members).double()
        if surplus is not None:
            torch.diagonal(statistics.scatter[k]).sub_(surplus[cell == k].sum())
        statistics.counts[k] = len(members)
    return maximise(statistics, penalty)
