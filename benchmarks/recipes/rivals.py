"""Rivals at their best: EPLL's mixture, and the weights of the others where they are compared.

    python benchmarks/recipes/rivals.py denoising data=bsds500:ROOT [out=FILE.safetensors]
    python benchmarks/recipes/rivals.py configs [CONFIG ...] [weights=NAME] [priors=gmdm,tv,…]
        [solvers=hqs,admm] [key=value ...]

`denoising` fits EPLL's mixture to the 390 training images (FILE is runs/table/epll-gmm.safetensors)
and prints the best weights of total variation and wavelets on crops of the ten held-out ones: what
`WEIGHTS` of lib/rivals.py holds. Nothing here sees a test image.

`configs` finds every prior at its best weight in the bundled configs, on the very picture, in one
run. For every config (default: all), `gmdm` runs with these weights (default: gray) as the
config has it and at its best weight; total variation, wavelets and plug-and-play with BM3D at
theirs, each with half-quadratic splitting on the config's levels and with ADMM. The best weight is
climbed by factors of 2 and then of sqrt(2) to the highest PSNR against the truth; where a second
number matters as much (the first level of HQS; the data step's size in ADMM), it is climbed after
it. Tuning on the test picture itself flatters whatever is tuned: so much the better for the rivals,
and `gmdm` has a row of the same kind to compare with. Prints a row for each search as it ends
(seconds: CPU time of one restoration at the best weight, of all threads), and one table at the end.
`key=value` words go to every config, such as `image=PICTURE` to tune on another picture. BM3D is
slow: with it, hours; `priors=gmdm,tv,wavelet` without it, minutes.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/

from deepinv_gmdm.command.config import load_config
from lib import table
from lib.data import held_out_images, middle, noisy, training_images
from lib.figures import psnr
from lib.restoration import Problem, config_names
from lib.rivals import COMPONENTS, GRAY, LEVELS, MIXTURE, PATCHES, SIZE, TUNED
from lib.timing import timed
from lib.words import BSDS500, Options, choice, command, need
from torch import Tensor
from tqdm import tqdm

from gmdm_prior.constraints import zero_mean_basis
from gmdm_prior.training import sample_patches
from gmdm_prior.training.likelihood.full_mixture import expect, initial_mixture, maximise
from gmdm_prior.training.likelihood.statistics import Penalty

ITERATIONS, PENALTY = 25, Penalty(least=2e-6)  # of EPLL's mixture
CROP = 128  # side of the held-out crops that weights are tuned on
RANGES = {"TV": (0.5, 1.1), "wavelets, soft": (0.8, 2.2), "wavelets, hard": (2.0, 3.4)}
TRIED = 8  # weights of a range

FACTORS = (2.0, math.sqrt(2))
PRIORS = ("gmdm", "tv", "wavelet", "pnp-bm3d")
ADMM = ("solver.name=admm", "solver.max_iter=150", "solver.thres_conv=3e-5")
BM3D = ("prior=pnp", "prior.denoiser.name=bm3d")
Point = dict[str, float]  # numbers by config key
BM3D_STEPS = {"hqs": 12, "admm": 20}  # BM3D takes seconds each time
WEIGHT, START, STEPS = 0.2, 0.2, 24  # of HQS, where a config leaves them to the operator


def fit_mixture(images: list[Tensor], path: Path) -> None:
    """EPLL's mixture: zero-mean Gaussians with full covariances, as Zoran and Weiss have it.

    The direction of the mean, which our EM leaves out, gets its second moment around `GRAY` in
    every component, so that it neither tells components apart nor is shrunk to speak of.
    """
    patches = sample_patches(images, PATCHES, SIZE)
    basis = zero_mean_basis(1, SIZE)
    x = patches.flatten(1) @ basis.to(patches.dtype).T
    mixture = initial_mixture(x, COMPONENTS, PENALTY, torch.Generator().manual_seed(0))
    for _ in tqdm(range(ITERATIONS), desc="EM"):
        mixture = maximise(expect(x, mixture), PENALTY)
    basis = basis.double()
    moment = (patches.mean((1, 2, 3)).double() - GRAY).square().mean()
    covariances = basis.T @ mixture.covariances @ basis + moment  # SIZE² moment on a unit vector
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"covariances": covariances.float(), "weights": mixture.weights.float()}
    safetensors.torch.save_file(tensors, path)


def tune_denoisers(images: list[Tensor]) -> None:
    """Print the best weight, as a multiple of sigma, of each of `TUNED` at each level."""
    crops = [middle(image, CROP)[None] for image in images]
    for name, rival in TUNED.items():
        for level in LEVELS:
            sigma = level / 255
            pairs = [(noisy(x, sigma, i), x) for i, x in enumerate(crops)]
            found = {
                factor: float(np.mean([psnr(rival(y, factor * sigma), x) for y, x in pairs]))
                for factor in tqdm(np.geomspace(*RANGES[name], TRIED), leave=False)
            }
            best = max(found, key=found.get)
            print(f"{name}, sigma {level}: {best:.3g} sigma, {found[best]:.2f} dB", flush=True)


@torch.no_grad()
def denoising(options: Options) -> None:
    """Fit EPLL's mixture, tune the others."""
    fit_mixture(training_images(options.data), options.out)
    tune_denoisers(held_out_images(options.data))


@dataclass(frozen=True)
class Search:
    """A prior with a solver, and the numbers to climb in this order, with their starts."""

    prior: str
    solver: str
    words: tuple[str, ...]
    starts: Mapping[str, float]


