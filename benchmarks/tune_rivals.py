"""Find the best weight of each hand-tuned prior in each bundled config, beside the GMDM.

    python benchmarks/tune_rivals.py [CONFIG ...] [key=value ...]

For every config (default: all) and every rival (`tv`, `wavelet`), the weight `prior.lambda` is
climbed by factors of 2 and then of sqrt(2) to the highest PSNR against the truth, once with the
config's own solver and once with ADMM run long enough to stand still; the better of the two is what
the config's `priors.NAME` should hold. Tuning on the test picture itself flatters the rivals, on
purpose. The last line of a config gives the GMDM's figure as the config has it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import torch
from deepinv_gmdm.config import load_config, shipped
from deepinv_gmdm.physics import build_physics
from deepinv_gmdm.picture import read_picture
from deepinv_gmdm.restore import make_solver, psnr

FACTORS = (2.0, math.sqrt(2))
MODES = {
    "config's solver": [],
    "admm": ["solver.name=admm", "solver.max_iter=150", "solver.thres_conv=3e-5"],
}


def figure(name: str, words: list[str]) -> float:
    """PSNR in dB of one config with overrides."""
    config = load_config(name, words)
    truth = read_picture(config.image)[0]
    physics = build_physics(config.physics, tuple(truth.shape[1:]))
    solver = make_solver(config, physics, truth, progress=False)
    with torch.no_grad():
        return psnr(solver(physics(truth), physics), truth)


def climb(value: Callable[[float], float], start: float) -> tuple[float, float]:
    """The best weight and its value, by hill climbing on a geometric grid."""
    seen: dict[float, float] = {}

    def at(weight: float) -> float:
        key = float(f"{weight:.3g}")
        if key not in seen:
            seen[key] = value(key)
        return seen[key]

    best = start
    for factor in FACTORS:
        at(best)
        while True:
            near = [float(f"{best * factor:.3g}"), float(f"{best / factor:.3g}")]
            better = max(near, key=at)
            if seen[better] <= at(best):
                break
            best = better
    return best, at(best)


def main(arguments: list[str]) -> None:
    """Tune and print."""
    words = [a for a in arguments if "=" in a]
    names = [a for a in arguments if "=" not in a]
    names = names or sorted(file.stem for file in shipped("configs").glob("*.yaml"))
    for name in names:
        print(f"== {name}", flush=True)
        for rival in ("tv", "wavelet"):
            start = float(load_config(name, [f"prior={rival}"]).prior.get("lambda", 8))
            for mode, extra in MODES.items():
                setting = [f"prior={rival}", *extra, *words]
                weight, best = climb(
                    lambda w, n=name, s=setting: figure(n, [*s, f"prior.lambda={w}"]), start
                )
                print(f"{rival:8} {mode:16} lambda {weight:<8g} {best:6.2f} dB", flush=True)
        print(f"{'gmdm':8} {'as shipped':16} {'':15} {figure(name, words):6.2f} dB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
