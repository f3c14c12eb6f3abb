"""Models whose parameters are free: any values of them give an exact density.

From a start (A, v, w) the bases of a `PatchMixture` move by rotations, exp(W_g − W_gᵀ) A_g, its
variances by their logarithms, its weights by a softmax. The filters of a `PatchModel` move by one
rotation of the zero-mean subspace and by the logarithms of their norms, its weights by their
logits. All is kept in float64; what is evaluated on images is a *level*, the model at one noise
level in float32, differentiable.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from gmdm_prior.constraints import orthonormalise, polar_factor, zero_mean_basis
from gmdm_prior.densities.mean import MeanPart
from gmdm_prior.densities.mixture.diffused import DiffusedMixture
from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.densities.product import PatchModel
from gmdm_prior.training.score import product_sums

LEAST_WEIGHT = 1e-30
DEPTH = 60.0  # of log-weights below the largest of their expert: float32 has no more


class MovingMixture(nn.Module):
    """A `PatchMixture` with free parameters.

    Args:
        start: the model at W = 0.
    """

    def __init__(self, start: PatchMixture) -> None:
        super().__init__()
        start = copy.deepcopy(start).double().requires_grad_(False)
        with torch.no_grad():  # float32 weights are orthonormal to float32 only
            start.filters.copy_(orthonormalise(start.filters))
        self._at = [_At(start)]  # in a list: no parameters of this module
        groups, rows = start.filters.shape[:2]
        self.rotation = nn.Parameter(torch.zeros(groups, rows, rows, dtype=torch.float64))
        self.log_variances = nn.Parameter(start.variances.log())
        self.log_weights = nn.Parameter(start.weights.log())

    @property
    def start(self) -> PatchMixture:
        """The model at W = 0, float64."""
        return self._at[0].model

    @property
    def rotations(self) -> list[nn.Parameter]:
        """The parameters that turn the bases."""
        return [self.rotation]

    @property
    def logarithms(self) -> list[nn.Parameter]:
        """All other parameters."""
        return [self.log_variances, self.log_weights]

    def parameters_now(self) -> dict[str, Tensor]:
        """Filters, variances and weights, differentiable."""
        turn = torch.matrix_exp(self.rotation - self.rotation.mT)
        filters = (turn @ self.start.filters.flatten(2)).reshape(self.start.filters.shape)
        weights = torch.softmax(self.log_weights, 0).clamp(min=LEAST_WEIGHT)
        return {"filters": filters, "variances": self.log_variances.exp(), "weights": weights}

    def level(self, now: dict[str, Tensor], sigma: float) -> DiffusedMixture:
        """The model with parameters `now` at a noise level."""
        noise = torch.tensor(sigma * sigma, dtype=torch.float32)
        state = {f"model.{name}": value for name, value in now.items()}
        return functional_call(self._at[0], state, (noise,))

    @torch.no_grad()
    def snapshot(self) -> PatchMixture:
        """The present model, float32, frozen."""
        now = {name: value.float() for name, value in self.parameters_now().items()}
        model = PatchMixture(**now, basis=self.start.basis, symmetries=self.start.symmetries)
        return _with_mean_of(self.start, model)


class MovingProduct(nn.Module):
    """A `PatchModel` with free parameters.

    Args:
        start: the model at W = 0.
    """

    def __init__(self, start: PatchModel) -> None:
        super().__init__()
        start = copy.deepcopy(start).double().requires_grad_(False)
        self._start = [start]  # in a list: no parameters of this module
        self._axes = zero_mean_basis(start.channels, start.patch_size)
        rows = start.filters.flatten(1) @ self._axes.T
        norms = rows.norm(dim=1)
        full = torch.linalg.svd(rows)[2]  # the rows after the first J complete the basis
        self._basis = torch.cat([polar_factor(rows / norms[:, None]), full[len(rows) :]])
        count = len(self._basis)
        self.rotation = nn.Parameter(torch.zeros(count, count, dtype=torch.float64))
        self.log_norms = nn.Parameter(norms.log())
        self.logits = nn.Parameter(torch.log_softmax(start.experts.logits, 1))

    @property
    def start(self) -> PatchModel:
        """The model at W = 0, float64."""
        return self._start[0]

    @property
    def rotations(self) -> list[nn.Parameter]:
        """The parameters that turn the filters."""
        return [self.rotation]

    @property
    def logarithms(self) -> list[nn.Parameter]:
        """All other parameters."""
        return [self.log_norms, self.logits]

    def parameters_now(self) -> dict[str, Tensor]:
        """Filters (J, C b²) and logits, differentiable."""
        turned = (torch.matrix_exp(self.rotation - self.rotation.mT) @ self._basis) @ self._axes
        filters = self.log_norms.exp()[:, None] * turned[: len(self.log_norms)]
        return {"filters": filters, "logits": torch.log_softmax(self.logits, 1)}

    def level(self, now: dict[str, Tensor], sigma: float) -> MovingProductLevel:
        """The model with parameters `now` at a noise level."""
        lowest = now["logits"].amax(1, keepdim=True).detach() - DEPTH
        return MovingProductLevel(
            filters=now["filters"].float(),
            log_weights=now["logits"].maximum(lowest).float(),
            bound=self.start.experts.bound,
            noise=torch.tensor(sigma * sigma, dtype=torch.float32),
            mean_part=self.start.mean_part,
        )

    @torch.no_grad()
    def snapshot(self) -> PatchModel:
        """The present model, float32, frozen."""
        now = self.parameters_now()
        filters = now["filters"].float().reshape(self.start.filters.shape)
        model = PatchModel(filters, now["logits"].float(), self.start.experts.bound)
        return _with_mean_of(self.start, model)


def moving(start: PatchMixture | PatchModel) -> MovingMixture | MovingProduct:
    """The free parameters of a model."""
    return MovingProduct(start) if isinstance(start, PatchModel) else MovingMixture(start)


@dataclass(frozen=True)
class MovingProductLevel:
    """A product at a noise variance: `filters` (J, a), `log_weights` (J, L), `noise` ().

    Values and gradients are the fused ones of `training.product_sums`.
    """

    filters: Tensor
    log_weights: Tensor
    bound: float
    noise: Tensor
    mean_part: MeanPart

    def posterior_mean(self, y: Tensor) -> Tensor:
        """(N, a) posterior mean of patches (N, a), differentiable in y, filters and weights."""
        flat = MeanPart(self.mean_part.channels, self.mean_part.pixels)
        mean = self.mean_part.posterior_mean(y, self.noise) - flat.posterior_mean(y, self.noise)
        zero_mean = _PosteriorMean.apply(
            y, self.filters, self.log_weights, self.noise.to(y.dtype), self.bound
        )
        return zero_mean + mean


class _At(nn.Module):
    """`model.at`, callable with other parameters by `functional_call`."""

    def __init__(self, model: PatchMixture) -> None:
        super().__init__()
        self.model = model

    def forward(self, noise: Tensor) -> DiffusedMixture:
        return self.model.at(noise)


class _PosteriorMean(torch.autograd.Function):
    """y + sigma² score of a product, with its analytic gradients, in bounded memory."""

    @staticmethod
    def forward(y: Tensor, filters: Tensor, log_weights: Tensor, noise: Tensor, bound: float):
        return product_sums.posterior_means(filters, log_weights, y, noise, bound)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:4])
        ctx.bound = inputs[4]

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        y, filters, log_weights, noise = ctx.saved_tensors
        gradients = product_sums.posterior_mean_gradients(
            filters, log_weights, y, noise, ctx.bound, g
        )
        return (*gradients, None, None)


def _with_mean_of(start: PatchMixture | PatchModel, model):
    variance = start.mean_part.variance
    return (model if variance is None else model.with_mean(variance)).requires_grad_(False)
