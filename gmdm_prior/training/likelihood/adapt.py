"""A mixture made to suit one noisy image: what is frequent in it, and how strong.

EM on the image's own overlapping patches, noise included, from a given `PatchMixture`: class
weights and variances move, bases stay. So that a small image does not rule alone, the model counts
as `strength` further patches, drawn from itself:

    n_k  = Σ_i r_ik,                                      ν_k = strength · w_k,
    m_kj = (Σ_i r_ik u_ikj² + ν_k (v_kj + σ²)) / (n_k + ν_k),     v'_kj = max(m_kj - σ², floor),
    w'_k = (n_k + ν_k) / (N + strength),

with responsibilities r and responses u summed over the symmetries; w and v on the right are those
of the given model, whatever the iteration. It is likelihood training: start from a model of that
kind, such as `gray-likelihood`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.training.likelihood.coordinates import symmetry_matrices, to_coordinates
from gmdm_prior.training.likelihood.diagonalise import diagonal
from gmdm_prior.training.likelihood.problem import FLOOR
from gmdm_prior.training.likelihood.tied_mixture import TiedMixture, expect

STRENGTH = 3000
STRIDE = 3  # pixels between patches: closer ones tell the same again
ITERATIONS = 3
TRUNCATION = 1e-3  # responsibilities up to this are left out


@torch.no_grad()
def adapt(
    model: PatchMixture, noisy: Tensor, sigma: float, strength: float = STRENGTH
) -> PatchMixture:
    """Fit class weights and variances to a noisy image.

    Args:
        model: where to start; left as it is.
        noisy: (C, H, W) or a batch of images (B, C, H, W) that are to share one model, floating
            point, with the model's channels; for a model of one channel each is a picture of its
            own.
        sigma: standard deviation of the noise, in units of the image.
        strength: how many patches the model counts for.

    Returns:
        A new model on the CPU, frozen, in the model's dtype.

    Raises:
        TypeError: no `PatchMixture`, or images that are not floating point.
        ValueError: images of another shape, smaller than a patch or not finite; a sigma or strength
            that is negative or not finite, or strength 0.
    """
    x = to_coordinates(_patches(model, noisy))
    for name, value, least in (("sigma", sigma, 0), ("strength", strength, 1)):
        if not least <= value < math.inf:
            raise ValueError(f"{name} must be a finite number of at least {least}; got {value}")
    noise = float(sigma) ** 2
    filters = model.filters.detach().cpu().double()
    groups, rows = filters.shape[:2]
    bases = to_coordinates(filters.flatten(0, 1)).unflatten(0, (groups, rows))
    turns = symmetry_matrices(model.symmetries, model.channels, model.patch_size)
    basis, weights = model.basis.cpu(), model.weights.detach().cpu().double()
    before = model.variances.detach().cpu().double() + noise
    ours = strength * weights
    now = TiedMixture(bases, before, weights, basis)
    for _ in range(ITERATIONS):
        seen = expect(x, now, turns, TRUNCATION)
        powers = [diagonal(bases[g], s[None])[0] for g, s in zip(basis, seen.scatter, strict=True)]
        total = seen.counts + ours
        variances = (torch.stack(powers) + ours[:, None] * before) / total[:, None]
        now = TiedMixture(bases, variances.clamp(min=noise + FLOOR), total / total.sum(), basis)
    dtype = model.filters.dtype
    adapted = PatchMixture(
        model.filters.detach().cpu(),
        (now.variances - noise).clamp(min=FLOOR).to(dtype),
        now.weights.to(dtype),
        basis,
        symmetries=model.symmetries,
    )
    return adapted.requires_grad_(False)


def _patches(model: PatchMixture, noisy: Tensor) -> Tensor:
    """Overlapping patches (N, c, b, b), in float32 or float64."""
    if not isinstance(model, PatchMixture):
        raise TypeError(f"model must be a PatchMixture; got {type(model).__name__}")
    if not isinstance(noisy, Tensor) or not noisy.is_floating_point():
        raise TypeError("noisy must be a floating-point tensor of images in [0, 1]")
    images = noisy[None] if noisy.ndim == 3 else noisy
    size = model.patch_size
    if images.ndim != 4 or 0 in images.shape or min(images.shape[2:]) < size:
        raise ValueError(
            f"noisy must be (C, H, W) or (B, C, H, W), at least one patch, {size}x{size} pixels; "
            f"got {tuple(noisy.shape)}"
        )
    if model.channels not in (1, images.shape[1]):
        raise ValueError(f"noisy must have {model.channels} channels; got {images.shape[1]}")
    if not bool(torch.isfinite(images).all()):
        raise ValueError("noisy must be finite; it holds NaN or infinity")
    images = images.detach().cpu()
    images = images if images.dtype == torch.float64 else images.float()
    if model.channels == 1:
        images = images.flatten(0, 1)[:, None]
    windows = images.unfold(2, size, STRIDE).unfold(3, size, STRIDE)
    return windows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).contiguous()
