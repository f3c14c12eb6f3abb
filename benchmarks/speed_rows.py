"""The rows of benchmarks/speed.py: what is timed, beside which rival, with which target.

After a warm-up every turn runs rival, ours, rival, ours, …, so that other load hits them alike; a
ratio is one of medians over the turns. A row is a function of a `Bench` that yields `Measurement`s
as it gets them; a new one is a line in `ROWS`.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from denoising import noisy, psnr, read_gray
from torch import Tensor
from tqdm import tqdm
from training import LOSSES, loss_and_gradients, make_problem
from weights import COMMON, FIT

import gmdm_prior as gm
from gmdm_prior.fast import choose as image_levels
from gmdm_prior.images.patches import pad
from gmdm_prior.training import FitSettings, fit_em, sample_patches
from gmdm_prior.training.data.pool import ImagePool
from gmdm_prior.training.ipalm.product import ProductTrainer, initial_product
from gmdm_prior.training.likelihood.coordinates import to_coordinates
from gmdm_prior.training.methods import resolved
from gmdm_prior.training.score.image_denoiser import ScoreTrainer

HEIGHT, WIDTH, SIGMA = 321, 481, 25 / 255
PICTURES = Path(__file__).resolve().parents[1] / "examples" / "images"
SIDES = (256, 512, 1024, 2048, 4096)
EM_PATCHES, EM_SECONDS = 200_000, 120.0
EPLL_COMPONENTS, EPLL_SIZE, EPLL_BATCH = 200, 8, 250  # the fastest batch of 250 to all patches
STEPS_AT_ONCE = 10  # iPALM steps in one timing
SYMMETRIES = 8

Run = Callable[[int], object]  # is told the number of the turn


@dataclass(frozen=True)
class Measurement:
    """One line of the table.

    `ratio` is the quotient `of`, which should be at least `least` and at most `most`; seconds are
    medians, None where nothing was timed.
    """

    row: str
    ours: str
    rival: str
    ours_s: float | None
    rival_s: float | None
    ratio: float
    of: str
    threads: str
    least: float | None = None
    most: float | None = None
    note: str = ""

    @property
    def target(self) -> str:
        """The bounds in words."""
        words = {"≥": self.least, "≤": self.most}
        return " and ".join(f"{sign} {v:g}" for sign, v in words.items() if v is not None)

    @property
    def met(self) -> str:
        """`yes`, `no`, or nothing where there is no target."""
        if not self.target:
            return ""
        above = self.least is None or self.ratio >= self.least
        return "yes" if above and (self.most is None or self.ratio <= self.most) else "no"


@dataclass(frozen=True)
class Bench:
    """What the rows work on: test images, training images, and how long.

    `repeats` None leaves it to each row.
    """

    images: list[Tensor]
    training: list[Tensor]
    repeats: int | None
    threads: int
    side: int

    def turns(self, default: int) -> int:
        """How often a row of this default is repeated."""
        return self.repeats or default

    def timed(
        self, row: str, ours: str, rival: str, times: Sequence[float], faster: bool = False, **more
    ) -> Measurement:
        """From the times (rival, ours): `faster` for rival / ours, otherwise ours / rival."""
        rival_s, ours_s = times
        ratio = rival_s / ours_s if faster else ours_s / rival_s
        of = "rival / ours" if faster else "ours / rival"
        more = {"threads": str(self.threads)} | more
        return Measurement(row, ours, rival, ours_s, rival_s, ratio, of, **more)


def medians(
    *functions: Run,
    turns: int,
    warm: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Median seconds of each function, all of them run in every turn, after `warm` turns."""
    samples: list[list[float]] = [[] for _ in functions]
    for turn in tqdm(range(-warm, turns), leave=False, desc="turns"):
        for function, taken in zip(functions, samples, strict=True):
            start = clock()
            function(turn)
            if turn >= 0:
                taken.append(clock() - start)
    return [statistics.median(taken) for taken in samples]


@contextlib.contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Torch with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def mosaic() -> Tensor:
    """(1, 1, 512, 512): the three bundled pictures, one of them twice and turned."""
    camera, cat, coffee = (read_gray(PICTURES / f"{n}.png") for n in ("camera", "cat", "coffee"))
    return torch.cat([torch.cat([camera, cat], 3), torch.cat([coffee, camera.mT], 3)], 2)


def large(side: int) -> Tensor:
    """A noisy image (1, 1, side, side): the mosaic, mirrored as often as it takes."""
    start = mosaic()
    image = pad(start, 0, max(0, side - start.shape[2]), "reflect")[..., :side, :side].contiguous()
    generator = torch.Generator().manual_seed(0)
    for rows in image[0, 0].split(64):  # not at once: the peak of the memory row is the call's
        rows += SIGMA * torch.randn(rows.shape, generator=generator)
    return image


