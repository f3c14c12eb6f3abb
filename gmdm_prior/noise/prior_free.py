"""Noise levels of images without any prior: from their finest diagonal detail.

Where an image is smooth, the diagonal band of an orthonormal wavelet (Daubechies' with two
vanishing moments, D = g gᵀ) holds nothing but noise, of the image's own standard deviation; edges
are few, so the median of its size is taken (Donoho and Johnstone 1994):

    sigma = median |D ⊛ y| / 0.6745.

`local_levels` takes it in overlapping windows and joins them smoothly. Texture is read as
noise: levels come out high where there is much of it and little noise. They are a start, which
`likelihood.noise_groups` of the training improves with the model that is being fitted.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MEDIAN = 0.6744897501960817  # of the size of a standard normal number
LEAST = 1e-4  # a noise-free image has a level all the same: a tenth of quantisation to 8 bits
SIDE = 8  # pixels, of the least image that has a level
WINDOW = 32  # pixels, side of the windows of a map; neighbours overlap by half


def diagonal_detail(image: Tensor) -> Tensor:
    """The undecimated diagonal band of (C, H, W), size (C, H - 3, W - 3)."""
    root = math.sqrt(3)
    taps = torch.tensor([1 - root, -3 + root, 3 + root, -1 - root], dtype=torch.float64)
    taps = (taps / (4 * math.sqrt(2))).to(image)
    kernel = torch.outer(taps, taps)[None, None]
    return F.conv2d(image[:, None], kernel)[:, 0]


def _size(values: Tensor, dim: int) -> Tensor:
    return (values.abs().quantile(0.5, dim) / MEDIAN).clamp(min=LEAST)


def local_levels(image: Tensor, window: int = WINDOW) -> Tensor:
    """Noise levels (1, H, W) of an image (C, H, W), all channels together.

    Medians of windows of `window` pixels, every half window, are joined bilinearly.
    """
    detail = diagonal_detail(image.float())
    height, width = detail.shape[1:]
    side = [min(window, n) for n in (height, width)]
    step = [max(1, n // 2) for n in side]
    counts = [
        math.ceil((n - s) / t) + 1 for n, s, t in zip((height, width), side, step, strict=True)
    ]
    starts = [
        torch.linspace(0, n - s, c).long().tolist()
        for n, s, c in zip((height, width), side, counts, strict=True)
    ]
    rows = []
    for top in starts[0]:
        parts = [detail[:, top : top + side[0], left : left + side[1]] for left in starts[1]]
        rows.append(_size(torch.stack([part.flatten() for part in parts]), 1))
    down, across = (torch.tensor(s) + (n + 1) / 2 for s, n in zip(starts, side, strict=True))
    height, width = image.shape[1:]
    return to_pixels(torch.stack(rows), down, across, (height, width))[None]


def to_pixels(values: Tensor, rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> Tensor:
    """Values at the crossings of rows and columns, interpolated linearly and held at the ends."""
    for axis, centres in enumerate((rows, columns)):
        place = torch.arange(shape[axis], device=values.device).to(values.dtype)
        centres = centres.to(values)
        right = torch.searchsorted(centres, place).clamp(max=len(centres) - 1)
        left = (right - 1).clamp(min=0)
        gap = (centres[right] - centres[left]).clamp(min=1)
        share = ((place - centres[left]) / gap).clamp(0, 1)
        share = share[:, None] if axis == 0 else share[None]
        values = torch.lerp(
            values.index_select(axis, left), values.index_select(axis, right), share
        )
    return values
