"""Adam on what moves away from a start: its step, and the state that a checkpoint keeps."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.files import safetensors as storage


def descend(optimiser: torch.optim.Adam, moving: nn.Module, step: int, steps: int) -> None:
    """One step with each group's `rate`, which falls to zero as a half cosine.

    Args:
        optimiser: on the parameters of `moving`, whose gradients are there.
        moving: whose parameters have to stay finite.
        step: how many steps were before this one.
        steps: how many there are in all.

    Raises:
        FloatingPointError: a parameter is not finite after the step.
    """
    for group in optimiser.param_groups:
        group["lr"] = group["rate"] * 0.5 * (1 + math.cos(math.pi * step / steps))
    optimiser.step()
    if not all(bool(torch.isfinite(p).all()) for p in moving.parameters()):
        raise FloatingPointError("a parameter is not finite after the step")


def moved_state(
    step: int, start: DensityModel, moving: nn.Module, optimiser: torch.optim.Adam
) -> dict[str, Any]:
    """The start, how far it has moved, and Adam's moments, apart from later steps."""
    state = {
        "start": storage.pack(start),
        "moved": moving.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    return {"step": step, **copy.deepcopy(state)}


def load_moved(state: dict[str, Any], moving: nn.Module, optimiser: torch.optim.Adam) -> None:
    """Put what has begun from the state's start where the state was."""
    moving.load_state_dict(state["moved"])
    optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))
