"""Projections onto the sets in which the parameters of a GMDM live.

Filters k_j are zero-mean and mutually orthogonal with free norms (paper, Eq. 10); expert weights
lie in the unit simplex. With the filters as rows of K (J x a), the projection of the paper's Eq. 19
is

    argmin ||K - D O||²   over  O Oᵀ = Id_J,  D = diag(d_1, …, d_J) with d_j >= floor,

solved by alternation (Algorithm 1, corrected: see docs/theory): O is the polar factor of D K, then
d_j = max(<o_j, k_j>, floor). Both steps are exact minimisations, so the objective never rises. The
work is done in coordinates of the zero-mean subspace, because the polar factor of a rank-deficient
D K would otherwise leak a mean into the filters.

Filters of the convolutional model have spectra of disjoint supports Gamma_j and constant magnitude
xi_j (Eqs. 16 and 17). For spectra S_j the nearest ones minimise

    sum_jk |S_j(k) - xi_j [k in Gamma_j] exp(i arg S_j(k))|²

over Gamma and xi, by alternation again: a frequency goes to the filter with the largest gain
2 xi_j |S_j(k)| - xi_j², and xi_j is the mean of |S_j| over Gamma_j. At first they go by the largest
magnitude. Frequency zero belongs to nobody (filters are zero-mean), every other one to one filter.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TIE = 1e-9  # of the largest: gains this close are equal, whatever the rounding


def dct_matrix(size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Orthonormal DCT-II matrix (size, size); its first row is the constant."""
    i = torch.arange(size, dtype=dtype)
    rows = torch.cos(math.pi * (i[None] + 0.5) * i[:, None] / size) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows


