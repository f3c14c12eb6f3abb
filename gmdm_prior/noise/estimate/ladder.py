"""The noise level of parts of an image: one table of likelihoods for any choice of its patches.

Densities of all patches class by class are taken at levels t_l = log sigma_l, `STEP` apart. Any
subset of patches then has its own class weights and its own likelihood at every level, for the
price of a sum; its level is where the parabola through the highest three is largest:

    t(S) = argmax_t  max_w  sum_{i in S} log f(y_i; exp t, w).

Halves of the image, bright and dark, top and bottom, are compared so. The standard error is that of
`noise.level`.
"""

from __future__ import annotations

import math

from torch import Tensor

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.fast.choose import Evaluator
from gmdm_prior.noise.evidence import Evidence, evidence_of
from gmdm_prior.noise.level import LEAST, Reading
from gmdm_prior.noise.patches import Patches

STEP = 0.25  # in log sigma


class Ladder:
    """Patches at levels around one.

    Args:
        model: a `PatchMixture` or `PatchModel` of one channel.
        patches: those of an image.
        sigma: the level in the middle.
        below: the lowest level is this much smaller in log sigma.
        above: the highest is this much larger.
        grain: as for `MixturePatches`.
    """

    def __init__(
        self,
        model: DensityModel,
        patches: Patches,
        sigma: float,
        below: float = 1.0,
        above: float = 1.25,
        grain: bool = False,
    ) -> None:
        lowest = max(math.log(LEAST), math.log(max(sigma, LEAST)) - below)
        count = 1 + max(2, math.ceil((math.log(max(sigma, LEAST)) + above - lowest) / STEP))
        self.levels = [lowest + STEP * i for i in range(count)]
        evidence = evidence_of(model, patches.values, Evaluator(), grain)
        self._start, self._overlap = evidence.start, patches.overlap
        self._dimensions = model.channels * (model.patch_size**2 - 1)
        self._table = [evidence.at(math.exp(t)) for t in self.levels]

    def read(self, rows: Tensor | slice = slice(None)) -> Reading:
        """The level of some of the patches."""
        logs = [self._log_likelihood(level, rows) for level in self._table]
        best = max(range(len(logs)), key=logs.__getitem__)
        middle = min(max(best, 1), len(logs) - 2)
        below, here, above = logs[middle - 1 : middle + 2]
        bend = (2 * here - below - above) / STEP**2
        move = 0.5 * (above - below) / STEP / bend if bend > 0 else STEP * (best - middle)
        t = self.levels[middle] + min(max(move, -STEP), STEP)
        bend = max(bend, 1e-3)
        count = len(self._table[0].largest[rows])
        return Reading(
            math.exp(t),
            self._overlap / (max(count, 1) * bend),
            min(1.0, bend / (2 * self._dimensions)),
        )

    def _log_likelihood(self, level: Evidence, rows: Tensor | slice) -> float:
        part = Evidence(level.densities[rows], level.largest[rows])
        return part.log_prob(part.fitted(self._start)).double().mean().item()
