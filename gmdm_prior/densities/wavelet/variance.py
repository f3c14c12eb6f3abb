"""Per-pixel variances of images whose wavelet coefficients are correlated inside tiles only.

An image is x = sum_i c_i phi_i over atoms phi_i(m, n) = p_i(m) q_i(n), products of atoms along the
axes, and coefficients of different tiles are independent. So

    Var x(m, n) = sum over tiles, sum over i, j in the tile of C_ij p_i(m) p_j(m) q_i(n) q_j(n),

which for pairs (p_i, p_j) and (q_i, q_j) of atoms of a tile is two products of matrices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gmdm_prior.densities.wavelet.transform import _split, haar_tile


def pixel_variances(
    covariances: Tensor, bank: Tensor, levels: int, first: int, rows: int
) -> Tensor:
    """What some rows of tiles add to the variances of all pixels.

    Args:
        covariances: (N, r, W / b, b², b²), of the pixels of the tiles of `to_tiles`.
        bank: filters of the wavelet.
        levels: how many; b = 2^levels.
        first: number of the first of the r rows of tiles.
        rows: number of all of them, H / b.

    Returns:
        (N, H, W).
    """
    count, height, width = covariances.shape[:3]
    side = 2**levels
    basis = haar_tile(levels)[0].to(covariances)
    trees = (basis @ covariances @ basis.T).reshape(count, height, width, -1)
    row, column = _atoms_of_coefficients(levels)
    vertical, horizontal = _pairs(row), _pairs(column)
    kinds = int(vertical.max()) + 1
    place = (vertical * kinds + horizontal).to(trees.device)
    sums = trees.new_zeros(count, height, width, kinds * kinds).index_add(3, place, trees)
    sums = sums.unflatten(3, (kinds, kinds)).transpose(2, 3)  # (N, r, kinds, W / b, kinds)
    down = _products(rows * side, bank.to(trees), levels)[:, first : first + height]
    across = _products(width * side, bank.to(trees), levels)
    return down.flatten(1) @ sums.flatten(3).flatten(1, 2) @ across.flatten(1).T


def _atoms_of_coefficients(levels: int) -> tuple[Tensor, Tensor]:
    """Numbers (b²,) of the atoms down and across of each coefficient, in `haar_tile`'s order."""
    down, across, start = [], [], 0
    for level in range(1, levels + 1):
        places = 2 ** (levels - level)
        low = start + torch.arange(places)
        high = low + places
        for v, h in ((high, low), (low, high), (high, high)):
            grid = torch.meshgrid(v, h, indexing="ij")
            down.append(grid[0].flatten())
            across.append(grid[1].flatten())
        start += 2 * places
    last = torch.tensor([start - 2])  # the low band of the coarsest level has one place
    return torch.cat([*down, last]), torch.cat([*across, last])


def _pairs(atoms: Tensor) -> Tensor:
    """The number of each ordered pair of coefficients' unordered pair of atoms, (b⁴,)."""
    high = torch.maximum(atoms[:, None], atoms)
    low = torch.minimum(atoms[:, None], atoms)
    return (high * (high + 1) // 2 + low).flatten()


def _products(length: int, bank: Tensor, levels: int) -> Tensor:
    """Products of two atoms of a tile along an axis, (length, length / b, pairs)."""
    side, parts = 2**levels, []
    low = torch.eye(length, dtype=bank.dtype, device=bank.device)
    for level in range(1, levels + 1):
        low, high = _split(low, bank)
        parts += [band.unflatten(1, (-1, side // 2**level)) for band in (low, high)]
    atoms = torch.cat(parts, 2)
    i, j = torch.tril_indices(atoms.shape[2], atoms.shape[2], device=bank.device)
    return atoms[..., i] * atoms[..., j]
