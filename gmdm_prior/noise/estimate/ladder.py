"""The noise level of parts of an image: one table of likelihoods for any choice of its patches.

Densities of all patches class by class are taken at levels t_l = log sigma_l, `STEP` apart. Any
subset of patches then has its own class weights and its own likelihood at every level, for the
price of a sum; its level is where the parabola through the highest three is largest:

    t(S) = argmax_t  max_w  sum_{i in S} log f(y_i; exp t, w).

Halves of the image, bright and dark, top and bottom, are compared so. A subset climbs from the
level that is expected, and levels are taken when the first gets there: where all parts of an image
are alike, as most are, few are. The standard error is that of `noise.level`.
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
PATIENCE = 2  # lower levels in succession after which no higher one is looked for


class Ladder:
    """Patches at levels around one.

    Args:
        model: a `PatchMixture` or `PatchModel` of one channel.
        patches: those of an image.
        sigma: the level that is expected.
        grain: as for `MixturePatches`.
    """

    def __init__(
        self, model: DensityModel, patches: Patches, sigma: float, grain: bool = False
    ) -> None:
        self._evidence = evidence_of(model, patches.values, Evaluator(), grain)
        self._start, self._overlap = self._evidence.start, patches.overlap
        self._dimensions = model.channels * (model.patch_size**2 - 1)
        self._middle = math.log(max(sigma, LEAST))
        self._lowest = math.ceil((math.log(LEAST) - self._middle) / STEP - 1e-9)  # a rung below 1
        self._table: dict[int, Evidence] = {}

    def read(self, rows: Tensor | slice = slice(None)) -> Reading:
        """The level of some of the patches."""
        logs: dict[int, float] = {}

        def log(rung: int) -> float:
            if rung not in logs:
                logs[rung] = self._log_likelihood(rung, rows)
            return logs[rung]

        for way in (1, -1):
            best = max(logs, key=logs.__getitem__, default=0)
            rung = best
            while abs(rung - best) < PATIENCE and rung + way >= self._lowest:
                rung += way
                best = max(best, rung, key=log)
        middle = max(best, self._lowest + 1)
        below, here, above = (log(middle + way) for way in (-1, 0, 1))
        bend = (2 * here - below - above) / STEP**2
        move = 0.5 * (above - below) / STEP / bend if bend > 0 else STEP * (best - middle)
        t = self._level(middle) + min(max(move, -STEP), STEP)
        bend = max(bend, 1e-3)
        count = len(next(iter(self._table.values())).largest[rows])
        return Reading(
            math.exp(t),
            self._overlap / (max(count, 1) * bend),
            min(1.0, bend / (2 * self._dimensions)),
        )

    def _level(self, rung: int) -> float:
        return self._middle + STEP * rung

    def _log_likelihood(self, rung: int, rows: Tensor | slice) -> float:
        if rung not in self._table:
            self._table[rung] = self._evidence.at(math.exp(self._level(rung)))
        level = self._table[rung]
        part = Evidence(level.densities[rows], level.largest[rows])
        return part.log_prob(part.fitted(self._start)).double().mean().item()
