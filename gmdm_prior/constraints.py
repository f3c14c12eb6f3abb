"""Projections onto the sets in which the parameters of a GMDM live.

Filters k_j are zero-mean and mutually orthogonal with free norms (paper, Eq. 10); expert weights
lie in the unit simplex. With the filters as rows of K (J x a), the projection of the paper's Eq. 19
is

    argmin ||K - D O||²   over  O Oᵀ = Id_J,  D = diag(d_1, …, d_J) with d_j >= floor,

solved by alternation (Algorithm 1, corrected: see docs/math.md): O is the polar factor of D K, then
d_j = max(<o_j, k_j>, floor). Both steps are exact minimisations, so the objective never rises. The
work is done in coordinates of the zero-mean subspace, because the polar factor of a rank-deficient
D K would otherwise leak a mean into the filters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dct_matrix(size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Orthonormal DCT-II matrix (size, size); its first row is the constant."""
    i = torch.arange(size, dtype=dtype)
    rows = torch.cos(math.pi * (i[None] + 0.5) * i[:, None] / size) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows


def zero_mean_basis(channels: int, size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Orthonormal zero-mean DCT images of b x b patches, channel by channel.

    Returns:
        Rows of shape (channels * (b² - 1), channels * b²).
    """
    d = dct_matrix(size, dtype)
    images = torch.einsum("ai,bj->abij", d, d).reshape(size * size, size * size)[1:]
    return torch.block_diag(*[images] * channels)


def zero_mean(filters: Tensor) -> Tensor:
    """Remove the mean of each channel of filters (..., b, b)."""
    return filters - filters.mean((-2, -1), keepdim=True)


def polar_factor(matrix: Tensor) -> Tensor:
    """The closest matrix with orthonormal rows (or columns), by singular value decomposition."""
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


def project_orthogonal(
    filters: Tensor, steps: int = 3, *, zero_mean: bool = True, floor: float = 1e-3
) -> Tensor:
    """Nearest zero-mean, mutually orthogonal filters with free norms (Algorithm 1, corrected).

    Args:
        filters: (J, C, b, b), or a matrix (J, a) whose rows are the filters.
        steps: alternations B; three are enough in training, more converge to a critical point.
        zero_mean: also make every channel of every filter zero-mean.
        floor: smallest norm of a filter; a zero filter has no density.

    Returns:
        Filters of the same shape and dtype; computed in float64.

    Raises:
        ValueError: for more filters than dimensions, a non-finite entry or fewer than one step.
    """
    if filters.ndim not in (2, 4):
        raise ValueError(f"filters must be (J, C, b, b) or (J, a); got {tuple(filters.shape)}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    if not floor > 0:
        raise ValueError(f"floor must be positive, since a zero filter has no density; got {floor}")
    channels = filters.shape[1] if filters.ndim == 4 else 1
    rows = filters.detach().double().flatten(1)
    if not torch.isfinite(rows).all():
        raise ValueError("filters must be finite; they hold NaN or infinity")
    axes = _zero_mean_coordinates(rows.shape[1] // channels, channels) if zero_mean else None
    k = rows if axes is None else rows @ axes.to(rows).T
    if k.shape[0] > k.shape[1]:
        kind = "zero-mean dimensions" if zero_mean else "dimensions"
        raise ValueError(f"{k.shape[0]} filters cannot be orthogonal in {k.shape[1]} {kind}")
    d = torch.ones(k.shape[0], dtype=k.dtype, device=k.device)
    for _ in range(steps):
        o = polar_factor(d[:, None] * k)
        d = (o * k).sum(1).clamp(min=floor)
    projected = d[:, None] * o
    if axes is not None:
        projected = projected @ axes.to(rows)
    return projected.reshape(filters.shape).to(filters.dtype)


def orthonormalise(bases: Tensor) -> Tensor:
    """Polar factor of each zero-mean basis (G, J, C, b, b), worked out in float64."""
    channels, size = bases.shape[2], bases.shape[-1]
    axes = zero_mean_basis(channels, size).to(bases.device)
    coordinates = bases.detach().double().flatten(2) @ axes.T
    return (polar_factor(coordinates) @ axes).reshape(bases.shape).to(bases.dtype)


def project_simplex(weights: Tensor) -> Tensor:
    """Euclidean projection of the last axis onto {w >= 0, sum w = 1} (sort and threshold).

    Args:
        weights: (..., L), any finite values.

    Returns:
        (..., L): max(w - τ, 0) with τ such that the sum is one.
    """
    ordered = weights.sort(dim=-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    rank = torch.arange(1, weights.shape[-1] + 1, dtype=weights.dtype, device=weights.device)
    support = (ordered * rank > excess).sum(-1, keepdim=True).clamp(min=1)
    threshold = excess.gather(-1, support - 1) / support
    return (weights - threshold).clamp(min=0)


def _zero_mean_coordinates(pixels: int, channels: int) -> Tensor:
    return torch.block_diag(*[dct_matrix(pixels)[1:]] * channels)
