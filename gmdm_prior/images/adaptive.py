"""Half-quadratic splitting with a mixture that is adapted to each picture, as far as it can be.

Adapted classes are a gain of up to a decibel where a picture repeats itself, and they can lose
where it does not (`adapt`). Which it is the picture says itself, as noise can be split: with z ~
N(0, s Id) drawn here and any a > 0,

    y_1 = y + a z,     y_2 = y - z / a

hold independent noise, of variances (1 + a²) s and (1 + 1/a²) s. Classes are learnt from y_1 alone.
One step of averaging restores y_1 with the given mixture, x_0, and the adapted one, x_0 + d, and
y_2 tells how far to go from the one towards the other: the error of x_0 + τ d has its minimum at
τ = ⟨x - x_0, d⟩ / ‖d‖², which

    τ̂ = ⟨y_2 - x_0, d⟩ / ‖d‖²    estimates without bias, with deviation ((1 + 1/a²) s)^½ / ‖d‖,

however the classes came about. To lose nowhere, `DOUBT` deviations are taken off it and, since a
step is not the whole splitting, `CAUTION` (1 - τ). Then every step of the splitting goes so far,
from the posterior mean under the given mixture towards that under the adapted one.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.fast.adapted import OwnClasses, OwnLevel
from gmdm_prior.fast.choose import Evaluator
from gmdm_prior.gaussian_noise import Covariance, Noise
from gmdm_prior.images.adapt import adaptable, own_classes
from gmdm_prior.images.hqs import HalfQuadraticSplitting
from gmdm_prior.images.patches import Run
from gmdm_prior.images.planes import per_plane, planes_of
from gmdm_prior.sigma import concrete

SPLIT = 0.5  # a
DOUBT = 1.0  # deviations
CAUTION = 0.3
MOST = 1.3  # τ
SEED = 4_793_218_506  # of z: none that a picture may have got its noise from
STRIDE = 4  # of the averages that are compared
SMALLEST = 32  # shorter side of a picture that is adapted to, in pixels
WHITE_ONLY = (
    "a model is adapted to pictures with white noise of one known level only; this one is denoised "
    "without"
)


class AdaptiveSplitting(nn.Module):
    """`HalfQuadraticSplitting` with a mixture that is adapted to each picture and plane.

    It takes up to five times as long as `HalfQuadraticSplitting`, and is that where a picture is
    smaller than `SMALLEST`, or its noise not white and of one level: then it warns.

    Args:
        model: a `PatchMixture` with a flat mean, or an `OpponentModel` of such.
        stride: as for `HalfQuadraticSplitting`.
        boundary: likewise.

    Raises:
        TypeError: another density.
    """

    def __init__(
        self, model: DensityModel, stride: int | None = None, boundary: str = "reflect"
    ) -> None:
        super().__init__()
        self.plain = HalfQuadraticSplitting(model, stride, boundary)
        for plane in planes_of(model):
            if not adaptable(plane):
                raise TypeError(
                    "model must be a PatchMixture with a flat mean, or an OpponentModel of such, "
                    f"to be adapted; got {type(plane).__name__}. gmdm_prior.load('gray') gives one"
                )

    @property
    def model(self) -> DensityModel:
        """The density that is adapted, as it is without a picture."""
        return self.plain.model

    def forward(self, noisy: Tensor, sigma: object) -> Tensor:
        """Denoise images; arguments, result and errors are those of `PatchAveraging.forward`."""
        return per_plane(self.model, self._restore, noisy, sigma)

    def _restore(
        self, model: DensityModel, image: Tensor, level: Tensor | Noise, run: Run
    ) -> Tensor:
        """An image (c, H, W) at its level."""
        if isinstance(level, Noise) or level.ndim or not (concrete(image) and concrete(level)):
            warnings.warn(WHITE_ONLY, stacklevel=2)
        elif level > 0 and min(image.shape[1:]) >= max(SMALLEST, model.patch_size):
            mixture, noise = cast(PatchMixture, model), float(level) ** 2
            found = learnt(mixture, image.detach(), noise, self.plain._evaluator)
            return self._adapted(*found)._restore(model, image, level, run)
        return self.plain._restore(model, image, level, run)

    def _adapted(self, own: OwnClasses, trust: float) -> HalfQuadraticSplitting:
        """The splitting with classes of a picture's own."""
        if trust == 0:
            return self.plain
        adapted = copy.copy(self.plain)
        adapted._evaluator = _Trusting(self.plain._evaluator, own, trust)
        return adapted


@torch.no_grad()
def learnt(
    model: PatchMixture, image: Tensor, noise: float, evaluator: Evaluator
) -> tuple[OwnClasses, float]:
    """The classes of an image (c, H, W) with white noise of a variance, and their trust τ."""
    generator = torch.Generator().manual_seed(SEED)
    z = torch.randn(image.shape, generator=generator, dtype=image.dtype, device="cpu")
    z = z.to(image.device) * noise**0.5
    first, second = image + SPLIT * z, image - z / SPLIT
    more = (1 + SPLIT**2) * noise
    own = own_classes(model, first[None], more, evaluator)
    given, difference = _averages(model, own, first, more, evaluator)
    height, width = given.shape[1:]
    power = float(difference.square().sum())
    if not power > 0:
        return own, 0.0
    gain = float(((second[:, :height, :width] - given) * difference).sum()) / power
    deviation = ((1 + 1 / SPLIT**2) * noise / power) ** 0.5
    trust = gain - DOUBT * deviation
    trust -= CAUTION * max(0.0, 1 - trust)
    return own, min(max(trust, 0.0), MOST)


def _averages(
    model: PatchMixture, own: OwnClasses, image: Tensor, noise: float, evaluator: Evaluator
) -> tuple[Tensor, Tensor]:
    """Averages (c, h, w) of posterior means under a mixture, and how those with classes differ."""
    size, (height, width) = model.patch_size, image.shape[1:]
    stride = min(STRIDE, size)
    columns = F.unfold(image[None], size, stride=stride)[0]
    variance = image.new_tensor(noise)
    means, logs = evaluator.means_and_log_probs(model, image, variance)(columns.T)
    level = OwnLevel(own, noise, model.channels, image)
    both = torch.stack([means.T, (level.posterior_mean(columns.T, means, logs, 1.0) - means).T])
    extent = tuple(side - (side - size) % stride for side in (height, width))
    count = F.fold(torch.ones_like(columns)[None], extent, size, stride=stride)
    given, difference = F.fold(both, extent, size, stride=stride) / count
    return given, difference


class _Trusting(Evaluator):
    """Evaluates a mixture together with classes of a picture's own, as far as they are trusted."""

    def __init__(self, evaluator: Evaluator, own: OwnClasses, trust: float) -> None:
        super().__init__()
        self._given, self._own, self._trust = evaluator, own, trust

    def posterior_means(
        self, model: Any, image: Tensor, noise: Tensor | Covariance, fast: bool = False
    ) -> Callable[..., Tensor]:
        """Posterior means (N, a) at a number ()."""
        noise = cast(Tensor, noise)
        given = self._given.means_and_log_probs(model, image, noise)
        level = OwnLevel(self._own, float(noise), model.channels, image)
        return lambda y: level.posterior_mean(y, *given(y), self._trust)