def product_model(size: int) -> gm.PatchModel:
    """The bundled product, or the first iterate of training: the values do not matter for time."""
    name = f"bsds-gray-{size}x{size}"
    return gm.load(name) if name in gm.bundled() else initial_product(size).requires_grad_(False)


def model_of(name: str) -> gm.PatchModel | gm.PatchMixture:
    """A bundled model, or the large product."""
    return product_model(15) if name == "bsds-gray-15x15" else gm.load(name)


def over_images(
    denoisers: dict[str, Callable], bench: Bench, turns: int
) -> tuple[dict[str, float], dict[str, list[Tensor]]]:
    """Median seconds and results, a turn an image, every image at least once."""
    pairs = [noisy(x, SIGMA, i) for i, x in enumerate(bench.images)]
    results: dict[str, dict[int, Tensor]] = {name: {} for name in denoisers}

    def at(name: str) -> Run:
        def run(turn: int) -> None:
            i = turn % len(pairs)
            results[name][i] = denoisers[name](pairs[i], SIGMA)

        return run

    times = medians(*map(at, denoisers), turns=max(turns, len(pairs)))
    in_order = {name: [found[i] for i in range(len(pairs))] for name, found in results.items()}
    return dict(zip(denoisers, times, strict=True)), in_order


def mean_psnr(results: list[Tensor], bench: Bench) -> float:
    """In dB."""
    return statistics.fmean(map(psnr, results, bench.images))


def product(bench: Bench, size: int, most: float) -> Iterator[Measurement]:
    """One step of a product against torch's convolution with its filters and its adjoint."""
    model, y = product_model(size), noisy(bench.images[0], SIGMA, 0)
    filters, padded = model.filters, pad(y, size - 1, size - 1, "reflect")
    warm, cold = gm.PatchAveraging(model), gm.PatchAveraging(copy.deepcopy(model))
    rival, *ours = medians(
        lambda turn: F.conv_transpose2d(F.conv2d(padded, filters), filters),
        lambda turn: warm(y, SIGMA),
        lambda turn: cold(y, SIGMA + 1e-5 * (turn + 2)),  # a level that no table is cached for
        turns=bench.turns(5),
    )
    for seconds, tables in zip(ours, ("same level again", "new level, tables built"), strict=True):
        name = f"PatchAveraging, {len(filters)} filters {size}×{size}"
        yield bench.timed(
            f"product-{size}x{size}",
            f"{name}, {tables}",
            "conv2d + conv_transpose2d",
            (rival, seconds),
            most=most,
        )


def bm3d_denoiser(threads: int) -> Callable[[Tensor, float], Tensor]:
    """BM3D of the bm3d package, its standard profile."""
    import bm3d

    profile = bm3d.BM3DProfile()
    profile.num_threads = threads

    def denoise(y: Tensor, sigma: float) -> Tensor:
        result = bm3d.bm3d(y[0, 0].numpy(), sigma_psd=sigma, profile=profile)
        return torch.from_numpy(result).float()[None, None]

    return denoise


def in_torch(denoise: Callable) -> Callable:
    """The same without the compiled kernel, as without llvmlite."""

    def run(*arguments: object) -> Tensor:
        with mock.patch.object(image_levels, "fused", return_value=None):
            return denoise(*arguments)

    return run


def hqs_bm3d(bench: Bench) -> Iterator[Measurement]:
    """Default HQS of the bundled mixtures against BM3D, in time and PSNR."""
    least = {"bsds-gray": 10, "bsds-gray-small": 25, "bsds-gray-best": 4}
    models = {name: gm.load(name) for name in least if name in gm.bundled()}
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


def epll_denoiser() -> Callable[[Tensor], Tensor]:
    """Deepinv's EPLL with a random mixture of the usual size: the values do not matter for time."""
    from deepinv.optim import EPLL
    from deepinv.optim.utils import GaussianMixtureModel
    from deepinv.physics import Denoising, GaussianNoise

    pixels = EPLL_SIZE**2
    mixture = GaussianMixtureModel(EPLL_COMPONENTS, pixels)
    generator = torch.Generator().manual_seed(0)
    root = 0.1 * torch.randn(EPLL_COMPONENTS, pixels, pixels, generator=generator) / EPLL_SIZE
    mixture.set_cov(root @ root.mT + 1e-4 * torch.eye(pixels))
    epll = EPLL(mixture, pretrained=None, patch_size=EPLL_SIZE)
    physics = Denoising(GaussianNoise(SIGMA))
    return lambda y: epll(y, physics, sigma=SIGMA, batch_size=EPLL_BATCH)


