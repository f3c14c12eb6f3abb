"""The table of denoisers: `python benchmarks/table.py BSD68|FOLDER|skimage [options]`.

    python benchmarks/table.py BSD68                    # everything; hours, most of them rivals'
    python benchmarks/table.py BSD68 --images 2 --sigmas 25 --methods bsds-gray-small BM3D
    python benchmarks/table.py skimage                  # the images in scikit-image's wheel

Every bundled model (one step, HQS at stride 2, default HQS) beside rivals run here (rivals.py) and,
for BSD68, published figures (table_report.py). Protocol: that of denoising.py, noise seeded with
the image's index in the whole set; EPLL, total variation and wavelets see about nine images only,
and all methods are shown on those as well. Each measured image is a line in OUT/images.csv, so that
an interrupted run goes on where it stopped, and changed weights are measured again. Writes
OUT/denoising.csv, .md and .png.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib.metadata
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import rivals
import torch
from csv_cache import Cache
from denoising import psnr
from pictures import SCIKIT_IMAGE, Picture, read_pictures, spaced
from skimage.metrics import structural_similarity
from speed_rows import bm3d_denoiser
from table_report import Row, report
from tqdm import tqdm

import gmdm_prior as gm

FEW = 9  # images for slow rivals
HEADS = ["method", "version", "sigma", "index", "image", "pixels", "psnr", "ssim"]
TIME_HEADS = ["method", "version", "seconds", "turn"]
TIME_SIGMA, TURNS, LONG = 25 / 255, 3, 20.0  # what takes longer, in seconds, is timed once


@dataclass(frozen=True)
class Method:
    """A denoiser of the table; `version` changes with whatever changes its results."""

    name: str
    numbers: int | None
    version: str
    make: Callable[[], rivals.Denoise]
    slow: bool = False

    @functools.cached_property
    def denoise(self) -> rivals.Denoise:
        """Made when first needed."""
        return self.make()


def version_of(*parts: bytes) -> str:
    """Twelve digits."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:12]


def settings(schedule: object | None) -> bytes:
    """All numbers of a schedule, tensors with every digit."""
    values = [] if schedule is None else vars(schedule).values()
    return repr([v.tolist() if isinstance(v, torch.Tensor) else v for v in values]).encode()


def our_methods() -> list[Method]:
    """Each bundled model of gray images in three ways."""
    methods = []
    for name in gm.bundled():
        stored = (resources.files("gmdm_prior") / "weights" / f"{name}.safetensors").read_bytes()
        model = gm.load(name)
        if model.channels != 1:
            continue
        if isinstance(model, gm.WaveletModel):
            ways = {"posterior mean": gm.WaveletDenoiser(model)}
        else:
            ways = {
                "one step": gm.PatchAveraging(model),
                "HQS at stride 2": gm.HalfQuadraticSplitting(model, stride=2),
                "HQS": gm.HalfQuadraticSplitting(model),
            }
        for way, denoiser in ways.items():
            version = version_of(stored, settings(getattr(denoiser, "schedule", None)))
            make = functools.partial(lambda d: d, denoiser)
            methods.append(Method(f"{name}, {way}", model.num_parameters, version, make))
    return methods


def rival_methods(mixture: Path) -> list[Method]:
    """BM3D, EPLL, total variation and wavelets."""
    package = {name: importlib.metadata.version(name) for name in ("bm3d", "deepinv")}
    fitted = version_of(mixture.read_bytes()) if mixture.is_file() else "missing"
    epll = functools.partial(rivals.epll_denoiser, mixture)
    numbers = rivals.COMPONENTS * rivals.SIZE**4
    methods = [
        Method("BM3D", None, f"bm3d {package['bm3d']}", lambda: bm3d_denoiser(1)),
        Method("EPLL", numbers, f"deepinv {package['deepinv']} {fitted}", epll, slow=True),
    ]
    for name, weights in rivals.WEIGHTS.items():
        version = f"deepinv {package['deepinv']} {' '.join(map(str, weights))}"
        tuned = functools.partial(rivals.tuned_denoiser, name)
        methods.append(Method(name, 1, version, tuned, slow=True))
    return methods


def key(method: Method, level: float, picture: Picture) -> tuple[str, ...]:
    """Of a line of images.csv: all that its values depend on."""
    place = f"{level:g}", str(picture.index), picture.name, picture.digest
    return method.name, method.version, *place


def measure(method: Method, level: float, picture: Picture) -> tuple[float, float]:
    """PSNR in dB and SSIM of the result clipped to [0, 1]."""
    sigma = level / 255
    restored = method.denoise(picture.noisy(sigma), sigma).clamp(0, 1)
    pair = (image[0, 0].numpy() for image in (restored, picture.clean))
    return psnr(restored, picture.clean), float(structural_similarity(*pair, data_range=1.0))


