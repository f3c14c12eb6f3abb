"""The mixture of products, `PatchMixture`: a class says what a patch is, a basis how it runs.

    f(x, sigma) = 1/|H| sum_h sum_k w_k prod_j N(<a_{g(k) j}, h x>; 0, v_kj + sigma²)

Each class k is a product of Gaussian experts on an orthonormal zero-mean basis a_g(k), of which
there are few, each seen in the symmetries h of the square. Every class diffuses by adding sigma² to
its variances, so the whole does, exactly. In responses u = A h x the posterior of a class is a
shrinkage by v / (v + sigma²); classes are weighed by their responsibilities r_kh = P(k, h | y):

    score      = - sum_kh r_kh A_hᵀ diag(1 / (v_k + sigma²)) A_h y
    E[x | y]   = mean part + sum_kh r_kh A_hᵀ diag(v_k / (v_k + sigma²)) A_h y
    Var[x | y] = E[class variance] + Var[class mean].

Only matrix products and one softmax. A noise variance that differs from pixel to pixel, s_i, is
taken by its diagonal, sum_i a_ji² s_i: exact where it is constant over a patch.
"""

from __future__ import annotations

import math
from typing import overload

import torch
from torch import Tensor, nn

from gmdm_prior import symmetry
from gmdm_prior.constraints import orthonormalise
from gmdm_prior.densities.base import AnyNoise, Options, PatchDensity, check_real
from gmdm_prior.densities.mean import MeanPart
from gmdm_prior.densities.mixture.covariance import MixtureAtCovariance, add_noise, at_covariance
from gmdm_prior.densities.mixture.diffused import DiffusedMixture
from gmdm_prior.gaussian_noise import Covariance, Noise


