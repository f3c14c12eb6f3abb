"""Ways to restore what was measured: ours as it comes and tuned, and rivals.

Rivals split half-quadratically around a denoiser (networks, BM3D, EPLL's patch step) or a proximal
map (total variation, wavelets), or minimise a learned regulariser (`lib/ridge.py`,
`lib/deep_variation.py`). The pseudo-inverse is the floor.
"""

from pathlib import Path

import torch
from deepinv.models import TVDenoiser, WaveletDictDenoiser
from deepinv_gmdm import GMDMPrior, build_solver
from torch import Tensor

from lib import networks
from lib.deep_variation import deep_variation
from lib.patch_map import PatchMap
from lib.problems import Task
from lib.ridge import ridge_method
from lib.rivals import Denoise, bm3d_denoiser
from lib.split import Climb, Method, Settings, by_channel, split

OURS, TUNED, FLOOR = "gmdm", "gmdm tuned", "pseudo-inverse"
TV, WAVELETS, BM3D, EPLL = "total variation", "wavelets", "BM3D", "EPLL"
FFDNET, DPIR, DNCNN = "FFDNet", "FFDNet as DPIR", "FDnCNN"
FIRST = 49 / 255  # DPIR's
FAMILIES = ["db2", "db8"]
PLAIN: tuple[Climb, ...] = (("strength", 4), ("last", 2), ("strength", 2))
UP_TO_TWICE: tuple[Climb, ...] = (("strength", 4), ("last", 2), ("steps", 2))
FROM_FFDNET: tuple[Climb, ...] = (("strength", 3.0),)  # slow denoisers, from FFDNet's settings


def ours(prior: GMDMPrior) -> list[Method]:
    """With no knob, and tuned about what it chooses by itself."""

    def as_it_comes(task: Task, settings: Settings) -> Tensor:
        sigma = float(task.physics.noise_model.sigma)
        return build_solver("hqs", prior, sigma=sigma)(task.y, task.physics)

    def tuned(task: Task, settings: Settings) -> Tensor:
        solver = build_solver(
            {"name": "hqs", "start": settings.first, "max_iter": settings.steps},
            prior,
            sigma=float(task.physics.noise_model.sigma),
            prior_lambda=settings.strength,
            prior_sigma=settings.last * task.plan.sigma,
        )
        return solver(task.y, task.physics, init=task.plan.start)

    def start(task: Task) -> Settings:
        plan = task.plan
        return Settings(plan.weight, plan.levels[0], plan.levels[-1] / plan.sigma, len(plan.levels))

    climbs: tuple[Climb, ...] = (
        *(("strength", 4), ("last", 1.7), ("first", 1.8), ("steps", 2)),
        ("strength", 1.7),
    )
    return [Method(OURS, as_it_comes), Method(TUNED, tuned, start, climbs)]


def plugged(
    name: str, denoise: Denoise, steps: int, climbs: tuple[Climb, ...] = PLAIN, most: int = 100
) -> Method:
    """Half-quadratic splitting around a denoiser, DPIR's settings to begin with."""
    whole = by_channel(denoise)

    def restore(task: Task, settings: Settings) -> Tensor:
        return split(task, whole, settings)

    return Method(name, restore, lambda task: Settings(0.23, FIRST, 1.0, steps), climbs, most)


def proximal(name: str, denoise: Denoise, start: float) -> Method:
    """Half-quadratic splitting around a proximal map, whose weight is `strength`."""

    def restore(task: Task, settings: Settings) -> Tensor:
        def step(u: Tensor, level: float) -> Tensor:
            parts = [denoise(part, settings.strength * level**2) for part in u.split(1, 1)]
            return torch.cat(parts, 1)

        return split(task, step, Settings(1.0, settings.first, settings.last, settings.steps))

    climbs: tuple[Climb, ...] = (("strength", 2), ("last", 2), ("strength", 1.4))
    return Method(name, restore, lambda task: Settings(start, FIRST, 0.5, 12), climbs)


def total_variation(y: Tensor, weight: float) -> Tensor:
    """Deepinv's; a new object each time, for it starts where it last ended."""
    return TVDenoiser(n_it_max=50, crit=1e-5)(y, weight)


def shrinkage(y: Tensor, weight: float) -> Tensor:
    """Deepinv's soft thresholds in two wavelet bases at once."""
    return WaveletDictDenoiser(list_wv=FAMILIES, non_linearity="soft", mode="reflect")(y, weight)


def simple() -> list[Method]:
    """The pseudo-inverse, total variation and wavelets."""
    return [
        Method(FLOOR, lambda task, settings: task.floor()),
        proximal(TV, total_variation, 8.0),
        proximal(WAVELETS, shrinkage, 64.0),
    ]


def networks_of(folder: Path) -> list[Method]:
    """Plug-and-play with networks of their authors' weights."""
    ffdnet, _ = networks.ffdnet(folder)
    dncnn, _ = networks.flexible_dncnn(folder)
    more = (*PLAIN, ("steps", 3.0), ("strength", 2))
    return [
        plugged(DPIR, ffdnet, 8, ()),
        plugged(FFDNET, ffdnet, 8, more, 24),
        plugged(DNCNN, dncnn, 8, FROM_FFDNET),
        *deep_variation(folder),
        ridge_method(folder, "CRR"),
        ridge_method(folder, "WCRR"),
    ]


def block_matching() -> Method:
    """Plug-and-play with BM3D."""
    return plugged(BM3D, bm3d_denoiser(1), 8, FROM_FFDNET)


def likeliest_classes(mixture: Path) -> Method:
    """EPLL, with the mixture of a file."""
    return plugged(EPLL, PatchMap.read(mixture), 8, UP_TO_TWICE, 16)


def methods(weights: str, folder: Path | None, mixture: Path) -> dict[str, Method]:
    """All of them by name, without networks that there is no folder of, or EPLL not fitted yet."""
    torch.set_num_threads(1)
    found = ours(GMDMPrior(weights))
    found += networks_of(folder) if folder is not None else []
    found += [block_matching(), *simple()]
    found += [likeliest_classes(mixture)] if mixture.is_file() else []
    return {method.name: method for method in found}
