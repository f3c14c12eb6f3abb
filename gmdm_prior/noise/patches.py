"""The patches of an image that can tell its noise level: neither constant nor clipped.

A patch of one grey level holds no noise at all, and clipped pixels hold less than they had: where
an image is padded or saturated. Both would be taken for a low noise level.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from gmdm_prior.densities.base import DensityModel

PATCHES = 5_000  # looked at in one image
FEWEST = 16  # patches without clipped pixels, for those with some to be left out


@dataclass(frozen=True)
class Patches:
    """Patches of an image that tell of its noise.

    Attributes:
        values: (N, a).
        rows: (N,), where in the image they begin.
        columns: (N,).
        overlap: in how many patches a pixel is, on average.
    """

    values: Tensor
    rows: Tensor
    columns: Tensor
    overlap: float

    def __len__(self) -> int:
        """The number of patches."""
        return len(self.values)


def spread_patches(
    image: Tensor, model: DensityModel, lying: Tensor, most: int = PATCHES
) -> Patches:
    """Patches evenly spread over an image (C, H, W), about `most` of them.

    Those that are constant are left out, and those with a pixel that lies (bool, like the image).
    """
    size, planes = model.patch_size, image.reshape(-1, model.channels, *image.shape[1:])
    counts = [n - size + 1 for n in image.shape[1:]]
    share = min(1.0, math.sqrt(most / (len(planes) * math.prod(counts))))
    rows, columns = (_spread(count, share, image) for count in counts)
    patches, varied, touched = cut(planes, lying.reshape(planes.shape), rows, columns, size)
    told = varied & ~touched
    places = torch.cartesian_prod(rows, columns).repeat(len(planes), 1)[told]
    overlap = _overlap(rows, size) * _overlap(columns, size)
    return Patches(patches[told], places[:, 0], places[:, 1], overlap)


def informative(image: Tensor, model: DensityModel) -> tuple[Tensor, float]:
    """Patches evenly spread over an image (C, H, W) that can tell its noise level.

    Constant patches are left out, as are those with clipped pixels unless hardly any others remain.

    Returns:
        Patches (N, a), and in how many a pixel of them is, on average.
    """
    size, planes = model.patch_size, image.reshape(-1, model.channels, *image.shape[1:])
    counts = [n - size + 1 for n in image.shape[1:]]
    share = min(1.0, math.sqrt(PATCHES / (len(planes) * math.prod(counts))))
    rows, columns = (_spread(count, share, image) for count in counts)
    overlap = _overlap(rows, size) * _overlap(columns, size)
    clipped = clipped_pixels(image).reshape(planes.shape)
    patches, varied, touched = cut(planes, clipped, rows, columns, size)
    whole = varied & ~touched
    if int(whole.sum()) >= FEWEST or not bool((varied & touched).any()):
        return patches[whole], overlap
    warnings.warn(
        "nearly all of the image is clipped: its noise level is read too low", stacklevel=5
    )
    return patches[varied], overlap


def cut(
    planes: Tensor, clipped: Tensor, rows: Tensor, columns: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Patches of planes (P, C, H, W) that start at R rows and Q columns.

    Returns:
        Patches (P R Q, C size²); whether they are not constant; whether any pixel is `clipped`.
    """

    def gather(values: Tensor) -> Tensor:
        windows = values.unfold(2, size, 1).unfold(3, size, 1)[:, :, rows][:, :, :, columns]
        return windows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)

    patches = gather(planes)
    varied = patches.amax(1) > patches.amin(1)
    touched = gather(clipped).any(1) if bool(clipped.any()) else torch.zeros_like(varied)
    return patches, varied, touched


def clipped_pixels(image: Tensor) -> Tensor:
    """Which pixels are clipped: at an extreme value that stands out of the histogram as a spike.

    An extreme counts as a spike where it is taken at least three times as often as the value next
    to it, and by more than a few pixels. Of a picture in few grey levels the extremes are rare.
    """
    values, counts = image.unique(return_counts=True)
    clipped = torch.zeros_like(image, dtype=torch.bool)
    if len(values) < 3:
        return clipped
    for end, beside in ((0, 1), (-1, -2)):
        if counts[end] >= 3 * counts[beside] and counts[end] > 4:
            clipped |= image == values[end]
    return clipped


def _overlap(starts: Tensor, size: int) -> float:
    """How many stretches of `size` places cover a place of them, on average."""
    covered = (starts[:, None] + torch.arange(size, device=starts.device)).flatten()
    counts = torch.bincount(covered).double()
    return (counts.square().sum() / counts.sum()).item()


def _spread(count: int, share: float, like: Tensor) -> Tensor:
    """About `share` of `count` places, evenly spread from the first to the last.

    Their distances vary by one, so that they do not follow the blocks of a compressed image.
    """
    number = max(1, round(share * count))
    places = torch.linspace(0, count - 1, number, dtype=torch.float32, device=like.device)
    return places.round().long()