@dataclass(frozen=True)
class Result:
    """PSNR in dB of a restoration, and its seconds of CPU time."""

    psnr: float
    seconds: float


def restored(problem: Problem, words: Sequence[str]) -> Result:
    """A config with overrides; -inf dB where the solver diverged."""
    image, seconds = timed(lambda: problem.restored(words))
    value = psnr(image, problem.truth)
    return Result(-math.inf if math.isnan(value) else value, seconds)


def climb(value: Callable[[float], float], start: float) -> tuple[float, float]:
    """The best weight and its value, by hill climbing on a geometric grid."""
    seen: dict[float, float] = {}

    def at(weight: float) -> float:
        if weight not in seen:
            seen[weight] = value(weight)
        return seen[weight]

    best = rounded(start)
    for factor in FACTORS:
        while True:
            better = max(rounded(best * factor), rounded(best / factor), key=at)
            if at(better) <= at(best):
                break
            best = better
    return best, at(best)


def rounded(number: float) -> float:
    """The number to three digits, as it is printed."""
    return float(f"{number:.3g}")


def climb_all(
    value: Callable[[Point], Result], starts: Mapping[str, float]
) -> tuple[Point, Result]:
    """The best numbers, one climbed after the other, and what they give."""
    seen: dict[tuple[float, ...], Result] = {}

    def at(point: Point) -> Result:
        key = tuple(point.values())
        if key not in seen:
            seen[key] = value(point)
        return seen[key]

    best = {name: rounded(number) for name, number in starts.items()}
    for name in best:
        number, _ = climb(lambda n, name=name, best=best: at({**best, name: n}).psnr, best[name])
        best = {**best, name: number}
    return best, at(best)


def searches(name: str, prior: str, weights: str, words: Sequence[str]) -> list[Search]:
    """What to climb for one prior in one config."""
    base = load_config(name, ["prior=gmdm", *words])
    first, steps = base.solver.start or START, base.solver.max_iter or STEPS
    levels = f"solver.start={first}", f"solver.max_iter={steps}"
    if prior == "gmdm":
        mine = ("prior=gmdm", f"prior.weights={weights}")
        starts = {"prior.lambda": base.prior.get("lambda", WEIGHT), "solver.start": first}
        return [Search("gmdm, as it is", "hqs", mine, {}), Search(prior, "hqs", mine, starts)]
    if prior == "pnp-bm3d":
        hqs = (*BM3D, f"solver.max_iter={BM3D_STEPS['hqs']}")
        admm = (*BM3D, "solver.name=admm", f"solver.max_iter={BM3D_STEPS['admm']}")
        level = 0.04
        return [
            Search(prior, "hqs", hqs, {"prior.lambda": 0.25, "solver.start": first}),
            Search(prior, "admm", admm, {"prior.sigma": level, "solver.stepsize": 4 * level**2}),
        ]
    start = {"prior.lambda": load_config(name, [f"prior={prior}"]).prior.get("lambda", 8)}
    hqs = (f"prior={prior}", "solver.name=hqs", *levels)
    return [
        Search(prior, "hqs", hqs, start),
        Search(prior, "admm", (f"prior={prior}", *ADMM), start),
    ]


def tune(name: str, options: Options) -> tuple[float, dict[str, Result]]:
    """PSNR of the measurement, and the better solver of every prior."""
    problem, words = Problem.of(name, options.overrides), options.overrides
    given = psnr(problem.seen, problem.truth)
    print(f"== {name}: measurement {given:.2f} dB", flush=True)
    best: dict[str, Result] = {}
    for prior in options.priors:
        for search in searches(name, prior, options.weights, words):
            if search.solver not in options.solvers:
                continue

            def value(point: Point, search: Search = search) -> Result:
                found = [f"{key}={number}" for key, number in point.items()]
                return restored(problem, [*search.words, *words, *found])

            point, result = climb_all(value, search.starts)
            numbers = " ".join(f"{key}={number:g}" for key, number in point.items())
            print(
                f"{search.prior:15} {search.solver:5} {result.psnr:6.2f} dB "
                f"{result.seconds:7.1f} s  {numbers}",
                flush=True,
            )
            if search.prior not in best or result.psnr > best[search.prior].psnr:
                best[search.prior] = result
    return given, best


@torch.no_grad()
def configs(options: Options) -> None:
    """Tune and print.

    Raises:
        ValueError: for an unknown prior, weights or config, or where BM3D is wanted and missing.
    """
    for prior in options.priors:
        if prior not in PRIORS:
            raise ValueError(f"priors={prior}: use some of {', '.join(PRIORS)}")
    if "pnp-bm3d" in options.priors:
        need("bm3d")
    found = {name: tune(name, options) for name in options.configs or config_names()}
    heads = list(next(iter(found.values()))[1])
    rows = []
    for name, (given, best) in found.items():
        cells = (f"{best[head].psnr:.2f} ({best[head].seconds:.1f} s)" for head in heads)
        rows.append([f"`{name}`", f"{given:.2f}", *cells])
    heads = [f"config, {options.weights}", "measurement", *heads]
    print(f"\n{table.markdown(heads, rows)}")


main = choice(
    denoising=command(denoising, data=BSDS500, out=MIXTURE),
    configs=command(
        configs,
        place="configs",
        others="overrides",
        configs=(),
        weights="gray",
        priors=PRIORS,
        solvers=("hqs", "admm"),
        overrides=(),
    ),
)

if __name__ == "__main__":
    sys.exit(main())
