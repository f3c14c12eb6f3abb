"""The roughness of images: squared differences of neighbouring pixels."""

from __future__ import annotations

import torch
from torch import Tensor


def roughness(x: Tensor) -> Tensor:
    """Gradient of ½ ‖∇x‖², differences of neighbouring pixels, at images (…, H, W)."""
    result = torch.zeros_like(x)
    for dim in (-2, -1):
        step = x.diff(dim=dim)
        size = x.shape[dim] - 1
        result.narrow(dim, 1, size).add_(step)
        result.narrow(dim, 0, size).sub_(step)
    return result
