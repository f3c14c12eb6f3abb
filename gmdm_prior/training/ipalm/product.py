"""iPALM for the paper's product of experts, step by step (Section 4.1).

Eq. 4 on fresh patches at every step, each with its own sigma ~ U[sigma_min, sigma_max], from

    zeta_jl = 0.1 sqrt(alpha) / (1 + alpha mu_l²),   alpha = 1000,   L = 125 means in [-1, 1]
    filters ~ N(0, 1 / b²), then projected by three alternations of Algorithm 1

(`start="likelihood"`: `ipalm.start` instead) in two blocks, filters (proximal map: the
projection) and logits (free). Over the last tenth of the steps the inertia falls to zero: iterates
that fresh batches keep tossing about come to rest.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

from gmdm_prior.constraints import project_orthogonal
from gmdm_prior.densities.base import DensityModel
from gmdm_prior.densities.product import PatchModel
from gmdm_prior.training.data.pool import ImagePool, step_generator, without_mean
from gmdm_prior.training.ipalm.optimiser import IPALM
from gmdm_prior.training.ipalm.start import likelihood_start
from gmdm_prior.training.measure import HeldOut
from gmdm_prior.training.score.product_loss import denoising_score_matching
from gmdm_prior.training.settings import FitSettings

MEANS, BOUND = 125, 1.0  # L and gamma
START_PATCHES = 60_000  # that a likelihood start is fitted to
PEAK, SHARPNESS = 0.1, 1000.0  # of the first logits, alpha
PROJECTION_STEPS = 3  # B
INERTIA = 0.95  # of 0.7, 0.9, 0.95 and 0.97 the best on held-out patches; 0.97 was faster but burst
COOLING = 0.1  # of the steps, at the end


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


def first_product(pool: ImagePool, settings: FitSettings, start: str) -> PatchModel:
    """The first iterate, `start` being random or likelihood."""
    generator = step_generator(settings.seed, 2)
    size, channels = settings.patch_size, settings.channels
    if start == "random":
        return initial_product(size, channels, generator)
    patches = pool.patches(START_PATCHES, size, settings.symmetries, generator)
    return likelihood_start(patches, MEANS, BOUND, generator=generator)


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
        self._model = first_product(pool, settings, settings.start)
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

        for block in self._optimiser.param_groups:
            block["inertia"] = INERTIA * min(1.0, (1 - self.step / self.steps) / COOLING)

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
