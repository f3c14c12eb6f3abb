"""The paper's patch model, `PatchModel`: one-dimensional experts on orthogonal filters (Eqs. 5–10).

    f(x, sigma) = prod_j ‖k_j‖ psi_j(<k_j, x>; sigma_0² + ‖k_j‖² sigma²)

is a density on the span of the filters (normaliser prod ‖k_j‖, not prod ‖k_j‖² as in Corollary 2.1:
substitute x = sum_j z_j k_j / ‖k_j‖²). The directions outside the span, the mean first of all, are
flat. Because the filters are orthogonal, responses of white noise are independent with variance
‖k_j‖² sigma², so diffusion, score and posterior go response by response:

    score      = sum_j k_j (log psi_j)'(<k_j, x>)
    E[x | y]   = flat part of y + sum_j k_j / ‖k_j‖² E[z_j | <k_j, y>]
    Var[x | y] = sigma² diag(flat projection) + sum_j (k_j / ‖k_j‖²)² Var[z_j | <k_j, y>].
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gmdm_prior.constraints import project_orthogonal
from gmdm_prior.densities.base import Options, PatchDensity, check_real
from gmdm_prior.densities.diffused import Diffused
from gmdm_prior.densities.experts import EquidistantExperts, Mixture1D
from gmdm_prior.densities.mean import MeanPart
from gmdm_prior.gaussian_noise import Covariance


class PatchModel(PatchDensity):
    """A diffused product of experts on orthogonal, zero-mean filters (Zach et al., 2023).

    Args:
        filters: (J, C, b, b), mutually orthogonal, zero-mean, of any positive norms;
            J <= C (b² - 1).
        logits: (J, L) mixture logits zeta; weights are their softmax.
        bound: gamma; the means are equidistant in [-gamma, gamma].

    Raises:
        ValueError: for shapes that do not fit, or filters that are not orthogonal.
    """

    kind = "PatchModel"
    normalised = True

    def __init__(self, filters: Tensor, logits: Tensor, bound: float = 1.0) -> None:
        super().__init__()
        _check(filters, logits)
        self.filters = nn.Parameter(filters.detach().clone())
        self.experts = EquidistantExperts(logits, bound)
        self.event_shape = tuple(filters.shape[1:])
        self.mean_part = MeanPart(self.channels, self.patch_size**2)

    @property
    def dimensions(self) -> int:
        """Dimensions of the span of the filters, and of the mean where it is proper."""
        means = 0 if self.mean_part.variance is None else self.channels
        return len(self.filters) + means

    @property
    def degrees_of_freedom(self) -> int:
        """Free numbers: J (J - 1) / 2 for the directions, J norms, J (L - 1) weights."""
        j, components = self.experts.logits.shape
        return j * (j - 1) // 2 + j + j * (components - 1)

    def draw(self, noise: Tensor, generator: torch.Generator | None) -> Tensor:
        """Samples: sum_j k_j z_j / ‖k_j‖² with z_j ~ psi_j, one at each noise variance (N, 1)."""
        return self.at(noise).sample(generator)

    def zero_mean_lipschitz(self, sigma: float) -> float:
        """Largest curvature of -log f(., sigma) among zero-mean patches, max_j ‖k_j‖² / s_j."""
        norms = self.filters.detach().double().flatten(1).square().sum(1)
        return float((norms / (self.experts.base_scale**2 + norms * sigma * sigma)).max())

    def at(self, noise: Tensor) -> DiffusedProduct:
        """The model at a noise *variance*: () for all, (N, 1) per patch, (N, a) per pixel."""
        if isinstance(noise, Covariance):
            raise TypeError(
                "a product of experts has no closed form under correlated noise, which couples its "
                "responses. Take a PatchMixture, or ask for the approximation by its diagonal, "
                "model.at_diagonal(covariance); HalfQuadraticSplitting takes any Noise"
            )
        filters = self.filters.to(noise.dtype).flatten(1)
        squares = filters.square()
        if noise.ndim and noise.shape[1] > 1:
            added = noise @ squares.T
        else:
            added = noise * squares.sum(1)
        return DiffusedProduct(
            filters=filters,
            norms=squares.sum(1).sqrt(),
            experts=self.experts.diffuse(added),
            noise=noise,
            mean_part=self.mean_part,
        )

    def at_diagonal(self, covariance: Covariance) -> DiffusedProduct:
        """An approximation under correlated noise, which takes the responses' noise as independent.

        Response j has its true variance k_jᵀ S k_j; what noise in one response tells of that in
        another, and of the patch's mean, is left out. Its methods take rows (N, a) in float64.
        """
        s = covariance.matrix.to(self.filters.device)
        filters = self.filters.to(s.dtype).flatten(1)
        level = self.at(s.diagonal().mean())
        added = ((filters @ s) * filters).sum(1)
        return dataclasses.replace(level, experts=self.experts.diffuse(added))

    def numbers_per_patch(self, noise: Tensor) -> int:
        """How many numbers an evaluation holds for every patch, to bound its memory."""
        return 4 * self.experts.logits.numel()

    def stored(self) -> tuple[dict[str, Tensor], Options]:
        """The arguments of the constructor."""
        tensors: dict[str, Tensor] = {"filters": self.filters, "logits": self.experts.logits}
        return tensors, {"bound": self.experts.bound}

    @torch.no_grad()
    def made_exact(self) -> PatchModel:
        """Make filters exactly orthogonal and zero-mean, in place; returns itself."""
        self.filters.copy_(project_orthogonal(self.filters, steps=50))
        return self


@dataclass(frozen=True)
class DiffusedProduct(Diffused):
    """The product at a variance: `filters` (J, a), `norms` (J,), `noise` (), (N, 1) or (N, a)."""

    filters: Tensor
    norms: Tensor
    experts: Mixture1D | None
    noise: Tensor
    mean_part: MeanPart

    def log_prob(self, y: Tensor) -> Tensor:
        """(N,) log-density of patches (N, a)."""
        experts = (self.norms.log() + self.experts.log_prob(y @ self.filters.T)).sum(1)
        return experts + self.mean_part.log_prob(y, self.noise)

    def score(self, y: Tensor) -> Tensor:
        """(N, a) gradient of `log_prob`."""
        zero_mean = self.experts.score(y @ self.filters.T) @ self.filters
        return zero_mean + self.mean_part.score(y, self.noise)

    def posterior_mean(self, y: Tensor) -> Tensor:
        """(N, a) posterior mean."""
        return self.assemble(y, self.experts.posterior(y @ self.filters.T)[0])

    def posterior(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """(N, a) posterior mean and per-pixel variance."""
        mean, spread = self.experts.posterior(y @ self.filters.T)
        dual = (self.filters / self.norms.square()[:, None]).square()
        variance = self.mean_part.posterior_variance(self.noise) + spread @ dual
        if not self._spans_zero_mean():
            unit = (self.filters / self.norms[:, None]).square().sum(0)
            variance = variance + self.noise * (1 - 1 / self.mean_part.pixels - unit)
        return self.assemble(y, mean), variance.expand_as(y)

    def covariance(self, y: Tensor) -> Tensor:
        """(N, a, a) posterior covariance of patches, where the filters span the zero-mean ones."""
        spread = self.experts.posterior(y @ self.filters.T)[1]
        dual = self.filters / self.norms.square()[:, None]
        pairs = (dual[:, :, None] * dual[:, None]).flatten(1)
        within = (spread @ pairs).unflatten(1, dual.shape[1:] * 2)
        return within + self.mean_part.posterior_covariance(self.noise)

    def sample(self, generator: torch.Generator | None) -> Tensor:
        """(N, a) samples, one for each noise variance of `noise` (N, 1)."""
        weights = self.experts.log_weights.exp()
        count = len(self.noise)
        components = torch.multinomial(weights, count, replacement=True, generator=generator).T
        std = self.experts.variance.sqrt()
        normal = torch.randn(std.shape, dtype=std.dtype, device=std.device, generator=generator)
        z = self.experts.means[components] + std * normal
        zero_mean = (z / self.norms.square()) @ self.filters
        return zero_mean + self.mean_part.sample(count, self.noise, generator)

    def assemble(self, y: Tensor, responses: Tensor) -> Tensor:
        """(N, a) patches y with other responses (N, J)."""
        dual = self.filters / self.norms.square()[:, None]
        zero_mean = (dual.T @ responses.T).T
        mean = zero_mean + self.mean_part.posterior_mean(y, self.noise)
        if self._spans_zero_mean():
            return mean
        centred = y - self.mean_part.flat.posterior_mean(y, self.noise)
        return mean + centred - (centred @ self.filters.T) @ dual

    def _spans_zero_mean(self) -> bool:
        return len(self.filters) == self.mean_part.channels * (self.mean_part.pixels - 1)


def _check(filters: Tensor, logits: Tensor) -> None:
    check_real(filters=filters, logits=logits)
    if filters.ndim != 4 or filters.shape[2] != filters.shape[3]:
        raise ValueError(f"filters must be (J, C, b, b); got {tuple(filters.shape)}")
    j, c, b, _ = filters.shape
    if not 1 <= j <= c * (b * b - 1):
        raise ValueError(
            f"filters of shape {(c, b, b)} can be 1 to {c * (b * b - 1)}, zero-mean and "
            f"orthogonal; got {j}"
        )
    if logits.ndim != 2 or logits.shape[0] != j:
        raise ValueError(f"logits must be ({j}, L); got {tuple(logits.shape)}")
    for name, value in (("filters", filters), ("logits", logits)):
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} must be finite; they hold NaN or infinity")
    rows = filters.double().flatten(1)
    norms = rows.norm(dim=1)
    if not bool((norms > 0).all()):
        raise ValueError("filters must have positive norms: a zero filter has no density")
    cosines = (rows @ rows.T) / norms / norms[:, None]
    error = (cosines - torch.eye(j, device=rows.device)).abs().max()
    mean = (filters.double().mean((-2, -1)).flatten(1) / norms[:, None]).abs().max()
    if error > 1e-3 or mean > 1e-3:
        raise ValueError(
            f"filters must be orthogonal and zero-mean; they miss by {max(error, mean):.1e}. "
            "constraints.project_orthogonal gives the nearest ones"
        )
