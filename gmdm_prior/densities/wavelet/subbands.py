"""Independent experts of wavelet sub-bands: the paper's mixtures, one for each sub-band (Eq. 6).

A tile of 2^M x 2^M pixels has the Haar coefficients z_i = <a_i, x>: 4^M - 1 details, and the mean.
With s(i) the sub-band of detail i (one of three orientations at one of M levels),

    f(x, sigma) = prod_i lambda_s psi_s(lambda_s z_i; sigma_0² + lambda_s² sigma²),     s = s(i),

is the product of the paper's experts on the filters k_i = lambda_s a_i, of which those of a
sub-band share one mixture. `WaveletModel` takes the coefficients of any orthogonal wavelet instead.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from gmdm_prior.densities.base import Options, PatchDensity, check_real
from gmdm_prior.densities.experts import EquidistantExperts
from gmdm_prior.densities.mean import MeanPart
from gmdm_prior.densities.product import DiffusedProduct
from gmdm_prior.densities.wavelet.transform import haar_tile


class SubbandExperts(PatchDensity):
    """A density of tiles: one equidistant mixture for each Haar sub-band.

    Args:
        logits: (3 M, L), mixture logits of the sub-bands: finest level first, in each the
            horizontal, vertical and diagonal details, as PyWavelets names them.
        scales: (3 M,), positive: lambda_s. The means are equidistant in [-1, 1], so a coefficient
            of the image lies within 1 / lambda_s, about.

    Raises:
        ValueError: for shapes that do not fit, or scales that are not positive and finite.
    """

    kind = "SubbandExperts"
    normalised = True

    def __init__(self, logits: Tensor, scales: Tensor) -> None:
        super().__init__()
        check_real(logits=logits, scales=scales)
        if logits.ndim != 2 or len(logits) == 0 or len(logits) % 3:
            raise ValueError(
                "logits must be (3 M, L), a row for each of three orientations at M levels; got "
                f"{tuple(logits.shape)}"
            )
        if scales.shape != (len(logits),):
            raise ValueError(f"scales must be ({len(logits)},); got {tuple(scales.shape)}")
        if not bool(torch.isfinite(logits).all()):
            raise ValueError("logits must be finite; they hold NaN or infinity")
        if not bool(((scales > 0) & (scales < math.inf)).all()):
            raise ValueError(
                f"scales must be positive and finite; got {scales.min():g} to {scales.max():g}"
            )
        self.experts = EquidistantExperts(logits)
        self.scales = nn.Parameter(scales.detach().clone())
        side = 2 ** (len(logits) // 3)
        self.event_shape = (1, side, side)
        self.mean_part = MeanPart(1, side**2)

    @property
    def filters(self) -> Tensor:
        """The filters lambda_s a_i (J, 1, b, b) of all details, J = b² - 1."""
        rows, band = haar_tile(len(self.scales) // 3)
        details = rows[:-1].to(self.scales).reshape(-1, *self.event_shape)
        return self.scales[band.to(self.scales.device), None, None, None] * details

    def draw(self, noise: Tensor, generator: torch.Generator | None) -> Tensor:
        """Samples (N, b²), one at each noise variance (N, 1)."""
        return self.at(noise).sample(generator)

    def covariance(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        """Posterior covariance of the pixels of tiles y (*batch, 1, b, b), (*batch, b², b²)."""
        return self._run(y, sigma, lambda level, p: (level.covariance(p),))[0]

    def zero_mean_lipschitz(self, sigma: float) -> float:
        """Largest curvature of -log f(., sigma) among zero-mean tiles, max_s lambda_s² / s_s."""
        squares = self.scales.double().square()
        return float((squares / (self.experts.base_scale**2 + squares * sigma * sigma)).max())

    def at(self, noise: Tensor) -> DiffusedProduct:
        """The model at a noise *variance*: () for all tiles or (N, 1)."""
        rows, band = haar_tile(len(self.scales) // 3)
        band = band.to(self.scales.device)
        scales = self.scales.to(noise.dtype)
        added = noise * scales.square()
        shared = self.experts.diffuse(added)
        return DiffusedProduct(
            filters=scales[band, None] * rows[:-1].to(scales),
            norms=scales[band],
            experts=dataclasses.replace(
                shared, log_weights=shared.log_weights[band], noise=shared.noise[..., band]
            ),
            noise=noise,
            mean_part=self.mean_part,
        )

    def numbers_per_patch(self, noise: Tensor) -> int:
        """How many numbers an evaluation holds for every tile, to bound its memory."""
        return 4 * (self.patch_size**2 - 1) * self.experts.logits.shape[1]

    def stored(self) -> tuple[dict[str, Tensor], Options]:
        """The arguments of the constructor."""
        return {"logits": self.experts.logits, "scales": self.scales}, {}
