"""How well potentials match the empirical marginals: NMSE_kappa (paper, Appendix B).

With Z_j = <k_j, Y> the responses of noisy patches Y = X + sigma N, and h_j = −log of their
histogram (paper, Eq. 21, which omits the noise),

    NMSE_kappa(sigma) = sum_j  ∫_Ω_j (−log psi_j(z; s_j) − h_j(z))² dz  /  max_Ω_j h_j²

where the credible interval Ω_j = [alpha, beta] leaves a share kappa of the histogram's mass on
either side. As printed, the paper compares psi_j itself with the negative logarithm h_j, and cuts
off a share kappa of h_j; both are read here as the figures show them: a comparison of negative
logarithms on an interval that the mass defines.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from gmdm_prior.densities.batches import check_events
from gmdm_prior.densities.experts import Mixture1D
from gmdm_prior.densities.product import PatchModel
from gmdm_prior.sigma import event_variance

KAPPAS = (0.005, 0.01, 0.02)  # the paper's
BINS = 100  # of a histogram over one credible interval
ROWS = 2**16  # patches whose responses are worked out at a time


@torch.no_grad()
def nmse(
    model: PatchModel,
    patches: Tensor,
    sigmas: Sequence[float],
    kappas: Sequence[float] = KAPPAS,
    bins: int = BINS,
    generator: torch.Generator | None = None,
) -> Tensor:
    """NMSE_kappa between the potentials and the marginals of patches, at each noise level.

    The integral is the sum over bins of equal width; an empty bin, whose negative logarithm is
    infinite, is left out. The potential is taken at the middle of a bin.

    Args:
        model: the paper's model.
        patches: (N, C, b, b) clean patches, of which N should be many times `bins`.
        sigmas: noise levels, as many as S.
        kappas: shares of the mass cut off on either side, in (0, 0.5), as many as K.
        bins: number of bins of each histogram.
        generator: draws the noise (on the device of the patches); None is one seeded with 0.

    Returns:
        (S, K) in float64, summed over the filters.

    Raises:
        TypeError: the model is no `PatchModel`, or a wrong type of patches, levels or bins.
        ValueError: shapes that do not fit, too few patches, or a level or share out of range.
    """
    _check(model, patches, kappas, bins)
    if generator is None:
        generator = torch.Generator(patches.device).manual_seed(0)
    filters = model.filters.detach().flatten(1).double()
    rows = []
    for sigma in sigmas:
        variance = event_variance(sigma, torch.Size(()), filters)
        z = _responses(filters, patches, float(variance.sqrt()), generator)
        experts = model.experts.diffuse(variance * filters.square().sum(1))
        rows.append([_summed_over_filters(experts, z, kappa, bins) for kappa in kappas])
    return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(kappas))


def _responses(
    filters: Tensor, patches: Tensor, sigma: float, generator: torch.Generator
) -> Tensor:
    """(N, J) responses of the noisy patches, each filter's in rising order."""
    parts = []
    for part in patches.split(ROWS):
        noise = torch.randn(part.shape, generator=generator, dtype=part.dtype, device=part.device)
        parts.append((part + sigma * noise).flatten(1).to(filters) @ filters.T)
    return torch.cat(parts).sort(0).values


def _summed_over_filters(experts: Mixture1D, z: Tensor, kappa: float, bins: int) -> float:
    """NMSE_kappa of mixtures `experts` (J of them) for ordered responses z (N, J)."""
    n = len(z)
    cut = int(kappa * n)
    low, high = z[cut], z[n - 1 - cut]
    width = (high - low) / bins
    middle = low + width * (torch.arange(bins, device=z.device)[:, None] + 0.5)
    potential = -experts.log_prob(middle)
    edges = low + width * torch.arange(bins + 1, device=z.device)[:, None]
    edges[-1] = high  # whether it counts is not left to rounding
    below = torch.searchsorted(z.T.contiguous(), edges.T.contiguous()).T
    counts = below.diff(dim=0).to(z)
    filled = counts > 0
    empirical = -(counts / (n * width)).log()
    error = torch.where(filled, (potential - empirical).square(), 0).sum(0) * width
    largest = torch.where(filled, empirical.square(), 0).amax(0)
    return float((error / largest.clamp(min=torch.finfo(largest.dtype).tiny)).sum())


def _check(model: object, patches: Tensor, kappas: Sequence[float], bins: int) -> None:
    if not isinstance(model, PatchModel):
        raise TypeError(
            "model must be a PatchModel, whose potentials are marginals; got "
            f"{type(model).__name__}"
        )
    check_events(patches, model.event_shape)
    if isinstance(bins, bool) or not isinstance(bins, int):
        raise TypeError(f"bins must be an integer; got {bins!r}")
    if bins < 2:
        raise ValueError(f"bins must be at least 2; got {bins}")
    for kappa in kappas:
        if not isinstance(kappa, Real) or not 0 < kappa < 0.5:
            raise ValueError(f"kappas must lie in (0, 0.5); got {kappa!r}")
    if patches.ndim != len(model.event_shape) + 1 or len(patches) < 10 * bins:
        raise ValueError(
            f"patches must be (N, {', '.join(map(str, model.event_shape))}) with N at least "
            f"{10 * bins}, ten for each bin; got {tuple(patches.shape)}: give more or lower bins"
        )
