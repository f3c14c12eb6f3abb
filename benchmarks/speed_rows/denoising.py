"""Rows of benchmarks/speed.py: denoisers beside convolutions, BM3D and EPLL, strides and tables."""

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from deepinv.physics import Denoising, GaussianNoise
from lib.data import noisy
from lib.rivals import BATCH, COMPONENTS, SIZE, bm3d_denoiser, epll
from lib.timing import medians
from torch import Tensor

import gmdm_prior as gm
from speed_rows.bench import SIGMA, Bench, Measurement, mean_psnr, over_images
from speed_rows.paths import in_torch


def product_times(bench: Bench, size: int) -> tuple[gm.PatchModel, list[float]]:
    """The bundled product, and the seconds of torch's convolutions, of a step and of a new level.

    The convolutions are those of the padded image with its filters, and the adjoint.
    """
    model, y = gm.load(f"bsds-gray-{size}x{size}"), noisy(bench.images[0], SIGMA, 0)
    filters, padded = model.filters, F.pad(y, [size - 1] * 4, mode="reflect")
    warm, cold = gm.PatchAveraging(model), gm.PatchAveraging(copy.deepcopy(model))
    return model, medians(
        lambda turn: F.conv_transpose2d(F.conv2d(padded, filters), filters),
        lambda turn: warm(y, SIGMA),
        lambda turn: cold(y, SIGMA + 1e-5 * (turn + 2)),  # a level that no table is cached for
        turns=bench.turns(5),
    )


def product(bench: Bench, size: int, most: float) -> Iterator[Measurement]:
    """One step of a product against torch's convolution with its filters and its adjoint."""
    model, (rival, *ours) = product_times(bench, size)
    for seconds, tables in zip(ours, ("same level again", "new level, tables built"), strict=True):
        name = f"PatchAveraging, {len(model.filters)} filters {size}×{size}"
        yield bench.timed(
            f"product-{size}x{size}",
            f"{name}, {tables}",
            "conv2d + conv_transpose2d",
            (rival, seconds),
            most=most,
        )


def table(bench: Bench) -> Iterator[Measurement]:
    """Building a product's tables (what a new level costs more) as a part of a step."""
    for size in (7, 15):
        model, (_, warm, cold) = product_times(bench, size)
        label = f"tables of {len(model.filters)} experts"
        pair = warm, max(cold - warm, 0.0)
        yield bench.timed("table", label, f"PatchAveraging {size}×{size}", pair, most=1)


def hqs_bm3d(bench: Bench) -> Iterator[Measurement]:
    """Default HQS of the bundled mixtures against BM3D, in time and PSNR."""
    least = {"gray": 10, "gray-small": 25}
    models = {name: gm.load(name) for name in least}
    denoisers = {"BM3D": bm3d_denoiser(bench.threads)}
    denoisers |= {name: gm.HalfQuadraticSplitting(model) for name, model in models.items()}
    denoisers |= {f"{name}, torch only": in_torch(denoisers[name]) for name in models}
    times, results = over_images(denoisers, bench, bench.turns(5))
    rival = mean_psnr(results["BM3D"], bench)
    for name, model in models.items():
        stride = gm.HalfQuadraticSplitting(model, stride=2)
        second = [stride(noisy(x, SIGMA, i), SIGMA) for i, x in enumerate(bench.images)]
        note = (
            f"{mean_psnr(results[name], bench):.2f} dB, BM3D {rival:.2f} dB, own HQS at stride 2 "
            f"{mean_psnr(second, bench):.2f} dB; images: {len(bench.images)}"
        )
        for label in (name, f"{name}, torch only"):
            pair = times["BM3D"], times[label]
            yield bench.timed(
                "hqs-bm3d", f"HQS {label}", "BM3D", pair, least=least[name], note=note, faster=True
            )


def hqs_epll(bench: Bench) -> Iterator[Measurement]:
    """Default HQS against EPLL, once by default."""
    generator = torch.Generator().manual_seed(0)
    root = 0.1 * torch.randn(COMPONENTS, SIZE**2, SIZE**2, generator=generator) / SIZE
    covariances = root @ root.mT + 1e-4 * torch.eye(SIZE**2)  # they do not matter for time
    reconstruct = epll(covariances, torch.full((COMPONENTS,), 1 / COMPONENTS))
    physics, ours = Denoising(GaussianNoise(SIGMA)), gm.HalfQuadraticSplitting(gm.load("gray"))

    def theirs(y: Tensor) -> Tensor:
        return reconstruct(y, physics, sigma=SIGMA, batch_size=BATCH)

    y = noisy(bench.images[0], SIGMA, 0)
    theirs(y[..., :48, :48]), ours(y[..., :48, :48], SIGMA)
    runs = lambda turn: theirs(y), lambda turn: ours(y, SIGMA)
    times = medians(*runs, turns=bench.turns(1), warm=0)
    rival, note = (
        f"deepinv EPLL, {COMPONENTS} components {SIZE}×{SIZE}",
        "random covariances, so no PSNR",
    )
    yield bench.timed("hqs-epll", "HQS gray", rival, times, least=60, note=note, faster=True)


def stride(bench: Bench) -> Iterator[Measurement]:
    """HQS of gray by stride, in units of one exact step over all patches."""
    model = gm.load("gray")
    denoisers = {"one step": gm.PatchAveraging(model), "default": gm.HalfQuadraticSplitting(model)}
    denoisers |= {f"stride {s}": gm.HalfQuadraticSplitting(model, stride=s) for s in (1, 2, 3, 4)}
    times, results = over_images(denoisers, bench, bench.turns(3))
    for name in denoisers:
        pairs = zip(results[name], results["stride 1"], strict=True)
        apart = max((a - b).abs().max().item() for a, b in pairs)
        note = f"{mean_psnr(results[name], bench):.2f} dB"
        if name != "one step":
            note += f", at most {255 * apart:.2f}/255 from stride 1"
        label = name if name == "one step" else f"HQS, {name}"
        rival = "one step, all patches"
        yield bench.timed("stride", label, rival, (times["one step"], times[name]), note=note)
