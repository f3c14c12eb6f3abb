"""Training of an `OpponentModel`: three mixtures, each from one opponent plane of the images.

The planes are independent under the model, so its likelihood is the sum of theirs and each is
fitted by itself, one after another, by the method that was asked for. In the units of its density a
plane is an image like a gray one, with noise of the images' level over its scale.

Photographs that were JPEG files have their differences of colours at half the resolution only,
smoother than what a camera sees: `shrink=2` trains on images of half the size.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch

from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.densities.opponent import OFFSETS, OPPONENT, OpponentModel
from gmdm_prior.densities.product import PatchModel
from gmdm_prior.files import safetensors as storage
from gmdm_prior.training.data.pool import ImagePool
from gmdm_prior.training.measure import HeldOut
from gmdm_prior.training.settings import FitSettings
from gmdm_prior.training.trainers import Trainer

SCALES = (math.sqrt(3), 0.7, 0.7)  # differences at levels that score matching and HQS know
PLANES = ("luminance", "red-blue", "green")

MakeTrainer = Callable[[ImagePool, FitSettings, PatchMixture | None], Trainer]


class OpponentTrainer:
    """One plane after another; the loss is that of the plane.

    Args:
        pool: training images of three channels.
        settings: of every plane's mixture, in the units of the images.
        init: the model whose planes score matching begins with; a gray one begins on every plane.
        make: makes the trainer of a plane.
    """

    def __init__(
        self,
        pool: ImagePool,
        settings: FitSettings,
        init: OpponentModel | PatchMixture | PatchModel | None,
        make: MakeTrainer,
    ) -> None:
        self._pool, self._settings, self._make = pool, settings, make
        if init is not None and not isinstance(init, OpponentModel):
            init = OpponentModel(init, scales=SCALES)
        self._scales = SCALES if init is None else init.scales
        self._done: list[PatchMixture] = []
        self._init = None if init is None else list(init.planes)
        self._now: Trainer = self._trainer(0)
        self.steps = len(PLANES) * self._now.steps

    @property
    def step(self) -> int:
        """Completed steps of all planes."""
        return len(self._done) * (self.steps // len(PLANES)) + self._now.step

    @property
    def stage(self) -> str:
        """The plane and its stage."""
        return f"{PLANES[len(self._done)]} {self._now.stage}"

    def advance(self) -> float:
        """A step of the plane at hand."""
        if self._now.step == self._now.steps:
            self._done.append(self._now.model())
            self._now = self._trainer(len(self._done))
        return self._now.advance()

    def state(self) -> dict[str, Any]:
        """The planes that are done, the state of the one at hand, and the start of the others."""
        return {
            "done": [tuple(storage.pack(plane)) for plane in self._done],
            "inner": self._now.state(),
            "init": None if self._init is None else [tuple(storage.pack(p)) for p in self._init],
            "scales": list(self._scales),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._scales = tuple(state["scales"])
        self._done = [storage.unpack(*packed).requires_grad_(False) for packed in state["done"]]
        if state["init"] is not None:
            self._init = [storage.unpack(*p).requires_grad_(False) for p in state["init"]]
        self._now = self._trainer(len(self._done))
        self._now.restore(state["inner"])

    def model(self) -> OpponentModel | None:
        """What is done, the plane at hand, and the start of the others; None without a start."""
        planes = [*self._done, self._now.model()]
        planes += (self._init or [None] * len(PLANES))[len(planes) :]
        if any(plane is None for plane in planes):
            return None
        return OpponentModel(*planes, scales=self._scales)

    def held_out_loss(self, held_out: HeldOut, model: OpponentModel) -> float | None:
        """Of all planes: minus the log-likelihood per dimension, or minus the denoiser's PSNR."""
        if self._now.stage in ("score", "hqs"):
            return self._now.held_out_loss(held_out, model)
        return -held_out.log_likelihood(model)

    def _trainer(self, j: int) -> Trainer:
        """The trainer of plane j."""
        scale = self._scales[j]
        settings = dataclasses.replace(
            self._settings, model="mixture", channels=1, noise=self._settings.noise / scale
        )
        init = None if self._init is None else self._init[j]
        return self._make(self._plane(j, scale), settings, init)

    def _plane(self, j: int, scale: float) -> ImagePool:
        """The images of plane j in the units of its density."""
        turn = torch.tensor(OPPONENT[j])
        planes = [torch.einsum("c,chw->hw", turn, image)[None] for image in self._pool.images]
        return ImagePool.of(plane / scale + OFFSETS[j] for plane in planes)
