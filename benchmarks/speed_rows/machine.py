"""Rows of benchmarks/speed.py about the machine: memory, size of the image, threads."""

import functools
from collections.abc import Callable, Iterator

import torch
from lib.data import noisy
from lib.timing import in_fresh_process, medians, on_threads, peak

import gmdm_prior as gm
from gmdm_prior.training import FitSettings, fit
from speed_rows.bench import SIGMA, Bench, Measurement, large
from speed_rows.paths import in_torch

SIDES = (256, 512, 1024, 2048, 4096)
STEPS_AT_ONCE = 10  # iPALM steps in one timing


def denoiser(method: str, name: str) -> torch.nn.Module:
    """`hqs` or `average` of a bundled model, with its defaults."""
    return (gm.HalfQuadraticSplitting if method == "hqs" else gm.PatchAveraging)(gm.load(name))


def peak_of(method: str, name: str, side: int, threads: int) -> tuple[float, float]:
    """Bytes and seconds of a call, in this (fresh) process."""
    torch.set_num_threads(threads)
    image = large(side)
    denoiser(method, name)(image[..., :64, :64], SIGMA)  # what is loaded at first use
    denoise = denoiser(method, name)  # another, without the tables of the warm-up
    return peak(lambda: denoise(image, SIGMA))


def memory(bench: Bench) -> Iterator[Measurement]:
    """Peak extra memory for a large image, each case in a process of its own."""
    for name in ("gray", "gray-small", "bsds-gray-7x7", "bsds-gray-15x15"):
        for method in ("hqs", "average"):
            case = method, name, bench.side, bench.threads
            size, seconds = in_fresh_process(peak_of, *case)
            yield Measurement(
                row="memory",
                ours=f"{method} {name}",
                rival=f"an image of {bench.side}×{bench.side}",
                ours_s=seconds,
                rival_s=None,
                ratio=size / (4 * bench.side**2),
                of="peak extra bytes / image bytes",
                threads=str(bench.threads),
                most=8,
            )


def scaling(bench: Bench) -> Iterator[Measurement]:
    """Seconds per pixel by size of the image, against 1024² (or the largest, if that is less)."""
    images = {side: large(side) for side in SIDES if side <= bench.side}
    base = min(1024, max(images))
    for method, name in (("hqs", "gray"), ("average", "bsds-gray-7x7")):
        denoise = denoiser(method, name)
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


def steps(bench: Bench, model: str, method: str) -> Iterator[object]:
    """Steps of a training, without measurements between them."""
    size, never = 7 if model == "patch" else 8, 10**6
    settings = FitSettings(
        model=model, method=method, patch_size=size, steps=never, measure_every=never
    )
    init = gm.load("gray") if method == "score" else None
    return fit(bench.training, bench.training[:1], settings, init=init)


def threads(bench: Bench) -> Iterator[Measurement]:
    """Two threads against one, denoising and training."""
    y, wide = noisy(bench.images[0], SIGMA, 0), large(1024)
    hqs, average = denoiser("hqs", "gray"), denoiser("average", "bsds-gray-7x7")
    score, ipalm = steps(bench, "mixture", "score"), steps(bench, "patch", "ipalm")
    for _ in range(2 * STEPS_AT_ONCE):  # until the Lipschitz constants are found
        next(ipalm)
    cases = {
        "HQS gray": lambda: hqs(y, SIGMA),
        "PatchAveraging 7×7": lambda: average(y, SIGMA),
        "HQS gray, 1024×1024": lambda: hqs(wide, SIGMA),
        "HQS gray, torch only, 1024×1024": lambda: in_torch(hqs)(wide, SIGMA),
        "PatchAveraging 7×7, 1024×1024": lambda: average(wide, SIGMA),
        "score matching, one step": lambda: next(score),
        f"iPALM, {STEPS_AT_ONCE} steps": lambda: [next(ipalm) for _ in range(STEPS_AT_ONCE)],
    }

    def run(turn: int, case: Callable[[], object], count: int) -> None:
        with on_threads(count):
            case()

    for label, case in cases.items():
        runs = [functools.partial(run, case=case, count=count) for count in (1, 2)]
        times = medians(*runs, turns=bench.turns(5))
        label, rival = f"{label}, two threads", "one thread"
        yield bench.timed("threads", label, rival, times, least=1.7, threads="1 and 2", faster=True)
