"""The bundled configs of inverse problems, each measured once and restored by any prior."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from deepinv_gmdm import build_physics
from deepinv_gmdm.command.config import load_config, shipped
from deepinv_gmdm.command.restore import scene_of, solve, visible
from deepinv_gmdm.operators import as_picture
from torch import Tensor

from gmdm_prior.files.pictures import read_picture
from lib.data import middle


def config_names() -> list[str]:
    """All bundled configs, sorted."""
    return sorted(file.stem for file in shipped("configs").glob("*.yaml"))


@dataclass(frozen=True)
class Problem:
    """A config's picture, what is measured of it, and the operator."""

    name: str
    truth: Tensor
    scene: Tensor
    physics: torch.nn.Module
    measured: Tensor

    @classmethod
    def of(cls, name: str, words: Sequence[str] = (), side: int | None = None) -> "Problem":
        """The picture of a config with overrides, such as `image=PICTURE`, or the middle of it."""
        config = load_config(name, words)
        truth = read_picture(config.image)[0]
        truth = truth if side is None else middle(truth, side)
        scene = scene_of(config, truth)
        physics = build_physics(config.physics, tuple(scene.shape[1:]))
        return cls(name, truth, scene, physics, physics(scene))

    def image_of(self, measured: Tensor) -> Tensor:
        """A measurement as an image of the scene."""
        return as_picture(self.physics, measured, self.scene)

    @property
    def seen(self) -> Tensor:
        """The measurement as a picture."""
        return visible(self.image_of(self.measured), self.truth)

    def restored(self, words: Sequence[str]) -> Tensor:
        """The image that the config restores, with these overrides."""
        config = load_config(self.name, words)
        image, _ = solve(config, self.physics, self.measured, self.scene)
        return visible(image, self.truth)
