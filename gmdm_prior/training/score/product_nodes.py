"""Fewer exponentials for wide experts, in the fused loss of the patch model.

A component N(z; mu, s) is, as a function of its mean, as smooth as sqrt(s) is wide. Where sqrt(s)
spans many of the L equidistant means, it is therefore worked out at n < L equidistant nodes nu of
distance H, and read in between by Lagrange's polynomial through the P nearest nodes,

    N(z; mu_l, s) ≈ sum_k A_lk N(z; nu_k, s),     error ∝ (H / sqrt(s))^P.

A does not depend on z: the sums over components sum_l w_l mu_l^i N(z; mu_l, s) become sums over
nodes with the weights sum_l w_l mu_l^i A_lk, and gradients go back through A's transpose. Because
the polynomial is local, the error is relative to the component at hand, in its tails too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

POINTS = 8  # P
SHARPNESS = {torch.float32: 5.0, torch.float64: 14.0}  # least sqrt(s) / H: errors 3e-7 and 7e-11
COUNTS = (16, 32, 64)  # the n to choose from, below L
WORTH = 0.9  # of the L means: with more nodes than that, all means are taken


@dataclass(frozen=True)
class Nodes:
    """Positions (n,) of the nodes, and `matrix` A (L, n); None where the nodes are the means."""

    positions: Tensor
    matrix: Tensor | None

    def gather(self, weighted: Tensor) -> Tensor:
        """Weights (J, i, L) of the means to weights (J, i, n) of the nodes."""
        return weighted if self.matrix is None else weighted @ self.matrix

    def scatter(self, sums: Tensor) -> Tensor:
        """Sums (J, i, n) at the nodes to sums (J, i, L) at the means."""
        return sums if self.matrix is None else sums @ self.matrix.T


def choices(components: int) -> list[int]:
    """The numbers of nodes for L means, rising, L last."""
    return [n for n in COUNTS if n <= WORTH * components] + [components]


def choose(scale: Tensor, components: int, bound: float) -> list[int]:
    """How many nodes experts of the smallest standard deviations `scale` (J,) need."""
    needed = (2 * bound * SHARPNESS[scale.dtype] / scale + POINTS - 1).tolist()
    rising = choices(components)
    return [next((n for n in rising if n >= need), components) for need in needed]


@lru_cache(maxsize=64)
def make_nodes(
    count: int, components: int, bound: float, dtype: torch.dtype, device: torch.device
) -> Nodes:
    """`count` nodes for L equidistant means in [-bound, bound].

    P / 2 − 1 of the nodes lie beyond either end, so that every mean is in the middle of P of them.
    """
    means = torch.linspace(-bound, bound, components, dtype=torch.float64)
    if count == components:
        return Nodes(means.to(device, dtype), None)
    spacing = 2 * bound / (count - POINTS + 1)
    first = -bound - (POINTS // 2 - 1) * spacing
    place = (means - first) / spacing  # in units of nodes
    left = (place.floor() - (POINTS // 2 - 1)).clamp(0, count - POINTS).long()
    near = torch.arange(POINTS)
    along = (place - left)[:, None, None]  # (L, 1, 1) against (P weights, P factors of each)
    ratios = (along - near) / (near[:, None] - near).double()
    ratios.diagonal(dim1=1, dim2=2).fill_(1)
    matrix = torch.zeros(components, count, dtype=torch.float64)
    matrix.scatter_(1, left[:, None] + near, ratios.prod(2))
    positions = first + spacing * torch.arange(count, dtype=torch.float64)
    return Nodes(positions.to(device, dtype), matrix.to(device, dtype))
