"""How likely the patches of an image are at any noise level, class by class.

Responses of a patch to the oriented bases do not depend on the noise level: their squares are taken
once, after which a level costs one matrix product,

    log f(y | k; sigma) = log 1/|H| sum_h prod_j N(<a_{g(k) j}, h y>; 0, v_kj + sigma²).

A class of variance zero, which no stored model has, stands for patches that are perfectly flat. Its
weight and those of the other classes are those of the image at hand, found by expectation
maximisation: under the weights of the training set, an image flatter than those reads too low a
noise level (by 10 to 50 %), a rougher one too high.

Another density has no classes: it counts as one, and its likelihood is the plain one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.fast.choose import Evaluator

FLAT_WEIGHT = 0.2  # of the flat class, before the image has been looked at
STEPS = 8  # of expectation maximisation at each noise level
GRAIN, MOST_GRAIN = 0.9, (2 / 255) ** 2  # share of a class's least variance, and variance
PRIOR = 0.01  # how many patches the weights it starts from count as: no class dies out


@dataclass(frozen=True, eq=False)
class Evidence:
    """Densities of patches at one noise level, class by class.

    Attributes:
        densities: (N, K), over one that is about the largest of each patch.
        largest: (N,), the logarithm of that.
    """

    densities: Tensor
    largest: Tensor

    def fitted(self, start: Tensor, steps: int = STEPS) -> Tensor:
        """Class weights (K,) after a few steps of expectation maximisation on these patches.

        No step lowers sum_i log f(y_i) + `PRIOR` sum_k start_k log w_k.
        """
        weights, count = start, len(self.densities)
        for _ in range(steps):
            counts = weights * ((self.densities @ weights).reciprocal() @ self.densities)
            weights = (counts + PRIOR * start) / (count + PRIOR)
        return weights

    def log_prob(self, weights: Tensor) -> Tensor:
        """(N,) log-densities under class weights (K,)."""
        return (self.densities @ weights).log() + self.largest


class MixturePatches:
    """Patches (N, a) under the classes of a mixture, and a flat one.

    Args:
        bases: of each basis its orientations, one after the other, (|H| J, a).
        variances: of each basis those of its classes, (K_g, J).
        weights: (K,), of the classes of the first basis, of the second, and so on.
        patches: (N, a).
        flat: the flat class's weight, before the image has been looked at.
        grain: whether classes lose most of their least variance, which is the noise of the
            photographs that they are from: weak noise is taken for it otherwise.

    Attributes:
        start: (K + 1,) class weights before the image has been looked at, the flat class last.
    """

    def __init__(
        self,
        bases: Sequence[Tensor],
        variances: Sequence[Tensor],
        weights: Tensor,
        patches: Tensor,
        flat: float = FLAT_WEIGHT,
        grain: bool = False,
    ) -> None:
        if grain:
            variances = [
                v - GRAIN * v.amin(1, keepdim=True).clamp(max=MOST_GRAIN) for v in variances
            ]
        self._variances = variances
        j = variances[0].shape[1]
        self._squares = [(patches @ rows.T).square_().reshape(-1, j) for rows in bases]
        self._positions = len(bases[0]) // j
        first = self._squares[0].reshape(len(patches), self._positions, j)[:, 0]
        self._energies = first.sum(1)  # a basis is complete: that of the zero-mean part
        self.start = torch.cat([weights * (1 - flat), weights.new_tensor([flat])])

    def every(self, step: int) -> MixturePatches:
        """One of `step` patches each."""
        fewer, h = copy(self), self._positions
        fewer._squares = [
            squares.unflatten(0, (-1, h))[::step].flatten(0, 1) for squares in self._squares
        ]
        fewer._energies = self._energies[::step]
        return fewer

    def at(self, sigma: float) -> Evidence:
        """At a noise level."""
        variance, h, j = sigma * sigma, self._positions, self._variances[0].shape[1]
        logs = []
        for squares, own in zip(self._squares, self._variances, strict=True):
            total = own + variance
            log = torch.addmm(-0.5 * total.log().sum(1), squares, (-0.5 / total).T)
            logs.append(log.unflatten(0, (-1, h)))
        flat = -0.5 * (self._energies / variance + j * math.log(variance))
        largest = torch.stack([flat, *(log.amax((1, 2)) for log in logs)]).amax(0)
        parts = [log.sub_(largest[:, None, None]).exp_().sum(1).div_(h) for log in logs]
        densities = torch.cat([*parts, (flat - largest).exp_()[:, None]], 1)
        return Evidence(densities, largest - 0.5 * j * math.log(2 * math.pi))


class PlainPatches:
    """Patches (N, a) under a density without classes.

    Attributes:
        start: (1,), the weight of the only class.
    """

    def __init__(self, model: DensityModel, patches: Tensor, evaluator: Evaluator) -> None:
        self._model, self._patches, self._evaluator = model, patches, evaluator
        self.start = patches.new_ones(1)

    def every(self, step: int) -> PlainPatches:
        """One of `step` patches each."""
        return PlainPatches(self._model, self._patches[::step], self._evaluator)

    def at(self, sigma: float) -> Evidence:
        """At a noise level."""
        patches = self._patches
        level = self._evaluator.level(self._model, patches.new_tensor(sigma * sigma))
        return Evidence(patches.new_ones(len(patches), 1), level.log_prob(patches))


def evidence_of(
    model: DensityModel, patches: Tensor, evaluator: Evaluator, grain: bool = False
) -> MixturePatches | PlainPatches:
    """What evaluates these patches (N, a) at one noise level after another."""
    if not isinstance(model, PatchMixture):
        return PlainPatches(model, patches, evaluator)
    level = model.at(patches.new_zeros(()))
    weights = torch.cat([model.weights[m] for m in level.members]).to(patches)
    return MixturePatches(level.bases, level.variances, weights, patches, grain=grain)
