"""Score matching of the image denoiser: Eq. 4 of the paper through patch averaging.

Likelihood fits patches; the denoiser of images averages posterior means of overlapping ones. Here a
`PatchMixture` is fitted to that average D itself, on crops x of clean images:

    loss = 1/3 sum_i 10 log10 E ‖D(x + sigma n, sigma) − x‖²,   sigma = s_i exp(N(0, 1/16)),
    s = 15, 25, 50 / 255.

By Tweedie's formula the squared error of a posterior mean is Eq. 4 in pixels of the image. The
logarithm weighs the levels alike: the loss is minus a mean PSNR, in dB.

Every step is an exact density: from a start (A, v, w) the bases move by rotations, A_g exp'd as
exp(W_g − W_gᵀ) A_g, variances by their logarithms, weights by a softmax. Only the border of b − 1
pixels of a crop, whose patches are not all there, is left out.

Memory: the gradient with respect to the level's matrices is summed crop by crop, and only the sum
goes back through rotation, exponential and softmax. Adam: 2e-3 for rotations, 2e-2 for logarithms,
betas (0.9, 0.98), falling to zero as a half cosine over the steps.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gmdm_prior.constraints import orthonormalise
from gmdm_prior.density import DensityModel
from gmdm_prior.mixture import PatchMixture
from gmdm_prior.mixture_level import MixtureLevel
from gmdm_prior.patches import interior_average
from gmdm_prior.training.pool import ImagePool, step_generator
from gmdm_prior.training.settings import FitSettings

if TYPE_CHECKING:
    from gmdm_prior.training.held_out import HeldOut

LEVELS = (15 / 255, 25 / 255, 50 / 255)
JITTER = 0.25  # standard deviation of the logarithm of a level
CROP = 5  # side of a crop, in sides of a patch
ROTATION_RATE, LOGARITHM_RATE = 2e-3, 2e-2
BETAS = (0.9, 0.98)


class _At(nn.Module):
    """`model.at`, callable with other parameters by `functional_call`."""

    def __init__(self, model: PatchMixture) -> None:
        super().__init__()
        self.model = model

    def forward(self, noise: Tensor) -> MixtureLevel:
        return self.model.at(noise)


class MovingMixture(nn.Module):
    """A `PatchMixture` whose parameters are free: any values give an exact density.

    Args:
        start: the model at W = 0. Kept in float64.
    """

    def __init__(self, start: PatchMixture) -> None:
        super().__init__()
        start = copy.deepcopy(start).double().requires_grad_(False)
        self._at = [_At(start)]  # in a list: no parameters of this module
        groups, rows = start.filters.shape[:2]
        self.rotation = nn.Parameter(torch.zeros(groups, rows, rows, dtype=torch.float64))
        self.log_variances = nn.Parameter(start.variances.log())
        self.log_weights = nn.Parameter(start.weights.log())

    @property
    def start(self) -> PatchMixture:
        """The model at W = 0, float64."""
        return self._at[0].model

    def parameters_now(self) -> dict[str, Tensor]:
        """Filters, variances and weights, differentiable."""
        turn = torch.matrix_exp(self.rotation - self.rotation.mT)
        filters = (turn @ self.start.filters.flatten(2)).reshape(self.start.filters.shape)
        weights = torch.softmax(self.log_weights, 0).clamp(min=1e-30)
        return {"filters": filters, "variances": self.log_variances.exp(), "weights": weights}

    def level(self, parameters: dict[str, Tensor], sigma: float) -> MixtureLevel:
        """The model with `parameters` at a noise level, float32, differentiable."""
        noise = torch.tensor(sigma * sigma, dtype=torch.float32)
        state = {f"model.{name}": value for name, value in parameters.items()}
        return functional_call(self._at[0], state, (noise,))

    @torch.no_grad()
    def snapshot(self) -> PatchMixture:
        """The present model, float32, frozen."""
        now = {name: value.float() for name, value in self.parameters_now().items()}
        return _mixture(now, self.start.basis, self.start.symmetries, self.start.mean_part.variance)


def _orthonormal(model: PatchMixture) -> PatchMixture:
    """A float64 copy whose bases, stored in float32, are orthonormal to float64."""
    model = copy.deepcopy(model).double()
    with torch.no_grad():
        model.filters.copy_(orthonormalise(model.filters))
    return model


def _mixture(
    tensors: dict[str, Tensor], basis: Tensor, symmetries: str, mean_variance: float | None
) -> PatchMixture:
    model = PatchMixture(**tensors, basis=basis, symmetries=symmetries)
    proper = model if mean_variance is None else model.with_mean(mean_variance)
    return proper.requires_grad_(False)


@dataclasses.dataclass(frozen=True)
class LevelSum:
    """What crops at one noise level add up to.

    Attributes:
        error: sum of squares over the interior pixels.
        count: how many those are.
        tensors: of the level (bases, variances, log-weights), with their graph.
        gradients: of `error` with respect to them.
    """

    error: float
    count: int
    tensors: list[Tensor]
    gradients: list[Tensor]


def image_error(level: MixtureLevel, pairs: Sequence[tuple[Tensor, Tensor]], size: int) -> LevelSum:
    """Squared error of patch averaging over crops, and its gradient, one crop at a time.

    Args:
        level: a mixture at the noise level of the crops.
        pairs: (clean, noisy) crops (C, h, w), h and w at least 2 size − 1.
        size: side b of a patch.
    """
    names = ("bases", "variances", "log_weights")
    tensors = [t for name in names for t in getattr(level, name)]
    leaves = [t.detach().requires_grad_(True) for t in tensors]
    parts = iter(leaves)
    fields = {name: [next(parts) for _ in getattr(level, name)] for name in names}
    apart = dataclasses.replace(level, **fields)
    border = slice(size - 1, 1 - size)
    error, count = 0.0, 0
    for clean, noisy in pairs:
        denoised = interior_average((noisy,), size, apart.posterior_mean)
        square = (denoised - clean[:, border, border]).square().sum()
        square.backward()
        error += float(square.detach())
        count += denoised.numel()
    return LevelSum(error, count, tensors, [leaf.grad for leaf in leaves])


class ScoreTrainer:
    """Score matching of the image denoiser, step by step; the loss is minus a PSNR in dB.

    Args:
        pool: training images.
        settings: `steps`, `crops`, `seed`.
        start: the mixture to begin with; None where `restore` will bring it.

    Raises:
        TypeError: the start is no `PatchMixture`.
    """

    stage = "score"

    def __init__(self, pool: ImagePool, settings: FitSettings, start: PatchMixture | None) -> None:
        if start is not None and not isinstance(start, PatchMixture):
            raise TypeError(
                "init must be a PatchMixture for method=score; got "
                f"{type(start).__name__}: model=patch has method=ipalm"
            )
        self.steps, self.step = settings.steps, 0
        self._pool, self._settings = pool, settings
        if start is not None:
            self._begin(_orthonormal(start))

    def _begin(self, start: PatchMixture) -> None:
        self._mixture = MovingMixture(start)
        m = self._mixture
        self._optimiser = torch.optim.Adam(
            [
                {"params": [m.rotation], "rate": ROTATION_RATE},
                {"params": [m.log_variances, m.log_weights], "rate": LOGARITHM_RATE},
            ],
            betas=BETAS,
        )

    def _crops(self, sigma: float, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
        symmetries, size = self._mixture.start.symmetries, self._mixture.start.patch_size
        clean = [
            self._pool.crop(CROP * size, symmetries, generator)
            for _ in range(self._settings.crops // len(LEVELS))
        ]
        return [(x, x + sigma * torch.randn(x.shape, generator=generator)) for x in clean]

    def advance(self) -> float:
        """One Adam step on fresh crops at three noise levels."""
        generator = step_generator(self._settings.seed, 4, self.step)
        now, size = self._mixture.parameters_now(), self._mixture.start.patch_size
        tensors, gradients, loss = [], [], 0.0
        for middle in LEVELS:
            sigma = middle * math.exp(JITTER * float(torch.randn((), generator=generator)))
            level = self._mixture.level(now, sigma)
            result = image_error(level, self._crops(sigma, generator), size)
            if not 0 < result.error < math.inf:
                raise FloatingPointError(f"the squared error is {result.error}")
            scale = 10 / math.log(10) / result.error / len(LEVELS)
            tensors += result.tensors
            gradients += [scale * g for g in result.gradients]
            loss += 10 * math.log10(result.error / result.count) / len(LEVELS)
        self._optimiser.zero_grad()
        torch.autograd.backward(tensors, gradients)
        for group in self._optimiser.param_groups:
            group["lr"] = group["rate"] * 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        self._optimiser.step()
        if not all(bool(torch.isfinite(p).all()) for p in self._mixture.parameters()):
            raise FloatingPointError("a parameter is not finite after the step")
        self.step += 1
        return loss

    def state(self) -> dict[str, Any]:
        """The start, how far it has moved, and Adam's moments."""
        start = self._mixture.start
        names = ("filters", "variances", "weights", "basis")
        state = {
            "start": {name: getattr(start, name).detach() for name in names},
            "symmetries": start.symmetries,
            "mean_variance": start.mean_part.variance,
            "moved": self._mixture.state_dict(),
            "optimiser": self._optimiser.state_dict(),
        }
        return {"step": self.step, **copy.deepcopy(state)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state, which brings its own start."""
        tensors = dict(state["start"])
        basis = tensors.pop("basis")
        self._begin(_mixture(tensors, basis, state["symmetries"], state["mean_variance"]))
        self.step = state["step"]
        self._mixture.load_state_dict(state["moved"])
        self._optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))

    def model(self) -> PatchMixture:
        """The present model, float32."""
        return self._mixture.snapshot()

    def held_out_loss(self, held_out: HeldOut, model: DensityModel) -> float | None:
        """The same mean over the three levels, on held-out crops."""
        return -sum(held_out.psnr(model, level) for level in LEVELS) / len(LEVELS)
