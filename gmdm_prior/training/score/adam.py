"""Adam on a trainable copy of a model: its start, its step, and the state of a checkpoint."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.files import safetensors as storage

BETAS = (0.9, 0.98)

Start = TypeVar("Start", bound=DensityModel)
Free = TypeVar("Free", bound=DensityModel)


class Descent(Generic[Start, Free]):
    """Adam on a trainable copy in float64, with rates that fall to zero as a half cosine.

    Args:
        start: where it begins.
        trainable: makes the copy, of a model in float64.
        rates: of some of its parameters, by name.
        rate: of all others.

    Attributes:
        start: as it was given.
        model: the trainable copy.
    """

    def __init__(
        self,
        start: Start,
        trainable: Callable[[Start], Free],
        rates: dict[str, float],
        rate: float,
    ) -> None:
        self.start = start
        self.model = trainable(_with_log_weights(copy.deepcopy(start).double()))
        named = self.model.named_parameters()
        groups = [{"params": [p], "rate": rates.get(name, rate)} for name, p in named]
        self._optimiser = torch.optim.Adam(groups, betas=BETAS)

    def step(self, done: int, steps: int) -> None:
        """One step along the gradients of `model`, which are then dropped.

        Args:
            done: how many steps were before this one.
            steps: how many there are in all.

        Raises:
            FloatingPointError: a parameter is not finite after the step.
        """
        for group in self._optimiser.param_groups:
            group["lr"] = group["rate"] * 0.5 * (1 + math.cos(math.pi * done / steps))
        self._optimiser.step()
        self._optimiser.zero_grad()
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            raise FloatingPointError("a parameter is not finite after the step")

    def snapshot(self) -> Start:
        """The present model, float32, frozen."""
        return _with_log_weights(self.model.frozen()).float()

    def state(self) -> dict[str, Any]:
        """The start, the free parameters and Adam's moments, apart from later steps."""
        state = {
            "start": tuple(storage.pack(self.start)),
            "free": self.model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
        }
        return copy.deepcopy(state)

    def load(self, state: dict[str, Any]) -> None:
        """Go to where a state was that has begun from the same start."""
        self.model.load_state_dict(state["free"])
        self._optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))


def start_of(state: dict[str, Any]) -> Any:
    """The model that a descent with this state began from."""
    return storage.unpack(*state["start"])


@torch.no_grad()
def _with_log_weights(model: Start) -> Start:
    """Make the logits of experts logarithms of their weights, in place; returns itself."""
    if hasattr(model, "experts"):
        model.experts.logits.copy_(torch.log_softmax(model.experts.logits, 1))
    return model
