"""EM where patches carry noise of several levels: the M-step, and levels that are improved.

**The M-step.** Patches are grouped by the level of their noise, s_l = s_0 + e_l as a variance, s_0
a reference. A component whose covariance at the reference is M = C + s_0 I has covariance M + e_l I
at level l, and the E-step gives counts n_lk and scatters S_lk for each level. No closed form
maximises

    Q_k(M) = -½ Σ_l [n_lk log det(M + e_l I) + tr((M + e_l I)⁻¹ S_lk)]
             - ½ ν (log det M + τ tr M⁻¹),

but one step of Fisher scoring comes near. In the eigenbasis of the present M, eigenvalues m_i,

    M'_ij = Σ_l w_lij (S_lij - n_l e_l δ_ij) / Σ_l n_l w_lij,  w_lij = 1 / ((m_i + e_l)(m_j + e_l)):

each level's second moments without its surplus of noise, weighed by what they tell. Of one level
it is S / n. So the levels are reduced to statistics at the reference, from which the ordinary
M-steps find covariances, or bases and variances; a component moves that far, or half of it, and so
on, or not at all: Q never falls. (The posterior moments of the textbook EM step climb as surely,
but crawl wherever a variance is far below the noise.)

Reduction to at most `MOST` levels: patches are rounded to levels in a geometric progression, each
then given the mean variance of its patches, so that no bias is left to first order.

**Levels that are only estimated** become better by the likelihood of patches under the mixture.
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
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gmdm_prior.noise.evidence import MixturePatches
from gmdm_prior.training.likelihood import full_mixture, tied_mixture
from gmdm_prior.training.likelihood.full_mixture import FullMixture
from gmdm_prior.training.likelihood.statistics import Penalty, Statistics
from gmdm_prior.training.likelihood.tied_mixture import TiedMixture

MOST = 16
LARGEST = 2**26  # numbers in the scatter matrices of all levels; fewer levels where there are more
FINEST = 0.5 / 255  # lower levels are one group
HALVINGS = 6
SWEEPS = 4  # scoring steps of the variances in given bases
SPREAD, GRID = 0.24, 7  # logarithms of the levels that are tried: -SPREAD … SPREAD
WEIGHT_STEPS = 5
FLAT = 0.05  # first weight of the class without variance
MEMBERS, MOST_GROUPS = 64, 8  # patches of a group at least, and groups of an image at most


@dataclass(frozen=True)
class Level:
    """Patches of about one noise level: their numbers (n,), None for all; their noise variance."""

    members: Tensor | None
    variance: float


def group(variances: Tensor, most: int = MOST) -> list[Level]:
    """Patches with noise of these variances (N,), rounded to at most `most` levels."""
    logs = variances.double().clamp(min=FINEST**2).log()
    low, high = logs.min(), logs.max()
    cell = ((logs - low) / (high - low).clamp(min=1e-12) * most).long().clamp(max=most - 1)
    found = [(cell == i).nonzero().squeeze(1) for i in range(most)]
    return [Level(m, variances[m].double().mean().item()) for m in found if len(m)]


def most_levels(components: int, dimension: int) -> int:
    """How many levels memory allows."""
    return max(2, min(MOST, LARGEST // (components * dimension**2)))


def reduced(
    statistics: Sequence[Statistics], surplus: Sequence[float], rows: Tensor, totals: Tensor
) -> Statistics:
    """Statistics at the reference level that tell most nearly the same.

    Args:
        statistics: of each level.
        surplus: e_l of each level.
        rows: an orthonormal basis for each component, (K, J, J), in which it is nearly diagonal.
        totals: its variances there, at the reference, (K, J).
    """
    moments = torch.zeros_like(rows)
    information = torch.zeros_like(rows)
    for part, e in zip(statistics, surplus, strict=True):
        weight = 1 / ((totals + e)[:, :, None] * (totals + e)[:, None])
        seen = rows @ part.scatter @ rows.mT
        torch.diagonal(seen, dim1=1, dim2=2).sub_(e * part.counts[:, None])
        moments += weight * seen
        information += weight * part.counts[:, None, None]
    counts = torch.stack([part.counts for part in statistics]).sum(0)
    covariance = moments / information.clamp(min=torch.finfo(torch.float64).tiny)
    scatter = counts[:, None, None] * (rows.mT @ covariance @ rows)
    return Statistics(scatter, counts, sum(part.log_likelihood for part in statistics))


def maximise(
    mixture: FullMixture | TiedMixture,
    statistics: Sequence[Statistics],
    surplus: Sequence[float],
    pen: Penalty,
) -> FullMixture | TiedMixture:
    """The M-step of either mixture; of a single level at the reference the exact one.

    Args:
        mixture: its present parameters, at the reference level.
        statistics: of each level.
        surplus: e_l of each level.
        pen: the regulariser.
    """
    one = statistics[0] if list(surplus) == [0.0] else None
    if isinstance(mixture, FullMixture):
        if one is not None:
            return full_mixture.maximise(one, pen)
        return maximise_full(mixture, statistics, surplus, pen)
    if one is not None:
        return tied_mixture.maximise(mixture, one, pen)
    return maximise_tied(mixture, statistics, surplus, pen)


def _fit(totals: Tensor, powers: Tensor, counts: Tensor, surplus: Tensor, pen: Penalty) -> Tensor:
    """Q by coordinates (K, J), of variances (K, J), powers (L, K, J) and counts (L, K)."""
    at = totals + surplus[:, None, None]
    q = -0.5 * (counts[..., None] * at.log() + powers / at).sum(0)
    return q - 0.5 * pen.patches * (totals.log() + pen.variance / totals)


def maximise_full(
    mixture: FullMixture, statistics: Sequence[Statistics], surplus: Sequence[float], pen: Penalty
) -> FullMixture:
    """A step for full covariances: Q does not fall for any of them."""
    extras = torch.tensor(surplus, dtype=torch.float64)
    counts = torch.stack([part.counts for part in statistics])

    def eigen_and_fit(covariances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(covariances)
        powers = torch.stack([((p.scatter @ vectors) * vectors).sum(1) for p in statistics])
        return values, vectors, _fit(values, powers, counts, extras, pen).sum(1)

    values, vectors, best = eigen_and_fit(mixture.covariances)
    target = full_mixture.maximise(reduced(statistics, surplus, vectors.mT, values), pen)
    covariances, step = mixture.covariances.clone(), target.covariances - mixture.covariances
    waiting = torch.ones_like(best, dtype=torch.bool)
    for _ in range(HALVINGS):
        candidate = torch.where(waiting[:, None, None], mixture.covariances + step, covariances)
        risen = waiting & (eigen_and_fit(candidate)[2] > best)
        covariances[risen] = candidate[risen]
        waiting &= ~risen
        if not waiting.any():
            break
        step = step / 2
    return FullMixture(covariances, target.weights)


def _climb(totals: Tensor, powers: Tensor, counts: Tensor, surplus: Tensor, pen: Penalty) -> Tensor:
    """Variances (K, J) in given bases after a few scoring steps, none of which lowers Q."""
    for _ in range(SWEEPS):
        now = _fit(totals, powers, counts, surplus, pen)
        at = totals + surplus[:, None, None]
        weight = at.square().reciprocal()
        slope = (weight * (powers - counts[..., None] * at)).sum(0)
        slope = slope + pen.patches * (pen.variance - totals) / totals.square()
        curvature = (weight * counts[..., None]).sum(0) + pen.patches / totals.square()
        step = slope / curvature
        for _ in range(HALVINGS):
            candidate = (totals + step).clamp(min=pen.least)
            rises = _fit(candidate, powers, counts, surplus, pen) > now
            totals = torch.where(rises, candidate, totals)
            step = torch.where(rises, 0.0, step / 2)
    return totals


def maximise_tied(
    mixture: TiedMixture, statistics: Sequence[Statistics], surplus: Sequence[float], pen: Penalty
) -> TiedMixture:
    """A step for the tied mixture: Q does not fall for the classes of any basis."""
    extras = torch.tensor(surplus, dtype=torch.float64)
    counts = torch.stack([part.counts for part in statistics])
    rows = mixture.bases[mixture.basis]
    one = reduced(statistics, surplus, rows, mixture.variances)
    target = tied_mixture.maximise(mixture, one, pen)

    def climbed(bases: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
        a = bases[mixture.basis]
        powers = torch.stack([((a @ p.scatter) * a).sum(-1) for p in statistics])
        variances = _climb(variances, powers, counts, extras, pen)
        return variances, _fit(variances, powers, counts, extras, pen).sum(1)

    kept, before = climbed(mixture.bases, mixture.variances)
    turned, after = climbed(target.bases, target.variances)
    gain = torch.zeros(len(mixture.bases), dtype=torch.float64)
    gain.index_add_(0, mixture.basis, after - before)
    better = gain > 0
    bases = torch.where(better[:, None, None], target.bases, mixture.bases)
    variances = torch.where(better[mixture.basis, None], turned, kept)
    return TiedMixture(bases, variances, target.weights, mixture.basis)


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
    """The place where the parabola through the highest point and its neighbours is highest."""
    i = min(max(int(heights.argmax()), 1), len(places) - 2)
    below, middle, above = heights[i - 1 : i + 2].tolist()
    bend = below - 2 * middle + above
    shift = (
        0.5 * (below - above) / bend if bend < 0 else float(above > below) - float(above < below)
    )
    return float(places[i]) + min(max(shift, -1.0), 1.0) * float(places[1] - places[0])
