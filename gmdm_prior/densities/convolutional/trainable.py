"""A `ConvolutionalModel` with free parameters: any values keep supports disjoint, magnitudes flat.

    phases       free as they are
    magnitudes   exp(log-magnitudes)
    weights      softmax(logits), as the experts have them anyway

Supports stay those of the start. (A gradient step on filters, projected back by
`constraints.project_disjoint`, could move a frequency from one filter to another only where their
magnitudes are closer than the step, and would otherwise do the same with more numbers.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.densities.convolutional.model import ConvolutionalModel
from gmdm_prior.densities.experts import EquidistantExperts


class TrainableConvolution(ConvolutionalModel):
    """A `ConvolutionalModel` with free parameters.

    Args:
        start: the model at first; its dtype is kept.

    Attributes:
        phase: (N, N // 2 + 1) radians.
        log_magnitude: (J,).
        experts: its `logits` (J, L) are free as they are.
    """

    def __init__(self, start: ConvolutionalModel) -> None:
        DensityModel.__init__(self)
        self.register_buffer("owner", start.owner.clone())
        self.phase = nn.Parameter(start.phase.detach().clone())
        self.log_magnitude = nn.Parameter(start.magnitude.detach().log())
        self.experts = EquidistantExperts(start.experts.logits, start.experts.bound)

    @property
    def magnitude(self) -> Tensor:
        """Magnitudes (J,), which are positive."""
        return self.log_magnitude.exp()

    @torch.no_grad()
    def frozen(self) -> ConvolutionalModel:
        """The present density as a plain, frozen `ConvolutionalModel`."""
        numbers = self.owner, self.phase, self.magnitude, self.experts.logits
        return ConvolutionalModel(*numbers, self.experts.bound).requires_grad_(False)
