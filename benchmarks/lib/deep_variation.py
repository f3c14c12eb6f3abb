"""Total deep variation (TDV), with weights and network of the LearnedRegularizers study.

Kobler et al. (2020); network and weights of Hertrich et al., `The LearnedRegularizers study`, which
are never committed: the network is imported from a checkout `LearnedRegularizers` beside weights as
`TDV_bilevel_IFT_for_Denoising.pt`. With N the network's energy, summed over pixels,

    R(x) = e^(α - 2 β) N(e^β x),

and f(x) + λ R(x) is minimised by accelerated proximal gradient steps, the data by their proximal
map. Momentum is dropped where it points uphill (O'Donoghue and Candès 2015). The step is one over
the greatest curvature that was seen between two gradients, at first by the power method.
"""

import importlib.util
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import deepinv
import torch
from deepinv_gmdm.data_steps import DataStep
from deepinv_gmdm.physics import physics_sigma
from torch import Tensor

from lib.problems import Task
from lib.ridge import learned
from lib.split import Method

TDV = "TDV"
FILES = {False: "TDV_bilevel_IFT_for_Denoising.pt", True: "TDV_bilevel_JFB_for_CT.pt"}
NETWORK = Path("LearnedRegularizers/priors/tdv")  # a package of the checkout
MODULE = "learned_regularizers_tdv"  # its name while it is imported
STEPS = 40
POWERS = 4  # steps of the power method
NUDGE = 0.01  # how far it goes to see a curvature, root mean square of an image


@dataclass(frozen=True)
class DeepVariation:
    """A regulariser.

    Attributes:
        network: the study's TDV.
        height: α.
        zoom: β.
    """

    network: Any
    height: float
    zoom: float

    @classmethod
    def read(cls, network: Any, path: Path) -> "DeepVariation":
        """A network that has no weights yet, and those of a file."""
        stored = torch.load(path, map_location="cpu", weights_only=True)
        height, zoom = (float(stored.pop(name)) for name in ("alpha", "scale"))
        weights = {key.removeprefix("regularizer."): value for key, value in stored.items()}
        network.load_state_dict(weights)
        return cls(network.requires_grad_(False), height, zoom)

    def slope(self, x: Tensor, scale: float) -> Tensor:
        """∇R of an image's channels, each by itself, at a scale of images."""
        zoom = scale * torch.tensor(self.zoom).exp()
        parts = torch.cat(x.split(1, 1))
        gradient = self.network.grad(zoom * parts) * torch.tensor(self.height).exp() / zoom
        return torch.cat(gradient.split(len(x)), 1)

    def minimise(self, task: Task, weight: float, scale: float, steps: int) -> Tensor:
        """Argmin of f + λ R at a scale of images."""
        fidelity = deepinv.optim.L2(sigma=physics_sigma(task.physics))
        data_step = DataStep(fidelity, task.physics, task.y)
        x = at = task.plan.start
        slope = self.slope(at, scale)
        curvature = self.curvature(at, slope, scale)
        age = 1.0
        for _ in range(steps):
            tau = 1 / (weight * curvature)
            u = data_step(at - tau * weight * slope, tau**0.5, 1.0)
            if float(((at - u) * (u - x)).sum()) > 0:
                age = 1.0
            later = (1 + (1 + 4 * age**2) ** 0.5) / 2
            ahead = u + (age - 1) / later * (u - x)
            x, age = u, later
            steeper = self.slope(ahead, scale)
            gone = float((ahead - at).norm())
            if gone > 0:
                curvature = max(curvature, float((steeper - slope).norm()) / gone)
            at, slope = ahead, steeper
        return x

    def curvature(self, x: Tensor, slope: Tensor, scale: float) -> float:
        """The greatest eigenvalue of ∇²R at an image, nearly."""
        way = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        found = 0.0
        for _ in range(POWERS):
            way = NUDGE * way / way.square().mean().sqrt()
            change = self.slope(x + way, scale) - slope
            found = max(found, float(change.norm() / way.norm()))
            way = change
        return found


def package(path: Path) -> ModuleType:
    """A package of a folder, which no other code can import, and which hides none."""
    spec = importlib.util.spec_from_file_location(
        MODULE, path / "__init__.py", submodule_search_locations=[str(path)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module  # for its relative imports
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a compiler that goes out of use
            spec.loader.exec_module(module)
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == MODULE]:
            del sys.modules[name]
    return module


def deep_variation(folder: Path) -> list[Method]:
    """TDV, with the weights for CT where it is CT; nothing without the checkout."""
    if not (folder / NETWORK / "__init__.py").is_file():
        return []
    study = package(folder / NETWORK)
    both = {
        ct: DeepVariation.read(study.TDV(in_channels=1), folder / file)
        for ct, file in FILES.items()
    }
    return [learned(TDV, both, lambda ct: 1.0, STEPS, (("strength", 2), ("first", 1.5)))]
