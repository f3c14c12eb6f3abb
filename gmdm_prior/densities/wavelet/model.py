"""A normalised density of whole images, `WaveletModel`, exact at every noise level.

The coefficients W x of a periodic, orthonormal wavelet transform of M levels fall into trees: those
of one place, 4^M - 1 details at all levels and orientations and one low-pass coefficient. Trees are
independent, and in a tree the details have the density of a patch model on tiles of b x b pixels, b
= 2^M, whose Haar coefficients they are taken for (`to_tiles`):

    f(x, sigma) = prod_T f_tile(x_T, sigma),     x_T the tiles of Hᵀ W x, H the Haar transform.

Hᵀ W is a rotation, so this is a density of images, and white noise is the same noise in the tiles:
diffusion, score, posterior mean and samples are those of the tiles, turned back. Two kinds of
density have tiles:

    SubbandExperts   every coefficient on its own, prod_s prod_i lambda_s psi_s(lambda_s (W_s x)_i;
                     sigma_0² + lambda_s² sigma²): the paper's experts, one for each sub-band
    PatchMixture     a hidden class says how large the coefficients of a tree are, together

The low-pass band is the tiles' mean, N(1/2, variance) in grey levels, independent of the details.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmdm_prior.densities.base import DensityModel, Options, Packed, Unpack
from gmdm_prior.densities.batches import (
    CHUNK,
    check_images,
    check_size,
    on_images,
    sample_noise,
)
from gmdm_prior.densities.bits import bits_per_dim
from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.densities.wavelet.subbands import SubbandExperts
from gmdm_prior.densities.wavelet.transform import filter_bank, from_tiles, to_tiles
from gmdm_prior.densities.wavelet.variance import pixel_variances


class WaveletModel(DensityModel):
    """A density of images of one channel; both sides must be multiples of `patch_size` = 2^levels.

    The image goes on periodically at its borders. Methods take (*batch, 1, H, W) of any such size.

    Args:
        experts: density of the tiles, of one channel, with a proper mean (`with_mean`).
        wavelet: name of an orthogonal wavelet in PyWavelets, or its low-pass reconstruction filter
            (F,), which is made exactly orthonormal.

    Raises:
        TypeError: experts is another kind of model.
        ValueError: the tiles have several channels, a side that is no power of two or a flat mean;
            or the wavelet is not orthogonal.
    """

    kind = "WaveletModel"
    normalised = True

    def __init__(
        self, experts: PatchMixture | SubbandExperts, wavelet: str | Tensor = "db4"
    ) -> None:
        super().__init__()
        if not isinstance(experts, (PatchMixture, SubbandExperts)):
            raise TypeError(
                "experts must be a PatchMixture or SubbandExperts, a density of tiles; got "
                f"{type(experts).__name__}"
            )
        channels, side, _ = experts.event_shape
        if channels != 1 or side & (side - 1):
            raise ValueError(
                "experts must be of one channel and a side of 2^levels pixels (2, 4, 8, …); got "
                f"events {experts.event_shape}"
            )
        if experts.mean_part.variance is None:
            raise ValueError(
                "experts need a proper density of the mean, which is the low-pass band: use "
                "experts.with_mean(variance), with 1/12 for grey levels uniform in [0, 1]"
            )
        self.experts = experts
        self.wavelet = wavelet if isinstance(wavelet, str) else None
        self.bank = filter_bank(wavelet)

    @property
    def channels(self) -> int:
        """Channels of an image, one."""
        return 1

    @property
    def levels(self) -> int:
        """Levels M of the transform."""
        return self.patch_size.bit_length() - 1

    @property
    def patch_size(self) -> int:
        """The number of pixels, 2^levels, that both sides of an image are multiples of."""
        return self.experts.event_shape[-1]

    @property
    def num_parameters(self) -> int:
        """The number of stored numbers: those of the experts, and taps that have no name."""
        return super().num_parameters + (self.bank.shape[1] if self.wavelet is None else 0)

    def log_prob(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Log-density (*batch) of images x (*batch, 1, H, W), in nats."""
        self._check(x)

        def evaluate(planes: Tensor, noise: Tensor) -> tuple[Tensor]:
            tiles = to_tiles(planes, self.bank.to(planes), self.levels)
            return (self.experts.log_prob(tiles, _per_tile(noise)).sum((1, 2)),)

        return on_images(x, sigma, evaluate)[0]

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Gradient of `log_prob`, shaped like x."""
        return self._in_tiles(x, sigma, self.experts.score)

    def denoise(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        """Posterior mean E[x | y], shaped like y; exactly y where sigma = 0."""
        return self._in_tiles(y, sigma, self.experts.denoise, clean=True)

    def posterior(self, y: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and per-pixel variance, both shaped like y.

        The variance is exact, from the covariances inside the trees (`wavelet_variance`), and takes
        some 25 times as long as `denoise`.
        """
        self._check(y)
        return self.denoise(y, sigma), on_images(y, sigma, self._variance)[0]

    def sample(
        self,
        shape: tuple[int, ...] = (),
        sigma: float | Tensor = 0.0,
        generator: torch.Generator | None = None,
        *,
        size: tuple[int, int],
    ) -> Tensor:
        """Exact samples (*shape, 1, H, W) of the density at a noise level.

        Args:
            shape: of the batch.
            sigma: noise level; 0 gives clean images.
            generator: source of randomness, on the device of the parameters.
            size: (H, W), multiples of `patch_size`.
        """
        height, width = self._check_size(*check_size(size))
        like = next(self.parameters())
        noise = sample_noise(shape, sigma, like)
        grid = (len(noise), height // self.patch_size, width // self.patch_size)
        tiles = self.experts.sample(grid, _per_tile(noise), generator)
        images = from_tiles(tiles, self.bank.to(tiles), self.levels)
        return images.reshape(*shape, 1, height, width)

    def bits_per_dim(
        self, images: Tensor, levels: int = 256, generator: torch.Generator | None = None
    ) -> Tensor:
        """Bits per pixel (*batch) of quantised images (*batch, 1, H, W) in [0, 1], see `bits`.

        Random: an upper bound in the mean over `generator`.
        """
        self._check(images)
        return bits_per_dim(lambda x: self.log_prob(x, 0.0), images, levels, generator)

    def lipschitz(self, sigma: float) -> float:
        """Largest curvature of -log f(., sigma): for the descent lemma."""
        return self.experts.lipschitz(sigma)

    def pack(self) -> Packed:
        """The density of the tiles and the wavelet: its name, or its filter `taps`."""
        packed = self.experts.pack()
        tensors = packed.tensors | ({"taps": self.bank[0]} if self.wavelet is None else {})
        own = {"experts": packed.kind, "wavelet": self.wavelet}
        return Packed(self.kind, tensors, packed.options | own)

    @classmethod
    def unpack(cls, tensors: dict[str, Tensor], options: Options, unpack: Unpack) -> WaveletModel:
        """The density that `pack` took apart, to the bit."""
        experts = {k: v for k, v in tensors.items() if k != "taps"}
        rest = {k: v for k, v in options.items() if k not in ("experts", "wavelet")}
        wavelet = tensors["taps"] if options["wavelet"] is None else options["wavelet"]
        tiles: Any = unpack(options["experts"], experts, rest)
        return cls(tiles, wavelet)

    def made_exact(self) -> WaveletModel:
        """Make the density of tiles exact, in place; returns itself."""
        self.experts.made_exact()
        return self

    def _in_tiles(self, x: Tensor, sigma: float | Tensor, method, clean: bool = False) -> Tensor:
        """A method of the tiles, turned back; with `clean`, x itself where there is no noise."""
        self._check(x)

        def evaluate(planes: Tensor, noise: Tensor) -> tuple[Tensor]:
            bank = self.bank.to(planes)
            tiles = method(to_tiles(planes, bank, self.levels), _per_tile(noise))
            out = from_tiles(tiles, bank, self.levels)
            return (torch.where(noise == 0, planes, out) if clean else out,)

        return on_images(x, sigma, evaluate)[0]

    def _variance(self, planes: Tensor, noise: Tensor) -> tuple[Tensor]:
        """Variances (N, H, W), worked out some rows of tiles at a time."""
        bank = self.bank.to(planes)
        tiles, level = to_tiles(planes, bank, self.levels), _per_tile(noise)
        rows, across = tiles.shape[1:3]
        pairs = (2 * self.patch_size) ** 4 // 4  # numbers of a tile
        step = max(1, CHUNK // (len(planes) * across * pairs))
        total = torch.zeros_like(planes)
        for first in range(0, rows, step):
            covariances = self.experts.covariance(tiles[:, first : first + step], level)
            total = total + pixel_variances(covariances, bank, self.levels, first, rows)
        return (total,)

    def _check(self, x: Tensor) -> None:
        check_images(x)
        self._check_size(*x.shape[-2:])

    def _check_size(self, height: int, width: int) -> tuple[int, int]:
        side = self.patch_size
        if height % side or width % side:
            more = tuple(-n % side for n in (height, width))
            raise ValueError(
                f"images must have sides that are multiples of {side}, for {self.levels} levels of "
                f"the wavelet transform; got {height}x{width}. Pad {more[0]} rows and {more[1]} "
                "columns and crop them afterwards, or use a model of fewer levels"
            )
        return height, width


def _per_tile(noise: Tensor) -> Tensor:
    """Noise levels of variances () or (N, 1, 1); the slope at zero is zero, not infinite."""
    positive = noise > 0
    return torch.where(positive, torch.where(positive, noise, 1.0).sqrt(), 0.0)
