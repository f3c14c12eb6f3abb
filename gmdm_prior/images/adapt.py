"""A mixture made to suit one noisy picture: it gets Gaussian classes of the picture's own.

    f(x) = (1 - Σ_k w_k) f_0(x) + Σ_k w_k N(x; 0, C_k)

f_0, the given mixture, stays as it is. The classes begin as those of its classes, each in one
orientation, that describe most of the picture: (patches that they explain) × (directions that stand
out of the noise, Σ_j v_kj / (v_kj + s)) decides. Then EM on the picture's patches y at random
places, noise of variance s included, with full covariances, where textures have their gain:

    r_ik = P(k | y_i),     n_k = Σ_i r_ik,
    T_k  = (Σ_i r_ik y_i y_iᵀ + ν (C_k⁰ + s Id)) / (n_k + ν),
    C_k  = T_k - s Id, but `FLOOR` for eigenvalues up to `LEAST` s and beyond the `RANK` largest,
    w_k  = (n_k + ν w_k⁰) / (N + ν),

where C⁰ and w⁰ are those of the start, whatever the iteration: it counts for ν = `STRENGTH`
patches. Where all eigenvalues count that is the exact M-step of a penalised likelihood, which never
falls (tests/images/test_adapt.py). What does not count is what sampled noise looks like, and time.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from gmdm_prior import constraints
from gmdm_prior.ambient import plain_modes
from gmdm_prior.densities.base import DensityModel
from gmdm_prior.densities.mixture.diffused import DiffusedMixture
from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.fast.adapted import FLOOR, OwnClasses, OwnLevel
from gmdm_prior.fast.choose import Evaluator
from gmdm_prior.sigma import compute_dtype

CLASSES, FEW = 10, 150  # of a picture's own; one for every so many patches
STRENGTH = 250.0  # patches that the start counts for
ITERATIONS = 3  # of EM
RANK = 32  # eigenvalues of a class that count, at most
LEAST = 0.2  # of the noise's variance: an eigenvalue that counts
PIXELS, MOST = 7, 18_000  # a patch for so many pixels, and so many patches at most
SEEN = 256  # patches by which the classes are chosen
RARE = 1e-3  # responsibility that counts


@torch.no_grad()
@plain_modes
def adapt(model: PatchMixture, noisy: Tensor, sigma: float) -> PatchMixture:
    """Give a mixture classes of a noisy picture's own, learnt from it.

    `HalfQuadraticSplitting` and all others take the result like any mixture. `AdaptiveSplitting`
    denoises with it much faster, and finds out how far it can be trusted.

    Args:
        model: where to start; left as it is.
        noisy: (C, H, W) or a batch of images (B, C, H, W) that are to share one model, floating
            point, with the model's channels; for a model of one channel each is a picture of its
            own.
        sigma: standard deviation of the noise, white and positive, in units of the image.

    Returns:
        A new model without symmetries, frozen, in the model's dtype.

    Raises:
        TypeError: no `PatchMixture`, or images that are not floating point.
        ValueError: a model whose mean is not flat; images of another shape, smaller than a patch or
            not finite; a sigma that is not positive and finite.
    """
    images = _checked(model, noisy)
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be a positive, finite number; got {sigma}")
    return own_classes(model, images, float(sigma) ** 2, Evaluator()).joined(model)


@torch.no_grad()
def own_classes(
    model: PatchMixture, images: Tensor, noise: float, evaluator: Evaluator
) -> OwnClasses:
    """EM for the classes of images (B, C, H, W) that hold white noise of one variance."""
    y = patches(images, model.patch_size)
    variance = y.new_tensor(noise)
    log_rest = evaluator.means_and_log_probs(model, y, variance)(y)[1]
    start = _start(model, y, noise)
    basis = constraints.zero_mean_basis(model.channels, model.patch_size).to(y.device)
    own = start
    for _ in range(ITERATIONS):
        counts, scatter = _expect(own, y, log_rest, noise, model.channels)
        own = _maximise(start, counts, basis @ scatter @ basis.T, len(y), noise, basis)
    return own


def patches(images: Tensor, size: int) -> Tensor:
    """Patches (N, C b²) of images (B, C, H, W), one for every `PIXELS` pixels, at random places."""
    windows = images.unfold(2, size, 1).unfold(3, size, 1)
    pixels = images.shape[0] * images.shape[2] * images.shape[3]
    count = min(max(pixels // PIXELS, 1), MOST)
    generator = torch.Generator().manual_seed(0)
    places = [
        torch.randint(windows.shape[axis], (count,), generator=generator, device="cpu")
        for axis in (0, 2, 3)
    ]
    image, row, column = (place.to(images.device) for place in places)
    return windows[image, :, row, column].flatten(1)


def _start(model: PatchMixture, y: Tensor, noise: float) -> OwnClasses:
    """The classes, each in one orientation, that describe most of the patches (N, a)."""
    level = cast(DiffusedMixture, model.at(y.new_tensor(noise)))
    some = y[:: max(1, len(y) // SEEN)]
    usage = level.responsibilities(some).double().mean(0)  # orientations, classes
    variances = model.variances.detach().double()
    stand_out = (variances / (variances + noise)).sum(1)
    count = min(CLASSES, usage.numel(), 1 + len(y) // FEW)
    chosen = (usage * stand_out).flatten().topk(count).indices
    turn, k = chosen // usage.shape[1], chosen % usage.shape[1]
    place = {int(c): g for g, members in enumerate(level.members) for c in members}
    dimensions = variances.shape[1]
    axes = [
        level.bases[place[int(c)]].unflatten(0, (-1, dimensions))[h]
        for h, c in zip(turn, k, strict=True)
    ]
    weights = usage.flatten()[chosen].clamp(min=1e-12) / 2
    counted = _counted(variances[k], noise, variances.shape[1])
    return OwnClasses(torch.stack(axes).double(), counted, weights)


def _counted(clean: Tensor, noise: float, rank: int) -> Tensor:
    """Variances (M, J) of which so many count at most, and none that noise may have made."""
    least = clean.sort(1, descending=True).values[:, min(rank, clean.shape[1]) - 1, None]
    counts = (clean > LEAST * noise) & (clean >= least)
    return torch.where(counts, clean, FLOOR).clamp(min=FLOOR)


def _expect(
    own: OwnClasses, y: Tensor, log_rest: Tensor, noise: float, channels: int
) -> tuple[Tensor, Tensor]:
    """The E-step: counts (M,) and scatter (M, a, a) of patches (N, a), with their means."""
    joint = OwnLevel(own, noise, channels, y).log_joint(y)
    rest = log_rest + math.log1p(-float(own.weights.sum()))
    weights = torch.cat([rest[None], joint]).softmax(0)[1:]
    scatter = y.new_zeros(len(weights), y.shape[1], y.shape[1])
    for k, weight in enumerate(weights):
        chosen = (weight > RARE).nonzero()[:, 0]
        some = y[chosen]
        scatter[k] = (some * weight[chosen, None]).T @ some
    return weights.sum(1).double(), scatter.double()


def _maximise(
    start: OwnClasses, counts: Tensor, scatter: Tensor, total: int, noise: float, basis: Tensor
) -> OwnClasses:
    """The M-step, of scatter (M, J, J) in the coordinates of a zero-mean basis (J, a)."""
    rows = start.axes @ basis.T
    before = rows.mT @ ((start.variances + noise)[:, :, None] * rows)
    moments = (scatter + STRENGTH * before) / (counts + STRENGTH)[:, None, None]
    values, vectors = torch.linalg.eigh(moments)
    weights = (counts + STRENGTH * start.weights) / (total + STRENGTH)
    return OwnClasses(vectors.mT @ basis, _counted(values - noise, noise, RANK), weights)


def adaptable(density: DensityModel) -> bool:
    """Whether a density of patches can be given classes of a picture's own."""
    return isinstance(density, PatchMixture) and density.mean_part.variance is None


def _checked(model: PatchMixture, noisy: Tensor) -> Tensor:
    """Images (B, c, H, W) with the model's channels, in float32 or float64."""
    if not isinstance(model, PatchMixture):
        raise TypeError(f"model must be a PatchMixture; got {type(model).__name__}")
    if model.mean_part.variance is not None:
        raise ValueError("model must have a flat mean; this one is from `with_mean`")
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
    images = images.detach().to(model.filters.device, compute_dtype(images.dtype))
    return images.flatten(0, 1)[:, None] if model.channels == 1 else images
