"""Likelihood training (`em`) behind the contract of `training.trainers.Trainer`, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.training.data.pool import (
    ImagePool,
    sample_noisy_patches,
    sample_patches,
    step_generator,
)
from gmdm_prior.training.likelihood import em
from gmdm_prior.training.likelihood.noise_groups import alike
from gmdm_prior.training.likelihood.problem import EMProblem, EMSettings, PatchNoise
from gmdm_prior.training.measure import HeldOut
from gmdm_prior.training.settings import FitSettings

EM_ITERATIONS = 12  # of the tied mixture, where score matching follows
FULL_ITERATIONS = 12  # of the full-covariance mixture
COMPONENTS = 200  # of it, where there are enough patches:
PATCHES_PER_COMPONENT = 100

MakeProblem = Callable[[ImagePool, FitSettings], EMProblem]


class LikelihoodTrainer:
    """`em` step by step; the loss is minus the log-likelihood in nats per dimension.

    Args:
        pool: training images.
        settings: of the mixture.
        iterations: of the tied mixture, which follow those of the full-covariance one.
        problem: draws the patches, and says what to fit to them; None is `em_problem`.
    """

    def __init__(
        self,
        pool: ImagePool,
        settings: FitSettings,
        iterations: int,
        problem: MakeProblem | None = None,
    ) -> None:
        self.steps, self.step, self.stage = FULL_ITERATIONS + iterations, 0, "full"
        self._pool, self._settings = pool, settings
        self._make_problem = problem or em_problem
        self._problem: EMProblem | None = None
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

    def held_out_loss(self, held_out: HeldOut, model: DensityModel) -> float:
        """Minus the held-out log-likelihood of the patches as they are, per dimension."""
        return -held_out.log_likelihood(model)


def em_problem(pool: ImagePool, settings: FitSettings) -> EMProblem:
    """Draw the patches and say what to fit to them."""
    available = pool.positions(settings.patch_size)
    count = min(settings.patches, available)
    chosen = em_settings_for(settings, count, available)
    generator = step_generator(settings.seed, 0)
    place = count, settings.patch_size, settings.symmetries, generator
    noise = None
    if pool.sigmas is None:
        patches = sample_patches(pool.images, *place)
    else:
        patches, sigma, image = sample_noisy_patches(pool.images, pool.sigmas, *place)
        groups = {"auto": lambda: image, "map": lambda: alike(sigma, image)}
        noise = PatchNoise(sigma, groups.get(cast(Any, settings.noise), lambda: None)())
    return EMProblem.from_patches(patches, chosen, noise)


def em_settings(settings: FitSettings, components: int | None = None) -> EMSettings:
    """What EM is told, with so many components if their number is left open.

    Raises:
        ValueError: what cannot be fitted.
    """
    if settings.components is not None:
        components = settings.components
    elif components is None:
        components = max(COMPONENTS, settings.classes)
    return EMSettings(
        bases=settings.bases,
        classes=settings.classes,
        symmetries=settings.symmetries,
        noise=0.0 if isinstance(settings.noise, str) else settings.noise,
        components=components,
        full_iterations=FULL_ITERATIONS,
    )


def em_settings_for(settings: FitSettings, count: int, available: int) -> EMSettings:
    """What EM is told, for `count` of the `available` patches; ValueError if they are too few."""
    most = max(settings.classes, count // PATCHES_PER_COMPONENT)
    told = em_settings(settings, min(COMPONENTS, most))
    if count < told.components:
        raise ValueError(
            f"components={told.components} need at least as many patches; there are {count} (the "
            f"images hold {available}): give more images or lower classes and components"
        )
    return told
