"""Half the size, for operators that see a few single pixels only.

Where nine pixels of ten are missing a patch has hardly any, and what was filled in between them
smoothly looks like a clean picture. At half the size a patch is twice as wide, and holes are half
as wide. The first iterate is then the double U z of what the same solver makes of A U at half the
size, where details that U cannot show count as noise; and every step, of images of half the size
too while they are large enough, has a share of what the denoiser would do at half of it, which
falls with the level.
"""

from __future__ import annotations

from typing import Any

import deepinv
import torch
import torch.nn.functional as F
from torch import Tensor, nn

TENT = (0.25, 0.75, 0.75, 0.25)  # bilinear interpolation between pixels of twice the size


def double(z: Tensor, height: int, width: int) -> Tensor:
    """Bilinear: (B, C, h, w) -> (B, C, height, width), of sides 2 h or 2 h - 1."""
    wide = F.interpolate(z, scale_factor=2, mode="bilinear", align_corners=False)
    return wide[..., :height, :width]


def gather(x: Tensor) -> Tensor:
    """The adjoint of `double`."""
    height, width = x.shape[-2:]
    x = F.pad(x, (3, 3 + width % 2, 3, 3 + height % 2))
    tent = torch.tensor(TENT, dtype=x.dtype, device=x.device)
    x = F.conv2d(x.flatten(0, 1)[:, None], (tent[:, None] * tent)[None, None], stride=2).reshape(
        *x.shape[:2], -1, width // 2 + width % 2 + 2
    )
    for dim in (-2, -1):  # beyond the border the outmost pixels go on
        size = x.shape[dim]
        first, last = x.narrow(dim, 0, 1), x.narrow(dim, size - 1, 1)
        x = x.narrow(dim, 1, size - 2).clone()
        x.narrow(dim, 0, 1).add_(first)
        x.narrow(dim, size - 3, 1).add_(last)
    return x


def halve(x: Tensor) -> Tensor:
    """Means of 2×2 pixels, (B, C, H, W) -> (B, C, ⌈H / 2⌉, ⌈W / 2⌉)."""
    height, width = x.shape[-2:]
    return F.avg_pool2d(F.pad(x, (0, width % 2, 0, height % 2), mode="replicate"), 2)


class HalfSize(deepinv.physics.LinearPhysics):
    """What an operator sees of images of half the size, A U.

    Args:
        inner: A, linear.
        height: of the images that A takes.
        width: likewise.
    """

    def __init__(self, inner: Any, height: int, width: int) -> None:
        super().__init__()
        self.inner, self.height, self.width = inner, height, width

    def A(self, x: Tensor, **kwargs: Any) -> Any:
        """Measurements of images of half the size."""
        return self.inner.A(double(x, self.height, self.width))

    def A_adjoint(self, y: Any, **kwargs: Any) -> Tensor:
        """Images of half the size."""
        return gather(self.inner.A_adjoint(y))


class BothSizes(nn.Module):
    """A denoiser that also looks at half the size.

    Args:
        denoiser: called as `denoiser(images, level)`, with the keywords that `forward` has.
        full: the level at which all of the correction is taken; below, its share is the root of the
            level over this.
    """

    def __init__(self, denoiser: nn.Module, full: float) -> None:
        super().__init__()
        self.denoiser, self.full = denoiser, full

    def forward(self, x: Tensor, level: float, **kwargs: Any) -> Tensor:
        """Denoise images (B, C, H, W)."""
        z = self.denoiser(x, level, **kwargs)
        share = min(level / self.full, 1.0) ** 0.5
        correction = self.denoiser(halve(x), level / 2, **kwargs) - halve(z)
        return z + share * double(correction, *x.shape[-2:])
