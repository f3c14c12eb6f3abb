"""Every prior at its best weight in the bundled configs, found on the very picture, in one run.

    python benchmarks/tune_rivals.py [CONFIG ...] [weights=NAME] [priors=gmdm,tv,…]
        [solvers=hqs,admm] [key=value ...]

For every config (default: all), `gmdm` runs with these weights (default: bsds-gray) as the config
has it and at its best weight; total variation, wavelets and plug-and-play with BM3D at theirs, each
with half-quadratic splitting on the config's levels and with ADMM. The best weight is climbed by
factors of 2 and then of sqrt(2) to the highest PSNR against the truth; where a second number
matters as much (the first level of HQS; the data step's size in ADMM), it is climbed after it.
Tuning on the test picture itself flatters whatever is tuned: so
much the better for the rivals, and `gmdm` has a row of the same kind to compare with.

Prints a row for each search as it ends (seconds: CPU time of one restoration at the best weight,
of all threads), and one table at the end. `key=value` words go to every config, such as
`image=PICTURE` to tune on another picture. BM3D is slow: with it, hours; `priors=gmdm,tv,wavelet`
without it, minutes.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import words as command_line
from deepinv_gmdm.command.config import load_config, shipped
from deepinv_gmdm.command.restore import psnr, scene_of, solve, visible
from deepinv_gmdm.operators import as_picture
from deepinv_gmdm.physics import build_physics
from deepinv_gmdm.picture import read_picture

FACTORS = (2.0, math.sqrt(2))
PRIORS = ("gmdm", "tv", "wavelet", "pnp-bm3d")
ADMM = ("solver.name=admm", "solver.max_iter=150", "solver.thres_conv=3e-5")
BM3D = ("prior=pnp", "prior.denoiser.name=bm3d")
Point = dict[str, float]  # numbers by config key
BM3D_STEPS = {"hqs": 12, "admm": 20}  # BM3D takes seconds each time


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


def restored(name: str, words: list[str]) -> Result:
    """One config with overrides; -inf dB where the solver diverged."""
    config = load_config(name, words)
    truth = read_picture(config.image)[0]
    scene = scene_of(config, truth)
    physics = build_physics(config.physics, tuple(scene.shape[1:]))
    with torch.no_grad():
        measured = physics(scene)
        begun = time.process_time()
        value = psnr(visible(solve(config, physics, measured, scene), truth), truth)
    seconds = time.process_time() - begun
    return Result(-math.inf if math.isnan(value) else value, seconds)


def measurement(name: str, words: list[str]) -> float:
    """PSNR in dB of what is restored."""
    config = load_config(name, words)
    truth = read_picture(config.image)[0]
    scene = scene_of(config, truth)
    physics = build_physics(config.physics, tuple(scene.shape[1:]))
    return psnr(visible(as_picture(physics, physics(scene), scene), truth), truth)


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
    """To three digits, as it is printed."""
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


def searches(name: str, prior: str, weights: str, words: list[str]) -> list[Search]:
    """What to climb for one prior in one config."""
    base = load_config(name, ["prior=gmdm", *words])
    levels = f"solver.start={base.solver.start}", f"solver.max_iter={base.solver.max_iter}"
    if prior == "gmdm":
        mine = ("prior=gmdm", f"prior.weights={weights}")
        starts = {"prior.lambda": base.prior["lambda"], "solver.start": base.solver.start}
        return [Search("gmdm, as it is", "hqs", mine, {}), Search(prior, "hqs", mine, starts)]
    if prior == "pnp-bm3d":
        hqs = (*BM3D, f"solver.max_iter={BM3D_STEPS['hqs']}")
        admm = (*BM3D, "solver.name=admm", f"solver.max_iter={BM3D_STEPS['admm']}")
        level = 0.04
        return [
            Search(prior, "hqs", hqs, {"prior.lambda": 0.25, "solver.start": base.solver.start}),
            Search(prior, "admm", admm, {"prior.sigma": level, "solver.stepsize": 4 * level**2}),
        ]
    start = {"prior.lambda": load_config(name, [f"prior={prior}"]).prior.get("lambda", 8)}
    hqs = (f"prior={prior}", "solver.name=hqs", *levels)
    return [
        Search(prior, "hqs", hqs, start),
        Search(prior, "admm", (f"prior={prior}", *ADMM), start),
    ]


def tune(
    name: str, priors: list[str], weights: str, words: list[str], solvers: list[str]
) -> dict[str, Result]:
    """All searches of a config, printed as they end; the better solver of every prior."""
    best: dict[str, Result] = {}
    for prior in priors:
        for search in searches(name, prior, weights, words):
            if search.solver not in solvers:
                continue

            def value(point: Point, search: Search = search) -> Result:
                found = [f"{key}={number}" for key, number in point.items()]
                return restored(name, [*search.words, *words, *found])

            point, result = climb_all(value, search.starts)
            numbers = " ".join(f"{key}={number:g}" for key, number in point.items())
            print(
                f"{search.prior:15} {search.solver:5} {result.psnr:6.2f} dB "
                f"{result.seconds:7.1f} s  {numbers}",
                flush=True,
            )
            if search.prior not in best or result.psnr > best[search.prior].psnr:
                best[search.prior] = result
    return best


def main(arguments: list[str]) -> None:
    """Tune and print.

    Raises:
        ValueError: for an unknown prior, weights or config, or where BM3D is wanted and missing.
    """
    own = {"weights": "bsds-gray", "priors": ",".join(PRIORS), "solvers": "hqs,admm"}
    given = [a for a in arguments if a.split("=", 1)[0] in own and "=" in a]
    own |= dict(a.split("=", 1) for a in given)
    overrides = [a for a in arguments if "=" in a and a.split("=", 1)[0] not in own]
    names = [a for a in arguments if "=" not in a]
    names = names or sorted(file.stem for file in shipped("configs").glob("*.yaml"))
    priors = own["priors"].split(",")
    for prior in priors:
        if prior not in PRIORS:
            raise ValueError(f"priors={prior}: use some of {', '.join(PRIORS)}")
    if "pnp-bm3d" in priors and importlib.util.find_spec("bm3d") is None:
        raise ValueError("pnp-bm3d needs the package bm3d: pip install bm3d, or priors=gmdm,tv")
    rows = {}
    for name in names:
        given = measurement(name, overrides)
        print(f"== {name}: measurement {given:.2f} dB", flush=True)
        found = tune(name, priors, own["weights"], overrides, own["solvers"].split(","))
        rows[name] = given, found
    heads = list(next(iter(rows.values()))[1])
    print(f"\n| config, {own['weights']} | measurement | " + " | ".join(heads) + " |")
    print("|---|" + "---|" * (len(heads) + 1))
    for name, (given, best) in rows.items():
        cells = (f"{best[head].psnr:.2f} ({best[head].seconds:.1f} s)" for head in heads)
        print(f"| `{name}` | {given:.2f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    sys.exit(command_line.status(main, sys.argv[1:]))