def zero_mean_basis(channels: int, size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Orthonormal zero-mean DCT images of b x b patches, channel by channel.

    Returns:
        Rows of shape (channels * (b² - 1), channels * b²).
    """
    d = dct_matrix(size, dtype)
    images = torch.einsum("ai,bj->abij", d, d).reshape(size * size, size * size)[1:]
    return torch.block_diag(*[images] * channels)


def zero_mean(filters: Tensor) -> Tensor:
    """Remove the mean of each channel of filters (..., b, b)."""
    return filters - filters.mean((-2, -1), keepdim=True)


def polar_factor(matrix: Tensor) -> Tensor:
    """The closest matrix with orthonormal rows (or columns), by singular value decomposition."""
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


def project_orthogonal(
    filters: Tensor, steps: int = 3, *, zero_mean: bool = True, floor: float = 1e-3
) -> Tensor:
    """Nearest zero-mean, mutually orthogonal filters with free norms (Algorithm 1, corrected).

    Args:
        filters: (J, C, b, b), or a matrix (J, a) whose rows are the filters.
        steps: alternations B; three are enough in training, more converge to a critical point.
        zero_mean: also make every channel of every filter zero-mean.
        floor: smallest norm of a filter; a zero filter has no density.

    Returns:
        Filters of the same shape and dtype; computed in float64.

    Raises:
        ValueError: for more filters than dimensions, a non-finite entry or fewer than one step.
    """
    if filters.ndim not in (2, 4):
        raise ValueError(f"filters must be (J, C, b, b) or (J, a); got {tuple(filters.shape)}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    if not floor > 0:
        raise ValueError(f"floor must be positive, since a zero filter has no density; got {floor}")
    channels = filters.shape[1] if filters.ndim == 4 else 1
    rows = filters.detach().double().flatten(1)
    if not torch.isfinite(rows).all():
        raise ValueError("filters must be finite; they hold NaN or infinity")
    axes = _zero_mean_coordinates(rows.shape[1] // channels, channels) if zero_mean else None
    k = rows if axes is None else rows @ axes.to(rows).T
    if k.shape[0] > k.shape[1]:
        kind = "zero-mean dimensions" if zero_mean else "dimensions"
        raise ValueError(f"{k.shape[0]} filters cannot be orthogonal in {k.shape[1]} {kind}")
    d = torch.ones(k.shape[0], dtype=k.dtype, device=k.device)
    for _ in range(steps):
        o = polar_factor(d[:, None] * k)
        d = (o * k).sum(1).clamp(min=floor)
    projected = d[:, None] * o
    if axes is not None:
        projected = projected @ axes.to(rows)
    return projected.reshape(filters.shape).to(filters.dtype)


def orthonormalise(bases: Tensor) -> Tensor:
    """Polar factor of each zero-mean basis (G, J, C, b, b), worked out in float64."""
    channels, size = bases.shape[2], bases.shape[-1]
    axes = zero_mean_basis(channels, size).to(bases.device)
    coordinates = bases.detach().double().flatten(2) @ axes.T
    return (polar_factor(coordinates) @ axes).reshape(bases.shape).to(bases.dtype)


def project_simplex(weights: Tensor) -> Tensor:
    """Euclidean projection of the last axis onto {w >= 0, sum w = 1} (sort and threshold).

    Args:
        weights: (..., L), any finite values.

    Returns:
        (..., L): max(w - τ, 0) with τ such that the sum is one.
    """
    ordered = weights.sort(dim=-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    rank = torch.arange(1, weights.shape[-1] + 1, dtype=weights.dtype, device=weights.device)
    support = (ordered * rank > excess).sum(-1, keepdim=True).clamp(min=1)
    threshold = excess.gather(-1, support - 1) / support
    return (weights - threshold).clamp(min=0)


def disjoint_spectra(
    filters: Tensor, grid: int | None = None, steps: int = 100
) -> tuple[Tensor, Tensor, Tensor]:
    """Nearest spectra with disjoint supports and constant magnitudes (Eqs. 16 and 17).

    A spectrum is the discrete Fourier transform about the central pixel (b // 2, b // 2), its
    frequencies are the half plane of `torch.fft.rfft2`.

    Args:
        filters: (J, 1, b, b), real.
        grid: side N of the grid of frequencies, even, N >= b; None is b. The filters are surrounded
            by zeros.
        steps: alternations at most; fewer where nothing changes any more, or where one would leave
            a filter without a frequency.

    Returns:
        Owners (N, N // 2 + 1), int64: which filter a frequency belongs to, -1 for frequency zero;
        phases in radians, shaped like them; and magnitudes xi (J,). Worked out in float64; ties go
        to the filter that comes first.

    Raises:
        ValueError: for another shape, an odd grid, a non-finite entry, or a filter that is nowhere
            the strongest.
    """
    if filters.ndim != 4 or filters.shape[1] != 1 or filters.shape[2] != filters.shape[3]:
        raise ValueError(f"filters must be (J, 1, b, b); got {tuple(filters.shape)}")
    size = filters.shape[-1]
    grid = size if grid is None else grid
    if grid % 2 or grid < max(size, 2):
        raise ValueError(f"grid must be even and at least the filters' {size} pixels; got {grid}")
    if not torch.isfinite(filters).all():
        raise ValueError("filters must be finite; they hold NaN or infinity")
    spectra = _spectra(filters[:, 0].detach().double(), grid)
    magnitude, weight = spectra.abs(), _multiplicity(grid, spectra.device)
    owner, xi = _means(_first_largest(magnitude), magnitude, weight)
    if not bool((xi > 0).all()):
        raise ValueError(
            f"filters {(~(xi > 0)).nonzero().flatten().tolist()} are nowhere the strongest, so no "
            "frequency is left to them: leave them out"
        )
    for _ in range(steps - 1):
        gain = 2 * xi[:, None, None] * magnitude - xi[:, None, None].square()
        better, means = _means(_first_largest(gain), magnitude, weight)
        if torch.equal(better, owner) or not bool((means > 0).all()):
            break
        owner, xi = better, means
    phase = spectra.gather(0, owner.clamp(min=0)[None])[0].angle()
    phase[0, 0] = 0.0
    return owner, phase, xi


def project_disjoint(filters: Tensor, grid: int | None = None, steps: int = 100) -> Tensor:
    """The real filters (J, 1, N, N) of `disjoint_spectra`, in the dtype of `filters`."""
    owner, phase, magnitude = disjoint_spectra(filters, grid, steps)
    return filters_of_spectra(owner, phase, magnitude).to(filters.dtype)


def filters_of_spectra(owner: Tensor, phase: Tensor, magnitude: Tensor) -> Tensor:
    """Filters (J, 1, N, N), centred at (N // 2, N // 2), of owners, phases and magnitudes."""
    grid = len(owner)
    band = owner == torch.arange(len(magnitude), device=owner.device)[:, None, None]
    spectra = torch.polar(magnitude[:, None, None] * band, phase.expand_as(band))
    return torch.fft.fftshift(torch.fft.irfft2(spectra, (grid, grid)), (-2, -1))[:, None]


def _spectra(filters: Tensor, grid: int) -> Tensor:
    """(J, N, N // 2 + 1) of real filters (J, b, b), exactly symmetric where both halves are."""
    size = filters.shape[-1]
    before = grid // 2 - size // 2
    after = grid - size - before
    around = torch.nn.functional.pad(filters, (before, after, before, after))
    spectra = torch.fft.rfft2(torch.fft.ifftshift(around, (-2, -1)))
    for column in (0, grid // 2):  # the only ones with a mirror image in the half plane
        values = spectra[:, :, column]
        mirrored = values.flip(1).roll(1, 1).conj()
        spectra[:, :, column] = (values + mirrored) / 2
    return spectra


def _multiplicity(grid: int, device: torch.device) -> Tensor:
    """(N // 2 + 1,) how often a column of the half plane occurs in the plane."""
    weight = torch.full((grid // 2 + 1,), 2.0, dtype=torch.float64, device=device)
    weight[0] = weight[-1] = 1.0
    return weight


def _means(owner: Tensor, magnitude: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The owners, and the mean magnitude (J,) of each filter where it owns; NaN for nowhere."""
    index = torch.arange(len(magnitude), device=owner.device)[:, None, None]
    owned = (owner == index) * weight
    return owner, (magnitude * owned).sum((1, 2)) / owned.sum((1, 2))


def _first_largest(gain: Tensor) -> Tensor:
    """The filter of the largest gain (J, …) at each frequency, the first one of equals; -1 at 0."""
    equal = gain >= gain.amax(0) - TIE * gain.abs().amax()
    index = torch.arange(len(gain), device=gain.device)[:, None, None]
    owner = torch.where(equal, index, len(gain)).amin(0)
    owner[0, 0] = -1
    return owner


def _zero_mean_coordinates(pixels: int, channels: int) -> Tensor:
    return torch.block_diag(*[dct_matrix(pixels)[1:]] * channels)
