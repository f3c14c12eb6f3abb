"""Score matching of the image denoiser: Eq. 4 of the paper through patch averaging, or through HQS.

Likelihood fits patches; the denoiser of images averages posterior means of overlapping ones. Here a
model is fitted to that average D itself, on crops x of clean images:

    loss = 1/4 sum_i 10 log10 E ‖D(x + sigma n, sigma) − x‖²,   sigma = s_i exp(N(0, 0.3²)),
    s = 8, 16, 32, 70 / 255.

By Tweedie's formula the squared error of a posterior mean is Eq. 4 in pixels of the image. The
logarithm weighs the levels alike: the loss is minus a mean PSNR, in dB.

With method=hqs D is `HalfQuadraticSplitting` with its schedule, on grids of a stride drawn for
every level and step: the density is fitted to what runs. (The border of a crop is then reflected at
every step, and its outermost pixels are not scored.)

Every step is an exact density (`densities.trainable`). Only the border of b − 1 pixels of a crop,
whose patches are not all there, is left out.

Memory: the gradient with respect to the level's matrices is summed crop by crop, and only the sum
goes back through rotation, exponential and softmax. Adam: 2e-3 for rotations, 2e-2 for logarithms,
betas (0.9, 0.98), falling to zero as a half cosine over the steps; half of it through HQS.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.densities.mixture.diffused import DiffusedMixture
from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.densities.product import PatchModel
from gmdm_prior.densities.trainable import TrainableMixture, TrainableProduct
from gmdm_prior.images.averaging import PatchAveraging
from gmdm_prior.images.hqs import HalfQuadraticSplitting
from gmdm_prior.images.patches import Run, grid, interior_average, pad
from gmdm_prior.images.schedule import DEFAULT
from gmdm_prior.images.threads import Workers
from gmdm_prior.training import processes
from gmdm_prior.training.data.pool import ImagePool, step_generator
from gmdm_prior.training.ipalm.product import first_product
from gmdm_prior.training.measure import LEVELS, HeldOut
from gmdm_prior.training.score.adam import Descent, start_of
from gmdm_prior.training.score.product_level import ProductLevel, bounded
from gmdm_prior.training.settings import FitSettings

JITTER = 0.3  # standard deviation of the logarithm of a level
CROP = {"score": (40, 3), "hqs": (88, 8)}  # its side: pixels, but at least so many patches
STRIDES = (2, 3, 4)  # of the grids of HQS, where patches are twice as large
ROTATION_RATE, LOGARITHM_RATE = 2e-3, 2e-2


@dataclasses.dataclass(frozen=True)
class LevelSum:
    """What crops at one noise level add up to.

    Attributes:
        error: sum of squares over the interior pixels.
        count: how many those are.
        tensors: of the level, with their graph.
        gradients: of `error` with respect to them.
    """

    error: float
    count: int
    tensors: list[Tensor]
    gradients: list[Tensor]


Level = DiffusedMixture | ProductLevel
Restore = Callable[[Sequence[Level], Tensor], Tensor]


def image_error(
    levels: Sequence[Level],
    pairs: Sequence[tuple[Tensor, Tensor]],
    restore: Restore,
    run: Run = itertools.starmap,
) -> LevelSum:
    """Squared error of restored crops, and its gradient, one crop at a time.

    Args:
        levels: a model at the noise levels of the steps of `restore`.
        pairs: (clean, noisy) crops (C, h, w).
        restore: levels and a noisy crop to a denoised one, which may have lost a border.
        run: how crops are gone through (`threads.Workers.in_order`).

    Of several processes each takes its share of the crops; the sums are those of all.
    """
    parts = [detached(level) for level in levels]
    apart = [level for level, _, _ in parts]
    tensors = [t for _, old, _ in parts for t in old]
    leaves = [t for _, _, new in parts for t in new]

    def of_crop(clean: Tensor, noisy: Tensor) -> tuple[float, int, tuple[Tensor, ...]]:
        denoised = restore(apart, noisy)
        lost = (clean.shape[1] - denoised.shape[1]) // 2
        inner = slice(lost, -lost or None)
        square = (denoised - clean[:, inner, inner]).square().sum()
        gradients = torch.autograd.grad(square, leaves)
        return float(square.detach()), denoised.numel(), gradients

    error, count, total = 0.0, 0, [torch.zeros_like(leaf) for leaf in leaves]
    for square, pixels, gradients in run(of_crop, processes.share(pairs)):
        error += square
        count += pixels
        for sum_, gradient in zip(total, gradients, strict=True):
            sum_ += gradient
    error, everywhere = processes.summed_numbers(error, count)
    return LevelSum(error, int(everywhere), tensors, processes.summed(total))


def averaged(levels: Sequence[Level], noisy: Tensor, size: int) -> Tensor:
    """One step of patch averaging, less a border of size - 1."""
    return interior_average((noisy,), size, levels[0].posterior_mean)


def split(
    levels: Sequence[Level], noisy: Tensor, size: int, stride: int, weights: Sequence[Tensor]
) -> Tensor:
    """Steps of half-quadratic splitting with data weights, less a border of size - 1."""
    x, border = noisy, size - 1
    for i, (level, weight) in enumerate(zip(levels, weights, strict=True)):
        around = pad(x, border, border, "reflect")
        mean = interior_average((around,), size, level.posterior_mean, stride, grid(i, stride))
        x = torch.lerp(mean, noisy, weight)
    return x[:, border:-border, border:-border]


def diffused(model: TrainableMixture | TrainableProduct) -> Callable[[Tensor], Level]:
    """The present model at noise variances (), which are float32; bases are turned only once."""
    if isinstance(model, PatchModel):
        filters = model.filters.flatten(1)
        log_weights = bounded(torch.log_softmax(model.experts.logits, 1))
        bound, mean_part = model.experts.bound, model.mean_part
        return lambda noise: ProductLevel(
            filters.float(), log_weights.float(), bound, noise, mean_part
        )
    return holding(model, model.filters, model.variances, model.weights).at


def holding(
    model: TrainableMixture, filters: Tensor, variances: Tensor, weights: Tensor
) -> PatchMixture:
    """A plain mixture with these tensors, through which gradients flow, in place of parameters."""
    plain = model.frozen()
    tensors = {"filters": filters, "variances": variances, "weights": weights}
    for name, tensor in tensors.items():
        delattr(plain, name)  # a parameter, which has no past
        setattr(plain, name, tensor)
    return plain


def strides(size: int) -> list[int]:
    """Strides of the grids of HQS for patches of this size."""
    return [s for s in STRIDES if 2 * s <= size] or [1]


def detached(level):
    """A copy of a level that is cut off from the graph: the copy, its old and its new tensors.

    The new ones are leaves that require gradients, in the order of the old ones.
    """
    old, new, fields = [], [], {}
    for field in dataclasses.fields(level):
        value = getattr(level, field.name)
        tensors = value if isinstance(value, list) else [value]
        if not all(isinstance(t, Tensor) and t.requires_grad for t in tensors):
            continue
        leaves = [t.detach().requires_grad_(True) for t in tensors]
        old += tensors
        new += leaves
        fields[field.name] = leaves if isinstance(value, list) else leaves[0]
    return dataclasses.replace(level, **fields), old, new


class ScoreTrainer:
    """Score matching of the image denoiser, step by step; the loss is minus a PSNR in dB.

    Args:
        pool: training images.
        settings: `steps`, `crops`, `symmetries`, `seed`.
        start: the model to begin with. None is a product, `ipalm.start.likelihood_start` from the
            images (made at the first step), unless `restore` brings one.
        stage: `"score"` (patch averaging) or `"hqs"`.

    Raises:
        TypeError: the start is neither a `PatchMixture` nor a `PatchModel`.
    """

    def __init__(
        self,
        pool: ImagePool,
        settings: FitSettings,
        start: PatchMixture | PatchModel | None,
        stage: str = "score",
    ) -> None:
        if start is not None and not isinstance(start, (PatchMixture, PatchModel)):
            raise TypeError(
                f"init must be a PatchMixture or a PatchModel; got {type(start).__name__}"
            )
        self.steps, self.step, self.stage = settings.steps, 0, stage
        self._pool, self._settings = pool, settings
        self._descent: Descent[Any, Any] | None = None
        if start is not None:
            self._begin(start)

    def _begin(self, start: PatchMixture | PatchModel) -> None:
        share = 0.5 if self.stage == "hqs" else 1.0
        rates = {"rotation": share * ROTATION_RATE}
        self._descent = Descent(start, DensityModel.trainable, rates, share * LOGARITHM_RATE)

    def _crops(self, sigma: float, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
        size, symmetries = self._descent.model.patch_size, self._settings.symmetries
        pixels, patches = CROP[self.stage]
        clean = [
            self._pool.crop(max(pixels, patches * size), symmetries, generator)
            for _ in range(self._settings.crops // len(LEVELS))
        ]
        return [(x, x + sigma * torch.randn(x.shape, generator=generator)) for x in clean]

    def _denoiser(
        self, sigma: float, size: int, generator: torch.Generator
    ) -> tuple[list[float], Restore]:
        """The noise levels of the steps, and what they do with the model there."""
        if self.stage == "score":
            return [sigma], partial(averaged, size=size)
        steps = list(DEFAULT.at(torch.tensor(sigma)))
        fitting = strides(size)
        stride = fitting[int(torch.randint(len(fitting), (1,), generator=generator))]
        weights = [weight for _, weight in steps]
        restore = partial(split, size=size, stride=stride, weights=weights)
        return [float(level) for level, _ in steps], restore

    def advance(self) -> float:
        """One Adam step on fresh crops at four noise levels."""
        if self._descent is None:
            self._begin(first_product(self._pool, self._settings, "likelihood"))
        generator = step_generator(self._settings.seed, 4, self.step)
        at, size = diffused(self._descent.model), self._descent.model.patch_size
        tensors, gradients, loss = [], [], 0.0
        for middle in LEVELS:
            sigma = middle * math.exp(JITTER * float(torch.randn((), generator=generator)))
            crops = self._crops(sigma, generator)
            sigmas, restore = self._denoiser(sigma, size, generator)
            levels = [at(torch.tensor(s * s, dtype=torch.float32)) for s in sigmas]
            with Workers(crops[0][0].device.type == "cpu") as workers:
                result = image_error(levels, crops, restore, workers.in_order)
            if not 0 < result.error < math.inf:
                raise FloatingPointError(f"the squared error is {result.error}")
            scale = 10 / math.log(10) / result.error / len(LEVELS)
            tensors += result.tensors
            gradients += [scale * g for g in result.gradients]
            loss += 10 * math.log10(result.error / result.count) / len(LEVELS)
        torch.autograd.backward(tensors, gradients)
        self._descent.step(self.step, self.steps)
        self.step += 1
        return loss

    def state(self) -> dict[str, Any]:
        """The start, the free parameters, and Adam's moments."""
        return {"step": self.step, **self._descent.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state, which brings its own start."""
        self._begin(start_of(state))
        self.step = state["step"]
        self._descent.load(state)

    def model(self) -> PatchMixture | PatchModel:
        """The present model, float32."""
        return self._descent.snapshot()

    def held_out_loss(self, held_out: HeldOut, model: DensityModel) -> float | None:
        """Give the mean loss over the four levels, on held-out crops."""
        kind = HalfQuadraticSplitting if self.stage == "hqs" else PatchAveraging
        return -held_out.mean_psnr(model, kind)
