"""PSNR and likelihoods, the curves of training runs, and panels of pictures.

Protocol: images in [0, 1], noise of standard deviation sigma/255 from a generator seeded with the
image's index, results clipped to [0, 1], mean of the PSNRs over the images.
"""

import csv
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from torch import Tensor
from tqdm import tqdm

import gmdm_prior as gm
from gmdm_prior.training import sample_patches
from lib.data import noisy

HELD_OUT_PATCHES = 20_000
CHUNK = 4096  # patches at a time
POINTS = 8  # of a curve


def psnr(restored: Tensor, clean: Tensor, clip: bool = True) -> float:
    """PSNR in dB of the result, clipped to [0, 1]."""
    error = (restored.clamp(0, 1) if clip else restored) - clean
    square = error.square().mean().item()
    return -10 * math.log10(square) if square else math.inf


def mean_psnr(denoise, images: Sequence[Tensor], sigma: float) -> float:
    """Mean PSNR of `denoise(noisy, sigma)` over images (C, H, W) or (1, C, H, W)."""
    values = []
    for index, image in enumerate(tqdm(images, leave=False, desc=f"sigma {sigma * 255:g}")):
        clean = image if image.ndim == 4 else image[None]
        values.append(psnr(denoise(noisy(clean, sigma, index), sigma), clean))
    return statistics.fmean(values)


def psnr_cells(denoise, images: Sequence[Tensor], levels: Sequence[float]) -> list[str]:
    """Mean PSNRs at noise of level/255, as a table shows them."""
    return [f"{mean_psnr(denoise, images, level / 255):.2f}" for level in levels]


def zero_mean(patches: Tensor) -> Tensor:
    """Patches (N, C, b, b) less their means."""
    return patches - patches.mean((-2, -1), keepdim=True)


def held_out_patches(images: Sequence[Tensor], size: int, generator: torch.Generator) -> Tensor:
    """20,000 zero-mean patches (N, C, b, b) of images (C, H, W)."""
    return zero_mean(sample_patches(images, HELD_OUT_PATCHES, size, "none", generator))


def with_patch_noise(patches: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Zero-mean patches with zero-mean noise."""
    return patches + sigma * zero_mean(torch.randn(patches.shape, generator=generator))


def patch_psnr(model, patches: Tensor, sigma: float, generator: torch.Generator) -> float:
    """PSNR in dB of exact posterior means of zero-mean patches."""
    parts = with_patch_noise(patches, sigma, generator).split(CHUNK)
    return psnr(torch.cat([model.denoise(y, sigma) for y in parts]), patches, clip=False)


def patch_log_likelihood(
    model: gm.PatchMixture, patches: Tensor, sigma: float, generator: torch.Generator
) -> float:
    """Log-likelihood in nats per dimension of zero-mean patches with noise."""
    parts = with_patch_noise(patches, sigma, generator).split(CHUNK)
    total = sum(model.log_prob(y, sigma).double().sum().item() for y in parts)
    return total / len(patches) / model.filters.shape[1]


def curve(run: Path) -> tuple[list[tuple[int, str, str]], float]:
    """Some (step, held-out loss, held-out PSNR) of a training run, evenly spaced; its seconds."""
    with open(run / "metrics.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    measured = [row for row in rows if row["held_out_loss"]]
    places = sorted({round(i * (len(measured) - 1) / (POINTS - 1)) for i in range(POINTS)})
    points = [
        (
            int(m["step"]),
            f"{float(m['held_out_loss']):.4g}",
            f"{float(m['psnr']):.2f}" if m["psnr"] else "",
        )
        for m in (measured[i] for i in places)
    ]
    return points, sum(float(row["seconds"]) for row in rows)


def panel(axes: Axes, image: Tensor, title: str, size: int = 8) -> None:
    """Show an image (1, C, H, W) clipped to [0, 1] under its title."""
    pixels = image[0].clamp(0, 1).permute(1, 2, 0).squeeze(-1)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=size)
    axes.set_axis_off()
