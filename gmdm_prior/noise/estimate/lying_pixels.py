"""Pixels that lie about the noise: clipped, masked, dead, hot, saturated.

Such a pixel holds a value that has nothing to do with the noise around it. Two signs are looked for
in the values of a plane.

*A spike*: a value that is taken `SPIKE` times as often as each of the eight values beside it, four
below and four above. Clipping piles them up at an end of the range, a mask at any value (0 in the
middle of signed data). Noise has smooth histograms; floating-point values hardly repeat at all. At
the two ends, where a histogram falls off, `END` times as often as the value beside it is enough.

*An outlier*: a value further from the median than `FAR` times the distance of the 5 % and the 95 %
quantile: stars and hot pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

SPIKE, END = 6, 3  # how many times as often as the values beside it
BESIDE = 4  # values on each side
FEWEST = 4  # pixels that a spike has more than
SHARE = 2e-4  # of all pixels that a spike within the range has more than
FAR = 3.0  # such distances


def lying_pixels(image: Tensor) -> Tensor:
    """Which pixels of an image (C, H, W) lie, each channel for itself; bool, like the image."""
    return torch.stack([spikes(plane) | outliers(plane) for plane in image])


def spikes(plane: Tensor) -> Tensor:
    """Which pixels have a value that stands out of the histogram."""
    values, place, counts = plane.unique(return_inverse=True, return_counts=True)
    if len(values) < 3:
        return torch.zeros_like(plane, dtype=torch.bool)
    counts = counts.double()
    beside = torch.zeros_like(counts)
    for d in range(1, min(BESIDE, len(values) - 1) + 1):
        beside[d:] = torch.maximum(beside[d:], counts[:-d])
        beside[:-d] = torch.maximum(beside[:-d], counts[d:])
    tall = (counts >= SPIKE * beside) & (counts > max(FEWEST, SHARE * plane.numel()))
    tall[0] |= (counts[0] >= END * counts[1]) & (counts[0] > FEWEST)
    tall[-1] |= (counts[-1] >= END * counts[-2]) & (counts[-1] > FEWEST)
    return tall[place]


def outliers(plane: Tensor) -> Tensor:
    """Which pixels are far away from all but a few."""
    sample = plane.flatten()[:: max(1, plane.numel() // 2**20)]
    low, middle, high = sample.quantile(sample.new_tensor([0.05, 0.5, 0.95])).tolist()
    reach = FAR * (high - low)
    if reach <= 0:
        return torch.zeros_like(plane, dtype=torch.bool)
    return (plane < middle - reach) | (plane > middle + reach)
