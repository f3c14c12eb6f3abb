"""One-dimensional mixtures with equidistant means, and their diffusion (paper, Eq. 6).

    psi_j(z; s_j) = sum_l w_jl N(z; mu_l, s_j),     s_j = sigma_0² + added variance

with mu_l equidistant in [-gamma, gamma], sigma_0 = 2 gamma / (L - 1) and w = softmax(logits).
Given a noisy response z = z_0 + noise of variance n,

    E[z_0 | z]   = sum_l r_l m_l,     m_l = mu_l + sigma_0² / (sigma_0² + n) (z - mu_l)
    Var[z_0 | z] = sigma_0² n / (sigma_0² + n) + sum_l r_l (m_l - E[z_0 | z])²

with r_l proportional to w_l N(z; mu_l, sigma_0² + n).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class EquidistantExperts(nn.Module):
    """J experts of L components each, with shared equidistant means and one width (Section 4.1).

    Args:
        logits: (J, L); the weights of expert j are softmax(logits[j]).
        bound: gamma, the outermost mean, in units of a filter response.
    """

    def __init__(self, logits: Tensor, bound: float = 1.0) -> None:
        super().__init__()
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise ValueError(f"logits must be (J, L) with L >= 2; got {tuple(logits.shape)}")
        if not 0 < bound < math.inf:
            raise ValueError(f"bound must be positive and finite; got {bound}")
        self.logits = nn.Parameter(logits.detach().clone())
        self.bound = float(bound)

    @property
    def base_scale(self) -> float:
        """Standard deviation sigma_0 of a component at sigma = 0."""
        return 2 * self.bound / (self.logits.shape[1] - 1)

    @property
    def means(self) -> Tensor:
        """(L,) the component means, always in float64."""
        return torch.linspace(
            -self.bound,
            self.bound,
            self.logits.shape[1],
            dtype=torch.float64,
            device=self.logits.device,
        )

    @property
    def weights(self) -> Tensor:
        """(J, L) component weights."""
        return torch.softmax(self.logits, 1)

    def diffuse(self, variance: Tensor) -> Mixture1D:
        """The experts after adding noise of a variance (…, J) to the responses."""
        dtype = variance.dtype
        return Mixture1D(
            log_weights=torch.log_softmax(self.logits.to(dtype), 1),
            means=self.means.to(dtype),
            base=self.base_scale**2,
            noise=variance,
        )


@dataclass(frozen=True)
class Mixture1D:
    """J mixtures at a level: `log_weights` (J, L), `means` (L,), `noise` (…, J); z is (…, J)."""

    log_weights: Tensor
    means: Tensor
    base: float
    noise: Tensor

    @property
    def variance(self) -> Tensor:
        """(…, J) variance of the components, sigma_0² + noise."""
        return self.base + self.noise

    def _log_joint(self, z: Tensor) -> Tensor:
        total = self.variance[..., None]
        square = (z[..., None] - self.means).square() / total
        return self.log_weights - 0.5 * (square + (2 * math.pi * total).log())

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density, shaped like z."""
        return torch.logsumexp(self._log_joint(z), -1)

    def components(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of mu over the component that z comes from, shaped like z."""
        weights = torch.softmax(self._log_joint(z), -1)
        centre = weights @ self.means
        return centre, (weights * (self.means - centre[..., None]).square()).sum(-1)

    def components_at(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """`components` at many nodes (J, n) of each of J experts, a few at a time."""
        parts = [self.components(z) for z in nodes.T.split(64)]
        centre, spread = (torch.cat(columns).T for columns in zip(*parts, strict=True))
        return centre, spread

    def double(self) -> Mixture1D:
        """Give the same experts in float64."""
        return Mixture1D(
            self.log_weights.double(), self.means.double(), self.base, self.noise.double()
        )

    def score(self, z: Tensor) -> Tensor:
        """Derivative of `log_prob`, shaped like z."""
        centre = torch.softmax(self._log_joint(z), -1) @ self.means
        return (centre - z) / self.variance

    def posterior(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the clean response, both shaped like z."""
        centre, between = self.components(z)
        gain = self.base / self.variance
        mean = gain * z + (self.noise / self.variance) * centre
        return mean, gain * self.noise + (self.noise / self.variance).square() * between
