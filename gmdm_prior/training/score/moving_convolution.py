"""A `ConvolutionalModel` with free parameters: every step keeps supports disjoint, magnitudes flat.

Phases, logarithms of magnitudes and logits are free, supports stay those of the start. (A gradient
step on filters, projected back by `constraints.project_disjoint`, could move a frequency from one
filter to another only where their magnitudes are closer than the step, and would otherwise do the
same with more numbers.)

For the experts a posterior mean is worked out at the nodes of a table that covers the responses at
hand, and read from it linearly: gradients go through the table, one exponential for each node and
component instead of each response and component.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from gmdm_prior.densities.convolutional.model import ConvolutionalModel
from gmdm_prior.densities.convolutional.spectra import sample_bands

CELLS = 1024  # of a table, over the range of the responses of a batch


class MovingConvolution(nn.Module):
    """Free parameters of a model.

    Args:
        start: where they begin.
    """

    def __init__(self, start: ConvolutionalModel) -> None:
        super().__init__()
        start = copy.deepcopy(start).double().requires_grad_(False)
        self._start = [start]  # in a list: no parameters of this module
        self.phase = nn.Parameter(start.phase.clone())
        self.log_magnitude = nn.Parameter(start.magnitude.log())
        self.logits = nn.Parameter(torch.log_softmax(start.experts.logits, 1))

    @property
    def start(self) -> ConvolutionalModel:
        """The model at the beginning, float64."""
        return self._start[0]

    def denoise(self, y: Tensor, sigma: float) -> Tensor:
        """`ConvolutionalModel.denoise` of planes (N, H, W) in float32, differentiable."""
        start = self.start
        bands = sample_bands(start.owner, self.phase.float(), tuple(y.shape[-2:]))
        magnitude = self.log_magnitude.exp().float()
        log_weights = torch.log_softmax(self.logits, 1).float()
        means, base = start.experts.means.float(), start.experts.base_scale**2
        spectrum = torch.fft.rfft2(y)
        turned, total = spectrum * bands.phasor, spectrum * bands.mask(-1)
        for j, xi in enumerate(magnitude):
            mask = bands.mask(j)
            z = torch.fft.irfft2(turned * (xi * mask), bands.size)
            noise = xi.square() * (sigma * sigma)
            mean = _posterior_mean(z, log_weights[j], means, base, noise)
            total = total + torch.fft.rfft2(mean) * (mask * bands.phasor.conj()) / xi
        return torch.fft.irfft2(total, bands.size)

    @torch.no_grad()
    def snapshot(self) -> ConvolutionalModel:
        """The present model, float32, frozen."""
        model = ConvolutionalModel(
            self.start.owner,
            self.phase.float(),
            self.log_magnitude.exp().float(),
            torch.log_softmax(self.logits, 1).float(),
            self.start.experts.bound,
        )
        return model.requires_grad_(False)


def _posterior_mean(
    z: Tensor, log_weights: Tensor, means: Tensor, base: float, noise: Tensor
) -> Tensor:
    """Posterior mean of clean responses, by a table over [-reach, reach]."""
    reach = float(z.detach().abs().max()) * (1 + 1e-5) + 1e-6
    nodes = torch.linspace(-reach, reach, CELLS + 1, dtype=z.dtype, device=z.device)
    s = base + noise
    weights = torch.softmax(log_weights - 0.5 * (nodes[:, None] - means).square() / s, 1)
    table = (base * nodes + noise * (weights @ means)) / s
    place = (z + reach) * (CELLS / (2 * reach))
    cell = place.detach().floor().clamp(0, CELLS - 1).long()
    return torch.lerp(table[cell], table[cell + 1], place - cell)
