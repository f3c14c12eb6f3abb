"""Training through half-quadratic splitting with random operators, `physics=mix`.

A quarter of the crops is denoised through the schedule of `HalfQuadraticSplitting`, as without
operators; the other quarters are seen through a blur, a mask and a down-sampling (`operators`), all
crops of a quarter through the same one, with noise of a level between `NOISE`, and restored as the
adapter's solver does it with no knob:

    z = x + 0.75 (x - x before),   u = data step from z,   x = average of posterior means of u at s,

from a smooth first iterate on, over patches whose grid moves from step to step, at levels s that
follow from the operator and the noise (deepinv_gmdm.half_quadratic says how; `planned` is the same
in short). A prefix of these steps runs without gradients, by the compiled kernel and with the model
as it is; through the `RECORDED` steps after it gradients flow. So the model learns from the
intermediate images that it makes itself.

    loss = 1/4 sum over quarters of 10 log10 (mean squared error after the last of these steps),

where the mean is over all pixels of a quarter: crops without structure hardly count.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gmdm_prior.densities.mixture.diffused import DiffusedMixture
from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.densities.trainable import TrainableMixture
from gmdm_prior.images.averaging import PatchAveraging
from gmdm_prior.images.patches import Run, grid, inner, interior_average, pad
from gmdm_prior.images.roughness import roughness
from gmdm_prior.images.schedule import DEFAULT
from gmdm_prior.images.threads import Workers
from gmdm_prior.training import processes
from gmdm_prior.training.data.pool import step_generator
from gmdm_prior.training.measure import LEVELS, HeldOut
from gmdm_prior.training.score.image_denoiser import JITTER, ScoreTrainer, holding, split, strides
from gmdm_prior.training.score.operators import (
    Operator,
    random_blur,
    random_down_sampling,
    random_mask,
)

CROP = (96, 8)  # its side: pixels, but at least so many patches
NOISE = (0.5 / 255, 25 / 255)  # least and largest level of what an operator measures
RECORDED = 4  # steps that gradients flow through
CONTRAST, SHARPEST = 0.1, 0.5  # of the first iterate, as in the adapter
FIRST, LAST, LEFT, WEIGHT, FALL, FEW = 1.15, 0.55, 1 / 8, 0.3, 0.1, 0.3
LEAST_STEPS, MOST_STEPS, LEAST_LEVEL, STIFFEST, MOMENTUM = 8, 64, 1 / 1024, 1e4, 0.75
CG_STEPS, CG_TOLERANCE = 60, 1e-3

Denoise = Callable[[Tensor, float, int], Tensor]  # an image (C, h, w) at a level, in a step
At = Callable[[float], DiffusedMixture]  # the model at a noise level


@dataclass(frozen=True)
class Denoising:
    """A noisy crop.

    Attributes:
        clean: (C, h, w).
        noisy: the same with noise of level `sigma`.
        stride: of the grids of patches.
    """

    clean: Tensor
    noisy: Tensor
    sigma: float
    stride: int

    def restored(self, at: At, fast: PatchAveraging) -> Tensor:
        """The crop less a border of b - 1."""
        steps = list(DEFAULT.at(torch.tensor(self.sigma)))
        levels = [at(float(level)) for level, _ in steps]
        weights = [weight for _, weight in steps]
        return split(levels, self.noisy, fast.model.patch_size, self.stride, weights)


@dataclass(frozen=True)
class Inverse:
    """A crop seen through an operator.

    Attributes:
        clean: (C, h, w).
        operator: A.
        measured: y, with noise of level `sigma`.
        stride: of the grids of patches.
        place: from 0 to 1, where among its steps gradients begin; 1 is as late as can be.
    """

    clean: Tensor
    operator: Operator
    measured: Tensor
    sigma: float
    stride: int
    place: float

    def restored(self, at: At, fast: PatchAveraging) -> Tensor:
        """The crop less a border of b - 1, after a number of steps."""
        with torch.no_grad():
            x, levels, weight = planned(self.operator, self.measured, self.sigma)
        size, border = fast.model.patch_size, fast.model.patch_size - 1

        def exact(u: Tensor, level: float, step: int) -> Tensor:
            around, phase = pad(u, border, border, "reflect"), grid(step, self.stride)
            return interior_average((around,), size, at(level).posterior_mean, self.stride, phase)

        def quick(u: Tensor, level: float, step: int) -> Tensor:
            return fast(u[None], level, step)[0]

        begin = round(self.place * max(len(levels) - RECORDED, 0))
        with torch.no_grad():
            state = self.steps((x, x), levels[:begin], weight, quick)
        recorded = levels[begin : begin + RECORDED]
        state = self.steps(state, recorded, weight, exact, begin)
        return inner(state[0], border)

    def steps(
        self,
        state: tuple[Tensor, Tensor],
        levels: Sequence[float],
        weight: float,
        denoise: Denoise,
        taken: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """The iterate and the one before it, after steps at these levels; some were taken."""
        x, before = state
        for step, level in enumerate(levels, taken):
            shift = max(weight * (self.sigma / level) ** 2, 1 / STIFFEST)
            ahead = x + MOMENTUM * (x - before)
            u = self.operator.data_step(ahead, self.measured, shift)
            before, x = x, denoise(u, level, step)
        return x, before


def planned(
    operator: Operator, measured: Tensor, sigma: float
) -> tuple[Tensor, list[float], float]:
    """First iterate, levels and λ that follow from an operator of norm 1 and the noise level."""
    share, even, squares = operator.measured
    spare = max(1 - share, 1e-9)
    known = 1 - even**2 * spare
    local = min(max((squares / (even * share) - share) / spare, 0.0), 1.0)
    taken = max(sigma, SHARPEST * CONTRAST)  # what is sharper rings at borders

    def hessian(x: Tensor) -> Tensor:
        return operator.adjoint(operator(x)) + (taken / CONTRAST) ** 2 * roughness(x)

    back = operator.adjoint(measured)
    start = conjugate_gradients(hessian, back)
    signs = torch.randint(0, 2, back.shape, generator=torch.Generator().manual_seed(0))
    probe = 2.0 * signs.to(back) - 1
    variance = float((probe * conjugate_gradients(hessian, probe)).mean())
    error = taken * math.sqrt(max(variance, 0.0))
    last = min(known**0.25 * math.hypot(LAST * sigma, LEFT * known**0.25 * error), sigma)
    last = max(last, LEAST_LEVEL)
    first = max(FIRST * known ** (local / 4) * error, last)
    fall = FALL * known ** ((2 - local) / 4) * min(known / FEW, 1.0) ** (4 * (1 - local))
    count = math.ceil(math.log(first / last) / fall)
    count = min(max(count, math.ceil(LEAST_STEPS / known**0.5)), MOST_STEPS)
    levels = [first * (last / first) ** (i / max(count - 1, 1)) for i in range(count)]
    seen, rest = known ** (1 + local), (1 - known) ** (1 + local)
    weight = WEIGHT * seen / (seen + rest)
    return start, levels, weight


def conjugate_gradients(apply: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
    """The solution x of a positive definite system, apply(x) = right."""
    x, residual = torch.zeros_like(right), right.clone()
    direction, square = residual, residual.square().sum()
    stop = CG_TOLERANCE**2 * square
    for _ in range(CG_STEPS):
        if not square > stop:
            break
        image = apply(direction)
        length = square / (direction * image).sum()
        x = x + length * direction
        residual = residual - length * image
        before, square = square, residual.square().sum()
        direction = residual + square / before * direction
    return x


Problem = Denoising | Inverse
OPERATORS = (random_blur, random_mask, random_down_sampling)


def draw(clean: Tensor, kind: int, size: int, seed: int, generator: torch.Generator) -> Problem:
    """A problem for a crop: denoising, or through an operator of the second to fourth kind.

    Args:
        clean: (C, h, w).
        kind: 0 to 3.
        size: side of a patch.
        seed: of operator, noise level and steps, which crops of one seed have in common.
        generator: of the noise.
    """
    common, fitting = torch.Generator().manual_seed(seed), strides(size)[-2:]
    stride = fitting[int(torch.randint(len(fitting), (), generator=common))]
    number, place = torch.rand(2, generator=common).tolist()

    def noisy(image: Tensor, sigma: float) -> Tensor:
        return image + sigma * torch.randn(image.shape, generator=generator)

    if kind == 0:
        middle = LEVELS[int(number * len(LEVELS))]
        sigma = middle * math.exp(JITTER * float(torch.randn((), generator=common)))
        return Denoising(clean, noisy(clean, sigma), sigma, stride)
    sigma = NOISE[0] * (NOISE[1] / NOISE[0]) ** number
    operator = OPERATORS[kind - 1]((clean.shape[-2], clean.shape[-1]), common)
    return Inverse(clean, operator, noisy(operator(clean), sigma), sigma, stride, place)


@dataclass(frozen=True)
class ModelSum:
    """What groups of crops add up to.

    Attributes:
        loss: the mean over groups of their errors, in dB.
        tensors: filters, variances and weights of the model, with their graph.
        gradients: of `loss` with respect to them.
    """

    loss: float
    tensors: list[Tensor]
    gradients: list[Tensor]


def mean_error(
    model: TrainableMixture, groups: Sequence[Sequence[Problem]], run: Run = itertools.starmap
) -> ModelSum:
    """The error of restored crops in dB, and its gradient, one crop at a time.

    Of several processes each takes its share of the crops of each group.

    Raises:
        FloatingPointError: an error that is zero or not finite.
    """
    tensors = [model.filters, model.variances, model.weights]
    leaves = [t.detach().requires_grad_(True) for t in tensors]
    plain, snapshot = holding(model, *leaves), model.frozen().float()
    fast = {s: PatchAveraging(snapshot, s) for s in {p.stride for some in groups for p in some}}

    def of_crop(problem: Problem) -> tuple[float, int, tuple[Tensor, ...]]:
        difference = lacking(problem, model_at(plain), fast[problem.stride])
        square = difference.square().sum()
        gradients = torch.autograd.grad(square, leaves)
        return float(square.detach()), difference.numel(), gradients

    loss, total = 0.0, [torch.zeros_like(leaf) for leaf in leaves]
    for group in groups:
        error, count, slopes = 0.0, 0, [torch.zeros_like(leaf) for leaf in leaves]
        for square, pixels, gradients in run(of_crop, [(p,) for p in processes.share(group)]):
            error += square
            count += pixels
            for sum_, gradient in zip(slopes, gradients, strict=True):
                sum_ += gradient
        error, everywhere = processes.summed_numbers(error, count)
        if not 0 < error < math.inf:
            raise FloatingPointError(f"the squared error is {error}")
        loss += 10 * math.log10(error / everywhere) / len(groups)
        scale = 10 / math.log(10) / error / len(groups)
        for sum_, slope in zip(total, processes.summed(slopes), strict=True):
            sum_ += scale * slope
    return ModelSum(loss, tensors, total)


def lacking(problem: Problem, at: At, fast: PatchAveraging) -> Tensor:
    """What a restored crop differs by from the clean one, less a border of b - 1."""
    return problem.restored(at, fast) - inner(problem.clean, fast.model.patch_size - 1)


def model_at(plain: PatchMixture) -> At:
    """The model at noise levels, in single precision; bases are turned only once."""
    clean = plain.at(torch.tensor(0.0))
    return lambda sigma: dataclasses.replace(clean, noise=torch.tensor(sigma * sigma))


class MixTrainer(ScoreTrainer):
    """Training of a `PatchMixture` through half-quadratic splitting with random operators."""

    def advance(self) -> float:
        """One Adam step on fresh crops and operators."""
        generator = step_generator(self._settings.seed, 4, self.step)
        model, symmetries = self._descent.model, self._settings.symmetries
        side = max(CROP[0], CROP[1] * model.patch_size)
        groups = []
        for kind in range(4):
            seed = int(torch.randint(2**62, (), generator=generator))
            crops = [
                self._pool.crop(side, symmetries, generator)
                for _ in range(self._settings.crops // 4)
            ]
            groups.append([draw(x, kind, model.patch_size, seed, generator) for x in crops])
        with Workers(groups[0][0].clean.device.type == "cpu") as workers:
            result = mean_error(model, groups, workers.in_order)
        torch.autograd.backward(result.tensors, result.gradients)
        self._descent.step(self.step, self.steps)
        self.step += 1
        return result.loss

    @torch.no_grad()
    def held_out_loss(self, held_out: HeldOut, model: Any) -> float | None:
        """The mean error of held-out crops in dB, each with a problem that stays the same."""
        total = 0.0
        for i, crop in enumerate(held_out.crops):
            generator = step_generator(self._settings.seed, 9, i)
            problem = draw(crop, i % 4, model.patch_size, i, generator)
            if isinstance(problem, Inverse):
                problem = dataclasses.replace(problem, place=1.0)
            average = PatchAveraging(model, problem.stride)
            square = lacking(problem, model_at(model), average).square().mean()
            total += 10 * math.log10(float(square)) / len(held_out.crops)
        return total