def seconds(methods: Sequence[Method], picture: Picture) -> list[float]:
    """CPU seconds of each for one image, all in turn, median; each knows the level before."""
    y = picture.noisy(TIME_SIGMA)
    samples: list[list[float]] = [[] for _ in methods]
    for method in methods:
        method.denoise(y[..., :64, :64], TIME_SIGMA)
    for _ in tqdm(range(TURNS), desc="time"):
        for method, taken in zip(methods, samples, strict=True):
            if not taken or taken[0] < LONG:
                start = time.process_time()
                method.denoise(y, TIME_SIGMA)
                taken.append(time.process_time() - start)
    return [statistics.median(taken) for taken in samples]


def rows_of(
    methods: Sequence[Method],
    levels: Sequence[float],
    pictures: Sequence[Picture],
    images: Cache,
    times: Cache,
) -> list[Row]:
    """Means over these images, of the methods and levels that were measured on all of them."""
    rows = []
    for method in methods:
        for level in levels:
            keys = [key(method, level, picture) for picture in pictures]
            if all(k in images for k in keys):
                psnrs, ssims = zip(*(images[k] for k in keys), strict=True)
                means = statistics.fmean(psnrs), statistics.fmean(ssims)
                taken, _ = times[method.name, method.version]
                seen = level, len(keys), *means, taken
                rows.append(Row(method.name, method.numbers, *seen, version=method.version))
    return rows


def run(
    methods: Sequence[Method], levels: Sequence[float], pictures: Sequence[Picture], out: Path
) -> list[list[Row]]:
    """Measure what is not in the cache, a few images first; rows for all, then those for a few."""
    few = spaced(pictures, FEW)
    first = {picture.index for picture in few}
    rest = [picture for picture in pictures if picture.index not in first]
    images = Cache(out / "images.csv", HEADS, values=2)
    wanted = [(m, s, p) for m in methods for s in levels for p in few]
    wanted += [(m, s, p) for m in methods if not m.slow for s in levels for p in rest]
    missing = [case for case in wanted if key(*case) not in images]
    for method, level, picture in (bar := tqdm(missing)):
        bar.set_description(f"{method.name}, sigma {level:g}")
        images.add(key(method, level, picture), measure(method, level, picture))
    times = Cache(out / "times.csv", TIME_HEADS, values=2)
    keys = [(m.name, m.version) for m in methods]
    turns = {times[k][1] if k in times else None for k in keys}
    if None in turns or len(turns) > 1:  # comparable only if taken beside one another
        turn = 1 + max((turn for _, turn in times.lines.values()), default=0)
        for k, taken in zip(keys, seconds(methods, pictures[0]), strict=True):
            times.add(k, [taken, turn])
    parts = [pictures] if len(few) == len(pictures) else [pictures, few]
    return [rows_of(methods, levels, part, images, times) for part in parts]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Options, checked; leaves with status 2 where they cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help=f"folder of clean PNG images, or {SCIKIT_IMAGE}")
    parser.add_argument("--sigmas", type=float, nargs="+", default=[15, 25, 50, 100], help="of 255")
    parser.add_argument("--images", type=int, help="at most so many, spread over the set")
    parser.add_argument("--methods", nargs="+", help="those whose name holds one of these words")
    parser.add_argument("--mixture", type=Path, default=rivals.MIXTURE, help="EPLL's (rivals.py)")
    parser.add_argument("--out", type=Path, help="default: runs/table/NAME of the data")
    options = parser.parse_args(argv)
    options.out = options.out or Path("runs/table") / Path(options.data).name
    if options.images is not None and options.images < 1:
        parser.error(f"--images must be at least 1; got {options.images}")
    if not all(0 < level < 1000 for level in options.sigmas):
        parser.error(f"--sigmas must be positive, in units of 1/255; got {options.sigmas}")
    known = our_methods() + rival_methods(options.mixture)
    words = options.methods or [""]
    for word in words:
        if not any(word in method.name for method in known):
            parser.error(f"--methods {word} is in no name of {'; '.join(m.name for m in known)}")
    options.chosen = [m for m in known if any(word in m.name for word in words)]
    try:
        options.pictures = read_pictures(options.data)
        if any(method.name == "EPLL" for method in options.chosen):
            rivals.epll_denoiser(options.mixture)
    except OSError as error:
        parser.error(str(error))
    if options.images is not None:
        options.pictures = spaced(options.pictures, options.images)
    return options


def main(argv: list[str] | None = None) -> None:
    """Measure, write, draw."""
    options = parse(argv)
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    parts = run(options.chosen, options.sigmas, options.pictures, options.out)
    name = Path(options.data).name
    print(report(parts, name, options.pictures, options.out), end="")


if __name__ == "__main__":
    main()
