"""Colour patches as three densities of opponent planes, `OpponentModel`.

Red, green and blue are turned by an orthonormal T into luminance and two differences,

    (R + G + B) / √3,        (R - B) / √2,        (R - 2 G + B) / √6,

which keeps white noise white. Each plane has a density f_j of its own, in units in which it looks
like a gray image: u_j = (T x)_j / s_j + o_j. With d_j the dimensions of f_j,

    f(x, sigma) = prod_j s_j^-d_j f_j((T x)_j / s_j + o_j, sigma / s_j),

so that noise has its own scale in each plane, and the diffusion is as exact as theirs. The planes
are independent, a posteriori too:

    score = Tᵀ (score_j / s_j),      E[x | y] = Tᵀ s_j (E[u_j] - o_j),
    Var[x_c | y] = sum_j T_jc² s_j² Var[u_j].

s_0 = √3 keeps the values of gray images. Differences have less contrast: for a gray density on all
three planes, `SCALES` are those under which training photographs are most probable
(`benchmarks/color.py scales`). A noise map in three colours becomes one of planes by its diagonal,
sum_c T_jc² sigma_c²: exact where the colours have the same level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from gmdm_prior.densities.base import AnyNoise, DensityModel, Options, Packed, PatchDensity, Unpack
from gmdm_prior.densities.batches import check_events
from gmdm_prior.densities.bits import bits_per_dim
from gmdm_prior.gaussian_noise import Covariance, Noise
from gmdm_prior.sigma import compute_dtype, event_variance, root

OPPONENT = (
    (1 / math.sqrt(3), 1 / math.sqrt(3), 1 / math.sqrt(3)),
    (1 / math.sqrt(2), 0.0, -1 / math.sqrt(2)),
    (1 / math.sqrt(6), -2 / math.sqrt(6), 1 / math.sqrt(6)),
)
SCALES = (math.sqrt(3), 0.4, 0.2)
OFFSETS = (0.0, 0.5, 0.5)


class OpponentModel(DensityModel):
    """A diffused density of colour patches (3, b, b): one of luminance, two of differences.

    Args:
        luminance: density of patches of (R + G + B) / 3, a `PatchDensity` of one channel.
        red_blue: of (R - B) / √2 / scales[1] + 1/2; None is the same density.
        green: of (R - 2 G + B) / √6 / scales[2] + 1/2; None is the same density.
        scales: s_j, positive.

    Raises:
        TypeError: a density is no `PatchDensity`.
        ValueError: their patches are of several channels or differ in size, or a bad scale.
    """

    kind = "OpponentModel"

    def __init__(
        self,
        luminance: PatchDensity,
        red_blue: PatchDensity | None = None,
        green: PatchDensity | None = None,
        scales: Sequence[float] = SCALES,
    ) -> None:
        super().__init__()
        planes = [luminance if plane is None else plane for plane in (luminance, red_blue, green)]
        _check(planes, scales)
        self.planes: Any = nn.ModuleList(planes)  # of densities of patches
        self.scales = tuple(float(s) for s in scales)
        self.event_shape = (3, self.patch_size, self.patch_size)

    @property
    def channels(self) -> int:
        """Three: red, green and blue."""
        return 3

    @property
    def patch_size(self) -> int:
        """Side b of a patch, in pixels."""
        return self.planes[0].patch_size

    @property
    def normalised(self) -> bool:
        """True where the densities of all planes are normalised."""
        return all(plane.normalised for plane in self.planes)

    @property
    def degrees_of_freedom(self) -> int:
        """Free numbers of the planes; densities that are the same count once."""
        return sum(plane.degrees_of_freedom for plane in dict.fromkeys(self.planes))

    @property
    def dimensions(self) -> int:
        """Dimensions of the subspace of patches on which the density lives."""
        return sum(plane.dimensions for plane in self.planes)

    @property
    def log_volume(self) -> float:
        """sum_j d_j log s_j: by how much `log_prob` is less than the sum of those of the planes."""
        pairs = zip(self.planes, self.scales, strict=True)
        return sum(plane.dimensions * math.log(s) for plane, s in pairs)

    def log_prob(self, x: Tensor, sigma: AnyNoise) -> Tensor:
        """Log-density (*batch) of patches (*batch, 3, b, b), each plane's in its subspace."""
        parts = [plane.log_prob(u, level) for plane, u, level in self._split(x, sigma)]
        return (torch.stack(parts).sum(0) - self.log_volume).to(x.dtype)

    def score(self, x: Tensor, sigma: AnyNoise) -> Tensor:
        """Gradient of `log_prob`, shaped like x."""
        parts = [plane.score(u, level) for plane, u, level in self._split(x, sigma)]
        return self.gradient(torch.cat(parts, -3)).to(x.dtype)

    def denoise(self, y: Tensor, sigma: AnyNoise) -> Tensor:
        """Posterior mean E[x | y], shaped like y; exactly y where sigma = 0."""
        parts = [plane.denoise(u, level) for plane, u, level in self._split(y, sigma)]
        return self._joined(parts, y, sigma)

    def posterior(self, y: Tensor, sigma: AnyNoise) -> tuple[Tensor, Tensor]:
        """Posterior mean and per-pixel variance, like y."""
        parts = [plane.posterior(u, level) for plane, u, level in self._split(y, sigma)]
        means, variances = zip(*parts, strict=True)
        return self._joined(means, y, sigma), self.spread(torch.cat(variances, -3)).to(y.dtype)

    def sample(
        self,
        shape: tuple[int, ...] = (),
        sigma: AnyNoise = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Exact samples (*shape, 3, b, b); the mean of a plane that is flat there is 0."""
        levels: Sequence[AnyNoise]
        if isinstance(sigma, Noise):
            levels = self.plane_noise(sigma)
        else:
            levels = [cast(Any, sigma) / s for s in self.scales]
        parts = [
            plane.sample(shape, level, generator) + (o if plane.mean_part.variance is None else 0)
            for plane, level, o in zip(self.planes, levels, OFFSETS, strict=True)
        ]
        return self.leave(torch.cat(parts, -3))

    def trainable(self) -> OpponentModel:
        """A copy whose every step of an optimiser is an exact density, as of its planes."""
        planes = [plane.trainable() for plane in self.planes]
        return OpponentModel(planes[0], planes[1], planes[2], self.scales)

    def frozen(self) -> OpponentModel:
        """A plain copy of the present density that requires no gradients."""
        planes = [plane.frozen() for plane in self.planes]
        return OpponentModel(planes[0], planes[1], planes[2], self.scales)

    def with_mean(self, variance: float) -> OpponentModel:
        """A copy whose planes have means N(1/2, variance): gray, and in differences around none."""
        planes = [plane.with_mean(variance) for plane in self.planes]
        return OpponentModel(planes[0], planes[1], planes[2], self.scales)

    def bits_per_dim(
        self, images: Tensor, levels: int = 256, generator: torch.Generator | None = None
    ) -> Tensor:
        """Bits per dimension (*batch) of quantised patches (*batch, 3, b, b), see `bits`.

        Raises:
            ValueError: a direction is flat, that of the mean without `with_mean`, or the arguments
                do not fit.
        """
        check_events(images, self.event_shape)
        flat = 3 * self.patch_size**2 - self.dimensions
        if flat:
            raise ValueError(
                f"bits_per_dim needs a density of whole patches, which is flat in {flat} "
                "directions: those of the mean want model.with_mean(variance)"
            )
        return bits_per_dim(lambda x: self.log_prob(x, 0.0), images, levels, generator)

    def lipschitz(self, sigma: float) -> float:
        """Largest curvature of -log f(., sigma): for the descent lemma."""
        pairs = zip(self.planes, self.scales, strict=True)
        return max(plane.lipschitz(sigma / s) / s**2 for plane, s in pairs)

    def pack(self) -> Packed:
        """The densities of the planes one after the other: `0.filters`, …, and their options."""
        tensors: dict[str, Tensor] = {}
        options: list[Options] = []
        for j, plane in enumerate(self.planes):
            packed = plane.pack()
            tensors |= {f"{j}.{key}": value for key, value in packed.tensors.items()}
            options.append(packed.options | {"model": packed.kind})
        return Packed(self.kind, tensors, {"planes": options, "scales": list(self.scales)})

    @classmethod
    def unpack(cls, tensors: dict[str, Tensor], options: Options, unpack: Unpack) -> OpponentModel:
        """The density that `pack` took apart, to the bit."""
        planes: list[Any] = []
        for j, its in enumerate(options["planes"]):
            own = {k[len(f"{j}.") :]: v for k, v in tensors.items() if k.startswith(f"{j}.")}
            rest = {k: v for k, v in its.items() if k != "model"}
            planes.append(unpack(its["model"], own, rest))
        return cls(planes[0], planes[1], planes[2], options["scales"])

    def made_exact(self) -> OpponentModel:
        """Make the planes exact, in place; returns itself."""
        for plane in self.planes:
            plane.made_exact()
        return self

    def enter(self, colours: Tensor) -> Tensor:
        """Red, green and blue (…, 3, h, w) as planes in the units of their densities."""
        scale, offset = self._column(self.scales, colours), self._column(OFFSETS, colours)
        return _mix(_turn(colours), colours) / scale + offset

    def leave(self, planes: Tensor) -> Tensor:
        """The inverse of `enter`."""
        scale, offset = self._column(self.scales, planes), self._column(OFFSETS, planes)
        return _mix(_turn(planes).T, (planes - offset) * scale)

    def gradient(self, planes: Tensor) -> Tensor:
        """A gradient with respect to planes as one with respect to red, green and blue."""
        return _mix(_turn(planes).T, planes / self._column(self.scales, planes))

    def spread(self, planes: Tensor) -> Tensor:
        """Variances of planes, which are independent, as those of red, green and blue."""
        return _mix(_turn(planes).T.square(), planes * self._column(self.scales, planes).square())

    def levels(self, variance: Tensor) -> Tensor:
        """Noise variances of red, green and blue (…, 3, h, w) as levels of the planes."""
        return root(_mix(_turn(variance).square(), variance)) / self._column(self.scales, variance)

    def plane_noise(self, noise: Noise) -> list[Noise]:
        """The noise of red, green and blue, or of opponents, as that of each plane in its units.

        Of red, green and blue, which are taken as independent, each plane has the mean that its
        turn weighs: exact where they have the same autocovariance.
        """
        r = noise.autocovariance
        if r is None:
            return [noise.scaled(1 / s) for s in self.scales]
        if not noise.opponent:
            r = _mix(_turn(r).square(), r.expand(-1, 3, -1, -1))
        return [
            replace(noise, sigma=None, autocovariance=u, bounds=None, opponent=False).scaled(1 / s)
            for u, s in zip(r.split(1, 1), self.scales, strict=True)
        ]

    def _split(self, x: Tensor, sigma: AnyNoise):
        """Each plane's density, its patches and their noise."""
        check_events(x, self.event_shape)
        if isinstance(sigma, Covariance):
            raise TypeError("an OpponentModel takes a Noise, of which each plane has a part")
        if isinstance(sigma, Noise):
            planes = self.enter(x.to(compute_dtype(x.dtype))).split(1, -3)
            return zip(self.planes, planes, self.plane_noise(sigma), strict=True)
        level = event_variance(cast(Any, sigma), x.shape[:-3], x).sqrt()
        planes = self.enter(x.to(compute_dtype(x.dtype))).split(1, -3)
        levels = [level / s for s in self.scales]
        return zip(self.planes, planes, levels, strict=True)

    def _joined(self, means: Sequence[Tensor], y: Tensor, sigma: AnyNoise) -> Tensor:
        if isinstance(sigma, Noise):
            return self.leave(torch.cat(tuple(means), -3)).to(y.dtype)
        noiseless = (event_variance(cast(Any, sigma), y.shape[:-3], y) == 0)[..., None, None, None]
        return torch.where(noiseless, y, self.leave(torch.cat(tuple(means), -3)).to(y.dtype))

    def _column(self, values: Sequence[float], like: Tensor) -> Tensor:
        return like.new_tensor(values)[:, None, None]


def _turn(like: Tensor) -> Tensor:
    return torch.tensor(OPPONENT, dtype=like.dtype, device=like.device)


def _mix(turn: Tensor, values: Tensor) -> Tensor:
    """(…, 3, h, w) with its channels multiplied by a matrix."""
    return torch.einsum("jc,...chw->...jhw", turn, values)


def _check(planes: Sequence[PatchDensity], scales: Sequence[float]) -> None:
    for plane in planes:
        if not isinstance(plane, PatchDensity):
            raise TypeError(
                "the densities of opponents must be of patches, such as a PatchMixture; got "
                f"{type(plane).__name__}"
            )
    shapes = [plane.event_shape for plane in planes]
    if shapes[0][0] != 1 or shapes != [shapes[0]] * 3:
        raise ValueError(
            f"the densities of opponents must be of patches (1, b, b) of one size; got {shapes}"
        )
    if len(scales) != 3 or not all(0 < s < math.inf for s in scales):
        raise ValueError(f"scales must be three positive numbers; got {scales}")
