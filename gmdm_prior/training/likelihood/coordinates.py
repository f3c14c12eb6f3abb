"""Zero-mean coordinates of patches, and the symmetries as they act there.

With the rows of D an orthonormal basis of the zero-mean patches (per channel; J = C (b² - 1) of
them), a patch has the coordinates D x in R^J, and a symmetry h of the square is the orthogonal
matrix P_h = D h Dᵀ: a signed permutation when the rows of D are DCT images. The patch's means do
not matter to any model here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gmdm_prior import constraints, symmetry

CHUNK = 16384  # patches per matrix product: bounds the memory of every pass over the data


def to_coordinates(patches: Tensor) -> Tensor:
    """Coordinates (N, J) of patches (N, C, b, b), in the patches' dtype, on the CPU, detached."""
    channels, size = patches.shape[1], patches.shape[-1]
    basis = constraints.zero_mean_basis(channels, size).to(patches.dtype)
    parts = patches.detach().split(CHUNK)
    return torch.cat([part.cpu().flatten(1) @ basis.T for part in parts])


def to_filters(bases: Tensor, channels: int, size: int) -> Tensor:
    """Filters (G, J, C, b, b) of orthonormal bases (G, J, J) given in coordinates."""
    rows = bases @ constraints.zero_mean_basis(channels, size).to(bases)
    return rows.reshape(*bases.shape[:2], channels, size, size)


def symmetry_matrices(symmetries: str, channels: int, size: int) -> Tensor:
    """The matrices P_h, (H, J, J) float64, of the elements of a symmetry group."""
    basis = constraints.zero_mean_basis(channels, size).double()
    images = basis.reshape(-1, channels, size, size)
    moved = [symmetry.act(images, q).reshape(len(basis), -1) for q in symmetry.group(symmetries)]
    return torch.stack([basis @ m.T for m in moved])
