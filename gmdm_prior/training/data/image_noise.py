"""The noise of training images by what `noise` says: of each image, or of each of its pixels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gmdm_prior.noise.prior_free import SIDE, global_level, local_levels
from gmdm_prior.training.data.noise import is_table, look_up, read_table
from gmdm_prior.training.data.pool import Images


def image_sigmas(images: Images, noise: float | str) -> list[Tensor] | None:
    """Standard deviations of the noise in images (C, H, W).

    Args:
        images: by file, or in a sequence.
        noise: a level, `"auto"` (one estimate per image), `"map"` (one per pixel) or a table.

    Returns:
        A level () or a map (1, H, W) for each image, in their order; None for one level of all.

    Raises:
        ValueError: a table that cannot be used (`noise_table`), or images without names for it.
    """
    if not isinstance(noise, str):
        return None
    if is_table(noise):
        if not isinstance(images, Mapping):
            raise ValueError(f"noise={noise} needs images by file, as read_images gives them")
        levels = look_up(read_table(noise), images, noise)
        return [torch.tensor(level) for level in levels]
    estimate = global_level if noise == "auto" else local_levels
    values = list(images.values() if isinstance(images, Mapping) else images)
    if any(min(image.shape[-2:]) < SIDE for image in values):
        raise ValueError(
            f"noise={noise} needs images of at least {SIDE}x{SIDE} pixels: leave smaller ones out, "
            "or give their levels"
        )
    return [estimate(image) for image in values]
