"""The methods of `fit` behind one contract, `Trainer`: likelihood, iPALM, one after the other.

A trainer makes one step at a time, and its whole state is a dictionary of tensors and numbers. What
a step draws depends on the seed and its number only (`pool.step_generator`), so a state is all that
is needed to go on to the same bits.

iPALM, as in the paper (Section 4.1): Eq. 4 on fresh patches at every step, with

    zeta_jl = 0.1 sqrt(alpha) / (1 + alpha mu_l²),   alpha = 1000,   L = 125 means in [-1, 1]
    filters ~ N(0, 1 / b²), then projected by three alternations of Algorithm 1

(`start="likelihood"`: `training.product_start` instead) and two blocks, filters (proximal map: the
projection) and logits (free).
"""

from __future__ import annotations

import copy
import math
from typing import Any, Protocol

import torch
from torch import Tensor

from gmdm_prior.constraints import project_orthogonal
from gmdm_prior.density import DensityModel
from gmdm_prior.mixture import PatchMixture
from gmdm_prior.product import PatchModel
from gmdm_prior.training import em
from gmdm_prior.training.data import sample_patches
from gmdm_prior.training.held_out import HeldOut
from gmdm_prior.training.ipalm import IPALM
from gmdm_prior.training.pool import ImagePool, step_generator, without_mean
from gmdm_prior.training.product_loss import denoising_score_matching
from gmdm_prior.training.product_start import likelihood_start
from gmdm_prior.training.score_matching import ScoreTrainer
from gmdm_prior.training.settings import FitSettings

FULL_ITERATIONS = 12  # EM iterations of the full-covariance mixture
COMPONENTS = 200  # of it, where there are enough patches:
PATCHES_PER_COMPONENT = 100
MEANS, BOUND = 125, 1.0  # L and gamma
START_PATCHES = 60_000  # that a likelihood start is fitted to
PEAK, SHARPNESS = 0.1, 1000.0  # of the first logits, alpha
PROJECTION_STEPS = 3  # B


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

    def __init__(self, pool: ImagePool, settings: FitSettings) -> None:
        self.steps, self.step, self.stage = FULL_ITERATIONS + settings.iterations, 0, "full"
        self._pool, self._settings = pool, settings
        self._problem: em.EMProblem | None = None
        self._state: em.EMState | None = None

    def advance(self) -> float:
        """One EM iteration."""
        if self._problem is None:
            self._problem = em_problem(self._pool, self._settings)
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
            self._problem = em_problem(self._pool, self._settings)
        return em.to_model(self._problem, self._state).requires_grad_(False)

    def held_out_loss(self, held_out: HeldOut, model: DensityModel) -> float | None:
        """Minus the held-out log-likelihood of the patches as they are, per dimension."""
        noise = self._settings.noise
        dimension = model.filters.shape[1]
        with torch.no_grad():
            return -float(model.log_prob(held_out.patches, noise).double().mean()) / dimension


