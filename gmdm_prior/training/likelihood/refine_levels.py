"""Noise levels of the training images, by the likelihood of their patches under the mixture.

For a group n of patches x_i with noise variance s, and class weights ω of its own,

    L_n(s) = max_ω Σ_i log Σ_k ω_k 1/|H| Σ_h N(A_g(k) P_h x_i; 0, v_k + s).

The weights are taken from the group (a few EM steps from the model's), and one class more has no
variance at all: under the weights of the average image a flat image would read as less noisy than
it is. L_n is found at levels around the present one, in a geometric progression; the new level is
the top of the parabola through the highest of them and its neighbours.

A group is an image where each image has one level. Where levels differ from pixel to pixel, it is
patches of one image that were found to have about the same one (`alike`), so that fine texture,
which first estimates take for noise, is told from it: all their levels move by the factor by which
that of the group does. The first map's shape within a group stays as it is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gmdm_prior.noise.evidence import MixturePatches
from gmdm_prior.training.likelihood.tied_mixture import TiedMixture

SPREAD, GRID = 0.24, 7  # logarithms of the levels that are tried: -SPREAD … SPREAD
WEIGHT_STEPS = 5
FLAT = 0.05  # first weight of the class without variance
MEMBERS, MOST_GROUPS = 64, 8  # patches of a group at least, and groups of an image at most


def alike(sigma: Tensor, image: Tensor) -> Tensor:
    """Groups of patches of one image with similar levels, equally many in each, (N,) numbers.

    Args:
        sigma: noise level of each patch, (N,).
        image: number of each patch's image, (N,).
    """
    order = sigma.argsort(stable=True)
    order = order[image[order].argsort(stable=True)]
    counts = torch.bincount(image)
    groups = (counts // MEMBERS).clamp(1, MOST_GROUPS)
    first, offset = counts.cumsum(0) - counts, groups.cumsum(0) - groups
    own = image[order]
    rank = torch.arange(len(image)) - first[own]
    number = torch.empty_like(image)
    number[order] = offset[own] + rank * groups[own] // counts[own]
    return number


def refined(
    x: Tensor,
    group: Tensor,
    sigmas: Tensor,
    mixture: TiedMixture,
    reference: float,
    symmetries: Tensor,
) -> Tensor:
    """Better noise levels.

    Args:
        x: patches (N, J), in coordinates.
        group: the group of each, (N,).
        sigmas: present noise level of each group, (M,) float64.
        mixture: the model; its variances contain noise of variance `reference`.
        reference: see there.
        symmetries: P_h, (H, J, J).

    Returns:
        Levels (M,); those of groups without patches as they were.
    """
    clean = (mixture.variances - reference).clamp(min=0)
    members = [(mixture.basis == g).nonzero().squeeze(1) for g in range(len(mixture.bases))]
    bases = [(basis @ symmetries).flatten(0, 1).to(x) for basis in mixture.bases]
    variances = [clean[k].to(x) for k in members]
    weights = mixture.weights[torch.cat(members)].to(x)
    steps = torch.linspace(-SPREAD, SPREAD, GRID, dtype=torch.float64)
    order = group.argsort(stable=True)
    parts = order.split(torch.bincount(group, minlength=len(sigmas)).tolist())
    found = sigmas.clone()
    for n, own in enumerate(parts):
        if len(own) == 0:
            continue
        evidence = MixturePatches(bases, variances, weights, x[own], FLAT)
        heights = [
            at.log_prob(at.fitted(evidence.start, WEIGHT_STEPS)).double().sum()
            for at in map(evidence.at, (sigmas[n] * steps.exp()).tolist())
        ]
        found[n] = sigmas[n] * math.exp(_top(steps, torch.stack(heights)))
    return found


def _top(places: Tensor, heights: Tensor) -> float:
    """Where the parabola through the highest point and its neighbours is highest."""
    i = min(max(int(heights.argmax()), 1), len(places) - 2)
    below, middle, above = heights[i - 1 : i + 2].tolist()
    bend = below - 2 * middle + above
    shift = (
        0.5 * (below - above) / bend if bend < 0 else float(above > below) - float(above < below)
    )
    return float(places[i]) + min(max(shift, -1.0), 1.0) * float(places[1] - places[0])
