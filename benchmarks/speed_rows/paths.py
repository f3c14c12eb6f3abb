"""The row `paths` of benchmarks/speed.py: every fast path beside the exact one that it stands for.

Time, PSNR and the largest difference. The exact paths of maps evaluate every pixel's noise level by
itself and are slow, so those are timed on a crop. Only this file looks into `gmdm_prior.fast`.
"""

import copy
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from lib.data import noisy
from lib.figures import psnr
from lib.timing import medians
from torch import Tensor

import gmdm_prior as gm
from gmdm_prior.fast import choose
from gmdm_prior.images.patches import interior_average
from speed_rows.bench import SIGMA, Bench, Measurement

CROP = 96  # side, where the exact path is slow
NEGLIGIBLE = 0.01  # variance of a direction, in units of the noise variance

Denoise = Callable[[Tensor], Tensor]


def in_torch(denoise: Callable) -> Callable:
    """The denoiser without the compiled kernel, as without llvmlite."""

    def run(*arguments: object) -> Tensor:
        with mock.patch.object(choose, "fused", return_value=None):
            return denoise(*arguments)

    return run


def exactly(denoise: Denoise) -> Denoise:
    """The denoiser without tables."""

    def run(y: Tensor) -> Tensor:
        with mock.patch.object(choose, "_recorded", return_value=True):
            return denoise(y)

    return run


def by_map(model: gm.PatchModel | gm.PatchMixture, level: Tensor, way: str) -> Denoise:
    """One averaging with a noise map: `fast`, or `pixel by pixel`."""

    def run(y: Tensor) -> Tensor:
        image, noise = y[0], level[0].square()
        if way == "fast":
            evaluate = choose.Evaluator().posterior_means(model, image, noise, fast=True)
        else:
            evaluate = choose.pixel_by_pixel(model, "posterior_mean")
        return interior_average((image, noise), model.patch_size, evaluate)[None]

    return run


def compare(
    bench: Bench, label: str, exact: tuple[str, Denoise], fast: Denoise, clean: Tensor, y: Tensor
) -> Measurement:
    """One line: seconds of both, PSNR of both, how far they are apart."""
    name, slow = exact
    times = medians(lambda turn: slow(y), lambda turn: fast(y), turns=bench.turns(3))
    a, b = slow(y), fast(y)
    lost = (clean.shape[-1] - a.shape[-1]) // 2
    inner = slice(lost, -lost or None)
    truth = clean[..., inner, inner]
    note = (
        f"{psnr(b, truth):.2f} dB, exact {psnr(a, truth):.2f} dB, at most "
        f"{(a - b).abs().max():.1e} apart"
    )
    return bench.timed("paths", label, name, times, note=note, faster=True)


def paths(bench: Bench) -> Iterator[Measurement]:
    """All fast paths."""
    clean = bench.images[0]
    y = noisy(clean, SIGMA, 0)
    mixture, product = gm.load("gray"), gm.load("bsds-gray-7x7")
    average = gm.PatchAveraging(mixture)
    hqs = gm.HalfQuadraticSplitting(mixture)

    def with_sigma(denoise: torch.nn.Module) -> Denoise:
        return lambda image: denoise(image, SIGMA)

    matrices = ("matrix products", in_torch(with_sigma(average)))
    yield compare(bench, "kernel, one step", matrices, with_sigma(average), clean, y)
    matrices = ("matrix products", in_torch(with_sigma(hqs)))
    yield compare(bench, "kernel, HQS", matrices, with_sigma(hqs), clean, y)
    yield from inputs(bench, hqs, clean, y)
    crop = slice(100, 100 + CROP)
    part = clean[..., crop, crop]
    level = SIGMA * torch.linspace(0.5, 2, CROP).expand(1, 1, CROP, CROP)
    uneven = part + level * torch.randn(part.shape, generator=torch.Generator().manual_seed(0))
    slow = ("pixel by pixel", by_map(mixture, level, "pixel by pixel"))
    fast = by_map(mixture, level, "fast")
    yield compare(bench, "map, rounded levels", slow, fast, part, uneven)
    slow = ("pixel by pixel", by_map(product, level, "pixel by pixel"))
    fast = by_map(product, level, "fast")
    yield compare(bench, "map, product's surfaces", slow, fast, part, uneven)
    step = with_sigma(gm.PatchAveraging(product))
    exact = ("mixtures at every response", exactly(step))
    yield compare(bench, "product's tables", exact, step, part, noisy(part, SIGMA, 0))
    yield cancelled(mixture)


def inputs(bench: Bench, hqs: torch.nn.Module, clean: Tensor, y: Tensor) -> Iterator[Measurement]:
    """Other inputs than one float32 gray image at one level: what they cost beside that."""

    def in_float64(image: Tensor) -> Tensor:
        return copy.deepcopy(hqs).double()(image.double(), SIGMA).to(image.dtype)

    def one_by_one(images: Tensor) -> Tensor:
        return torch.cat([hqs(image[None], SIGMA) for image in images])

    exact = ("float64 in torch", in_float64)
    yield compare(bench, "HQS in float32", exact, lambda image: hqs(image, SIGMA), clean, y)
    three, noisy_three = (x.expand(3, -1, -1, -1) for x in (clean, y))
    exact = ("three gray images", one_by_one)

    def colour(images: Tensor) -> Tensor:
        return hqs(images.transpose(0, 1), SIGMA).transpose(0, 1)

    yield compare(bench, "HQS, an image of three channels", exact, colour, three, noisy_three)
    levels = torch.full((3,), SIGMA)
    yield compare(
        bench, "HQS, a level for each of three", exact, lambda x: hqs(x, levels), three, noisy_three
    )


def cancelled(model: gm.PatchMixture) -> Measurement:
    """How many directions have a negligible variance in every class of their basis: no timing."""
    groups, rows = model.filters.shape[:2]
    counts = {}
    for sigma in (15, 25, 50, 100):
        small = model.variances < NEGLIGIBLE * (sigma / 255) ** 2
        counts[sigma] = sum(int(small[model.basis == g].all(0).sum()) for g in range(groups))
    found = ", ".join(f"{count} at {sigma}/255" for sigma, count in counts.items())
    return Measurement(
        row="paths",
        ours="directions that could be left out",
        rival=f"all {groups * rows}",
        ours_s=None,
        rival_s=None,
        ratio=counts[25] / (groups * rows),
        of="share of directions at 25/255",
        threads="-",
        note=f"not built: {found}",
    )
