"""A likelihood start for the paper's product model: rotated principal axes, and marginals by EM.

The filters are an orthonormal basis u = A x of zero-mean patches, whose lengths and weights
`likelihood.marginals` fits. For given experts psi_j the basis climbs the log-likelihood at a small
noise level. With phi_j the slope of log psi_j and G = E[phi(u) uᵀ], the rotation exp(S) A raises it
at first order by <S, G>, S skew; a quasi-Newton step is (after Picard-O, Ablin, Cardoso and
Gramfort, 2018)

    S_ij = (G_ij - G_ji) / H_ij,     H_ij = E[-phi_i'] E[u_j²] + E[-phi_j'] E[u_i²] + G_ii + G_jj,

halved until the likelihood rises. Score matching then starts from a density that already fits its
marginals instead of the paper's random filters: for 15 x 15 patches most of the training is saved.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gmdm_prior.constraints import polar_factor, project_orthogonal, zero_mean_basis
from gmdm_prior.densities.experts import Mixture1D
from gmdm_prior.densities.product import PatchModel
from gmdm_prior.fast.product_tables import TabulatedExperts
from gmdm_prior.training.likelihood.marginals import fit_marginals

LEVEL = 0.02  # noise at which the basis is rotated
REFIT = 10  # rotations for which the experts stay


def likelihood_start(
    patches: Tensor,
    components: int = 125,
    bound: float = 1.0,
    rotations: int = 60,
    generator: torch.Generator | None = None,
) -> PatchModel:
    """A `PatchModel` of high likelihood, in a minute for 7 x 7 patches.

    Args:
        patches: (N, C, b, b), N at least the number of filters C (b² - 1).
        components: L, at least 2.
        bound: gamma.
        rotations: steps of the basis from the principal axes; 0 keeps these.
        generator: of the small noise (CPU); `None` is seeded with 0.

    Returns:
        A float32 model.

    Raises:
        ValueError: for patches of the wrong shape, too few, or without any contrast.
    """
    if patches.ndim != 4 or patches.shape[2] != patches.shape[3]:
        raise ValueError(f"patches must be (N, C, b, b); got {tuple(patches.shape)}")
    channels, size = patches.shape[1], patches.shape[2]
    coordinates = zero_mean_basis(channels, size)
    if len(patches) < len(coordinates):
        raise ValueError(f"patches must be at least {len(coordinates)}; got {len(patches)}")
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    x = patches.float().flatten(1) @ coordinates.T.float()
    basis = principal_axes(x)
    noisy = x + LEVEL * torch.randn(x.shape, generator=generator)
    for step in range(rotations):
        if step % REFIT == 0:
            norms, weights = fit_marginals(x @ basis.T, components, bound)
            table = tabulated(norms, weights, bound)
        basis = rotated(basis, noisy, norms, table)
    basis = polar_factor(basis.double())
    norms, weights = fit_marginals(x @ basis.T.float(), components, bound)
    filters = (norms.double()[:, None] * basis) @ coordinates
    filters = project_orthogonal(filters.reshape(-1, channels, size, size))
    return PatchModel(filters.float(), weights.log().float(), bound)


def principal_axes(x: Tensor) -> Tensor:
    """Eigenvectors of the second moments of x (N, J), as rows by falling variance."""
    moments = x.double().T @ x.double() / len(x)
    return torch.linalg.eigh(moments)[1].flip(1).T.to(x)


def tabulated(norms: Tensor, weights: Tensor, bound: float) -> TabulatedExperts:
    """The experts at the noise level of the rotations."""
    components = weights.shape[1]
    experts = Mixture1D(
        log_weights=weights.log().to(norms),
        means=torch.linspace(-bound, bound, components, dtype=norms.dtype),
        base=(2 * bound / (components - 1)) ** 2,
        noise=(norms * LEVEL).square(),
    )
    return TabulatedExperts(experts, reach=20 * norms)


def rotated(basis: Tensor, x: Tensor, norms: Tensor, experts: TabulatedExperts) -> Tensor:
    """One quasi-Newton rotation of the basis (J, J) that raises the likelihood of x (N, J)."""
    u, lengths = basis @ x.T, norms[:, None]
    slope = experts.score(u * lengths) * lengths
    gradient = slope @ u.T / len(x)
    few, nudge = u[:, :20_000], 1e-3
    nudged = experts.score((few + nudge) * lengths) * lengths
    bend = -((nudged - slope[:, : few.shape[1]]) / nudge).mean(1)
    spread, own = u.square().mean(1), gradient.diagonal()
    curvature = torch.outer(bend, spread)
    curvature = curvature + curvature.T + own[:, None] + own
    curvature = curvature.abs().clamp(min=0.1 * own.abs().mean().item())
    turn = (gradient - gradient.T) / curvature
    turn = turn * min(1.0, 0.5 / max(turn.abs().max().item(), 1e-12))
    value = log_likelihood(u, norms, experts)
    for _ in range(8):
        candidate = torch.matrix_exp(turn.double()).to(basis) @ basis
        if log_likelihood(candidate @ x.T, norms, experts) > value:
            return candidate
        turn = turn / 2
    return basis


def log_likelihood(u: Tensor, norms: Tensor, experts: TabulatedExperts) -> float:
    """Mean log-likelihood of responses u (J, N) to unit filters, up to the filters' lengths."""
    return experts.log_prob(u * norms[:, None]).double().sum(0).mean().item()
