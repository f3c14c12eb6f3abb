"""A picture of a `ConvolutionalModel`: whose frequencies are whose, the filters, the potentials.

Imports matplotlib late: only when something is drawn.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from gmdm_prior.densities.convolutional.model import ConvolutionalModel
from gmdm_prior.densities.convolutional.spectra import sample_bands

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

SIGMAS = (0.0, 0.05, 0.2)
PANELS, BINS, KERNEL = 12, 120, 17  # potentials at most; of a histogram; pixels of a filter shown


def two_parts(figure: Figure | SubFigure, *shape: int, **options: Any) -> list[SubFigure]:
    """The two parts of a figure that is cut in rows or columns."""
    return list(cast(Any, figure.subfigures(*shape, **options)))


def convolutional(figure: SubFigure, model: ConvolutionalModel, patches: Tensor) -> None:
    """Draw a model beside images (N, 1, N, N) of the size of its grid."""
    left, right = two_parts(figure, 1, 2, width_ratios=(1, 1.9))
    above, below = two_parts(left, 2, 1, height_ratios=(1, 1.2))
    owners(above.subplots(), model)
    count = len(model.magnitude)
    columns = math.ceil(math.sqrt(count))
    panels = below.subplots(math.ceil(count / columns), columns, squeeze=False).flatten()
    for panel in panels:
        panel.set_axis_off()
    middle, reach = model.owner.shape[0] // 2, KERNEL // 2
    for j, (panel, kernel) in enumerate(zip(panels, model.filters[:, 0], strict=False)):
        part = kernel[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]
        panel.imshow(part.numpy(), cmap="gray", vmin=-part.abs().max(), vmax=part.abs().max())
        panel.set_title(f"{j}: ξ = {float(model.magnitude[j].detach()):.2g}", fontsize=8)
    below.suptitle(f"filters, the {KERNEL}×{KERNEL} pixels in their middle")
    chosen = torch.linspace(0, count - 1, min(PANELS, count)).round().long().tolist()
    rows = math.ceil(len(chosen) / 4)
    grid = right.subplots(rows, min(4, len(chosen)), squeeze=False).flatten()
    for panel in grid[len(chosen) :]:
        panel.set_axis_off()
    for panel, j in zip(grid, chosen, strict=False):
        potential(panel, model, j, patches)
    grid[0].legend(fontsize=7, loc="lower right")
    right.suptitle("potentials −log ψ (lines) and −log of the responses' histogram (dots), over z")


def owners(axes: Axes, model: ConvolutionalModel) -> None:
    """The frequencies of the grid, zero in the middle, coloured by the filter that owns them."""
    grid = len(model.owner)
    mirror = -torch.arange(grid) % grid
    left = model.owner.cpu()[mirror][:, 1 : grid // 2].flip(1)
    plane = torch.fft.fftshift(torch.cat([model.owner.cpu(), left], 1), (0, 1))
    axes.imshow(plane.numpy(), cmap="tab20", interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(f"{len(model.magnitude)} filters by the frequencies they own")


def potential(axes: Axes, model: ConvolutionalModel, j: int, patches: Tensor) -> None:
    """−log psi_j at some noise levels, and −log of the histogram of the noisy responses."""
    x = patches.detach().double()[:, 0]
    bands = sample_bands(model.owner, model.phase.detach().double(), (x.shape[-2], x.shape[-1]))
    xi = float(model.magnitude[j].detach())
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x.shape, dtype=x.dtype, generator=generator)
    for i, sigma in enumerate(SIGMAS):
        spectrum = torch.fft.rfft2(x + sigma * noise) * bands.phasor * (xi * bands.mask(j))
        z = torch.fft.irfft2(spectrum, bands.size).flatten()
        reach = float(z[:: max(1, len(z) // 10**6)].abs().quantile(0.9999))
        edges = torch.linspace(-reach, reach, BINS + 1, dtype=torch.float64)
        middle = (edges[1:] + edges[:-1]) / 2
        counts = torch.histogram(z, edges).hist
        seen = counts >= 3
        empirical = -(counts / (len(z) * (edges[1] - edges[0]))).log()
        added = (sigma * model.magnitude.detach().double()).square()
        experts = model.experts.diffuse(added)
        learned = -experts.log_prob(middle[:, None].expand(-1, len(added)))[:, j].detach()
        axes.plot(middle[seen], empirical[seen], ".", color=f"C{i}", markersize=2.5, alpha=0.7)
        axes.plot(middle, learned, "-", color=f"C{i}", linewidth=1.2, label=f"σ = {sigma:g}")
    axes.set_title(f"filter {j}, owns {float(bands.share(j)):.1%}", fontsize=8)
    axes.tick_params(labelsize=7)
