"""Models with free parameters, for unfolded networks: any values of them give an exact density.

`model.trainable()` is a model of the same class with the same density and other parameters,

    bases        exp(W - Wᵀ) A          from zero-mean rows A, the start: W = 0 at first
    variances    exp(log-variances)     also the norms of a product's filters
    weights      softmax(log-weights)   of a product: the logits that it has anyway

so that after any optimiser's step bases are orthonormal and zero-mean, variances positive, weights
of sum one. `filters`, `variances` and `weights` are computed when they are read, with gradients.
While gradients are recorded image denoisers and likelihoods take neither tables nor compiled
kernels; under `torch.no_grad()` they are as fast as ever. `frozen()` is the plain model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gmdm_prior.constraints import orthonormalise, polar_factor, zero_mean_basis
from gmdm_prior.densities.base import DensityModel, PatchDensity, trainable_copy
from gmdm_prior.densities.experts import EquidistantExperts
from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.densities.product import PatchModel

LEAST_WEIGHT = 1e-30  # a softmax that rounds to zero has no logarithm


class TrainableMixture(PatchMixture):
    """A `PatchMixture` with free parameters; made by `PatchMixture.trainable`.

    Args:
        start: the model at first; its dtype is kept (float64 weights keep identities to 1e-10).

    Attributes:
        rotation: (G, J, J), W.
        log_variances: (K, J).
        log_weights: (K,), up to a constant.
    """

    def __init__(self, start: PatchMixture) -> None:
        DensityModel.__init__(self)
        self.register_buffer("start", orthonormalise(start.filters.detach()))
        self.register_buffer("basis", start.basis.clone())
        self.rotation = nn.Parameter(_no_rotation(self.start.flatten(2)))
        self.log_variances = nn.Parameter(start.variances.detach().log())
        self.log_weights = nn.Parameter(start.weights.detach().log())
        self.symmetries = start.symmetries
        self.event_shape, self.mean_part = start.event_shape, start.mean_part

    @property
    def filters(self) -> Tensor:
        """Bases (G, J, C, b, b), orthonormal and zero-mean."""
        turned = _rotation(self.rotation) @ self.start.flatten(2)
        return turned.reshape(self.start.shape)

    @property
    def variances(self) -> Tensor:
        """Variances (K, J), which are positive."""
        return self.log_variances.exp()

    @property
    def weights(self) -> Tensor:
        """Weights (K,), positive, of sum one."""
        return torch.softmax(self.log_weights, 0).clamp(min=LEAST_WEIGHT)

    @property
    def num_parameters(self) -> int:
        """The number of stored numbers, once the model is frozen."""
        return self.start.numel() + self.log_variances.numel() + self.log_weights.numel()

    @torch.no_grad()
    def frozen(self) -> PatchMixture:
        """The present density as a plain, frozen `PatchMixture`."""
        model = PatchMixture(
            self.filters, self.variances, self.weights, self.basis, self.symmetries
        )
        return _frozen_as(self, model)


class TrainableProduct(PatchModel):
    """A `PatchModel` with free parameters; made by `PatchModel.trainable`.

    The rotation is one of the whole zero-mean subspace, also where there are fewer filters.

    Args:
        start: the model at first; its dtype is kept (float64 weights keep identities to 1e-10).

    Attributes:
        rotation: (C (b² - 1), C (b² - 1)), W.
        log_norms: (J,), of the filters.
        experts: its `logits` (J, L) are free as they are.
    """

    def __init__(self, start: PatchModel) -> None:
        DensityModel.__init__(self)
        self.event_shape, self.mean_part = start.event_shape, start.mean_part
        filters = start.filters.detach()
        axes = zero_mean_basis(self.channels, self.patch_size).to(filters.device)
        rows = filters.double().flatten(1) @ axes.T
        norms = rows.norm(dim=1)
        rest = torch.linalg.svd(rows)[2][len(rows) :]  # completes the basis
        basis = torch.cat([polar_factor(rows / norms[:, None]), rest]) @ axes
        self.register_buffer("start", basis.to(filters.dtype))
        self.rotation = nn.Parameter(_no_rotation(self.start))
        self.log_norms = nn.Parameter(norms.log().to(filters.dtype))
        self.experts = EquidistantExperts(start.experts.logits, start.experts.bound)

    @property
    def filters(self) -> Tensor:
        """Filters (J, C, b, b), orthogonal and zero-mean."""
        turned = _rotation(self.rotation)[: len(self.log_norms)] @ self.start
        return (self.log_norms.exp()[:, None] * turned).unflatten(1, self.event_shape)

    @property
    def num_parameters(self) -> int:
        """The number of stored numbers, once the model is frozen."""
        return len(self.log_norms) * self.start.shape[1] + self.experts.logits.numel()

    @torch.no_grad()
    def frozen(self) -> PatchModel:
        """The present density as a plain, frozen `PatchModel`."""
        return _frozen_as(self, PatchModel(self.filters, self.experts.logits, self.experts.bound))


@trainable_copy.register
def _of_mixture(model: PatchMixture) -> TrainableMixture:
    return TrainableMixture(model)


@trainable_copy.register
def _of_product(model: PatchModel) -> TrainableProduct:
    return TrainableProduct(model)


def _no_rotation(rows: Tensor) -> Tensor:
    """Zeros (…, n, n) for rows (…, n, a)."""
    return rows.new_zeros(*rows.shape[:-1], rows.shape[-2])


def _rotation(free: Tensor) -> Tensor:
    """exp(W - Wᵀ), orthogonal matrices (…, n, n)."""
    return torch.matrix_exp(free - free.mT)


def _frozen_as(model: PatchDensity, plain: PatchDensity) -> Any:
    variance = model.mean_part.variance
    return (plain if variance is None else plain.with_mean(variance)).requires_grad_(False)
