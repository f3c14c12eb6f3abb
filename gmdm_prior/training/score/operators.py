"""Random linear operators whose data step has a closed form, to train a density through.

    Pixels        the pixels of a mask are seen: scattered ones, or squares
    Convolution   a circular blur, of which every d-th pixel is kept in both directions

Each has norm 1. With shift = λ σ² / s² the data step at a level s is

    argmin ‖A x - y‖² / (2 σ²) + λ ‖x - z‖² / (2 s²)  =  z + Aᵀ (A Aᵀ + shift)⁻¹ (y - A z),

where A Aᵀ is 1 on the pixels of a mask, and of a blur a circular convolution on the coarse grid:
the spectrum is that of the kernel's autocorrelation, at every d-th place. The step is linear in z
and made of differentiable operations.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

FACTORS = (2, 3, 4)  # of down-sampling, where they divide the sides
PATH = 40  # points along a motion
KEPT = (0.3, 0.9)  # share of scattered pixels; of fewer the solver begins at half the size
SQUARES, SQUARES_KEPT = (4, 8, 12), (0.5, 0.9)  # sides of what is missing together


class Operator(ABC):
    """A linear operator A of images (C, h, w), of norm 1."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """A x."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y."""

    @abstractmethod
    def inverse(self, y: Tensor, shift: float) -> Tensor:
        """(A Aᵀ + shift)⁻¹ y."""

    @property
    @abstractmethod
    def measured(self) -> tuple[float, float, float]:
        """Of M = AᵀA for N pixels: tr M / N, the share that is seen; tr M² / tr M; Σ M_ii² / N."""

    def data_step(self, z: Tensor, y: Tensor, shift: float) -> Tensor:
        """The image nearest to z and to what was measured; shift is how z is trusted."""
        return z + self.adjoint(self.inverse(y - self(z), shift))


