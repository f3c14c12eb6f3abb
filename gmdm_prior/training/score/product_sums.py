"""The loop of the fused loss: sums over patches, a few of like noise level at a time.

In a buffer that stays in the cache are the exponentials e^(-(z − mu)² / 2s) of these patches, for
all experts and means (or fewer nodes: `product_nodes`). Moments of the means under the
responsibilities are one batched matrix product with them, and once the residuals are known another
one adds to the gradient of the logits. The mathematics is in `product_loss`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gmdm_prior.training.score import product_nodes

BUFFER = 2**21  # exponentials held at a time: 8 MB in float32, as a rule half of it in use


def sums_over_patches(
    filters: Tensor,
    log_weights: Tensor,
    x: Tensor,
    y: Tensor,
    variance: Tensor,
    bound: float,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Sums over all patches of loss and wanted gradients, a few patches of like level at a time."""
    experts, buffer, back = _ordered(filters, log_weights, bound, wanted)
    loss = filters.new_zeros((), dtype=torch.float64)
    order = variance.argsort()
    ordered = [t[order].split(len(buffer) // log_weights.numel()) for t in (x, y, variance)]
    for part in zip(*ordered, strict=True):
        loss += _add_part(experts, buffer, *part)
    return (
        loss,
        experts.for_filters[back] if wanted[0] else None,
        experts.for_logits()[back] if wanted[1] else None,
    )


def posterior_means(
    filters: Tensor, log_weights: Tensor, y: Tensor, variance: Tensor, bound: float
) -> Tensor:
    """Values of y + sigma² score for patches y (P, a) at one noise variance ()."""
    experts, buffer, _ = _ordered(filters, log_weights, bound, (False, False))
    parts = y.split(len(buffer) // log_weights.numel())
    return torch.cat(
        [_part(experts, buffer, p, variance.expand(len(p))).mean(experts) for p in parts]
    )


def posterior_mean_gradients(
    filters: Tensor, log_weights: Tensor, y: Tensor, variance: Tensor, bound: float, g: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of <g, y + sigma² score> with respect to y, filters and logits; g is (P, a)."""
    experts, buffer, back = _ordered(filters, log_weights, bound, (True, True))
    rows = len(buffer) // log_weights.numel()
    along_y = [
        _add_gradients(experts, _part(experts, buffer, p, variance.expand(len(p))), q)
        for p, q in zip(y.split(rows), g.split(rows), strict=True)
    ]
    return torch.cat(along_y), experts.for_filters[back], experts.for_logits()[back]


def _ordered(
    filters: Tensor, log_weights: Tensor, bound: float, wanted: tuple[bool, bool]
) -> tuple[_Experts, Tensor, Tensor]:
    """Experts that need as many nodes side by side, a buffer for them, and the way back."""
    rising = filters.square().sum(1).argsort()
    experts = _Experts(filters[rising], log_weights[rising], bound, wanted)
    rows = max(1, BUFFER // log_weights.numel())
    return experts, filters.new_empty(rows * log_weights.numel()), rising.argsort()


class _Experts:
    """What all patches share: filters, weights, nodes, and the sums that grow patch by patch."""

    def __init__(
        self, filters: Tensor, log_weights: Tensor, bound: float, wanted: tuple[bool, bool]
    ) -> None:
        components = log_weights.shape[1]
        self.filters, self.wanted, self.bound = filters, wanted, bound
        self.norms = filters.square().sum(1, keepdim=True)
        self.weights = log_weights.exp()
        self.means = product_nodes.make_nodes(
            components, components, bound, filters.dtype, filters.device
        ).positions
        powers = torch.arange(4 if wanted[0] else 2, device=filters.device)[:, None]
        self.weighted = self.weights[:, None] * self.means**powers  # (J, 2 or 4, L)
        self.for_filters = torch.zeros_like(filters)
        self.nodes: dict[int, tuple[product_nodes.Nodes, Tensor, Tensor]] = {}

    def at(self, count: int) -> tuple[product_nodes.Nodes, Tensor, Tensor]:
        """Nodes, weights (J, 2 or 4, n) and sums (J, 2, n) for `count` nodes."""
        if count not in self.nodes:
            nodes = product_nodes.make_nodes(
                count, len(self.means), self.bound, self.means.dtype, self.means.device
            )
            weighted = nodes.gather(self.weighted)
            self.nodes[count] = nodes, weighted, weighted.new_zeros(len(weighted), 2, count)
        return self.nodes[count]

    def for_logits(self) -> Tensor:
        """Gradient of the logits (J, L), from sums over patches of u r / (s w) times 1 and m."""
        total: Any = sum(nodes.scatter(sums) for nodes, _, sums in self.nodes.values())
        return self.weights * (self.means * total[:, 0] - total[:, 1])


def _add_part(experts: _Experts, buffer: Tensor, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
    """Loss of a few patches, whose gradients are added to those of `experts`."""
    part = _part(experts, buffer, y, noise)
    residual = part.mean(experts) - x
    if any(experts.wanted):
        _add_gradients(experts, part, 2 * residual)
    return residual.square().sum(dtype=torch.float64)


@dataclass(frozen=True)
class _Part:
    """A few patches: responses and what follows from them, (J, P) each, patches in columns.

    Attributes:
        y: the patches, (P, a).
        noise: their noise variances, (P,).
        z: responses; s: variances of a component; c: scores of the experts.
        moments: (J, 2 or 4, P), sums over components of w mu^i e^….
        groups: the exponentials, as `_moments` returns them.
    """

    y: Tensor
    noise: Tensor
    z: Tensor
    s: Tensor
    c: Tensor
    moments: Tensor
    groups: list[tuple[int, slice, Tensor]]

    def mean(self, experts: _Experts) -> Tensor:
        """Posterior means, y + sigma² score, (P, a)."""
        return self.y + self.noise[:, None] * (self.c.T @ experts.filters)


def _part(experts: _Experts, buffer: Tensor, y: Tensor, noise: Tensor) -> _Part:
    z = experts.filters @ y.T
    s = (experts.means[1] - experts.means[0]).square() + experts.norms * noise
    moments, groups = _moments(experts, buffer, z, s)
    return _Part(y, noise, z, s, (moments[:, 1] / moments[:, 0] - z) / s, moments, groups)


def _add_gradients(experts: _Experts, part: _Part, g: Tensor) -> Tensor | None:
    """Add the gradients of <g, y + sigma² score>, g (P, a), to those of `experts`.

    Returns that of y (P, a) where the gradient of the filters is wanted.
    """
    noise, z, s, c = part.noise, part.z, part.s, part.c
    mass, first, *higher = part.moments.unbind(1)
    m = first / mass
    u = noise * (experts.filters @ g.T)
    if experts.wanted[1]:
        share = u / (s * mass)
        shares = torch.stack([share, share * m], 1)
        for count, chosen, kernel in part.groups:
            experts.at(count)[2][chosen] += torch.bmm(shares[chosen], kernel)
    if not experts.wanted[0]:
        return None
    second, third = higher[0] / mass, higher[1] / mass
    v = second - m.square()
    along_z = u * (v / s - 1) / s
    along_s = (third - m * second - 2 * z * v) / (2 * s**3) - c / s
    experts.for_filters += (noise * c) @ g + along_z @ part.y
    experts.for_filters += 2 * (u * along_s * noise).sum(1, keepdim=True) * experts.filters
    return g + along_z.T @ experts.filters


def _moments(
    experts: _Experts, buffer: Tensor, z: Tensor, s: Tensor
) -> tuple[Tensor, list[tuple[int, slice, Tensor]]]:
    """Sums (J, 2 or 4, P) over components of w mu^i e^…, and the exponentials in groups.

    A group has the experts whose smallest variance among these patches needs so many nodes: their
    number, the experts, and the exponentials (experts, P, n).
    """
    counts = product_nodes.choose(s.amin(1).sqrt(), len(experts.means), experts.bound)
    scale = -0.5 * math.log2(math.e) / s  # exp2 is three times as fast as exp
    outside = (z.abs() - experts.bound).clamp(min=0).square()
    far = bool((outside * scale < -8).any())
    moments, groups, used = [], [], 0
    for count, group in itertools.groupby(range(len(counts)), counts.__getitem__):
        members = list(group)
        chosen = slice(members[0], members[-1] + 1)
        nodes, weighted, _ = experts.at(count)
        size = len(members) * z.shape[1] * count
        kernel = buffer[used : used + size].view(len(members), z.shape[1], count)
        used += size
        # exp(-((z − nu)² − d²) / 2s), with d how far z is outside; without d all may underflow
        torch.sub(z[chosen, :, None], nodes.positions, out=kernel)
        kernel.square_()
        if far:
            kernel.sub_(outside[chosen, :, None])
        kernel.mul_(scale[chosen, :, None]).exp2_()
        moments.append(torch.bmm(weighted[chosen], kernel.transpose(1, 2)))
        groups.append((count, chosen, kernel))
    return torch.cat(moments), groups