def em_problem(pool: ImagePool, settings: FitSettings) -> em.EMProblem:
    """Draw the patches and say what to fit to them."""
    available = pool.positions(settings.patch_size)
    count = min(settings.patches, available)
    components = settings.components
    if components is None:
        components = min(COMPONENTS, max(settings.classes, count // PATCHES_PER_COMPONENT))
    if count < components:
        raise ValueError(
            f"components={components} need at least as many patches; there are {count} (the images "
            f"hold {available}): give more images or lower classes and components"
        )
    generator = step_generator(settings.seed, 0)
    patches = sample_patches(
        pool.images, count, settings.patch_size, settings.symmetries, generator
    )
    chosen = em.EMSettings(
        bases=settings.bases,
        classes=settings.classes,
        symmetries=settings.symmetries,
        noise=settings.noise,
        components=components,
        full_iterations=FULL_ITERATIONS,
        iterations=settings.iterations,
    )
    return em.EMProblem.from_patches(patches, chosen)


def initial_product(
    size: int, channels: int = 1, generator: torch.Generator | None = None
) -> PatchModel:
    """The paper's start: `channels * (size² - 1)` random filters, peaked potentials."""
    count = channels * (size * size - 1)
    filters = torch.randn(count, channels, size, size, generator=generator) / size
    means = torch.linspace(-BOUND, BOUND, MEANS)
    logits = PEAK * math.sqrt(SHARPNESS) / (1 + SHARPNESS * means.square())
    projected = project_orthogonal(filters, PROJECTION_STEPS)
    return PatchModel(projected, logits.repeat(count, 1), BOUND)


def first_product(pool: ImagePool, settings: FitSettings) -> PatchModel:
    """The first iterate that the settings ask for."""
    generator = step_generator(settings.seed, 2)
    size, channels = settings.patch_size, settings.channels
    if settings.start == "random":
        return initial_product(size, channels, generator)
    patches = pool.patches(START_PATCHES, size, settings.symmetries, generator)
    return likelihood_start(patches, MEANS, BOUND)


def noisy_patches(
    pool: ImagePool, settings: FitSettings, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Zero-mean patches (N, C, b, b), the same with zero-mean noise, and its levels (N,)."""
    count, size = settings.batch_size, settings.patch_size
    x = without_mean(pool.patches(count, size, settings.symmetries, generator))
    noise = without_mean(torch.randn(x.shape, generator=generator))
    spread = settings.sigma_max - settings.sigma_min
    sigma = settings.sigma_min + spread * torch.rand(count, generator=generator)
    return x, x + sigma[:, None, None, None] * noise, sigma


class ProductTrainer:
    """iPALM on Eq. 4; the loss is the batch's, a squared norm per patch."""

    def __init__(self, pool: ImagePool, settings: FitSettings) -> None:
        self.steps, self.step, self.stage = settings.steps, 0, "ipalm"
        self._pool, self._settings = pool, settings
        self._model = first_product(pool, settings)
        self._optimiser = IPALM(
            [
                {
                    "params": [self._model.filters],
                    "prox": lambda value, step: project_orthogonal(value, PROJECTION_STEPS),
                },
                {"params": [self._model.experts.logits]},
            ]
        )

    def advance(self) -> float:
        """One iPALM step in both blocks, on one fresh batch."""
        generator = step_generator(self._settings.seed, 3, self.step)
        x, y, sigma = noisy_patches(self._pool, self._settings, generator)

        def closure() -> Tensor:
            loss = denoising_score_matching(self._model, x, y, sigma)
            if torch.is_grad_enabled():
                loss.backward()
            return loss

        loss = self._optimiser.step(closure)
        parameters = self._model.parameters()
        if not math.isfinite(loss) or not all(bool(torch.isfinite(p).all()) for p in parameters):
            raise FloatingPointError(f"the loss is {loss}")
        self.step += 1
        return loss

    def state(self) -> dict[str, Any]:
        """Parameters, iterates before them, Lipschitz constants."""
        state = {"model": self._model.state_dict(), "optimiser": self._optimiser.state_dict()}
        return {"step": self.step, **copy.deepcopy(state)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.step = state["step"]
        self._model.load_state_dict(state["model"])
        self._optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))

    def model(self) -> PatchModel:
        """A copy of the model."""
        return copy.deepcopy(self._model).requires_grad_(False)

    def held_out_loss(self, held_out: HeldOut, model: DensityModel) -> float | None:
        """Eq. 4 on held-out patches."""
        return held_out.score_loss(model)


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


def make_trainer(pool: ImagePool, settings: FitSettings, init: PatchMixture | None) -> Trainer:
    """The trainer of a method."""
    if settings.method == "em":
        return LikelihoodTrainer(pool, settings)
    if settings.method == "em+score":
        return LikelihoodThenScore(pool, settings)
    if settings.method == "score":
        return ScoreTrainer(pool, settings, init)
    return ProductTrainer(pool, settings)
