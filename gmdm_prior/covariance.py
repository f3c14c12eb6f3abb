"""The covariance of the noise of a patch, as a frozen value."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TOLERANCE = 1e-5  # of the largest value, for what float32 rounded


@dataclass(frozen=True, eq=False)
class Covariance:
    """The covariance of the noise of a patch.

    Args:
        matrix: (a, a), symmetric and nowhere negative, for the a = C b² numbers of a patch.

    Raises:
        ValueError: the matrix is not square, not finite, not symmetric or not positive.
    """

    matrix: Tensor

    def __post_init__(self) -> None:
        """Check the matrix and make it float64."""
        matrix = torch.as_tensor(self.matrix)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
            raise ValueError(
                f"matrix must be (a, a), a covariance of the a numbers of a patch; got "
                f"{tuple(matrix.shape)}"
            )
        matrix = matrix.double()
        if not bool(torch.isfinite(matrix).all()):
            raise ValueError("matrix must be finite; it holds NaN or infinity")
        scale = float(matrix.detach().abs().max())
        if float((matrix - matrix.T).detach().abs().max()) > TOLERANCE * scale:
            raise ValueError(
                "matrix must be symmetric; use (matrix + matrix.T) / 2 where rounding made it not"
            )
        matrix = (matrix + matrix.T) / 2
        least = float(torch.linalg.eigvalsh(matrix.detach())[0])
        if least < -TOLERANCE * scale:
            raise ValueError(
                f"matrix must be positive semi-definite; its least eigenvalue is {least:.2g}"
            )
        object.__setattr__(self, "matrix", matrix)

    @classmethod
    def white(cls, sigma: float | Tensor, pixels: int) -> Covariance:
        """Give the covariance of white noise of a level, for a = `pixels` numbers."""
        level = torch.as_tensor(sigma, dtype=torch.float64)
        return cls(level.square() * torch.eye(pixels, dtype=torch.float64, device=level.device))

    def __add__(self, other: Covariance) -> Covariance:
        """Give the covariance of the sum of two independent noises."""
        return Covariance(self.matrix + other.matrix)

    def scaled(self, factor: float) -> Covariance:
        """Give the covariance of the noise times a factor."""
        return Covariance(self.matrix * factor**2)

    @property
    def variance(self) -> float:
        """Mean variance of a pixel."""
        return float(self.matrix.detach().diagonal().mean())