def hqs_epll(bench: Bench) -> Iterator[Measurement]:
    """Default HQS against EPLL, once by default."""
    epll, ours = epll_denoiser(), gm.HalfQuadraticSplitting(gm.load("bsds-gray"))
    y = noisy(bench.images[0], SIGMA, 0)
    small = y[..., :48, :48]
    epll(small), ours(small, SIGMA)
    times = medians(lambda turn: epll(y), lambda turn: ours(y, SIGMA), turns=bench.turns(1), warm=0)
    rival = f"deepinv EPLL, {EPLL_COMPONENTS} components {EPLL_SIZE}×{EPLL_SIZE}"
    note = "random covariances, so no PSNR"
    yield bench.timed("hqs-epll", "HQS bsds-gray", rival, times, least=60, note=note, faster=True)


def stride(bench: Bench) -> Iterator[Measurement]:
    """HQS of bsds-gray by stride, in units of one exact step over all patches."""
    model = gm.load("bsds-gray")
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


def table(bench: Bench) -> Iterator[Measurement]:
    """Building a product's tables, as a part of one step that has them (or has to make them)."""
    for size in (7, 15):
        model, y = product_model(size), noisy(bench.images[0], SIGMA, 0)
        average, fresh = gm.PatchAveraging(model), copy.deepcopy(model)
        patch = torch.full((1, size * size), 0.5)

        def build(turn: int, model=fresh, patch=patch) -> None:
            level = torch.tensor((SIGMA + 1e-5 * (turn + 2)) ** 2)
            model.tabulated_at(level).posterior_mean(patch)  # tables are made when first read

        times = medians(lambda turn, d=average, y=y: d(y, SIGMA), build, turns=bench.turns(5))
        label = f"tables of {len(model.filters)} experts"
        yield bench.timed("table", label, f"PatchAveraging {size}×{size}", times, most=1)


def denoiser(method: str, model: gm.PatchModel | gm.PatchMixture) -> torch.nn.Module:
    """`hqs` or `average`, with its defaults."""
    return (gm.HalfQuadraticSplitting if method == "hqs" else gm.PatchAveraging)(model)