@dataclass(frozen=True, eq=False)
class Pixels(Operator):
    """What a mask (h, w) of ones and zeros lets through."""

    mask: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """A x, with zeros where nothing is seen."""
        return self.mask * x

    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y."""
        return self.mask * y

    def inverse(self, y: Tensor, shift: float) -> Tensor:
        """(A Aᵀ + shift)⁻¹ y, of pixels that are seen."""
        return y / (1 + shift)

    @property
    def measured(self) -> tuple[float, float, float]:
        """As of any operator."""
        seen = float(self.mask.mean())
        return seen, 1.0, seen


class Convolution(Operator):
    """A circular convolution, of which every `factor`-th row and column is kept.

    Args:
        kernel: (h, w), its centre at the first place; only its shape counts.
        factor: d, a divisor of both sides.
    """

    def __init__(self, kernel: Tensor, factor: int = 1) -> None:
        self.factor, self.extent = factor, kernel.shape
        transfer = torch.fft.rfft2(kernel)
        norm = self._spectrum(transfer).max().sqrt()
        self.transfer = transfer / norm

    def _spectrum(self, transfer: Tensor) -> Tensor:
        """That of A Aᵀ, on the coarse grid."""
        correlation = torch.fft.irfft2(transfer.abs().square(), s=self.extent)
        return torch.fft.rfft2(correlation[:: self.factor, :: self.factor]).real.clamp(min=0)

    @cached_property
    def spectrum(self) -> Tensor:
        """That of A Aᵀ, the half of it that a real image needs."""
        return self._spectrum(self.transfer)

    def __call__(self, x: Tensor) -> Tensor:
        """A x, (C, h / d, w / d)."""
        blurred = torch.fft.irfft2(self.transfer * torch.fft.rfft2(x), s=self.extent)
        return blurred[..., :: self.factor, :: self.factor]

    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y."""
        spread = y.new_zeros(*y.shape[:-2], *self.extent)
        spread[..., :: self.factor, :: self.factor] = y
        return torch.fft.irfft2(self.transfer.conj() * torch.fft.rfft2(spread), s=self.extent)

    def inverse(self, y: Tensor, shift: float) -> Tensor:
        """(A Aᵀ + shift)⁻¹ y."""
        return torch.fft.irfft2(torch.fft.rfft2(y) / (self.spectrum + shift), s=y.shape[-2:])

    @property
    def measured(self) -> tuple[float, float, float]:
        """As of any operator."""
        kernel = torch.fft.irfft2(self.transfer, s=self.extent).square()
        d = self.factor
        own = kernel.unfold(0, d, d).unfold(1, d, d).sum((0, 1))  # the d² different M_ii
        rows, columns = (side // d for side in self.extent)
        values = torch.fft.irfft2(self.spectrum, s=(rows, columns))
        trace = float(values[0, 0]) * rows * columns
        squared = float(values.square().sum()) * rows * columns
        count = self.extent[0] * self.extent[1]
        return trace / count, squared / trace, float(own.square().mean())


def random_mask(extent: tuple[int, int], generator: torch.Generator) -> Pixels:
    """Scattered pixels, or all but squares."""
    if _below(2, generator):
        side, kept = 1, _between(*KEPT, generator)
    else:
        side, kept = SQUARES[_below(len(SQUARES), generator)], _between(*SQUARES_KEPT, generator)
    rows, columns = (-(-length // side) for length in extent)
    cells = torch.rand(rows, columns, generator=generator) < kept
    cells[_below(rows, generator), _below(columns, generator)] = True
    mask = cells.repeat_interleave(side, 0).repeat_interleave(side, 1)
    return Pixels(mask[: extent[0], : extent[1]].float())


def random_blur(extent: tuple[int, int], generator: torch.Generator) -> Convolution:
    """A Gaussian of any widths and direction, the trace of a motion, or a disc."""
    kind = _below(3, generator)
    if kind == 0:
        return Convolution(_moved(torch.zeros(1, 2), _covariance(0.5, 3.0, generator), extent))
    if kind == 1:
        points = _motion(_between(4, 24, generator), generator)
    else:
        radius = _between(1.0, 4.0, generator)
        grid = torch.arange(-4.5, 5, 0.5)
        points = torch.cartesian_prod(grid, grid)
        points = points[points.norm(dim=1) <= radius]
    return Convolution(_moved(points, 0.2 * torch.eye(2), extent))


def random_down_sampling(extent: tuple[int, int], generator: torch.Generator) -> Convolution:
    """Every second, third or fourth pixel after a filter about as wide; a blur where none fits."""
    fitting = [d for d in FACTORS if not any(side % d for side in extent)]
    if not fitting:
        return random_blur(extent, generator)
    factor = fitting[_below(len(fitting), generator)]
    covariance = _covariance(0.25 * factor, 0.6 * factor, generator)
    return Convolution(_moved(torch.zeros(1, 2), covariance, extent), factor)


def _moved(points: Tensor, covariance: Tensor, extent: tuple[int, int]) -> Tensor:
    """A Gaussian at points (n, 2) around the first place of a circular image."""
    places = [torch.fft.fftfreq(side, 1 / side) for side in extent]
    offsets = torch.cartesian_prod(*places)[:, None] - points
    distance = ((offsets @ torch.linalg.inv(covariance)) * offsets).sum(2)
    return torch.exp(-0.5 * distance).sum(1).unflatten(0, extent)


def _covariance(least: float, most: float, generator: torch.Generator) -> Tensor:
    """Of a Gaussian with two widths and a direction."""
    widths = torch.tensor([least * (most / least) ** _between(0, 1, generator) for _ in range(2)])
    angle = _between(0, math.pi, generator)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return turn @ widths.square().diag() @ turn.T


def _motion(length: float, generator: torch.Generator) -> Tensor:
    """Points (n, 2) of a path of this length whose direction drifts, around their mean."""
    bends = torch.randn(PATH, generator=generator).cumsum(0) * (2 / PATH**0.5)
    direction = _between(0, 2 * math.pi, generator) + bends.cumsum(0) / PATH**0.5
    steps = torch.stack([direction.cos(), direction.sin()], 1) * (length / PATH)
    points = steps.cumsum(0)
    return points - points.mean(0)


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _below(bound: int, generator: torch.Generator) -> int:
    return int(torch.randint(bound, (), generator=generator))
