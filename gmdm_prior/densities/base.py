"""What every diffused density offers.

A density f(., 0) of clean events convolved with Gaussian noise of standard deviation sigma solves
the heat equation

    ∂_sigma log f = sigma (Δ log f + ‖∇ log f‖²),

and it knows its own denoiser (Tweedie, Miyasawa):

    E[x | y] = y + sigma² ∇ log f(y, sigma),     Cov[x | y] = sigma² Id + sigma⁴ ∇² log f(y, sigma).

Models compute posteriors by shrinking each response, never by these two formulas, which lose all
digits at large sigma; the formulas are the tests.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import singledispatch

import torch
from torch import Tensor, nn

from gmdm_prior.ambient import plain_modes
from gmdm_prior.densities.bits import bits_per_dim
from gmdm_prior.sigma import compute_dtype, event_variance

CHUNK = 2**24  # numbers an exact evaluation holds at a time
PLAIN = {"log_prob", "score", "posterior", "denoise", "sample", "covariance", "responsibilities"}
PLAIN |= {"bits_per_dim", "residual"}  # methods of densities that keep ambient modes out


class DensityModel(nn.Module, ABC):
    """A density of events of shape `event_shape` at every noise level, in closed form.

    Inputs are (*batch, *event_shape) in float64, float32, bfloat16 or float16 (half types
    accumulate in float32); outputs keep dtype and device; inputs are never modified. `sigma` is a
    number, or a tensor that broadcasts to the batch shape without enlarging it.

    Densities of whole images take (*batch, 1, H, W) of any size that they can, have no
    `event_shape`, and their `sample` needs `size=(H, W)` besides.
    """

    event_shape: tuple[int, ...]
    normalised: bool

    def __init_subclass__(cls, **options: object) -> None:
        """The methods of every density run without torch's ambient modes."""
        super().__init_subclass__(**options)
        for name in PLAIN & vars(cls).keys():
            setattr(cls, name, plain_modes(vars(cls)[name]))

    @abstractmethod
    def log_prob(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Log-density of the clean density convolved with N(0, sigma² Id), of shape (*batch)."""

    @abstractmethod
    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Gradient of `log_prob` with respect to x, analytic, shaped like x."""

    @abstractmethod
    def posterior(self, y: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
        """Mean and per-pixel variance of the clean event given y = x + sigma n, like y."""

    @abstractmethod
    def sample(
        self,
        shape: tuple[int, ...] = (),
        sigma: float | Tensor = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Exact samples (*shape, *event_shape) of the density at a noise level."""

    @abstractmethod
    def denoise(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        """Posterior mean E[x | y], shaped like y; exactly y where sigma = 0."""

    @property
    def num_parameters(self) -> int:
        """How many numbers are stored."""
        return sum(p.numel() for p in self.parameters())

    def trainable(self) -> DensityModel:
        """A copy with free parameters of which any values give an exact density (`trainable`).

        It is a model of the same class, for unfolded networks; its `frozen()` is a plain model
        again, and `gmdm_prior.save` writes either.

        Raises:
            TypeError: for another model than a `PatchModel` or `PatchMixture`.
        """
        return trainable_copy(self)


@singledispatch
def trainable_copy(model: DensityModel) -> DensityModel:
    """What `DensityModel.trainable` returns; `trainable` registers the models that have one."""
    raise TypeError(
        f"a {type(model).__name__} has no trainable form; take a PatchModel or a PatchMixture, "
        "gmdm_prior.load('bsds-gray').trainable()"
    )


class MeanPart:
    """The mean of each channel of a patch, which zero-mean filters do not see.

    It is flat (a constant density, so that the mean is kept and its posterior variance is sigma²),
    or with a `variance` a Gaussian N(1/2, variance) of the channel's mean grey level. In
    orthonormal coordinates d = (sum of the pixels) / b the level is d / b.
    """

    def __init__(self, channels: int, pixels: int, variance: float | None = None) -> None:
        self.channels, self.pixels = channels, pixels
        self.variance = variance
        self.centre = 0.5 * math.sqrt(pixels)

    def _coordinates(self, y: Tensor) -> Tensor:
        return y.unflatten(-1, (self.channels, self.pixels)).sum(-1) / math.sqrt(self.pixels)

    def _pixels(self, d: Tensor) -> Tensor:
        return (d / math.sqrt(self.pixels)).repeat_interleave(self.pixels, -1)

    def log_prob(self, y: Tensor, noise: Tensor) -> Tensor | float:
        """(N,) log-density of the means of patches (N, a); `noise` is () or (N, 1)."""
        if self.variance is None:
            return 0.0
        total = self.variance * self.pixels + noise
        square = (self._coordinates(y) - self.centre).square()
        return -0.5 * (square / total + (2 * math.pi * total).log()).sum(-1)

    def score(self, y: Tensor, noise: Tensor) -> Tensor:
        """(N, a) gradient of `log_prob`."""
        if self.variance is None:
            return torch.zeros_like(y)
        total = self.variance * self.pixels + noise
        return self._pixels((self.centre - self._coordinates(y)) / total)

    def posterior_mean(self, y: Tensor, noise: Tensor) -> Tensor:
        """(N, a) posterior mean of the patch's mean part."""
        d = self._coordinates(y)
        if self.variance is not None:
            gain = self.variance * self.pixels / (self.variance * self.pixels + noise)
            d = self.centre + gain * (d - self.centre)
        return self._pixels(d)

    def posterior_variance(self, noise: Tensor) -> Tensor:
        """() or (N, 1): the variance it adds to every pixel."""
        if self.variance is None:
            return noise / self.pixels
        prior = self.variance * self.pixels
        return prior * noise / (prior + noise) / self.pixels

    def posterior_covariance(self, noise: Tensor) -> Tensor:
        """(1 or N, a, a): the same for all pairs of pixels of a channel."""
        pairs = torch.block_diag(*[noise.new_ones(self.pixels, self.pixels)] * self.channels)
        return self.posterior_variance(noise).reshape(-1, 1, 1) * pairs

    def sample(self, count: int, noise: Tensor, generator: torch.Generator | None) -> Tensor:
        """(count, a) samples; zero where the mean is flat."""
        shape = (count, self.channels)
        if self.variance is None:
            return self._pixels(noise.new_zeros(shape))
        normal = torch.randn(shape, generator=generator, dtype=noise.dtype, device=noise.device)
        return self._pixels(self.centre + (self.variance * self.pixels + noise).sqrt() * normal)


def dimensions(model: DensityModel) -> int:
    """Dimensions of a patch model: those of its filters, and of the mean where it is proper."""
    means = 0 if model.mean_part.variance is None else model.event_shape[0]
    return model.filters.shape[-4] + means


def with_mean(model: DensityModel, variance: float) -> DensityModel:
    """A copy of a patch model whose channel means are N(1/2, variance) instead of flat."""
    if not 0 < variance < math.inf:
        raise ValueError(f"variance must be positive and finite; got {variance}")
    proper = copy.deepcopy(model)
    channels, size, _ = model.event_shape
    proper.mean_part = MeanPart(channels, size * size, float(variance))
    return proper


def patch_bits_per_dim(
    model: DensityModel, images: Tensor, levels: int, generator: torch.Generator | None
) -> Tensor:
    """Bits per dimension (*batch) of quantised patches under a patch model with a proper mean.

    Raises:
        ValueError: the model is flat in some direction, or the arguments do not fit.
    """
    check_events(images, model.event_shape)
    channels, size, _ = model.event_shape
    if model.mean_part.variance is None:
        raise ValueError(
            "bits_per_dim needs a proper density of the mean grey level, which is flat here: use "
            "model.with_mean(variance), with the mean of (patch mean - 1/2)² over your patches"
        )
    flat = channels * size * size - dimensions(model)
    if flat:
        raise ValueError(
            f"bits_per_dim needs a density of whole patches; this model is flat in {flat} more "
            f"directions than the mean. A model of {channels * (size * size - 1)} filters is not"
        )
    return bits_per_dim(lambda x: model.log_prob(x, 0.0), images, levels, generator)


def on_patches(
    event_shape: tuple[int, ...],
    x: Tensor,
    sigma: float | Tensor,
    evaluate: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
    numbers_per_patch: Callable[[Tensor], int],
) -> tuple[Tensor, ...]:
    """Run `evaluate(patches (N, a), noise () or (N, 1))` over a batch in bounded memory.

    Each output (N, …) is returned as (*batch, …) in the dtype of x; outputs (N, a) become events
    again.
    """
    check_events(x, event_shape)
    batch = x.shape[: x.ndim - len(event_shape)]
    variance = event_variance(sigma, batch, x)
    flat = x.reshape(-1, math.prod(event_shape)).to(compute_dtype(x.dtype))
    if variance.ndim:
        variance = variance.reshape(-1, 1)
    rows = max(1, CHUNK // numbers_per_patch(variance))
    parts = [
        evaluate(p, variance if variance.ndim == 0 else variance[i * rows : (i + 1) * rows])
        for i, p in enumerate(flat.split(rows))
    ]
    outputs = []
    for columns in zip(*parts, strict=True):
        joined = columns[0] if len(columns) == 1 else torch.cat(columns)
        tail = event_shape if joined.shape[1:] == flat.shape[1:] else joined.shape[1:]
        outputs.append(joined.reshape((*batch, *tail)).to(x.dtype))
    return tuple(outputs)


def check_events(x: Tensor, event_shape: tuple[int, ...]) -> None:
    """Refuse what is no batch of floating-point events, with the remedy."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor; got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"x must be real floating point (images in [0, 1]); got {x.dtype}")
    if x.ndim < len(event_shape) or x.shape[x.ndim - len(event_shape) :] != event_shape:
        raise ValueError(
            f"x must have shape (*batch, {', '.join(map(str, event_shape))}); got "
            f"{tuple(x.shape)}. For whole images use PatchAveraging or HalfQuadraticSplitting"
        )
