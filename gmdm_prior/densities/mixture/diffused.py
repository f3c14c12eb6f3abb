"""A `PatchMixture` at one noise level: densities, scores and posteriors as functions of patches.

For every basis, responses of all symmetries come from one matrix product, log-densities of the
classes from a second, shrunken responses go back by a third (the formulas: mixture.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gmdm_prior.densities.diffused import Diffused
from gmdm_prior.densities.mean import MeanPart


@dataclass(frozen=True, eq=False)
class DiffusedMixture(Diffused):
    """The mixture at one noise variance: `noise` is (), (N, 1) or (N, a); patches are rows (N, a).

    For each basis that has classes: `bases` (|H| J, a), the rows of all its symmetries; `members`
    (K_g,), its classes; `variances` (K_g, J); `log_weights` (K_g,), with -log |H|.
    """

    bases: list[Tensor]
    members: list[Tensor]
    variances: list[Tensor]
    log_weights: list[Tensor]
    noise: Tensor
    mean_part: MeanPart

    def log_prob(self, y: Tensor) -> Tensor:
        """(N,) log-density."""
        joint = torch.cat(self._log_joint(self._responses(y)), 1)
        return torch.logsumexp(joint, 1) + self.mean_part.log_prob(y, self.noise)

    def score(self, y: Tensor) -> Tensor:
        """(N, a) gradient of `log_prob`."""
        u = self._responses(y)
        gains = [-1 / self._total(g) for g in range(len(u))]
        return self._synthesis(u, self._weigh(u), gains) + self.mean_part.score(y, self.noise)

    def posterior_mean(self, y: Tensor) -> Tensor:
        """(N, a) posterior mean."""
        u = self._responses(y)
        return self._mean(y, u, self._log_joint(u))

    def mean_and_log_prob(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """(N, a) posterior mean and (N,) log-density, for the work of one of them."""
        u = self._responses(y)
        joint = self._log_joint(u)
        log_prob = torch.logsumexp(torch.cat(joint, 1), 1) + self.mean_part.log_prob(y, self.noise)
        return self._mean(y, u, joint), log_prob

    def _mean(self, y: Tensor, u: list[Tensor], joint: list[Tensor]) -> Tensor:
        gains = [v / self._total(g) for g, v in enumerate(self.variances)]
        zero_mean = self._synthesis(u, self._normalised(joint), gains)
        return zero_mean + self.mean_part.posterior_mean(y, self.noise)

    def posterior(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """(N, a) posterior mean and per-pixel variance: within the classes and between them."""
        u = self._responses(y)
        weights = self._weigh(u)
        mean_part = self.mean_part.posterior_mean(y, self.noise)
        gains = [v / self._total(g) for g, v in enumerate(self.variances)]
        zero_mean = self._synthesis(u, weights, gains)
        variance = self.mean_part.posterior_variance(self.noise).expand_as(y)
        for g, gain in enumerate(gains):
            remaining = gain * self._noise_of(g)  # (K_g, J) or (N, |H|, K_g, J)
            rows = self.bases[g].unflatten(0, (-1, gain.shape[-1]))  # (|H|, J, a)
            variance = variance + torch.einsum(
                "nhj,hja->na", self._average(weights[g], remaining), rows.square()
            )
            for h, row in enumerate(rows):
                shrink = gain if gain.ndim == 2 else gain[:, min(h, gain.shape[1] - 1)]
                spread = (u[g][:, h, None] * shrink) @ row - zero_mean[:, None]
                between = torch.einsum("nk,nka->na", weights[g][:, h], spread.square())
                variance = variance + between
        return zero_mean + mean_part, variance

    def covariance(self, y: Tensor) -> Tensor:
        """(N, a, a) posterior covariance: within the classes and between them."""
        u = self._responses(y)
        weights = self._weigh(u)
        gains = [v / self._total(g) for g, v in enumerate(self.variances)]
        zero_mean = self._synthesis(u, weights, gains)
        out = self.mean_part.posterior_covariance(self.noise)
        for g, gain in enumerate(gains):
            remaining = self._average(weights[g], gain * self._noise_of(g))  # (N, |H|, J)
            rows = self.bases[g].unflatten(0, (-1, gain.shape[-1]))
            for h, row in enumerate(rows):
                within = remaining[:, min(h, remaining.shape[1] - 1)]
                out = out + (within @ (row[:, :, None] * row[:, None]).flatten(1)).unflatten(
                    1, row.shape[1:] * 2
                )
                shrink = gain if gain.ndim == 2 else gain[:, min(h, gain.shape[1] - 1)]
                spread = (u[g][:, h, None] * shrink) @ row - zero_mean[:, None]
                out = out + spread.mT @ (weights[g][:, h, :, None] * spread)
        return out

    def responsibilities(self, y: Tensor) -> Tensor:
        """(N, |H|, K)."""
        joined = torch.cat(self._weigh(self._responses(y)), 2)
        return joined[:, :, torch.cat(self.members).argsort()]

    def _responses(self, y: Tensor) -> list[Tensor]:
        j = self.variances[0].shape[1]
        return [(y @ rows.T).unflatten(1, (-1, j)) for rows in self.bases]

    def _noise_of(self, g: int) -> Tensor:
        """The noise variance of the responses: (), (N, 1, 1, 1) or (N, |H|, 1, J)."""
        if self.noise.ndim == 0:
            return self.noise
        if self.noise.shape[1] == 1:
            return self.noise[:, :, None, None]
        j = self.variances[g].shape[1]
        return (self.noise @ self.bases[g].square().T).unflatten(1, (-1, j))[:, :, None]

    def _total(self, g: int) -> Tensor:
        """Total variance v + s: (K_g, J), or (N, 1 or |H|, K_g, J)."""
        return self.variances[g] + self._noise_of(g)

    def _log_joint(self, responses: list[Tensor]) -> list[Tensor]:
        """(N, |H| K_g) for each basis."""
        out = []
        for g, u in enumerate(responses):
            total = self._total(g)
            constant = self.log_weights[g] - 0.5 * u.shape[2] * math.log(2 * math.pi)
            if total.ndim == 2:
                log = u.square() @ (-0.5 / total).T + (constant - 0.5 * total.log().sum(1))
            else:
                square = u.square()[:, :, None] / total + total.log()
                log = constant - 0.5 * square.sum(3)
            out.append(log.flatten(1))
        return out

    def _weigh(self, responses: list[Tensor]) -> list[Tensor]:
        """Responsibilities (N, |H|, K_g) for each basis."""
        return self._normalised(self._log_joint(responses))

    def _normalised(self, joint: list[Tensor]) -> list[Tensor]:
        weights = torch.softmax(torch.cat(joint, 1), 1).split([p.shape[1] for p in joint], 1)
        return [w.unflatten(1, (-1, len(m))) for w, m in zip(weights, self.members, strict=True)]

    @staticmethod
    def _average(weights: Tensor, gain: Tensor) -> Tensor:
        """Mean of the classes' gains, (N, |H|, J)."""
        if gain.ndim == 2:
            return weights @ gain
        return (weights[..., None] * gain).sum(2)

    def _synthesis(self, u: list[Tensor], weights: list[Tensor], gains: list[Tensor]) -> Tensor:
        out = None
        for responses, w, gain, rows in zip(u, weights, gains, self.bases, strict=True):
            part = (responses * self._average(w, gain)).flatten(1) @ rows
            out = part if out is None else out + part
        return out