class PatchMixture(PatchDensity):
    """A diffused mixture of products of Gaussian experts on orthonormal bases.

    Args:
        filters: (G, J, C, b, b), G orthonormal zero-mean bases, J = C (b² - 1).
        variances: (K, J), positive, in squared units of the image.
        weights: (K,), positive, of sum one.
        basis: (K,), integers from 0 to G - 1: the basis of each class.
        symmetries: `"d4"`, `"flips"` (left–right) or `"none"`.

    Raises:
        ValueError: for shapes that do not fit, or parameters outside their sets.
    """

    kind = "PatchMixture"
    normalised = True

    def __init__(
        self,
        filters: Tensor,
        variances: Tensor,
        weights: Tensor,
        basis: Tensor,
        symmetries: str = "d4",
    ) -> None:
        super().__init__()
        check_real(filters=filters, variances=variances, weights=weights)
        _check_shapes(filters, variances, weights, basis)
        _check_values(filters, variances, weights, basis)
        self.filters = nn.Parameter(filters.detach().clone())
        self.variances = nn.Parameter(variances.detach().clone())
        self.weights = nn.Parameter(weights.detach().clone())
        self.register_buffer("basis", basis.detach().long().clone())
        symmetry.group(symmetries)
        self.symmetries = symmetries
        self.event_shape = tuple(filters.shape[2:])
        self.mean_part = MeanPart(self.channels, self.patch_size**2)

    @property
    def degrees_of_freedom(self) -> int:
        """Free numbers: J (J - 1) / 2 for a basis, J for a class, K - 1 for the weights."""
        g, j = self.filters.shape[:2]
        return g * j * (j - 1) // 2 + self.variances.numel() + len(self.weights) - 1

    def covariance(self, y: Tensor, sigma: AnyNoise) -> Tensor:
        """Posterior covariance of the numbers of patches y (*batch, C, b, b), (*batch, a, a)."""
        return self._run(y, sigma, lambda level, p: (level.covariance(p),))[0]

    def responsibilities(self, y: Tensor, sigma: AnyNoise) -> Tensor:
        """P(h, k | y), (*batch, symmetries, classes): what the model thinks each patch is.

        Element h of `symmetry.group` turns the patch into the position of its class's basis.
        """
        return self._run(y, sigma, lambda level, p: (level.responsibilities(p),))[0]

    def sample(
        self,
        shape: tuple[int, ...] = (),
        sigma: AnyNoise = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Exact samples (*shape, C, b, b): a class, a symmetry, responses; a flat mean is 0."""
        if isinstance(sigma, (Noise, Covariance)):
            clean = super().sample(shape, 0.0, generator)
            return add_noise(clean, sigma, self.mean_part, generator)
        return super().sample(shape, sigma, generator)

    def draw(self, noise: Tensor, generator: torch.Generator | None) -> Tensor:
        """Samples (N, a), one at each noise variance (N, 1): a class, a symmetry, responses."""
        n, dtype = len(noise), noise.dtype
        device = self.filters.device
        k = torch.multinomial(self.weights.to(dtype), n, replacement=True, generator=generator)
        symmetries = len(symmetry.group(self.symmetries))
        h = torch.randint(symmetries, (n,), generator=generator, device=device)
        std = (self.variances.to(dtype)[k] + noise).sqrt()
        u = std * torch.randn(std.shape, dtype=dtype, generator=generator, device=device)
        x = self.mean_part.sample(n, noise, generator)
        oriented = _oriented(self.filters.to(dtype), self.symmetries)
        for g, bases in enumerate(oriented):
            for q, rows in enumerate(bases.unflatten(0, (-1, u.shape[1]))):
                chosen = (self.basis[k] == g) & (h == q)
                x[chosen] += u[chosen] @ rows
        return x

    def zero_mean_lipschitz(self, sigma: float) -> float:
        """Largest curvature of -log f(., sigma) among zero-mean patches, 1 / (min v + sigma²)."""
        return 1.0 / (float(self.variances.detach().min()) + sigma * sigma)

    @overload
    def at(self, noise: Tensor) -> DiffusedMixture: ...

    @overload
    def at(self, noise: Covariance) -> MixtureAtCovariance: ...

    def at(self, noise: Tensor | Covariance) -> DiffusedMixture | MixtureAtCovariance:
        """The model at a noise *variance*: () for all, (N, 1) per patch, (N, a) per pixel.

        Or at a `Covariance`, in float64. A bare (a, a) is one variance per pixel of a patches.
        """
        if isinstance(noise, Covariance):
            return at_covariance(self.at(self.filters.new_zeros((), dtype=torch.float64)), noise)
        dtype = noise.dtype
        oriented = _oriented(self.filters.to(dtype), self.symmetries)
        present = [g for g in range(len(oriented)) if bool((self.basis == g).any())]
        members = [(self.basis == g).nonzero().flatten() for g in present]
        log_weights = self.weights.to(dtype).log() - math.log(len(symmetry.group(self.symmetries)))
        return DiffusedMixture(
            bases=[oriented[g] for g in present],
            members=members,
            variances=[self.variances.to(dtype)[m] for m in members],
            log_weights=[log_weights[m] for m in members],
            noise=noise,
            mean_part=self.mean_part,
        )

    def numbers_per_patch(self, noise: Tensor) -> int:
        """How many numbers an evaluation holds for every patch, to bound its memory."""
        j, k = self.filters.shape[1], len(self.weights)
        seen = len(symmetry.group(self.symmetries))
        per_class = 1 if noise.ndim == 0 else j
        return 4 * seen * (self.filters.shape[0] * j + k * per_class)

    def stored(self) -> tuple[dict[str, Tensor], Options]:
        """The arguments of the constructor."""
        tensors = {k: getattr(self, k) for k in ("filters", "variances", "weights", "basis")}
        return tensors, {"symmetries": self.symmetries}

    @torch.no_grad()
    def made_exact(self) -> PatchMixture:
        """Make bases exactly orthonormal and weights of sum one, in place; returns itself."""
        self.filters.copy_(orthonormalise(self.filters))
        self.weights.div_(self.weights.sum())
        return self


def _oriented(filters: Tensor, symmetries: str) -> list[Tensor]:
    """The rows h^-1 a_j (|H| J, a) of each basis, for which <h^-1 a_j, x> = <a_j, h x>."""
    turns = [symmetry.inverse(h) for h in symmetry.group(symmetries)]
    seen = torch.stack([symmetry.act(filters, q) for q in turns], 1)
    return list(seen.flatten(3).flatten(1, 2))


def _check_shapes(filters: Tensor, variances: Tensor, weights: Tensor, basis: Tensor) -> None:
    if filters.ndim != 5 or filters.shape[3] != filters.shape[4]:
        raise ValueError(f"filters must be (G, J, C, b, b); got {tuple(filters.shape)}")
    g, j, c, b, _ = filters.shape
    if g < 1 or b < 2 or j != c * (b * b - 1):
        raise ValueError(
            f"filters of {c} channel(s) and {b}x{b} pixels must be G >= 1 bases of "
            f"{c * (b * b - 1)} rows; got {g} of {j}"
        )
    k = len(weights) if weights.ndim == 1 else 0
    if k < 1 or variances.shape != (k, j) or basis.shape != (k,):
        raise ValueError(
            f"variances, weights and basis must be (K, {j}), (K,) and (K,) with K >= 1; got "
            f"{tuple(variances.shape)}, {tuple(weights.shape)} and {tuple(basis.shape)}"
        )


def _check_values(filters: Tensor, variances: Tensor, weights: Tensor, basis: Tensor) -> None:
    for name, value in (("filters", filters), ("variances", variances), ("weights", weights)):
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} must be finite; they hold NaN or infinity")
    if not bool((variances > 0).all()):
        raise ValueError(f"variances must be positive; the smallest is {variances.min():g}")
    if not bool((weights > 0).all()) or abs(float(weights.detach().double().sum()) - 1) > 1e-3:
        raise ValueError(
            "weights must be positive and sum to one; the smallest is "
            f"{weights.min():g}, the sum {weights.sum():g}"
        )
    if not bool(((basis >= 0) & (basis < len(filters))).all()):
        raise ValueError(f"basis must name one of the {len(filters)} bases, counted from 0")
    rows = filters.double().flatten(2)
    error = (rows @ rows.mT - torch.eye(rows.shape[1], device=rows.device)).abs().max()
    mean = filters.double().mean((-2, -1)).abs().max()
    if error > 1e-3 or mean > 1e-3:
        raise ValueError(
            f"each basis must be orthonormal and zero-mean; it misses by {max(error, mean):.1e}. "
            "constraints.orthonormalise gives the nearest one"
        )
