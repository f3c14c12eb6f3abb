"""A mixture of which a share is Gaussian classes of one picture's own, and how both are evaluated.

    f(x) = (1 - Σ_k w_k) f_0(x) + Σ_k w_k N(x; 0, C_k),
    C_k  = V_kᵀ diag(μ_k) V_k + ε (Id - V_kᵀ V_k),

with f_0 a `PatchMixture` and V_k few orthonormal zero-mean rows, the directions in which the class
is wider than ε = `FLOOR`; the mean of a patch is flat in all. Under white noise of variance s,
with t = ε + s, g_kj = (μ_kj - ε) / (μ_kj + s), x the zero-mean part of y and A_k = diag(√(g_k / t))
V_k, one product with the rows of all A_k gives both

    log N(x; 0, C_k + s Id) = const + 1/2 ‖A_k x‖² - ‖x‖² / 2 t
                              - 1/2 (Σ_j log(μ_kj + s) + (J - r_k) log t)
    E[x | y, k]             = ε / t x + s A_kᵀ A_k x.

Of f_0 only its own posterior mean and log-density are needed, however they are found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gmdm_prior.densities.mixture.model import PatchMixture

FLOOR = 2e-6  # ε, the least variance: an eighth of a gray level squared, of 255
ROWS = 1024  # patches at a time: what fits the cache


@dataclass(frozen=True, eq=False)
class OwnClasses:
    """The classes of a picture's own, in float64.

    Attributes:
        axes: (M, J, a), orthonormal zero-mean rows of each; all of them, a basis.
        variances: (M, J), at least `FLOOR`.
        weights: (M,), positive; their sum is below one.
    """

    axes: Tensor
    variances: Tensor
    weights: Tensor

    def joined(self, model: PatchMixture) -> PatchMixture:
        """The whole density, as a mixture without symmetries: exact, and slow."""
        level = model.at(torch.zeros((), dtype=torch.float64, device=model.filters.device))
        dimensions = level.variances[0].shape[1]
        bases, variances, weights = [], [], []
        for rows, v, w in zip(level.bases, level.variances, level.log_weights, strict=True):
            for oriented in rows.unflatten(0, (-1, dimensions)):
                bases.append(oriented)
                variances.append(v)
                weights.append((1 - self.weights.sum()) * w.exp())
        bases += list(self.axes)
        variances += list(self.variances[:, None])
        weights += list(self.weights[:, None])
        counts = torch.tensor([len(w) for w in weights])
        total = torch.cat(weights)
        dtype, device = model.filters.dtype, model.filters.device
        found = PatchMixture(
            torch.stack(bases).unflatten(2, model.event_shape).to(dtype),
            torch.cat(variances).to(dtype),
            (total / total.sum()).to(dtype),
            torch.arange(len(counts)).repeat_interleave(counts),
            symmetries="none",
        )
        return found.requires_grad_(False).to(device)


class OwnLevel:
    """Classes of a picture's own under white noise of one variance.

    Args:
        own: the classes.
        noise: the variance, positive.
        channels: of a patch.
        like: gives type and device.
    """

    def __init__(self, own: OwnClasses, noise: float, channels: int, like: Tensor) -> None:
        self._noise, self._channels = noise, channels
        self._rest = FLOOR + noise
        wide = own.variances > FLOOR
        self._ranks = wide.sum(1).tolist()
        gain = (own.variances - FLOOR) / (own.variances + noise) / self._rest
        rows = (own.axes * gain.clamp(min=0).sqrt()[:, :, None])[wide]
        self._rows = rows.to(like)
        logs = (own.variances + noise).log().sum(1) + own.axes.shape[1] * math.log(2 * math.pi)
        self._constants = (own.weights.log() - 0.5 * logs).to(like)
        self._log_rest = math.log1p(-float(own.weights.sum()))

    def log_joint(self, y: Tensor) -> Tensor:
        """Log-densities (M, N) of patches (N, a), each with the weight of its class."""
        parts = [self._zero_mean(some) for some in y.split(ROWS)]
        return torch.cat([self._log_joint(x, self._rows @ x) for x in parts], 1)

    def posterior_mean(self, y: Tensor, mean: Tensor, log_prob: Tensor, trust: float) -> Tensor:
        """Posterior means (N, a) of the whole mixture, or what lies on the way there.

        Args:
            y: patches (N, a).
            mean: posterior means (N, a) under the mixture alone.
            log_prob: its log-densities (N,).
            trust: 0 gives `mean`, 1 the whole mixture's.
        """
        pieces = zip(y.split(ROWS), mean.split(ROWS), log_prob.split(ROWS), strict=True)
        moves = torch.cat([self._move(*piece) for piece in pieces])
        return torch.add(mean, moves, alpha=trust)

    def _move(self, y: Tensor, mean: Tensor, log_prob: Tensor) -> Tensor:
        """What the classes change of a few posterior means, (n, a)."""
        x = self._zero_mean(y)
        u = self._rows @ x
        joint = torch.cat([(log_prob + self._log_rest)[None], self._log_joint(x, u)])
        weights = joint.softmax(0)[1:]
        without = y.T - (self._noise / self._rest) * x  # of a class that is as narrow as can be
        out = weights.sum(0) * (without - mean.T)
        parts = zip(weights * self._noise, u.split(self._ranks), strict=True)
        return (out + self._rows.T @ torch.cat([w * part for w, part in parts])).T

    def _zero_mean(self, y: Tensor) -> Tensor:
        """The zero-mean part of patches, as columns (a, N)."""
        pixels = y.T.unflatten(0, (self._channels, -1))
        return (pixels - pixels.mean(1, keepdim=True)).flatten(0, 1)

    def _log_joint(self, x: Tensor, u: Tensor) -> Tensor:
        squares = torch.stack([p.square().sum(0) for p in u.split(self._ranks)])
        rest = x.square().sum(0) / self._rest
        return self._constants[:, None] + 0.5 * (squares - rest)
