"""Denoising score matching (paper, Eq. 4, with the square), fused for the paper's patch model.

    loss = 1/N sum_i ‖x_i − y_i − sigma_i² ∇ log f(y_i, sigma_i)‖²                    (Eq. 4)

For a `PatchModel`, with responses z_j = <k_j, y>, variances s_j = sigma_0² + ‖k_j‖² sigma²,
responsibilities r_l ∝ w_jl N(z_j; mu_l, s_j) and expert scores c_j = (m_j − z_j) / s_j, where m_j =
sum_l r_l mu_l, the residual of a patch is e = y − x + sigma² sum_j c_j k_j. With g = 2 e / N and
u_j = sigma² <g, k_j> the gradients of the loss are

    ∂/∂k_j     = sum_i sigma² c_j g + u_j ∂_z c_j y + 2 sigma² u_j ∂_s c_j k_j
    ∂/∂zeta_jl = sum_i u_j / s_j r_l (mu_l − m_j)
    ∂_z c = (V / s − 1) / s,     ∂_s c = (T − 2 (z − m) V) / (2 s³) − c / s

with V and T the second and third central moments of mu under r. So one exponential for each
(patch, expert, component) gives loss and both gradients, a few patches at a time: no (N, J, L)
tensor and no autograd (`product_sums`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.densities.batches import check_events
from gmdm_prior.densities.product import PatchModel
from gmdm_prior.sigma import compute_dtype, event_variance
from gmdm_prior.training.score.product_sums import sums_over_patches

SPREAD = {torch.float32: 60.0, torch.float64: 600.0}  # largest range of log-weights of an expert


def denoising_score_matching(
    model: DensityModel, x: Tensor, y: Tensor, sigma: float | Tensor
) -> Tensor:
    """Mean over the events of ‖x − y − sigma² score(y, sigma)‖² (Eq. 4, with the square).

    Differentiable once in the parameters of the model that require gradients. For a `PatchModel`
    with its flat mean, loss and gradients are fused and analytic, in memory that does not grow with
    the number of patches; for any other model they go through autograd. The squared norm is summed
    over the numbers of an event and not divided by sigma. Directions in which the density is flat
    add the constant ‖P(x − y)‖²; noise without a mean has none along the mean of a patch.

    Args:
        model: a density.
        x: (*batch, *event_shape) clean events.
        y: the same events with noise of standard deviation `sigma`, like x.
        sigma: a number, or a tensor that broadcasts to the batch shape.

    Returns:
        A scalar, in the type of the model's parameters (half types: float32).

    Raises:
        TypeError: `model` is no density, or x or y no floating-point tensor.
        ValueError: shapes that do not fit, an empty batch, or an impossible level.
    """
    if not isinstance(model, DensityModel):
        raise TypeError(
            f"model must be a DensityModel such as gm.PatchModel; got {type(model).__name__}"
        )
    _check_pair(model, x, y)
    if type(model) is PatchModel and model.mean_part.variance is None:
        return _of_patch_model(model, x, y, sigma)
    batch = x.shape[: x.ndim - len(model.event_shape)]
    variance = event_variance(sigma, batch, y)
    variance = variance.reshape(*variance.shape, *[1] * len(model.event_shape))
    residual = y - x + variance * model.score(y, sigma)
    return residual.square().sum() / math.prod(batch)


@dataclass(frozen=True)
class FusedLoss:
    """Sums over patches: `loss` and, where asked for, the gradients of `filters` and `logits`."""

    loss: Tensor
    filters: Tensor | None
    logits: Tensor | None


@torch.no_grad()
def product_loss(
    filters: Tensor,
    logits: Tensor,
    x: Tensor,
    y: Tensor,
    variance: Tensor,
    bound: float = 1.0,
    wanted: tuple[bool, bool] = (True, True),
) -> FusedLoss:
    """Loss of Eq. 4 for the product model with its analytic gradients, fused.

    Args:
        filters: (J, a), any rows; orthogonality is not used.
        logits: (J, L) mixture logits zeta.
        x: (N, a) clean patches.
        y: (N, a) noisy patches.
        variance: (N,) noise variances sigma².
        bound: gamma, the outermost mean.
        wanted: whether the gradients of filters and of logits are wanted.

    Returns:
        Loss () and gradients, divided by N, in the type of `filters`. Weights further than e^-600
        below the largest of their expert count as that.
    """
    dtype = filters.dtype
    log_weights = torch.log_softmax(logits.to(dtype), 1)
    depth = log_weights.amax(1, keepdim=True) - log_weights
    if dtype == torch.float32 and float(depth.max()) > SPREAD[dtype]:
        filters, x, y, variance = (t.double() for t in (filters, x, y, variance))
        log_weights = torch.log_softmax(logits.double(), 1)
    lowest = log_weights.amax(1, keepdim=True) - SPREAD[filters.dtype]
    log_weights = log_weights.maximum(lowest)
    sums = sums_over_patches(filters, log_weights, x, y, variance, bound, wanted)
    return FusedLoss(*(None if s is None else (s / len(y)).to(dtype) for s in sums))


def _of_patch_model(model: PatchModel, x: Tensor, y: Tensor, sigma: float | Tensor) -> Tensor:
    filters, logits = model.filters, model.experts.logits
    dtype = compute_dtype(filters.dtype)
    clean = x.detach().reshape(-1, math.prod(model.event_shape)).to(dtype)
    noisy = y.detach().reshape(clean.shape).to(dtype)
    variance = event_variance(sigma, x.shape[: x.ndim - 3], noisy).reshape(-1).expand(len(clean))
    rows = filters.flatten(1).to(dtype)
    scores = logits.to(dtype)
    graded = torch.is_grad_enabled()
    wanted = graded and filters.requires_grad, graded and logits.requires_grad
    fused = product_loss(
        rows.detach(), scores.detach(), clean, noisy, variance, model.experts.bound, wanted
    )
    if not any(wanted):
        return fused.loss
    known = [p for p, w in zip((rows, scores), wanted, strict=True) if w]
    gradients = [g for g in (fused.filters, fused.logits) if g is not None]
    return _KnownGradients.apply(fused.loss, len(known), *known, *gradients)


class _KnownGradients(torch.autograd.Function):
    """A value whose gradients have been worked out with it."""

    @staticmethod
    def forward(value: Tensor, count: int, *tensors: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.count = inputs[1]
        ctx.save_for_backward(*inputs[2 + ctx.count :])

    @staticmethod
    @once_differentiable
    def backward(ctx, factor):
        gradients = [factor * g for g in ctx.saved_tensors]
        return (None, None, *gradients, *[None] * ctx.count)


def _check_pair(model: DensityModel, x: Tensor, y: Tensor) -> None:
    check_events(x, model.event_shape)
    check_events(y, model.event_shape)
    if x.shape != y.shape:
        raise ValueError(
            f"y must be x with noise, of the same shape; got x {tuple(x.shape)}, y {tuple(y.shape)}"
        )
    if x.dtype != y.dtype or x.device != y.device:
        raise ValueError(
            f"y must have the type and device of x; got x {x.dtype} on {x.device}, "
            f"y {y.dtype} on {y.device}: use y.to(x)"
        )
    if x.numel() == 0:
        raise ValueError("x must hold at least one event: a mean over none has no value")
