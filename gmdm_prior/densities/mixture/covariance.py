"""A `PatchMixture` under Gaussian noise of any covariance S, exactly: `MixtureAtCovariance`.

The mixture's classes are Gaussian, so that they diffuse in closed form under any noise N(0, S),
along the anisotropic heat equation ∂_s f = 1/2 ∇·(S ∇f) at the covariance s S. In the coordinates
u = A y of a class k in one orientation, A its orthonormal rows h⁻¹ a_j and D the diagonal of its
variances, the noise has the covariance N = A S Aᵀ, and with P = (D + N)⁻¹

    log f  = logsumexp over (h, k) of log w - 1/2 (J log 2π - log|P| + uᵀ P u)
    score  = - sum r Aᵀ P u
    E[x|y] = sum r Aᵀ D P u + Eᵀ (E y - nᵀ sum r P u)
    Cov[x|y, k] has the blocks D P N along A, D P n between A and E, and E S Eᵀ - nᵀ P n along E,

where E are the directions of the channels' means, along which the density is flat, and n = A S Eᵀ.
Subtracting the mean of a patch changes no density, but the mean of E[x|y] is not that of y: noise
around a patch's mean says something about the noise of the mean. All this is Tweedie's formula,
E[x|y] = y + S score and Cov[x|y] = S + S ∇² log f S, without their loss of digits. A proper mean
is one more row of A, of its own variance.

Classes share A, and orientations share P where S looks the same in them: noise that is stationary
does so after a half turn, so that four inverses serve eight orientations; isotropic noise has one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gmdm_prior.densities.batches import patch_covariance
from gmdm_prior.densities.diffused import Diffused
from gmdm_prior.densities.mean import MeanPart
from gmdm_prior.densities.mixture.diffused import DiffusedMixture
from gmdm_prior.gaussian_noise import Covariance, Noise

SAME = 1e-12  # of the largest covariance: turned covariances that differ by less are one


@dataclass(frozen=True, eq=False)
class _Oriented:
    """The classes of one basis in one orientation, d the dimensions of the density.

    Attributes:
        rows: A, (d, a).
        variances: D, (K, d).
        precisions: P, (K, d, d).
        constants: log-weights with the normalisers, (K,).
        noise: N, (d, d).
        to_mean: n, (d, c), c the flat directions.
        mean_noise: E S Eᵀ, (c, c).
    """

    rows: Tensor
    variances: Tensor
    precisions: Tensor
    constants: Tensor
    noise: Tensor
    to_mean: Tensor
    mean_noise: Tensor

    def solved(self, y: Tensor) -> Tensor:
        """P u for each class, (N, K, d)."""
        return torch.einsum("nd,kde->nke", y @ self.rows.T, self.precisions)

    def log_joint(self, y: Tensor) -> Tensor:
        """Log-densities (N, K) of each class, with its weight."""
        square = (self.solved(y) * (y @ self.rows.T)[:, None]).sum(2)
        return self.constants - 0.5 * square

    def means(self, y: Tensor, flat: Tensor) -> Tensor:
        """Posterior means of each class, less the part that keeps y, (N, K, a)."""
        solved = self.solved(y)
        return (self.variances * solved) @ self.rows - (solved @ self.to_mean) @ flat

    def covariances(self, flat: Tensor) -> Tensor:
        """Posterior covariance of each class, (K, a, a)."""
        shrunk = self.variances[:, :, None] * self.precisions
        across = self.rows.T @ (shrunk @ self.to_mean) @ flat
        rest = self.mean_noise - self.to_mean.T @ self.precisions @ self.to_mean
        within = self.rows.T @ (shrunk @ self.noise) @ self.rows
        return within + across + across.mT + flat.T @ rest @ flat


@dataclass(frozen=True, eq=False)
class MixtureAtCovariance(Diffused):
    """The mixture under noise of one covariance; patches are rows (N, a). It works in float64.

    Attributes:
        parts: bases times orientations, the orientations of a basis in a row.
        members: (K_g,), the classes of each basis.
        flat: E, (c, a), the directions along which the density is flat, orthonormal.
        centre: the number that is subtracted from every pixel: 1/2 where the mean is proper.
        noise: the largest covariance (), zero where there is no noise.
    """

    parts: list[list[_Oriented]]
    members: list[Tensor]
    flat: Tensor
    centre: float
    noise: Tensor

    def log_prob(self, y: Tensor) -> Tensor:
        """(N,) log-density."""
        return torch.logsumexp(self._log_joint(self._centred(y)), 1)

    def score(self, y: Tensor) -> Tensor:
        """(N, a) gradient of `log_prob`."""
        y = self._centred(y)
        out = torch.zeros_like(y)
        for part, weight in self._weighed(y):
            out = out - torch.einsum("nk,nkd->nd", weight, part.solved(y)) @ part.rows
        return out

    def posterior_mean(self, y: Tensor) -> Tensor:
        """(N, a) posterior mean; exactly y where there is no noise."""
        if not bool(self.noise):
            return y
        y = self._centred(y)
        out = y @ self.flat.T @ self.flat + self.centre
        for part, weight in self._weighed(y):
            out = out + torch.einsum("nk,nka->na", weight, part.means(y, self.flat))
        return out

    def posterior(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """(N, a) posterior mean and per-pixel variance: within the classes and between them."""
        mean, variance = self._moments(y, lambda c: c.diagonal(dim1=1, dim2=2), Tensor.square)
        return mean, variance

    def covariance(self, y: Tensor) -> Tensor:
        """(N, a, a) posterior covariance: within the classes and between them."""
        return self._moments(y, lambda c: c, lambda d: d[..., :, None] * d[..., None, :])[1]

    def responsibilities(self, y: Tensor) -> Tensor:
        """(N, |H|, K)."""
        weights = iter([w for _, w in self._weighed(self._centred(y))])
        joined = torch.cat(
            [torch.stack([next(weights) for _ in parts], 1) for parts in self.parts], 2
        )
        return joined[:, :, torch.cat(self.members).argsort()]

    def _centred(self, y: Tensor) -> Tensor:
        return y.to(self.flat.dtype) - self.centre

    def _log_joint(self, y: Tensor) -> Tensor:
        return torch.cat([part.log_joint(y) for parts in self.parts for part in parts], 1)

    def _weighed(self, y: Tensor) -> list[tuple[_Oriented, Tensor]]:
        """Each part with the responsibilities (N, K) of its classes."""
        parts = [part for parts in self.parts for part in parts]
        weights = self._log_joint(y).softmax(1).split([len(p.constants) for p in parts], 1)
        return list(zip(parts, weights, strict=True))

    def _moments(
        self, y: Tensor, of_class: Callable[[Tensor], Tensor], of_mean: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Posterior mean, and the second moment around it of which a class's part is given."""
        y, mean = self._centred(y), self.posterior_mean(y)
        off = mean - (y @ self.flat.T @ self.flat + self.centre)
        total: Any = 0.0
        for part, weight in self._weighed(y):
            within = of_class(part.covariances(self.flat))
            between = of_mean(part.means(y, self.flat) - off[:, None])
            total = total + torch.einsum("nk,nk...->n...", weight, within + between)
        return mean, total


