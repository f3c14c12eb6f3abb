"""Fitting one-dimensional experts to the responses of given filters.

Each filter becomes as long as its expert can hold: the outer quantile of its responses lies just
inside the outermost mean. For given filters the weights of fixed components are a convex problem;
EM on the binned responses h_jb solves it,

    w_jl <- w_jl sum_b h_jb G_bl / (sum_m w_jm G_bm),     G_bl = N(z_b; mu_l, sigma_0²).
"""

from __future__ import annotations

import torch
from torch import Tensor

OUTER, INSIDE = 0.9999, 0.95  # this quantile of |response| comes to lie at 0.95 gamma
BINS_PER_MEAN, ITERATIONS = 8, 100
SMALLEST = 1e-8  # weight of a component that no response needs
QUANTILES_FROM = 60_000  # patches


def fit_marginals(responses: Tensor, components: int, bound: float) -> tuple[Tensor, Tensor]:
    """Lengths (J,) of filters and expert weights (J, L) for responses (N, J) of unit filters."""
    some = responses[:QUANTILES_FROM].abs()
    outer = torch.stack([r.quantile(OUTER) for r in some.T])
    if not bool((outer > 0).all()):
        raise ValueError("patches must have contrast in every direction; some have none at all")
    norms = INSIDE * bound / outer
    return norms, fit_weights(responses * norms, components, bound)


def fit_weights(responses: Tensor, components: int, bound: float) -> Tensor:
    """Maximum-likelihood weights (J, L) of each expert for its responses (N, J), by EM."""
    step = 2 * bound / (components - 1)
    means = torch.linspace(-bound, bound, components, dtype=torch.float64)
    count = BINS_PER_MEAN * (components + 1)
    reach = bound + step
    places = (torch.arange(count, dtype=torch.float64) + 0.5) * (2 * reach / count) - reach
    inside = responses.clamp(-reach, reach)
    histogram = torch.stack([torch.histc(r, count, -reach, reach) for r in inside.T]).double()
    histogram /= histogram.sum(1, keepdim=True)
    kernel = (-0.5 * ((places[:, None] - means) / step).square()).exp()
    weights = torch.full((len(histogram), components), 1 / components, dtype=torch.float64)
    for _ in range(ITERATIONS):
        weights = weights * ((histogram / (weights @ kernel.T)) @ kernel)
        weights = weights.clamp(min=SMALLEST)
        weights = weights / weights.sum(1, keepdim=True)
    return weights
