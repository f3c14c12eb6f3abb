"""Ridge regularisers, CRR and WCRR, with the weights of the LearnedRegularizers study.

Goujon et al. (2023, 2024); weights of Hertrich et al., `The LearnedRegularizers study`, as
`WCRR_bilevel_IFT_for_Denoising.pt` and so on, never committed. With W three convolutions of 5×5
pixels and 64 channels, spectral norm 1, and H the Huber function of threshold 1,

    R(x) = e^α Σ_i (H(e^β t_i) e^-β - w H(t_i)) / a_i²,    t_i = a_i (W x)_i,

w = 0 for CRR (convex) and 1 for WCRR. f(x) + λ R(x) is minimised by Condat's and Vu's primal-dual
steps: the data by its proximal map, the steep Huber by the clipped dual variable, the flat one by
its gradient.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepinv
import torch
import torch.nn.functional as F
from deepinv_gmdm.data_steps import DataStep
from deepinv_gmdm.physics import physics_sigma
from torch import Tensor

from lib.problems import Task
from lib.split import Climb, Method, Settings

FILES = {
    ("CRR", False): "CRR_bilevel_IFT_for_Denoising.pt",
    ("WCRR", False): "WCRR_bilevel_IFT_for_Denoising.pt",
    ("CRR", True): "CRR_bilevel_JFB_for_CT.pt",
    ("WCRR", True): "WCRR_bilevel_JFB_for_CT.pt",
}
STEPS = 60
PRIMAL = 0.01  # primal step over the mean dual variable's bound
FIRST_SCALE = {("WCRR", True): 0.25}  # where the search begins, if not at 1
TRAINED = {False: 0.1, True: 0.7}  # noise level of the weights, where λ = 1 / TRAINED²


@dataclass(frozen=True)
class Ridge:
    """A regulariser as numbers.

    Attributes:
        kernels: of the three convolutions, of norm 1 together.
        amplitude: a, (1, 64, 1, 1).
        bend: β.
        height: α.
        weak: w.
    """

    kernels: tuple[Tensor, ...]
    amplitude: Tensor
    bend: Tensor
    height: Tensor
    weak: float

    @classmethod
    def read(cls, path: Path, weak: float) -> "Ridge":
        """A file of the study."""
        stored = torch.load(path, map_location="cpu", weights_only=True)
        first = stored["regularizer.filters.0.parametrizations.weight.original"]
        kernels = (
            first - first.mean((1, 2, 3), keepdim=True),
            stored["regularizer.filters.1.weight"],
            stored["regularizer.filters.2.weight"],
        )
        point = torch.zeros(1, 1, 25, 25)
        point[0, 0, 12, 12] = 1
        answer = _back(_forth(point, kernels), kernels)
        norm = torch.fft.fft2(answer, s=(256, 256)).abs().max().sqrt()
        kernels = (kernels[0] / norm, *kernels[1:])
        amplitude = (stored["regularizer.scaling"] + stored["scale"]).exp()
        return cls(kernels, amplitude, stored["regularizer.beta"], stored["alpha"], weak)

    def minimise(self, task: Task, weight: float, scale: float, steps: int) -> Tensor:
        """Argmin of f + λ R at a scale of images."""
        plan, physics = task.plan, task.physics
        fidelity = deepinv.optim.L2(sigma=physics_sigma(physics))
        amplitude = self.amplitude * scale
        bound = weight * self.height.exp() / amplitude  # of the dual variable
        slope = bound * self.bend.exp() * amplitude  # of the steep Huber's gradient
        flat = self.weak * weight * float(self.height.exp())  # Lipschitz constant of the other
        x = plan.start
        x = torch.cat(x.split(1, 1))  # real and imaginary part side by side
        dual = torch.zeros_like(_forth(x, self.kernels))
        # an image's distance over a dual variable's; 1 / tau - sigma >= flat / 2
        tau = PRIMAL / float(bound.mean())
        ascent = 0.9 / tau
        tau = 1 / (1 / tau + flat / 2)
        level = tau**0.5
        data_step = DataStep(fidelity, physics, task.y)
        for _ in range(steps):
            response = _forth(x, self.kernels)
            gentle = self.weak * bound * (amplitude * response).clamp(-1, 1)
            ahead = x - tau * _back(dual - gentle, self.kernels)
            shaped = torch.cat(ahead.split(len(task.scene), 0), 1)
            u = data_step(shaped, level, 1.0)
            x = torch.cat(u.split(1, 1))
            risen = dual + ascent * (2 * _forth(x, self.kernels) - response)
            dual = torch.clamp(risen / (1 + ascent / slope), -bound, bound)
        return torch.cat(x.split(len(task.scene), 0), 1)


def _forth(x: Tensor, kernels: tuple[Tensor, ...]) -> Tensor:
    for kernel in kernels:
        x = F.conv2d(x, kernel, padding=2)
    return x


def _back(x: Tensor, kernels: tuple[Tensor, ...]) -> Tensor:
    for kernel in reversed(kernels):
        x = F.conv_transpose2d(x, kernel, padding=2)
    return x


def is_ct(task: Task) -> bool:
    """Whether weights for CT are those to take."""
    return isinstance(task.physics, deepinv.physics.Tomography)


def learned(
    name: str,
    both: Mapping[bool, Any],
    scale: Callable[[bool], float],
    most: int,
    climbs: Sequence[Climb],
) -> Method:
    """A learned regulariser with weights of its own where it is CT (`True`), in `most` steps.

    Its search begins at the weight that it was trained with, and at a scale of images.
    """

    def restore(task: Task, settings: Settings) -> Tensor:
        regulariser = both[is_ct(task)]
        return regulariser.minimise(task, settings.strength, settings.first, settings.steps)

    def start(task: Task) -> Settings:
        ct = is_ct(task)
        return Settings(1 / TRAINED[ct] ** 2, scale(ct), 0.0, most)

    return Method(name, restore, start, climbs)


def ridge_method(folder: Path, kind: str) -> Method:
    """CRR or WCRR, with the weights for CT where it is CT."""
    weak = float(kind == "WCRR")
    both = {ct: Ridge.read(folder / FILES[kind, ct], weak) for ct in (False, True)}
    climbs = (("strength", 4), ("first", 2), ("strength", 2))
    return learned(kind, both, lambda ct: FIRST_SCALE.get((kind, ct), 1.0), STEPS, climbs)
