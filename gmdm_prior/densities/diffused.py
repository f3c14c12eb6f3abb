"""What a density of patches is at one noise variance: the protocol `Diffused`."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Diffused(Protocol):
    """A density of patches at one noise variance; patches are rows (N, a). A base to inherit.

    Attributes:
        noise: the variance, () or (N, 1), or (N, a) of every pixel; zero where there is none.
    """

    noise: Tensor

    def log_prob(self, y: Tensor) -> Tensor:
        """(N,) log-densities."""

    def score(self, y: Tensor) -> Tensor:
        """(N, a) gradients of `log_prob`."""

    def posterior_mean(self, y: Tensor) -> Tensor:
        """(N, a) means of the clean patch given the noisy one."""

    def posterior(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """(N, a) means of the clean patch given the noisy one, and variances of its pixels."""

    def posterior_variance(self, y: Tensor) -> Tensor:
        """The second of them."""
        return self.posterior(y)[1]
