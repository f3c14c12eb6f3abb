"""The paper's convolutional model, `ConvolutionalModel` (Eqs. 11–18): experts on cyclic filters.

    f(x, sigma) ∝ prod_i prod_j psi_j((k_j ⊛ x)_i; sigma_0² + xi_j² sigma²)                  (11)

over the n pixels i of an image. The filters' spectra have disjoint supports Gamma_j, which cover
every frequency but zero, and constant magnitudes xi_j there. With responses z_j = k_j ⊛ x, slopes
phi_j = (log psi_j)', s_j = sigma_0² + xi_j² sigma² and F the Fourier transform,

    score    = sum_j K_jᵀ phi_j(z_j)
    E[x | y] = mean of y + sum_j xi_j^-2 K_jᵀ m_j(z_j)
    Var[x_i] = sigma² (1 / n + sum_j r_j / n sigma_0² / s_j) + sigma⁴ sum_j (k_j² ⋆ V_j / s_j²)_i,

where m_j(z) is the posterior mean of the expert's clean response under noise of variance xi_j²
sigma², V_j(z) the variance of its mean over components, r_j = |Gamma_j| and ⋆ a cyclic correlation.
The last two are Tweedie's formulas of first and second order, y + sigma² score and sigma² + sigma⁴
diag ∇² log f, put together response by response: K_jᵀ K_j / xi_j² is the projection onto a band,
and the bands add up to everything but the mean, so nothing cancels at large sigma.

**Not exact.** Theorem 3 says that f solves the heat equation. It does for one component (L = 1).
For more, K_j maps onto its band only, and (docs/theory/convolutional.md)

    ∂_sigma score - sigma ∇(Δ log f + ‖∇ log f‖²)
        = sigma sum_j xi_j² K_jᵀ ((1 - r_j / n) phi_j'' + 2 phi_j' (phi_j - P_j phi_j)(z_j)),

P_j the projection onto Gamma_j. `residual` gives ∂_sigma score and this difference, and
docs/figures/conv_heat_residual.png their ratio: for potentials of a picture a fifth to a half below
sigma = 0.1, falling beyond. So density, denoiser and variance are those of the paper's
construction, and approximate as statements about noisy images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gmdm_prior.constraints import disjoint_spectra, filters_of_spectra
from gmdm_prior.densities.base import DensityModel, Options, Packed, Unpack, check_real
from gmdm_prior.densities.batches import CHUNK, on_images
from gmdm_prior.densities.convolutional.spectra import Bands, mirrored_owner, sample_bands
from gmdm_prior.densities.experts import EquidistantExperts, Mixture1D

NUMBERS_PER_PIXEL = 12  # that a filter's responses and spectra take


class ConvolutionalModel(DensityModel):
    """A product of experts on cyclic filters with disjoint spectra; unnormalised, approximate.

    Images are (*batch, 1, H, W) of any size and wrap around. The filters are kept on a grid of N x
    N frequencies and sampled on those of the image (`spectra`): between sizes band edges move, by
    up to 1 / (2 N) cycles per pixel, supports stay disjoint and magnitudes constant, and at N x N
    pixels they are the stored ones.

    Args:
        owner: (N, N // 2 + 1) int64, N even: the filter of each frequency, -1 for frequency zero.
        phase: (N, N // 2 + 1) radians.
        magnitude: (J,) xi_j, positive.
        logits: (J, L) mixture logits zeta; weights are their softmax.
        bound: gamma; the means are equidistant in [-gamma, gamma].

    Raises:
        ValueError: for shapes that do not fit, or spectra that are no real filters' disjoint ones.
    """

    kind = "ConvolutionalModel"
    normalised = False

    def __init__(
        self, owner: Tensor, phase: Tensor, magnitude: Tensor, logits: Tensor, bound: float = 1.0
    ) -> None:
        super().__init__()
        check_real(phase=phase, magnitude=magnitude, logits=logits)
        _check(owner, phase, magnitude, logits)
        self.register_buffer("owner", owner.detach().clone())
        self.phase = nn.Parameter(phase.detach().clone())
        self.magnitude = nn.Parameter(magnitude.detach().clone())
        self.experts = EquidistantExperts(logits, bound)

    @classmethod
    def from_filters(
        cls, filters: Tensor, logits: Tensor, bound: float = 1.0, grid: int | None = None
    ) -> ConvolutionalModel:
        """The model of the nearest filters that fit, as `constraints.disjoint_spectra` finds them.

        Args:
            filters: (J, 1, b, b), any.
            logits: (J, L).
            bound: gamma.
            grid: N, even; None is b.
        """
        owner, phase, magnitude = disjoint_spectra(filters, grid)
        return cls(owner, phase.to(filters.dtype), magnitude.to(filters.dtype), logits, bound)

    @property
    def filters(self) -> Tensor:
        """(J, 1, N, N) filters of the grid, centred at (N // 2, N // 2)."""
        return filters_of_spectra(self.owner, self.phase.detach(), self.magnitude.detach())

    def log_prob(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Logarithm of Eq. 11, of images (*batch, 1, H, W), shaped (*batch).

        Not normalised: what is missing depends on sigma and on the size of the image, so values at
        different levels must not be compared.
        """
        return self._run(x, sigma, lambda level, y: (level.log_prob(y),))[0]

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Gradient of `log_prob`, shaped like x."""
        return self._run(x, sigma, lambda level, y: (level.score(y),))[0]

    def denoise(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        """Tweedie's y + sigma² score, shaped like y; exactly y where sigma = 0. Approximate."""
        return self._run(y, sigma, lambda level, p: (level.denoise(p),))[0]

    def posterior(self, y: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
        """Tweedie's mean and per-pixel variance, both shaped like y. Approximate."""
        mean, variance = self._run(
            y, sigma, lambda level, p: (level.denoise(p), level.tweedie_variance(p))
        )
        return mean, variance

    def residual(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
        """∂_sigma score, and by how much it misses the heat equation, both shaped like x."""
        rate, missing = self._run(x, sigma, lambda level, y: level.residual(y))
        return rate, missing

    def sample(
        self,
        shape: tuple[int, ...] = (),
        sigma: float | Tensor = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """There are no exact samples: raises NotImplementedError, which names `langevin`."""
        raise NotImplementedError(
            "a ConvolutionalModel cannot be sampled exactly: its responses depend on one another. "
            "gmdm_prior.images.langevin.langevin draws approximate ones; a WaveletModel has exact "
            "ones"
        )

    def lipschitz(self, sigma: float) -> float:
        """Largest curvature of -log f(., sigma), max_j xi_j² / s_j: for the descent lemma."""
        square = self.magnitude.detach().double().square()
        return float((square / (self.experts.base_scale**2 + square * sigma * sigma)).max())

    def pack(self) -> Packed:
        """Spectra, logits and the outermost mean."""
        tensors = {k: getattr(self, k) for k in ("owner", "phase", "magnitude")}
        tensors["logits"] = self.experts.logits
        return Packed(self.kind, tensors, {"bound": self.experts.bound})

    @classmethod
    def unpack(
        cls, tensors: dict[str, Tensor], options: Options, unpack: Unpack
    ) -> ConvolutionalModel:
        """The density that `pack` took apart, to the bit."""
        return cls(**{**tensors, **options})

    def at(self, noise: Tensor, size: tuple[int, int]) -> ConvolutionalLevel:
        """The model at a noise *variance* (), or (N, 1, 1) one for each image, images (H, W)."""
        dtype = noise.dtype
        return ConvolutionalLevel(
            bands=sample_bands(self.owner, self.phase.to(dtype), size),
            magnitude=self.magnitude.to(dtype),
            log_weights=torch.log_softmax(self.experts.logits.to(dtype), 1),
            means=self.experts.means.to(dtype),
            base=self.experts.base_scale**2,
            noise=noise,
        )

    def _run(self, x, sigma, method) -> tuple[Tensor, ...]:
        def evaluate(planes: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
            return method(
                self.at(noise.to(planes.dtype), (planes.shape[-2], planes.shape[-1])), planes
            )

        return on_images(x, sigma, evaluate, NUMBERS_PER_PIXEL)


@dataclass(frozen=True)
class ConvolutionalLevel:
    """The model at a noise variance, for planes (N, H, W) of one size.

    Attributes:
        bands: the filters' spectra but for their magnitudes.
        magnitude: (J,).
        log_weights: (J, L).
        means: (L,).
        base: sigma_0².
        noise: () or (N, 1, 1).
    """

    bands: Bands
    magnitude: Tensor
    log_weights: Tensor
    means: Tensor
    base: float
    noise: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        """Logarithm (N,) of Eq. 11."""
        total = x.new_zeros(len(x))
        for j, z in self._responses(x):
            (log,) = self._of_expert(j, z, lambda expert, v: (expert.log_prob(v),))
            total = total + log.sum((-2, -1))
        return total

    def score(self, x: Tensor) -> Tensor:
        """Gradient (N, H, W) of `log_prob`."""
        total = torch.zeros_like(torch.fft.rfft2(x))
        for j, z in self._responses(x):
            (slope,) = self._of_expert(j, z, lambda expert, v: (expert.score(v),))
            total = total + self._adjoint(j, slope)
        return self._image(total)

    def denoise(self, y: Tensor) -> Tensor:
        """(N, H, W): each band from its expert's posterior mean, the mean from y."""
        total = torch.fft.rfft2(y) * self.bands.mask(-1)
        for j, z in self._responses(y):
            (mean,) = self._of_expert(j, z, lambda expert, v: (expert.posterior(v)[0],))
            total = total + self._adjoint(j, mean) / self.magnitude[j].square()
        return torch.where(self.noise == 0, y, self._image(total))

    def tweedie_variance(self, y: Tensor) -> Tensor:
        """(N, H, W): every term is positive."""
        height, width = self.bands.size
        constant = self.noise / (height * width)
        total = torch.zeros_like(torch.fft.rfft2(y))
        for j, z in self._responses(y):
            spread = self._of_expert(j, z, lambda expert, v: (expert.components(v)[1],))[0]
            s = self.base + self.magnitude[j].square() * self.noise
            constant = constant + self.noise * self.bands.share(j) * self.base / s
            square = torch.fft.rfft2(self._filter(j).square()).conj()
            total = total + square * torch.fft.rfft2(spread * (self.noise / s).square())
        return constant + self._image(total)

    def residual(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """∂_sigma score and what it misses the heat equation by, (N, H, W) each."""
        rate = torch.zeros_like(torch.fft.rfft2(x))
        missing = torch.zeros_like(rate)
        for j, z in self._responses(x):
            phi, bend, curve = self._of_expert(j, z, _slopes)
            in_band = self._image(torch.fft.rfft2(phi) * self.bands.mask(j))
            square = self.magnitude[j].square()
            rate = rate + square * self._adjoint(j, curve + 2 * phi * bend)
            error = (1 - self.bands.share(j)) * curve + 2 * bend * (phi - in_band)
            missing = missing + square * self._adjoint(j, error)
        sigma = self.noise.sqrt()
        return sigma * self._image(rate), sigma * self._image(missing)

    def _responses(self, x: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(j, z_j) with z_j = k_j ⊛ x, (N, H, W), one filter at a time."""
        turned = torch.fft.rfft2(x) * self.bands.phasor
        for j in range(len(self.magnitude)):
            yield j, self._image(turned * (self.magnitude[j] * self.bands.mask(j)))

    def _adjoint(self, j: int, z: Tensor) -> Tensor:
        """The spectrum of K_jᵀ z."""
        spectrum = self.magnitude[j] * self.bands.mask(j) * self.bands.phasor.conj()
        return torch.fft.rfft2(z) * spectrum

    def _filter(self, j: int) -> Tensor:
        """(H, W) the filter, about pixel (0, 0)."""
        return self._image(self.bands.phasor * (self.magnitude[j] * self.bands.mask(j)))

    def _image(self, spectrum: Tensor) -> Tensor:
        return torch.fft.irfft2(spectrum, self.bands.size)

    def _of_expert(
        self, j: int, z: Tensor, method: Callable[[Mixture1D, Tensor], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """`method(expert j, values (M, 1))` of all responses (N, H, W), in bounded memory."""
        noise = (self.magnitude[j].square() * self.noise).expand(z.shape).reshape(-1, 1)
        rows = max(1, CHUNK // (4 * len(self.means)))
        parts = []
        for values, added in zip(z.reshape(-1, 1).split(rows), noise.split(rows), strict=True):
            expert = Mixture1D(self.log_weights[j : j + 1], self.means, self.base, added)
            parts.append(method(expert, values))
        joined = (c[0] if len(c) == 1 else torch.cat(c) for c in zip(*parts, strict=True))
        return tuple(values.reshape(z.shape) for values in joined)


def _slopes(expert: Mixture1D, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """First, second and third derivative of an expert's log-density."""
    square = (z[..., None] - expert.means).square() / expert.variance[..., None]
    weights = torch.softmax(expert.log_weights - 0.5 * square, -1)
    centre = weights @ expert.means
    away = expert.means - centre[..., None]
    second, third = ((weights * away**p).sum(-1) for p in (2, 3))
    s = expert.variance
    return (centre - z) / s, (second / s - 1) / s, third / s**3


def _check(owner: Tensor, phase: Tensor, magnitude: Tensor, logits: Tensor) -> None:
    grid = owner.shape[0] if owner.ndim else 0
    if owner.ndim != 2 or grid < 2 or grid % 2 or owner.shape[1] != grid // 2 + 1:
        raise ValueError(f"owner must be (N, N // 2 + 1) with N even; got {tuple(owner.shape)}")
    if owner.dtype != torch.int64:
        raise ValueError(f"owner must be int64; got {owner.dtype}")
    if phase.shape != owner.shape:
        raise ValueError(f"phase must be {tuple(owner.shape)}; got {tuple(phase.shape)}")
    count = magnitude.numel()
    if magnitude.ndim != 1 or count < 1:
        raise ValueError(f"magnitude must be (J,) with J >= 1; got {tuple(magnitude.shape)}")
    if logits.ndim != 2 or len(logits) != count:
        raise ValueError(f"logits must be ({count}, L); got {tuple(logits.shape)}")
    for name, value in (("phase", phase), ("magnitude", magnitude), ("logits", logits)):
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} must be finite; it holds NaN or infinity")
    if not bool((magnitude > 0).all()):
        raise ValueError("magnitude must be positive: a zero filter has no density")
    rest = owner.flatten()[1:]
    if int(owner[0, 0]) != -1 or not bool(((rest >= 0) & (rest < count)).all()):
        raise ValueError(
            f"owner must be -1 at frequency zero and 0 to {count - 1} elsewhere; constraints."
            "disjoint_spectra gives such owners"
        )
    if not torch.equal(owner, mirrored_owner(owner)):
        raise ValueError(
            "owner must be that of real filters: rows a and N - a of the first and of the last "
            "column are one frequency and its mirror image, so they must have one owner"
        )
