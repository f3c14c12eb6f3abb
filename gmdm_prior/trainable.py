"""Models with free parameters, for unfolded networks: every value of them is an exact density.

    filters     A exp(S - Sᵀ), a rotation of the zero-mean subspace (a `PatchModel`: times norms)
    variances   exp of a free number; norms likewise
    weights     softmax of free numbers

The model stays what it is, a `PatchMixture` or `PatchModel` whose `filters`, `variances` and
`weights` are worked out from the free parameters at every look (`torch.nn.utils.parametrize`), so
that whatever takes the model takes the trainable one, and gradients reach the parameters. Rotations
keep the bases as orthonormal as they were: load a model in float64 for identities to 1e-10.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .constraints import zero_mean_basis

Model = TypeVar("Model", bound=nn.Module)


class _Rotated(nn.Module):
    """Orthonormal filters (…, J, C, b, b), turned by a free matrix (…, n, n), n = C (b² - 1)."""

    def __init__(self, filters: Tensor) -> None:
        super().__init__()
        channels, size = filters.shape[-3], filters.shape[-1]
        axes = zero_mean_basis(channels, size).to(filters)
        self.register_buffer("axes", axes)
        self.register_buffer("start", filters.detach().flatten(-3) @ axes.T)
        self.shape = filters.shape

    def forward(self, turn: Tensor) -> Tensor:
        rows = self.start @ torch.matrix_exp(turn - turn.mT)
        return (rows @ self.axes).reshape(self.shape)

    def right_inverse(self, filters: Tensor) -> Tensor:
        n = self.axes.shape[0]
        return filters.new_zeros((*filters.shape[:-4], n, n))


class _RotatedWithNorms(_Rotated):
    """Orthogonal filters (J, C, b, b): directions that are turned, times the exp of log-norms."""

    def __init__(self, filters: Tensor) -> None:
        norms = filters.detach().flatten(1).norm(dim=1)[:, None, None, None]
        super().__init__(filters.detach() / norms)

    def forward(self, turn: Tensor, log_norms: Tensor) -> Tensor:  # type: ignore[override]
        return log_norms.exp()[:, None, None, None] * super().forward(turn)

    def right_inverse(self, filters: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().right_inverse(filters), filters.flatten(1).norm(dim=1).log()


class _Positive(nn.Module):
    def forward(self, logarithm: Tensor) -> Tensor:
        return logarithm.exp()

    def right_inverse(self, value: Tensor) -> Tensor:
        return value.log()


class _Share(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits, 0)

    def right_inverse(self, value: Tensor) -> Tensor:
        return value.log()


def trainable_mixture(model: Model) -> Model:
    """A trainable copy of a `PatchMixture`."""
    free = _copy(model)
    _register(free, "filters", _Rotated(model.filters))
    _register(free, "variances", _Positive())
    _register(free, "weights", _Share())
    return free.requires_grad_(True)


def trainable_product(model: Model) -> Model:
    """A trainable copy of a `PatchModel`."""
    free = _copy(model)
    _register(free, "filters", _RotatedWithNorms(model.filters))
    return free.requires_grad_(True)


def is_trainable(model: nn.Module) -> bool:
    """Whether a model has free parameters in the place of its own."""
    return parametrize.is_parametrized(model)


def _copy(model: Model) -> Model:
    if is_trainable(model):
        raise ValueError("this model is trainable already: use it as it is")
    return copy.deepcopy(model)


def _register(model: nn.Module, name: str, parametrization: nn.Module) -> None:
    # unsafe: free parameters need not have the shape of what they make
    parametrize.register_parametrization(model, name, parametrization, unsafe=True)
