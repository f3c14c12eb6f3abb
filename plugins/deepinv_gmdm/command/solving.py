"""Solving what a config says; shared by simulations and measurements."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from deepinv_gmdm.command.files import say
from deepinv_gmdm.operators import with_phase
from deepinv_gmdm.restoration import measured_part, solved
from deepinv_gmdm.solver_config import SolverConfig


def scene_of(config: DictConfig, picture: Tensor) -> Tensor:
    """What is measured of a picture (1, C, H, W): itself, or with mri a complex image of it.

    Raises:
        ValueError: for a colour picture with mri.
    """
    if config.physics.name != "mri":
        return picture
    if picture.shape[1] != 1:
        raise ValueError("physics.name=mri needs a gray image; got one in colour")
    return with_phase(picture, config.physics.phase)


def visible(image: Tensor, picture: Tensor) -> Tensor:
    """An image of a scene as one like the picture: of a complex one its magnitude."""
    if image.shape[1] == picture.shape[1]:
        return image
    return image.square().sum(1, keepdim=True).sqrt()


def solve(
    config: DictConfig, physics: Any, measurement: Tensor, scene: Tensor, progress: bool = False
) -> tuple[Tensor, dict[str, Any]]:
    """Restore a measurement as a config says; `scene` only tells shape and device.

    Where photons were counted it is done twice: the first result says how much noise each pixel
    has.

    Returns:
        Images, and what the solver tells of its run, or nothing.

    Raises:
        ValueError: where the solver diverges, and as `restore_measurement`.
    """
    prior = plain_value(config.prior)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the restored image differs")  # it is said in a note
        result, info = solved(prior, solver_of(config), physics, measurement, scene, progress)
    if info.get("remark"):
        say(info["remark"])
    if not math.isfinite(result.abs().max().item()):
        raise ValueError("the solver diverged; choose a smaller solver.stepsize")
    return measured_part(physics, result), info


def solver_of(config: DictConfig) -> SolverConfig:
    """The solver's settings as a dataclass."""
    settings = OmegaConf.to_object(config.solver)
    assert isinstance(settings, SolverConfig)
    return settings


def device_of(name: str) -> torch.device:
    """A device by name.

    Raises:
        ValueError: where it cannot be used.
    """
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"config key 'device': {name!r} is not usable: {reason}") from None
    if device.type == "meta":
        raise ValueError("config key 'device': 'meta' is not usable: its tensors have no values")
    return device


def plain_value(value: Any) -> Any:
    """A value of a config without OmegaConf's wrapping."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
