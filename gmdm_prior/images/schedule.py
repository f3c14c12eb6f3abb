"""The schedule of half-quadratic splitting: level and data weight of every step.

For an input level sigma and t = log(255 sigma / 25), step i works at a level sigma_i and then mixes
the noisy image in with a weight w_i,

    sigma_i = sigma exp(a_i + b_i t),     w_i = logistic(c_i + d_i t),

and of what the same steps make of the half-size image the share c sigma² / (c sigma² + v) is used,
where v is the variance around a pixel: all of it where the image is flat, nothing of it in texture.

Smooth in sigma, with no table to jump in; beyond [1, 150] / 255 the factors stay what they are at
the ends. `docs/theory` says how the numbers were found and what they are worth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

MIDDLE, LEAST, MOST = 25 / 255, 1 / 255, 150 / 255


@dataclass(frozen=True)
class Schedule:
    """Coefficients of each step, and of the coarse scale.

    Args:
        coefficients: (4, steps), the rows a, b, c and d.
        contrast: c, the variance around a pixel, in units of sigma², where half of the coarse
            scale's correction is used; 0 is without the coarse scale.
    """

    coefficients: Tensor
    contrast: float = 0.0

    def __len__(self) -> int:
        """The number of steps."""
        return self.coefficients.shape[1]

    def at(self, sigma: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Level and data weight of each step, both shaped like sigma (a number () or a map)."""
        t = (sigma.clamp(LEAST, MOST) / MIDDLE).log()
        for a, b, c, d in self.coefficients.to(sigma).T:
            yield sigma * (a + b * t).exp(), torch.sigmoid(c + d * t)

    @property
    def has_coarse_scale(self) -> bool:
        """Whether the coarse scale has a share anywhere."""
        return self.contrast > 0

    def coarse_share(self, sigma: Tensor, variance: Tensor) -> Tensor:
        """How much of the half-size image's correction is added, 0 to 1.

        Args:
            sigma: noise level, a number () or a map that broadcasts to `variance`.
            variance: of the restored image around every pixel (…), `half_size.local_variance`.
        """
        flat = self.contrast * sigma.square()
        return flat / (flat + variance).clamp_min(torch.finfo(variance.dtype).tiny)

    @classmethod
    def constant(cls, levels: list[float], shares: list[float]) -> Schedule:
        """Levels in units of sigma and data weights from 0 to 1 that are the same for all sigma.

        Raises:
            ValueError: for values out of range, or lists of different lengths, or empty ones.
        """
        if len(levels) != len(shares) or not levels:
            raise ValueError(
                "levels and data_shares must be equally long and not empty; got "
                f"{len(levels)} and {len(shares)}"
            )
        if not all(0 < v < math.inf for v in levels) or not all(0 <= w <= 1 for w in shares):
            raise ValueError("levels must be positive and data_shares between 0 and 1")
        logs = torch.tensor(levels, dtype=torch.float64, device="cpu").log()
        weights = torch.logit(torch.tensor(shares, dtype=torch.float64, device="cpu"))
        return cls(torch.stack([logs, torch.zeros_like(logs), weights, torch.zeros_like(logs)]))


DEFAULT = Schedule(
    torch.tensor(
        [
            [-0.2231, -0.6752, -0.9229, -1.3446],
            [0.0825, -0.0081, -0.2290, -0.3416],
            [-0.0911, -1.5880, -2.3376, -4.0959],
            [-0.1770, -0.0354, 0.1249, -0.4082],
        ],
        dtype=torch.float64,
        device="cpu",
    ),
    contrast=0.12,
)