def status(name: str) -> int:
    """A size in bytes from this process's status, on Linux (`VmRSS` now, `VmHWM` at its peak)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def peak(method: str, name: str, side: int) -> dict[str, float]:
    """What a call adds at its peak to what this (fresh) process holds before, and its seconds.

    Not by getrusage's ru_maxrss: that begins with the peak of the process that started this one,
    and cannot be reset.
    """
    image = large(side)
    denoiser(method, model_of(name))(image[..., :64, :64], SIGMA)  # what is loaded at first use
    denoise = denoiser(method, model_of(name))  # another, without the tables of the warm-up
    ctypes.CDLL(None).malloc_trim(0)  # glibc: what the warm-up has freed counts again
    with contextlib.suppress(OSError):  # without the right to, the peak includes what came before
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, start = status("VmRSS"), time.perf_counter()
    denoise(image, SIGMA)
    return {"seconds": time.perf_counter() - start, "bytes": status("VmHWM") - before}


def memory(bench: Bench) -> Iterator[Measurement]:
    """Peak extra memory for a large image, each case in a process of its own."""
    for name in ("bsds-gray", "bsds-gray-small", "bsds-gray-7x7", "bsds-gray-15x15"):
        for method in ("hqs", "average"):
            words = f"--memory-case {method} {name} --side {bench.side} --threads {bench.threads}"
            command = [sys.executable, Path(__file__).with_name("speed.py"), *words.split()]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout)
            yield Measurement(
                row="memory",
                ours=f"{method} {name}",
                rival=f"an image of {bench.side}×{bench.side}",
                ours_s=found["seconds"],
                rival_s=None,
                ratio=found["bytes"] / (4 * bench.side**2),
                of="peak extra bytes / image bytes",
                threads=str(bench.threads),
                most=8,
            )


def scaling(bench: Bench) -> Iterator[Measurement]:
    """Seconds per pixel by size of the image, against 1024² (or the largest, if that is less)."""
    images = {side: large(side) for side in SIDES if side <= bench.side}
    base = min(1024, max(images))
    for method, name in (("hqs", "bsds-gray"), ("average", "bsds-gray-7x7")):
        denoise = denoiser(method, gm.load(name))
        denoise(images[base][..., :64, :64], SIGMA)
        runs = [lambda turn, d=denoise, y=y: d(y, SIGMA) for y in images.values()]
        times = dict(zip(images, medians(*runs, turns=bench.turns(3), warm=0), strict=True))
        for side, seconds in times.items():
            yield Measurement(
                row="scaling",
                ours=f"{method} {name}, {side}×{side}",
                rival=f"{base}×{base}",
                ours_s=seconds,
                rival_s=times[base],
                ratio=seconds / side**2 / (times[base] / base**2),
                of="ours / rival, per pixel",
                threads=str(bench.threads),
                least=0.8,
                most=1.2,
            )


def threads(bench: Bench) -> Iterator[Measurement]:
    """Two threads against one, denoising and training."""
    model, pool = gm.load("bsds-gray"), ImagePool.of(bench.training)
    y, wide = noisy(bench.images[0], SIGMA, 0), large(1024)
    hqs, average = gm.HalfQuadraticSplitting(model), gm.PatchAveraging(product_model(7))
    score = ScoreTrainer(pool, resolved(FitSettings(method="score", patch_size=8)), model)
    ipalm = ProductTrainer(pool, resolved(FitSettings(model="patch")))
    for _ in range(2 * STEPS_AT_ONCE):  # until the Lipschitz constants are found
        ipalm.advance()
    cases = {
        "HQS bsds-gray": lambda: hqs(y, SIGMA),
        "PatchAveraging 7×7": lambda: average(y, SIGMA),
        "HQS bsds-gray, 1024×1024": lambda: hqs(wide, SIGMA),
        "HQS bsds-gray, torch only, 1024×1024": lambda: in_torch(hqs)(wide, SIGMA),
        "PatchAveraging 7×7, 1024×1024": lambda: average(wide, SIGMA),
        "score matching, one step": score.advance,
        f"iPALM, {STEPS_AT_ONCE} steps": lambda: [ipalm.advance() for _ in range(STEPS_AT_ONCE)],
    }

    def run(turn: int, case: Callable[[], object], count: int) -> None:
        with on_threads(count):
            case()

    for label, case in cases.items():
        runs = [functools.partial(run, case=case, count=count) for count in (1, 2)]
        times = medians(*runs, turns=bench.turns(5))
        label, rival = f"{label}, two threads", "one thread"
        yield bench.timed("threads", label, rival, times, least=1.7, threads="1 and 2", faster=True)


def naive_expectation(x: Tensor, precisions: Tensor) -> Tensor:
    """Responsibilities (N, K) of dense Gaussians of these precisions, as they are written down."""
    constants = 0.5 * torch.logdet(precisions)
    energies = [0.5 * ((x @ p) * x).sum(1) for p in precisions]
    return torch.softmax(constants - torch.stack(energies, 1), 1)


def training(bench: Bench) -> Iterator[Measurement]:
    """The product's loss and gradients against autograd; EM against naive E-steps."""
    model, batch = make_problem(7, 3200)
    runs = [lambda turn, k=k: loss_and_gradients(k, model, batch) for k in LOSSES]
    pair = medians(*runs, turns=bench.turns(5))
    label = "denoising score matching, 7×7, fused"
    yield bench.timed("training", label, "autograd over a tensor (N, J, L)", pair, faster=True)

    patches = sample_patches(bench.training, EM_PATCHES, 8)
    settings = COMMON | FIT["bsds-gray-likelihood"]
    x = to_coordinates(patches)
    root = torch.randn(SYMMETRIES * settings["classes"], x.shape[1], x.shape[1])
    precisions = root @ root.mT + torch.eye(x.shape[1])
    with on_threads(2):
        naive_expectation(x[:1000], precisions)
        step, whole = medians(
            lambda turn: naive_expectation(x, precisions),
            lambda turn: fit_em(patches, **settings),
            turns=bench.turns(1),
            warm=0,
        )
    dense = settings["full_iterations"] * settings["components"]
    dense += settings["iterations"] * len(precisions)  # Gaussians evaluated in a whole training
    label, two = f"fit_em, {EM_PATCHES:,} patches", {"threads": "2"}
    rival = "naive E-steps alone, one measured, as many as EM makes"
    pair = step * dense / len(precisions), whole
    note = f"one naive E-step of {len(precisions)} dense Gaussians: {step:.1f} s"
    yield bench.timed("training", label, rival, pair, note=note, **two, faster=True)
    yield bench.timed("training", label, "two minutes", (EM_SECONDS, whole), most=1, **two)


ROWS: dict[str, Callable[[Bench], Iterator[Measurement]]] = {
    "product-7x7": lambda bench: product(bench, 7, 0.5),
    "product-15x15": lambda bench: product(bench, 15, 1.0),
    "hqs-bm3d": hqs_bm3d,
    "hqs-epll": hqs_epll,
    "stride": stride,
    "table": table,
    "memory": memory,
    "scaling": scaling,
    "threads": threads,
    "training": training,
}
QUICK = ("product-7x7", "product-15x15", "hqs-bm3d", "stride", "table")
