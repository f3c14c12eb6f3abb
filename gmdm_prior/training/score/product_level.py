"""A product of experts at a noise variance, with fused values and gradients (`product_sums`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gmdm_prior.densities.mean import MeanPart
from gmdm_prior.training.score import product_sums

DEPTH = 60.0  # of log-weights below the largest of their expert: float32 has no more


@dataclass(frozen=True)
class ProductLevel:
    """A product at a noise variance: `filters` (J, a), `log_weights` (J, L), `noise` ()."""

    filters: Tensor
    log_weights: Tensor
    bound: float
    noise: Tensor
    mean_part: MeanPart

    def posterior_mean(self, y: Tensor) -> Tensor:
        """(N, a) posterior mean of patches (N, a), differentiable in y, filters and weights."""
        part = self.mean_part
        mean = part.posterior_mean(y, self.noise) - part.flat.posterior_mean(y, self.noise)
        zero_mean = _PosteriorMean.apply(
            y, self.filters, self.log_weights, self.noise.to(y.dtype), self.bound
        )
        return zero_mean + mean


def bounded(log_weights: Tensor) -> Tensor:
    """Log-weights (J, L) of which none is further below the largest than float32 can hold."""
    return log_weights.maximum(log_weights.amax(1, keepdim=True).detach() - DEPTH)


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
