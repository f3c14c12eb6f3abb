"""Pictures of what a model has learned: filters, potentials against marginals, classes, curves.

`report` draws one page. For the paper's product of experts: its filters by norm (Fig. 7) and the
learned potentials −log psi_j at several noise levels beside the negative logarithm of the empirical
marginals of the same noisy responses (Figs. 1 and 7). For a mixture: its bases, the variances of
its classes, and the patches that each class claims most.

Matplotlib is imported when something is drawn, with its file-only backend, and no global setting of
it is touched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from gmdm_prior import symmetry
from gmdm_prior.densities.base import DensityModel
from gmdm_prior.densities.convolutional.model import ConvolutionalModel
from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.densities.product import PatchModel
from gmdm_prior.pictures.convolutional import convolutional, two_parts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

Curve = Sequence[dict[str, Any]]

POTENTIAL_SIGMAS = (0.025, 0.1, 0.2)
POTENTIALS = 12  # filters whose potentials are drawn
BINS = 100
CLASSES, EXAMPLES = 18, 8
STAGES = {  # title and unit of the loss
    "full": ("EM, full covariances", "−log f, nats per dimension"),
    "tied": ("EM, the mixture itself", "−log f, nats per dimension"),
    "score": ("score matching of the image denoiser", "−PSNR, dB"),
    "hqs": ("score matching through HQS", "−PSNR, dB"),
    "ipalm": ("denoising score matching (Eq. 4)", "squared error per patch"),
}


def report(model: DensityModel, patches: Tensor, path: Path, curve: Curve = ()) -> None:
    """Draw one page about a model.

    Args:
        model: a `PatchModel`, a `PatchMixture` or a `ConvolutionalModel`.
        patches: (N, C, b, b) clean patches to compare with; their means do not matter.
        path: the picture, in a format of matplotlib's by its suffix.
        curve: rows of metrics.csv: step, stage, loss, held_out_loss, psnr.

    Raises:
        TypeError: for another kind of model.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 11), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = two_parts(figure, 2, 1, height_ratios=(2.9, 1))
    patches = patches - patches.mean((-2, -1), keepdim=True)
    if isinstance(model, PatchModel):
        product(top, model, patches)
    elif isinstance(model, PatchMixture):
        _mixture(top, model, patches)
    elif isinstance(model, ConvolutionalModel):
        convolutional(top, model, patches)
    else:
        raise TypeError(
            "model must be a ConvolutionalModel, PatchModel or PatchMixture; got "
            f"{type(model).__name__}"
        )
    training_curve(bottom, curve)
    figure.savefig(path, dpi=110)


