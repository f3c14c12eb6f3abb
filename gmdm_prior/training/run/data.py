"""The images of a run of the command line: what trains, and what is held out."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from gmdm_prior.training.data.images import find_images, read_images, split_held_out
from gmdm_prior.training.data.pool import usable
from gmdm_prior.training.run.config import TrainConfig

QUARTER = 4  # of a single image, one part in so many is held out

Images = dict[Path, Tensor]


def split(config: TrainConfig) -> tuple[Images, Images]:
    """Training and held-out images, all at least as large as a patch."""
    size = config.patch_size
    images = read_images(find_images(config.data), config.channels)
    if config.shrink > 1:
        images = {name: F.avg_pool2d(image, config.shrink) for name, image in images.items()}
    usable(images, size, f"a patch of patch_size={size}")
    images = {name: image for name, image in images.items() if min(image.shape[1:]) >= size}
    if len(images) > 1:
        training, held_out = split_held_out(list(images), config.holdout)
        return {f: images[f] for f in training}, {f: images[f] for f in held_out}
    ((name, image),) = images.items()
    cut = image.shape[1] - max(image.shape[1] // QUARTER, size)
    if cut < 2 * size:
        raise ValueError(
            f"{name} is the only image and too small to hold a quarter of it out: give at least two"
        )
    warnings.warn("there is one image only: its lowest quarter is held out", stacklevel=1)
    return {name: image[:, :cut]}, {name: image[:, cut:]}
