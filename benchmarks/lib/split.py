"""Half-quadratic splitting around any denoiser, and the search for its settings.

Plain splitting as DPIR has it (Zhang et al. 2021): with falling levels s,

    u = argmin f(u) + λ ‖u - x‖² / (2 s²),    x = denoise(u, s).

Rivals begin where `half_quadratic` does, at the smooth estimate, better than Aᵀ y, and have its
data steps; their levels fall evenly in logarithm from `first` to `last` σ / ‖A‖.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import deepinv
import torch
from deepinv_gmdm.data_steps import DataStep
from deepinv_gmdm.physics import physics_sigma
from deepinv_gmdm.solver_config import schedule
from torch import Tensor

from lib.figures import psnr
from lib.problems import Task

FINEST = 1 / 1024  # least last level


@dataclass(frozen=True)
class Settings:
    """What a method is tuned in; it ignores what it has not.

    Attributes:
        strength: weight of the prior.
        first: first level, of learned regularisers the scale of images.
        last: last level over σ / ‖A‖.
        steps: how many.
    """

    strength: float = 0.0
    first: float = 0.0
    last: float = 0.0
    steps: int = 0


Restore = Callable[[Task, Settings], Tensor]
Climb = tuple[str, float]  # the number that is climbed, by which factor


@dataclass(frozen=True)
class Method:
    """A way to restore.

    Attributes:
        name: in tables.
        restore: a task with settings as a scene.
        start: where the search begins, for the first of the tasks.
        climbs: what is searched, in this order; none where nothing is to be tuned.
        most: most steps that the search may ask for.
    """

    name: str
    restore: Restore
    start: Callable[[Task], Settings] = lambda task: Settings()
    climbs: Sequence[Climb] = ()
    most: int = 100


def split(task: Task, denoise: Callable[[Tensor, float], Tensor], settings: Settings) -> Tensor:
    """Half-quadratic splitting of a task."""
    plan, physics = task.plan, task.physics
    fidelity = deepinv.optim.L2(sigma=physics_sigma(physics))
    last = min(max(settings.last * plan.sigma, FINEST), settings.first)
    data_step = DataStep(fidelity, physics, task.y)
    x = plan.start
    for level in schedule(plan.sigma, settings.steps, settings.first, last):
        u = data_step(x, level, settings.strength)
        x = denoise(u, level)
    return x


def tune(
    method: Method, tasks: Sequence[Task], seed: Settings | None = None, most: int | None = None
) -> tuple[Settings, float]:
    """The settings that are best on tasks, and their mean PSNR there.

    The search begins at `seed`, with the steps of the method, or at the method's own start; `most`
    is how many of its numbers are climbed.
    """
    seen: dict[Settings, float] = {}

    def value(settings: Settings) -> float:
        if settings not in seen:
            seen[settings] = _mean(method, settings, tasks)
        return seen[settings]

    start = method.start(tasks[0])
    best = _rounded(start if seed is None else replace(seed, steps=start.steps))
    for name, factor in method.climbs[:most]:
        for by in (factor, 1 / factor):
            while True:
                tried = _times(best, name, by, method.most)
                if not value(tried) > value(best) + 1e-3:
                    break
                best = tried
    return best, value(best)


def _times(settings: Settings, name: str, by: float, most: int) -> Settings:
    number = getattr(settings, name) * by
    if name == "steps":
        number = min(max(round(number), 4), most)
    return _rounded(replace(settings, **{name: number}))


def _rounded(settings: Settings) -> Settings:
    """To three digits, as they are written."""
    numbers = [float(f"{v:.3g}") for v in stored(settings)[:3]]
    return settings_of([*numbers, settings.steps])


def _mean(method: Method, settings: Settings, tasks: Sequence[Task]) -> float:
    values = [psnr(task.seen(method.restore(task, settings)), task.truth) for task in tasks]
    mean = sum(values) / len(values)
    return -math.inf if math.isnan(mean) else mean


def by_channel(denoise: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float], Tensor]:
    """A denoiser of gray images for any channels.

    Two are real and imaginary part, of values in [-1, 1], which networks never saw: they get them
    in [0, 1], with half the noise.
    """

    def run(y: Tensor, sigma: float) -> Tensor:
        if y.shape[1] == 1:
            return denoise(y, sigma)
        parts = [2 * denoise((part + 1) / 2, sigma / 2) - 1 for part in y.split(1, 1)]
        return torch.cat(parts, 1)

    return run


def settings_of(values: Sequence[float]) -> Settings:
    """Settings as they are stored."""
    strength, first, last, steps = values[:4]
    return Settings(strength, first, last, int(steps))


def stored(settings: Settings) -> tuple[float, ...]:
    """Numbers of settings."""
    return settings.strength, settings.first, settings.last, float(settings.steps)
