"""The methods of `fit` behind one contract, `Trainer`, and likelihood among them.

A trainer makes one step at a time, and its whole state is a dictionary of tensors and numbers. What
a step draws depends on the seed and its number only (`pool.step_generator`), so a state is all that
is needed to go on to the same bits. iPALM is in `training.product_trainer`, score matching of the
image denoiser in `training.score_matching`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.densities.opponent import OpponentModel
from gmdm_prior.densities.product import PatchModel
from gmdm_prior.training.data.images import sample_noisy_patches, sample_patches
from gmdm_prior.training.data.pool import ImagePool, step_generator
from gmdm_prior.training.ipalm.product import ProductTrainer
from gmdm_prior.training.likelihood import em, refine_levels
from gmdm_prior.training.measure import HeldOut
from gmdm_prior.training.noisy_held_out import NoisyHeldOut
from gmdm_prior.training.score.convolutional import ConvolutionalTrainer
from gmdm_prior.training.score.image_denoiser import ScoreTrainer
from gmdm_prior.training.settings import FROM_INIT, FitSettings

FULL_ITERATIONS = 12  # EM iterations of the full-covariance mixture
COMPONENTS = 200  # of it, where there are enough patches:
PATCHES_PER_COMPONENT = 100


class Trainer(Protocol):
    """What `fit` drives.

    Attributes:
        steps: in all.
        step: completed.
        stage: what is being fitted, for the log.
    """

    steps: int
    step: int
    stage: str

    def advance(self) -> float:
        """Make a step; returns its loss. FloatingPointError where that is not finite."""

    def state(self) -> dict[str, Any]:
        """Tensors and numbers that later steps do not change."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""

    def model(self) -> DensityModel | None:
        """The present model, apart from later steps; None where there is none yet."""

    def held_out_loss(self, held_out: HeldOut, model: DensityModel) -> float | None:
        """The loss, on held-out images."""


class LikelihoodTrainer:
    """`training.em` step by step; the loss is minus the log-likelihood in nats per dimension."""

    def __init__(
        self,
        pool: ImagePool,
        settings: FitSettings,
        problem: Callable[[ImagePool, FitSettings], em.EMProblem] | None = None,
    ) -> None:
        self.steps, self.step, self.stage = FULL_ITERATIONS + settings.iterations, 0, "full"
        self._pool, self._settings = pool, settings
        self._make_problem = problem or em_problem
        self._problem: em.EMProblem | None = None
        self._state: em.EMState | None = None

    def advance(self) -> float:
        """One EM iteration."""
        if self._problem is None:
            self._problem = self._make_problem(self._pool, self._settings)
        if self._state is None:
            self._state = em.start(self._problem, step_generator(self._settings.seed, 1))
        state, record = em.advance(self._problem, self._state)
        loss = -record.log_likelihood / self._problem.coordinates.shape[1]
        tensors = vars(state.mixture).values()
        if not math.isfinite(loss) or not all(bool(torch.isfinite(t).all()) for t in tensors):
            raise FloatingPointError(f"the log-likelihood is {record.log_likelihood}")
        self._state, self.step, self.stage = state, self.step + 1, state.stage
        return loss

    def state(self) -> dict[str, Any]:
        """The EM state, whose tensors are never written to."""
        state = None if self._state is None else self._state.to_dict()
        return {"step": self.step, "em": state}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state; the patches are drawn anew, the same ones."""
        self.step = state["step"]
        if state["em"] is not None:
            self._state = em.EMState.from_dict(state["em"])
            self.stage = self._state.stage

    def model(self) -> PatchMixture | None:
        """The mixture; None in the full-covariance stage."""
        if self._state is None or self._state.stage != "tied":
            return None
        if self._problem is None:
            self._problem = self._make_problem(self._pool, self._settings)
        return em.to_model(self._problem, self._state).requires_grad_(False)

    def held_out_loss(self, held_out: HeldOut | NoisyHeldOut, model: DensityModel) -> float | None:
        """Minus the held-out log-likelihood of the patches as they are, per dimension."""
        if isinstance(held_out, NoisyHeldOut):
            return -held_out.log_likelihood(model)
        noise = self._settings.noise
        dimension = model.filters.shape[1]
        with torch.no_grad():
            return -float(model.log_prob(held_out.patches, noise).double().mean()) / dimension


def em_problem(pool: ImagePool, settings: FitSettings) -> em.EMProblem:
    """Draw the patches and say what to fit to them."""
    available = pool.positions(settings.patch_size)
    count = min(settings.patches, available)
    chosen = em_settings(settings, count, available)
    generator = step_generator(settings.seed, 0)
    place = count, settings.patch_size, settings.symmetries, generator
    noise = None
    if pool.sigmas is None:
        patches = sample_patches(pool.images, *place)
    else:
        patches, sigma, image = sample_noisy_patches(pool.images, pool.sigmas, *place)
        groups = {"auto": lambda: image, "map": lambda: refine_levels.alike(sigma, image)}
        noise = em.PatchNoise(sigma, groups.get(settings.noise, lambda: None)())
    return em.EMProblem.from_patches(patches, chosen, noise)


def em_settings(settings: FitSettings, count: int, available: int) -> em.EMSettings:
    """What EM is told, for `count` of the `available` patches; ValueError if they are too few."""
    components = settings.components
    if components is None:
        components = min(COMPONENTS, max(settings.classes, count // PATCHES_PER_COMPONENT))
    if count < components:
        raise ValueError(
            f"components={components} need at least as many patches; there are {count} (the images "
            f"hold {available}): give more images or lower classes and components"
        )
    return em.EMSettings(
        bases=settings.bases,
        classes=settings.classes,
        symmetries=settings.symmetries,
        noise=0.0 if isinstance(settings.noise, str) else settings.noise,
        components=components,
        full_iterations=FULL_ITERATIONS,
        iterations=settings.iterations,
    )


class LikelihoodThenScore:
    """EM, then score matching from what it found."""

    def __init__(self, pool: ImagePool, settings: FitSettings) -> None:
        self._pool, self._settings = pool, settings
        self._now: Trainer = LikelihoodTrainer(pool, settings)
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
        """That of the method at hand."""
        return self._now.held_out_loss(held_out, model)


def make_trainer(
    pool: ImagePool,
    settings: FitSettings,
    init: PatchMixture | PatchModel | OpponentModel | None,
) -> Trainer:
    """The trainer of a method."""
    if settings.model == "wavelet":
        from gmdm_prior.training.likelihood.wavelet import WaveletTrainer

        return WaveletTrainer(pool, settings)
    if settings.model == "opponent":
        from gmdm_prior.training.opponent import OpponentTrainer

        return OpponentTrainer(pool, settings, init)
    if settings.model == "conv":
        return ConvolutionalTrainer(pool, settings)
    if settings.method == "em":
        return LikelihoodTrainer(pool, settings)
    if settings.method == "em+score":
        return LikelihoodThenScore(pool, settings)
    if settings.method in FROM_INIT:
        return ScoreTrainer(pool, settings, init)
    return ProductTrainer(pool, settings)
