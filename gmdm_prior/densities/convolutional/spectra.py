"""Disjoint spectra of constant magnitude, sampled on the frequencies of an image of any size.

A filter bank is kept on a base grid of N x N frequencies, in the half plane of `torch.fft.rfft2`:
who owns a frequency, and with which phase. An image of H x W pixels has the frequencies (u / H,
v / W) cycles per pixel, which lie between those of the grid:

    owner   that of the nearest frequency of the grid, so that supports stay disjoint and cover
            everything but frequency zero; band edges move by up to 1 / (2 N) cycles per pixel
    phase   that of the owner's spectrum, interpolated linearly (with zeros where others own).

The cell around frequency zero is larger than that one frequency where the image is larger than the
grid: the others in it go to the neighbouring cell along the axis on which they lie further out. On
an image of N x N pixels the sampled bank is the stored one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

WEAK = 0.1  # below this length an interpolated phase says nothing, and the nearest one is taken


@dataclass(frozen=True)
class Bands:
    """A bank on the half plane (H, W // 2 + 1) of an image's frequencies.

    Attributes:
        owner: the filter of each frequency, -1 for frequency zero.
        phasor: exp(i phase), complex; 1 at frequency zero.
        size: (H, W).
    """

    owner: Tensor
    phasor: Tensor
    size: tuple[int, int]

    def mask(self, index: int) -> Tensor:
        """Give a real tensor of ones where a filter owns; -1 gives frequency zero."""
        return (self.owner == index).to(self.phasor.real.dtype)

    def share(self, index: int) -> Tensor:
        """() r / n: the share of all frequencies of the plane that a filter owns."""
        height, width = self.size
        weight = self.phasor.real.new_full((width // 2 + 1,), 2.0)
        weight[0] = 1.0
        if width % 2 == 0:
            weight[-1] = 1.0
        return (self.mask(index) * weight).sum() / (height * width)


def sample_bands(owner: Tensor, phase: Tensor, size: tuple[int, int]) -> Bands:
    """The bank of a base grid on the frequencies of an image.

    Args:
        owner: (N, N // 2 + 1), N even, -1 for frequency zero.
        phase: (N, N // 2 + 1) radians. In the first and the last column, which hold both halves of
            a real filter's spectrum, rows 0 to N / 2 count, and 0 or pi, whichever is nearer, where
            a frequency is its own mirror image.
        size: (H, W).
    """
    grid = len(owner)
    whole_owner, whole = _whole_plane(owner, phase)
    height, width = size
    rows = torch.fft.fftfreq(height, 1 / height, dtype=torch.float64, device=owner.device)
    columns = torch.arange(width // 2 + 1, dtype=torch.float64, device=owner.device)
    a, b = torch.broadcast_tensors((rows * grid / height)[:, None], columns * grid / width)
    near_a, near_b = _nearest(a, b)
    sampled = whole_owner[near_a % grid, near_b % grid]
    blend, low_a, low_b = torch.zeros_like(whole[:1, :1]), a.floor(), b.floor()
    for i in (0, 1):
        for j in (0, 1):
            weight = (1 - (a - low_a - i).abs()) * (1 - (b - low_b - j).abs())
            corner = (low_a.long() + i) % grid, (low_b.long() + j) % grid
            same = (whole_owner[corner] == sampled).to(weight.dtype)
            blend = blend + (weight * same).to(phase.dtype) * whole[corner]
    nearest = whole[near_a % grid, near_b % grid]
    blend = torch.where(blend.abs() < WEAK, nearest, blend)
    return Bands(sampled, blend / blend.abs(), (height, width))


def _nearest(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest cells, halves away from zero; none but frequency zero falls into cell zero."""
    near_a, near_b = (t.sign() * (t.abs() + 0.5).floor() for t in (a, b))
    inside = (near_a == 0) & (near_b == 0)
    rows_first = a.abs() >= b.abs()
    near_a = torch.where(inside & rows_first, a.sign(), near_a)
    near_b = torch.where(inside & ~rows_first, b.sign(), near_b)
    return near_a.long(), near_b.long()


def _whole_plane(owner: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
    """Owners and phasors (N, N) on the whole plane, those of real filters."""
    grid = len(owner)
    half = grid // 2
    mirror = -torch.arange(grid, device=owner.device) % grid
    upper = torch.arange(grid, device=owner.device) <= half
    phasor = torch.polar(torch.ones_like(phase), phase)
    columns = []
    for i in range(half + 1):
        column = phasor[:, i]
        if i in (0, half):
            column = torch.where(upper, column, column[mirror].conj())
            own = mirror == torch.arange(grid, device=owner.device)
            sign = torch.where(phase[:, i].detach().cos() < 0, -1.0, 1.0).to(column)
            column = torch.where(own, sign, column)
        columns.append(column)
    right = torch.stack(columns, 1)
    left = right[mirror][:, 1:half].flip(1).conj()
    left_owner = owner[mirror][:, 1:half].flip(1)
    return torch.cat([owner, left_owner], 1), torch.cat([right, left], 1)


def mirrored_owner(owner: Tensor) -> Tensor:
    """Owners that a real bank with the given ones on rows 0 to N / 2 has on the half plane."""
    grid = len(owner)
    mirror = -torch.arange(grid, device=owner.device) % grid
    lower = torch.arange(grid, device=owner.device) > grid // 2
    out = owner.clone()
    for i in (0, grid // 2):
        out[:, i] = torch.where(lower, owner[mirror, i], owner[:, i])
    return out


def polar_bands(grid: int, octaves: int, orientations: int) -> Tensor:
    """Owners (N, N // 2 + 1) of a bank of octaves and orientations.

    The outermost octave begins at a quarter of a cycle per pixel (its corners belong to it), each
    further one at half of that; what is below them all belongs to the last filter. Filter
    `octave * orientations + o` holds directions within pi / (2 orientations) of o pi /
    orientations.

    Returns:
        int64, octaves * orientations + 1 filters, -1 for frequency zero.
    """
    row = torch.fft.fftfreq(grid, dtype=torch.float64)[:, None]
    column = torch.arange(grid // 2 + 1, dtype=torch.float64) / grid
    radius = (row.square() + column.square()).sqrt()
    radius[0, 0] = 1.0
    octave = (-(radius * 4).log2()).ceil().clamp(min=0).long()
    angle = torch.atan2(row.expand_as(radius), column.expand_as(radius))
    place = (angle * orientations / math.pi + 0.5 + 1e-9).floor().long() % orientations
    owner = torch.where(octave < octaves, octave * orientations + place, octaves * orientations)
    owner[0, 0] = -1
    return mirrored_owner(owner)