def at_covariance(clean: DiffusedMixture, covariance: Covariance) -> MixtureAtCovariance:
    """A mixture without noise, under noise of a covariance.

    Raises:
        ValueError: the covariance is of patches of another size.
    """
    mean_part, bases = clean.mean_part, clean.bases
    pixels, channels = mean_part.pixels, mean_part.channels
    s = covariance.matrix.to(bases[0].device)
    if len(s) != channels * pixels:
        raise ValueError(
            f"the covariance must be ({channels * pixels}, {channels * pixels}) for patches of "
            f"{channels} channel(s) and {pixels} pixels; got {tuple(s.shape)}"
        )
    ones = s.new_ones(1, pixels) / math.sqrt(pixels)
    means, none = torch.block_diag(*[ones] * channels), s.new_zeros(0, len(s))
    proper = mean_part.variance is not None
    own, flat = (means, none) if proper else (none, means)
    mean_variance = s.new_full((len(own),), (mean_part.variance or 0.0) * pixels)
    parts = []
    for rows, v, w in zip(bases, clean.variances, clean.log_weights, strict=True):
        d = torch.cat([v.double(), mean_variance.expand(len(v), -1)], 1)
        oriented = rows.double().unflatten(0, (-1, v.shape[1]))
        parts.append(_orientations([torch.cat([r, own]) for r in oriented], d, w, flat, s))
    return MixtureAtCovariance(
        parts=parts,
        members=clean.members,
        flat=flat,
        centre=0.5 if proper else 0.0,
        noise=s.abs().max(),
    )


def _orientations(
    oriented: list[Tensor], variances: Tensor, log_weights: Tensor, flat: Tensor, s: Tensor
) -> list[_Oriented]:
    """One basis in all orientations; those in which the noise looks the same share inverses."""
    found: list[_Oriented] = []
    for rows in oriented:
        noise, to_mean = rows @ s @ rows.T, rows @ s @ flat.T
        same = SAME * s.abs().max()
        alike = (
            p
            for p in found
            if bool((p.noise - noise).abs().max() <= same)
            and (not to_mean.numel() or bool((p.to_mean - to_mean).abs().max() <= same))
        )
        first = next(alike, None)
        if first is None:
            root = torch.linalg.cholesky(torch.diag_embed(variances) + noise)
            logs = root.diagonal(dim1=1, dim2=2).log().sum(1)
            precisions = torch.cholesky_inverse(root)
            constants = log_weights.double() - 0.5 * len(rows) * math.log(2 * math.pi) - logs
            shared = (variances, precisions, constants, noise, to_mean, flat @ s @ flat.T)
        else:
            shared = (
                first.variances,
                first.precisions,
                first.constants,
                first.noise,
                first.to_mean,
                first.mean_noise,
            )
        found.append(_Oriented(rows, *shared))
    return found


def add_noise(
    x: Tensor, noise: Noise | Covariance, mean_part: MeanPart, generator: torch.Generator | None
) -> Tensor:
    """Samples x (*shape, C, b, b) with noise, of which a flat mean has none."""
    events = x.reshape(-1, *x.shape[-3:])
    s = patch_covariance(noise, 0, x.shape[-3:]).matrix.to(x.device)
    curvatures, axes = torch.linalg.eigh(s)
    count = len(events), len(s)
    white = torch.randn(count, generator=generator, dtype=s.dtype, device=s.device)
    drawn = white @ (axes * curvatures.clamp(min=0).sqrt()).T
    drawn = drawn.unflatten(1, (mean_part.channels, mean_part.pixels))
    if mean_part.variance is None:
        drawn = drawn - drawn.mean(2, keepdim=True)
    return x + drawn.reshape(x.shape).to(x.dtype)
