"""The noise level of each training image, by the likelihood of its patches under the mixture.

For image n with patches x_i and noise variance s, and class weights ω of its own,

    L_n(s) = max_ω Σ_i log Σ_k ω_k 1/|H| Σ_h N(A_g(k) P_h x_i; 0, v_k + s).

The weights are taken from the image (a few EM steps from the model's), and one class more has no
variance at all: under the weights of the average image a flat image would read as less noisy than
it is. L_n is found at levels around the present one, in a geometric progression; the new level is
the top of the parabola through the highest of them and its neighbours.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gmdm_prior.training.tied_mixture import TiedMixture

SPREAD, GRID = 0.24, 7  # logarithms of the levels that are tried: -SPREAD … SPREAD
WEIGHT_STEPS = 5
FLAT = 0.05  # first weight of the class without variance


def refined(
    x: Tensor,
    image: Tensor,
    sigmas: Tensor,
    mixture: TiedMixture,
    reference: float,
    symmetries: Tensor,
) -> Tensor:
    """Better noise levels.

    Args:
        x: patches (N, J), in coordinates.
        image: the image of each, (N,).
        sigmas: present noise level of each image, (M,) float64.
        mixture: the model; its variances contain noise of variance `reference`.
        reference: see there.
        symmetries: P_h, (H, J, J).

    Returns:
        Levels (M,); those of images without patches as they were.
    """
    clean = TiedMixture(
        mixture.bases, (mixture.variances - reference).clamp(min=0), mixture.weights, mixture.basis
    )
    steps = torch.linspace(-SPREAD, SPREAD, GRID, dtype=torch.float64)
    order = image.argsort(stable=True)
    parts = order.split(torch.bincount(image, minlength=len(sigmas)).tolist())
    found = sigmas.clone()
    for n, members in enumerate(parts):
        if len(members) == 0:
            continue
        tried = sigmas[n] * steps.exp()
        heights = _profile(x[members], tried.square(), clean, symmetries)
        found[n] = sigmas[n] * math.exp(_top(steps, heights))
    return found


def _profile(x: Tensor, noises: Tensor, clean: TiedMixture, symmetries: Tensor) -> Tensor:
    """L_n, (GRID,) float64, at these noise variances."""
    order, classes, dimension = len(symmetries), len(clean.weights), x.shape[1]
    columns = x.T.contiguous()
    logits = x.new_empty(len(noises), order, classes, len(x))
    totals = clean.variances + noises[:, None, None]  # (GRID, K, J)
    exponents = (-0.5 / totals).to(x)
    offsets = (-0.5 * totals.log().sum(2)).to(x)
    for g in range(len(clean.bases)):
        k = (clean.basis == g).nonzero().squeeze(1)
        at = exponents[:, k].flatten(0, 1)
        for h, turn in enumerate(symmetries):
            energy = ((clean.bases[g] @ turn).to(x) @ columns).square_()
            logits[:, h, k] = (at @ energy).unflatten(0, (len(noises), len(k)))
    logits += offsets[:, None, :, None]
    joint = logits.logsumexp(1).double() - math.log(order)  # (GRID, K, n)
    flat = -0.5 * (x.double().square().sum(1) / noises[:, None] + dimension * noises.log()[:, None])
    joint = torch.cat([joint, flat[:, None]], 1)
    start = torch.cat([(1 - FLAT) * clean.weights, clean.weights.new_tensor([FLAT])])
    log_weights = start.log().expand(len(noises), -1)
    for _ in range(WEIGHT_STEPS):
        shares = (joint + log_weights[..., None]).softmax(1).mean(2)
        log_weights = shares.clamp(min=1e-12).log()
    return (joint + log_weights[..., None]).logsumexp(1).sum(1)


def _top(places: Tensor, heights: Tensor) -> float:
    """Where the parabola through the highest point and its neighbours is highest."""
    i = min(max(int(heights.argmax()), 1), len(places) - 2)
    below, middle, above = heights[i - 1 : i + 2].tolist()
    bend = below - 2 * middle + above
    shift = (
        0.5 * (below - above) / bend if bend < 0 else float(above > below) - float(above < below)
    )
    return float(places[i]) + min(max(shift, -1.0), 1.0) * float(places[1] - places[0])