def tile(images: Tensor, columns: int, gap: float = float("nan")) -> Tensor:
    """Small images (N, C, b, b) side by side, each scaled to fill [−1, 1] around its zero.

    Returns:
        (rows (b + 1) − 1, columns (b + 1) − 1), or with a last axis of 3 for colour, where they are
        mapped to [0, 1]. `gap` lies between.
    """
    images = images.detach().double()
    images = images / images.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    if images.shape[1] == 3:
        images, gap = (images + 1) / 2, 1.0
    count, channels, size, _ = images.shape
    rows = math.ceil(count / columns)
    canvas = images.new_full((channels, rows * (size + 1) - 1, columns * (size + 1) - 1), gap)
    for i, image in enumerate(images):
        top, left = (i // columns) * (size + 1), (i % columns) * (size + 1)
        canvas[:, top : top + size, left : left + size] = image
    return canvas[0] if channels == 1 else canvas.movedim(0, -1)


def _show(axes: Axes, images: Tensor, columns: int) -> None:
    axes.imshow(tile(images, columns).numpy(), cmap="gray", vmin=-1, vmax=1)
    axes.set_axis_off()


def product(
    figure: Figure | SubFigure, model: PatchModel, patches: Tensor, potentials: int = POTENTIALS
) -> None:
    """Filters by norm, and the potentials of some beside the marginals of patches."""
    norms = model.filters.detach().flatten(1).norm(dim=1)
    order = norms.argsort(descending=True)
    left, right = two_parts(figure, 1, 2, width_ratios=(1, 1.9))
    axes = left.subplots()
    columns = math.ceil(math.sqrt(len(order)))
    _show(axes, model.filters[order], columns)
    axes.set_title(
        f"{len(order)} filters by norm, {norms.max():.3g} (top left) to {norms.min():.3g}"
    )
    count = min(potentials, len(order))
    chosen = order[torch.linspace(0, len(order) - 1, count).round().long()]
    grid = right.subplots(math.ceil(count / 4), min(4, count), squeeze=False).flatten()
    for panel in grid[count:]:
        panel.set_axis_off()
    for rank, (panel, j) in enumerate(zip(grid, chosen.tolist(), strict=False)):
        potential(panel, model, j, patches)
        _thumbnail(panel, model.filters[j])
        if rank == 0:
            panel.legend(fontsize=7, loc="lower right")
    right.suptitle("potentials −log ψ (lines) and −log of the empirical marginals (dots)")
    right.supxlabel("response z")
    right.supylabel("nats")


def _thumbnail(axes: Axes, kernel: Tensor) -> None:
    inset = axes.inset_axes((0.02, 0.02, 0.27, 0.27))
    _show(inset, kernel[None], 1)


def potential(
    axes: Axes,
    model: PatchModel,
    j: int,
    patches: Tensor,
    sigmas: Sequence[float] = POTENTIAL_SIGMAS,
) -> None:
    """−log psi_j at some noise levels, and −log of the histogram of the noisy responses.

    Args:
        axes: where to draw.
        model: the product.
        j: number of the filter.
        patches: (N, C, b, b) clean patches.
        sigmas: noise levels.
    """
    row = model.filters[j].detach().double().flatten()
    square = float(row.square().sum())
    clean = patches.detach().double().flatten(1) @ row
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(clean.shape, dtype=clean.dtype, generator=generator)
    reach = float((clean + max(sigmas) * math.sqrt(square) * noise).abs().quantile(0.999))
    z = torch.linspace(-reach, reach, BINS + 1, dtype=torch.float64)
    middle, heights = (z[1:] + z[:-1]) / 2, []
    for i, sigma in enumerate(sigmas):
        filters = model.filters.detach().double().flatten(1)
        experts = model.experts.diffuse(sigma**2 * filters.square().sum(1))
        learned = -experts.log_prob(middle[:, None].expand(-1, len(filters)))[:, j].detach()
        noisy = clean + sigma * math.sqrt(square) * noise
        counts = torch.histogram(noisy, z).hist
        empirical = -(counts / (len(noisy) * (z[1] - z[0]))).log()
        seen = counts >= 3
        heights += [*empirical[seen].tolist(), float(learned.min())]
        axes.plot(middle[seen], empirical[seen], ".", color=f"C{i}", markersize=2.5, alpha=0.7)
        axes.plot(middle, learned, "-", color=f"C{i}", linewidth=1.2, label=f"σ = {sigma:g}")
    room = 0.1 * (max(heights) - min(heights)) + 0.1
    axes.set_ylim(min(heights) - room, max(heights) + 4 * room)  # what rises further is cut off
    axes.tick_params(labelsize=8)


def _mixture(figure: SubFigure, model: PatchMixture, patches: Tensor) -> None:
    left, right = two_parts(figure, 1, 2, width_ratios=(1.25, 1))
    above, below = two_parts(left, 2, 1, height_ratios=(1, 1.15))
    panels = above.subplots(1, len(model.filters), squeeze=False)[0]
    weights = model.weights.detach().double()
    for g, panel in enumerate(panels):
        k = model.basis == g
        mean = (weights[k, None] * model.variances[k]).sum(0)
        order = mean.argsort(descending=True)
        _show(panel, model.filters[g][order], math.ceil(math.sqrt(len(order))))
        share = float(weights[k].sum())
        panel.set_title(f"basis {g + 1}: {int(k.sum())} classes, {share:.0%}", fontsize=10)
    above.suptitle("bases, filters by variance")
    class_variances(below.subplots(), model)
    class_examples(right.subplots(), model, patches)


def class_variances(axes: Axes, model: PatchMixture) -> None:
    """Standard deviations √v_kj of every class, in gray levels, each in falling order."""
    import matplotlib

    deviations = 255 * model.variances.detach().double().sqrt().sort(1, descending=True).values
    order = deviations.square().sum(1).argsort()
    colours = matplotlib.colormaps["viridis"](torch.linspace(0, 0.95, len(order)).numpy())
    heaviest = float(model.weights.detach().max())
    for colour, k in zip(colours, order.tolist(), strict=True):
        width = 0.5 + 2.5 * math.sqrt(float(model.weights[k]) / heaviest)
        axes.plot(range(1, 1 + deviations.shape[1]), deviations[k], color=colour, linewidth=width)
    axes.set(
        yscale="log",
        xlabel="direction of the class's basis, by variance",
        ylabel="standard deviation, gray levels",
        title=f"the {len(order)} classes (wide lines: frequent)",
    )
    axes.grid(alpha=0.3)


def class_examples(axes: Axes, model: PatchMixture, patches: Tensor) -> None:
    """The most frequent classes, each with the patches that it claims most, turned as it sees them.

    Args:
        axes: where to draw.
        model: the mixture.
        patches: (N, C, b, b) zero-mean patches.
    """
    with torch.no_grad():
        seen = model.responsibilities(patches.float(), 1 / 255)  # (N, |H|, K)
    claims = seen.sum(1)
    rows = _frequent_classes(model)
    size, columns = patches.shape[-1], min(EXAMPLES, len(patches))
    chosen = []
    for k in rows:
        for i in claims[:, k].topk(columns).indices.tolist():
            element = symmetry.group(model.symmetries)[int(seen[i, :, k].argmax())]
            chosen.append(symmetry.act(patches[i], element))
    _show(axes, torch.stack(chosen), columns)
    for row, k in enumerate(rows):
        text = f"{float(model.weights[k]):.1%}, basis {int(model.basis[k]) + 1}"
        axes.text(-1.5, row * (size + 1) + size / 2, text, ha="right", va="center", fontsize=8)
    axes.set_title(
        "the most frequent classes of each basis, smoothest first, their shares,\n"
        "and the held-out patches that each claims most (contrast stretched)",
        fontsize=10,
    )


def _frequent_classes(model: PatchMixture) -> list[int]:
    """The most frequent classes, equally many of each basis, by basis and contrast."""
    weights, contrast = model.weights.detach(), model.variances.detach().sum(1)
    chosen = []
    for g in range(len(model.filters)):
        members = (model.basis == g).nonzero().flatten()
        count = max(1, CLASSES // len(model.filters))
        frequent = members[weights[members].argsort(descending=True)[:count]]
        chosen += frequent[contrast[frequent].argsort()].tolist()
    return chosen


def training_curve(figure: Figure | SubFigure, curve: Curve) -> None:
    """Loss and held-out loss over the steps, stage by stage, and held-out PSNR beside them."""
    stages = [s for s in STAGES if any(row["stage"] == s for row in curve)]
    measured = [row for row in curve if not math.isnan(row["psnr"])]
    panels = figure.subplots(1, max(1, len(stages) + bool(measured)), squeeze=False)[0]
    if not stages:
        panels[0].set_axis_off()
    for panel, stage in zip(panels, stages, strict=False):
        _loss_panel(panel, [row for row in curve if row["stage"] == stage])
        _label(panel, *STAGES[stage])
    if measured:
        panels[-1].plot(
            [r["step"] for r in measured], [r["psnr"] for r in measured], ".-", color="C2"
        )
        _label(panels[-1], "held-out PSNR at σ = 25/255, one step", "dB")


def _label(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set(xlabel="step", ylabel=unit)
    axes.grid(alpha=0.3)
    axes.ticklabel_format(useOffset=False)
    cast(Any, axes.xaxis.get_major_locator()).set_params(integer=True)


def _loss_panel(axes: Axes, rows: Curve) -> None:
    steps = [row["step"] for row in rows]
    losses = torch.tensor([row["loss"] for row in rows], dtype=torch.float64)
    width = max(1, len(rows) // 100)
    if width == 1:
        axes.plot(steps, losses, ".-", label="training")
    else:
        whole = len(rows) // width * width
        means = losses[:whole].reshape(-1, width).mean(1)
        axes.plot(steps[width - 1 : whole : width], means, "-", label=f"mean of {width} steps")
    held = [(r["step"], r["held_out_loss"]) for r in rows if not math.isnan(r["held_out_loss"])]
    if held:
        axes.plot(*zip(*held, strict=True), ".-", color="C1", label="held out")
    axes.legend(fontsize=8)
