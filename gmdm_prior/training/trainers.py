"""What `fit` drives: the contract of a trainer, and one that is made of two.

A trainer makes one step at a time, and its whole state is a dictionary of tensors and numbers. What
a step draws depends on the seed and its number only (`pool.step_generator`), so a state is all that
is needed to go on to the same bits.
"""

from __future__ import annotations

from typing import Any, Protocol

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.training.data.pool import ImagePool
from gmdm_prior.training.likelihood.trainer import EM_ITERATIONS, LikelihoodTrainer
from gmdm_prior.training.measure import HeldOut
from gmdm_prior.training.score.image_denoiser import ScoreTrainer
from gmdm_prior.training.settings import FitSettings


class Trainer(Protocol):
    """What `fit` drives.

    Attributes:
        steps: in all.
    """

    steps: int

    @property
    def step(self) -> int:
        """Completed steps."""

    @property
    def stage(self) -> str:
        """What is being fitted, for the log."""

    def advance(self) -> float:
        """Make a step; returns its loss. FloatingPointError where that is not finite."""

    def state(self) -> dict[str, Any]:
        """Tensors and numbers that later steps do not change."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""

    def model(self) -> Any:
        """The present model, apart from later steps; None where there is none yet."""

    def held_out_loss(self, held_out: HeldOut, model: Any) -> float | None:
        """The loss, on held-out images."""


class LikelihoodThenScore:
    """EM, then score matching from what it found."""

    def __init__(self, pool: ImagePool, settings: FitSettings) -> None:
        self._pool, self._settings = pool, settings
        self._now: Trainer = LikelihoodTrainer(pool, settings, EM_ITERATIONS)
        self._em_steps = self._now.steps
        self.steps = self._em_steps + settings.steps

    @property
    def step(self) -> int:
        """Completed steps of both."""
        done = self._now.step
        return done + self._em_steps if self.stage == "score" else done

    @property
    def stage(self) -> str:
        """`"full"`, `"tied"` or `"score"`."""
        return self._now.stage

    def advance(self) -> float:
        """A step of the method at hand."""
        if self.stage != "score" and self._now.step == self._em_steps:
            self._now = ScoreTrainer(self._pool, self._settings, self._now.model())
        return self._now.advance()

    def state(self) -> dict[str, Any]:
        """Stage and state of the method at hand."""
        return {"stage": self.stage, "inner": self._now.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        if state["stage"] == "score":
            self._now = ScoreTrainer(self._pool, self._settings, None)
        self._now.restore(state["inner"])

    def model(self) -> PatchMixture | None:
        """The model of the method at hand."""
        return self._now.model()

    def held_out_loss(self, held_out: HeldOut, model: DensityModel) -> float | None:
        """The loss of the method at hand."""
        return self._now.held_out_loss(held_out, model)
