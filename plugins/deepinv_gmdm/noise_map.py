"""Noise maps that travel with the images they belong to."""

from __future__ import annotations

from typing import Any

import deepinv
import torch
from torch import Tensor


class WithNoiseMap(deepinv.models.Denoiser):
    """A denoiser whose noise map travels as the last channel of the images, and comes back there.

    `deepinv.distributed.distribute` cuts images into tiles, but no map that is given beside them.

    Args:
        denoiser: any that takes maps, such as `GMDMDenoiser`.
    """

    def __init__(self, denoiser: deepinv.models.Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    @property
    def halo(self) -> int:
        """That of the denoiser."""
        return self.denoiser.halo

    def forward(self, x: Tensor, sigma: Any = None, **kwargs: Any) -> Tensor:
        """Denoise the first channels.

        Args:
            x: (B, C + 1, H, W): images and in the last channel their noise level at every pixel.
            sigma: must not be given.
            **kwargs: for the denoiser.

        Returns:
            Shaped like `x`: denoised images, and the map as it was.

        Raises:
            ValueError: a level is given besides, or there is no channel for it.
        """
        if sigma is not None:
            raise ValueError(
                "sigma must be left out: the noise level is the last channel of the images"
            )
        if x.ndim != 4 or x.shape[1] < 2:
            raise ValueError(
                "images must be (B, C + 1, H, W), the last channel their noise map; got "
                f"{tuple(x.shape)}"
            )
        return torch.cat([self.denoiser(x[:, :-1], x[:, -1:], **kwargs), x[:, -1:]], 1)
