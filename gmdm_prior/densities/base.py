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
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import singledispatch
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from gmdm_prior.ambient import plain_modes
from gmdm_prior.densities.batches import check_events, on_patches, on_patches_at
from gmdm_prior.densities.bits import bits_per_dim
from gmdm_prior.densities.diffused import Diffused
from gmdm_prior.densities.mean import MeanPart
from gmdm_prior.gaussian_noise import Covariance, Noise
from gmdm_prior.sigma import event_variance

AnyNoise = float | Tensor | Noise | Covariance
Options = dict[str, Any]
Unpack = Callable[[str, dict[str, Tensor], Options], "DensityModel"]
PLAIN = {"log_prob", "score", "posterior", "denoise", "sample", "covariance", "responsibilities"}
PLAIN |= {"bits_per_dim", "residual"}  # methods of densities that keep ambient modes out


class Packed(NamedTuple):
    """A density taken apart: its kind, its stored numbers and its options (JSON-able)."""

    kind: str
    tensors: dict[str, Tensor]
    options: Options


class DensityModel(nn.Module, ABC):
    """A density of events of shape `event_shape` at every noise level, in closed form.

    Inputs are (*batch, *event_shape) in float64, float32, bfloat16 or float16 (half types
    accumulate in float32); outputs keep dtype and device; inputs are never modified. `sigma` is a
    number, or a tensor that broadcasts to the batch shape without enlarging it.

    Densities of whole images take (*batch, 1, H, W) of any size that they can, have no
    `event_shape`, and their `sample` needs `size=(H, W)` besides.
    """

    kind: ClassVar[str]  # its name in files
    event_shape: tuple[int, ...]
    normalised: bool
    name: str  # that it was loaded by

    if TYPE_CHECKING:  # buffers, modules, and what only some densities have

        def __getattr__(self, name: str) -> Any:
            """A buffer, a module or an attribute of a subclass."""

    @abstractmethod
    def pack(self) -> Packed:
        """Give what is stored of the model; `gmdm_prior.files` writes it."""

    @classmethod
    @abstractmethod
    def unpack(cls, tensors: dict[str, Tensor], options: Options, unpack: Unpack) -> DensityModel:
        """The density that `pack` took apart, to the bit; `unpack` makes those inside of it."""

    def __repr__(self) -> str:
        """Name its kind, what it was loaded by, its patch and how many numbers it has."""
        name = getattr(self, "name", None)
        shape = getattr(self, "event_shape", None) or ()
        size = f"patches of {' x '.join(map(str, shape))}, " if shape else ""
        called = f" {name!r}" if name else ""
        return f"<{type(self).__name__}{called}: {size}{self.num_parameters:,} numbers>"

    def made_exact(self) -> DensityModel:
        """Make bases that were rounded in a file orthonormal again, in place; returns itself."""
        return self

    def get_extra_state(self) -> Tensor:
        """The options, which no parameter holds, as the bytes of JSON: a part of `state_dict`."""
        text = json.dumps(self.pack().options)
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Refuse the parameters of a density with other options.

        Raises:
            ValueError: the options differ; both are named.
        """
        own = json.loads(json.dumps(self.pack().options))
        given = json.loads(bytes(state.tolist()))
        differing = [key for key in own if own[key] != given.get(key)]
        if differing:
            shown = ", ".join(f"{key}={given.get(key)!r}" for key in differing)
            has = ", ".join(f"{key}={own[key]!r}" for key in differing)
            raise ValueError(
                f"the state is of a {self.kind} with {shown}, and this one has {has}: load it into "
                "a density made with the same options"
            )

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
        """The number of stored numbers."""
        return sum(p.numel() for p in self.parameters())

    def trainable(self) -> DensityModel:
        """A copy with free parameters of which any values give an exact density (`trainable`).

        It is a model of the same class, for unfolded networks; its `frozen()` is a plain model
        again, and `gmdm_prior.save` writes either.

        Raises:
            TypeError: for another model than a `PatchModel` or `PatchMixture`.
        """
        import_module("gmdm_prior.densities.trainable")  # registers what has one; by its name, as
        return trainable_copy(self)  # it imports this file


@singledispatch
def trainable_copy(model: DensityModel) -> DensityModel:
    """What `DensityModel.trainable` returns; `trainable` registers the models that have one."""
    raise TypeError(
        f"a {type(model).__name__} has no trainable form; take a PatchModel or a PatchMixture, "
        "gmdm_prior.load('gray').trainable()"
    )


class PatchDensity(DensityModel):
    """A density of patches (C, b, b): a subclass defines `at`, and the rest follows from it.

    A subclass sets `event_shape` and `mean_part`, and defines what is abstract here.
    """

    mean_part: MeanPart

    @abstractmethod
    def at(self, noise: Tensor) -> Diffused:
        """The density at a noise *variance*: () for all, (N, 1) per patch, (N, a) per pixel."""

    @abstractmethod
    def numbers_per_patch(self, noise: Tensor) -> int:
        """The count of numbers that an evaluation holds for every patch, to bound its memory."""

    @abstractmethod
    def draw(self, noise: Tensor, generator: torch.Generator | None) -> Tensor:
        """(N, a) samples, one at each noise variance of `noise` (N, 1); a flat mean is 0."""

    @abstractmethod
    def zero_mean_lipschitz(self, sigma: float) -> float:
        """Largest curvature of -log f(., sigma) among zero-mean patches."""

    @abstractmethod
    def stored(self) -> tuple[dict[str, Tensor], Options]:
        """The arguments of the constructor: tensors, and others."""

    @property
    def channels(self) -> int:
        """Channels C of a patch."""
        return self.event_shape[0]

    @property
    def patch_size(self) -> int:
        """Side b of a patch, in pixels."""
        return self.event_shape[-1]

    @property
    def dimensions(self) -> int:
        """Dimensions of the subspace where the density lives, with the mean where it is proper.

        Stretching patches by s subtracts this times log s from the log-density.
        """
        means = 0 if self.mean_part.variance is None else self.channels
        return self.channels * (self.patch_size**2 - 1) + means

    def log_prob(self, x: Tensor, sigma: AnyNoise) -> Tensor:
        """Log-density (*batch) of patches (*batch, C, b, b), on the subspace where it lives."""
        return self._run(x, sigma, lambda level, y: (level.log_prob(y),))[0]

    def score(self, x: Tensor, sigma: AnyNoise) -> Tensor:
        """Gradient of `log_prob`, shaped like x."""
        return self._run(x, sigma, lambda level, y: (level.score(y),))[0]

    def denoise(self, y: Tensor, sigma: AnyNoise) -> Tensor:
        """Posterior mean E[x | y], shaped like y; exactly y where sigma = 0."""
        return self._run(y, sigma, lambda level, p: (_kept(level, p, level.posterior_mean(p)),))[0]

    def posterior(self, y: Tensor, sigma: AnyNoise) -> tuple[Tensor, Tensor]:
        """Posterior mean and per-pixel variance, both shaped like y."""

        def moments(level: Diffused, p: Tensor) -> tuple[Tensor, Tensor]:
            mean, variance = level.posterior(p)
            return _kept(level, p, mean), variance

        mean, variance = self._run(y, sigma, moments)
        return mean, variance

    def sample(
        self,
        shape: tuple[int, ...] = (),
        sigma: float | Tensor = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Exact samples (*shape, C, b, b) of the density at a noise level; a flat mean is 0."""
        shape, like = torch.Size(shape), next(self.parameters())
        noise = event_variance(sigma, shape, like).expand(shape).reshape(-1, 1)
        if not len(noise):
            return like.new_zeros(*shape, *self.event_shape)
        return self.draw(noise, generator).reshape(*shape, *self.event_shape).to(like.dtype)

    def with_mean(self, variance: float) -> PatchDensity:
        """A copy with a proper density N(1/2, variance) of the mean grey level of each channel."""
        if not 0 < variance < math.inf:
            raise ValueError(f"variance must be positive and finite; got {variance}")
        proper = copy.deepcopy(self)
        proper.mean_part = MeanPart(self.channels, self.patch_size**2, float(variance))
        return proper

    def bits_per_dim(
        self, images: Tensor, levels: int = 256, generator: torch.Generator | None = None
    ) -> Tensor:
        """Bits per dimension (*batch) of quantised patches (*batch, C, b, b), see `bits`.

        Needs a proper mean (`with_mean`). Random: an upper bound in the mean over `generator`.

        Raises:
            ValueError: the mean, or another direction, is flat; or the arguments do not fit.
        """
        check_events(images, self.event_shape)
        if self.mean_part.variance is None:
            raise ValueError(
                "bits_per_dim needs a proper density of the mean grey level, which is flat here: "
                "use model.with_mean(variance), with the mean of (patch mean - 1/2)² over your "
                "patches"
            )
        whole = math.prod(self.event_shape)
        if whole > self.dimensions:
            raise ValueError(
                "bits_per_dim needs a density of whole patches; this model is flat in "
                f"{whole - self.dimensions} more directions than the mean. A model of "
                f"{whole - self.channels} filters is not"
            )
        return bits_per_dim(lambda x: self.log_prob(x, 0.0), images, levels, generator)

    def lipschitz(self, sigma: float) -> float:
        """Largest curvature of -log f(., sigma), that of a proper mean too: for the descent lemma.

        The mean of a channel is Gaussian, so its curvature is 1 / (b² variance + sigma²).
        """
        part, largest = self.mean_part, self.zero_mean_lipschitz(sigma)
        if part.variance is None:
            return largest
        return max(largest, 1 / (part.variance * part.pixels + sigma * sigma))

    def pack(self) -> Packed:
        """Give what `stored` says, and the variance of the mean."""
        tensors, options = self.stored()
        return Packed(self.kind, tensors, options | {"mean_variance": self.mean_part.variance})

    @classmethod
    def unpack(cls, tensors: dict[str, Tensor], options: Options, unpack: Unpack) -> PatchDensity:
        """The density that `pack` took apart, to the bit."""
        own = {k: v for k, v in options.items() if k != "mean_variance"}
        model, variance = cls(**tensors, **own), options.get("mean_variance")
        return model if variance is None else model.with_mean(variance)

    def _run(
        self,
        x: Tensor,
        sigma: AnyNoise,
        method: Callable[[Any, Tensor], tuple[Tensor, ...]],
    ) -> tuple[Tensor, ...]:
        """`method(the density at a noise, patches (N, a))` over a batch, in bounded memory."""
        shape, count = self.event_shape, self.numbers_per_patch

        def evaluate(y: Tensor, noise: Any) -> tuple[Tensor, ...]:
            return method(self.at(noise), y)

        if isinstance(sigma, (Noise, Covariance)):
            return on_patches_at(shape, x, sigma, evaluate, count)
        return on_patches(shape, x, sigma, evaluate, count)


def check_real(**parameters: Tensor) -> None:
    """Refuse parameters of integers and of complex numbers.

    Raises:
        TypeError: which names the parameter and its type.
    """
    for name, value in parameters.items():
        if not value.is_floating_point():
            raise TypeError(f"{name} must be real floating point; got {value.dtype}")


def _kept(level: Diffused, y: Tensor, mean: Tensor) -> Tensor:
    """Posterior means, exactly y where there is no noise."""
    return torch.where(level.noise == 0, y, mean)
