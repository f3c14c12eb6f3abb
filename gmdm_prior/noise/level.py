"""The noise level of an image by maximum likelihood, with its standard error.

For patches y_i of an image with unknown level sigma and unknown class weights w (`patch_evidence`),

    sigma = argmax_sigma max_w 1/N sum_i log f(y_i; sigma, w).

The patches are spread evenly over the image, five thousand of them at most (`informative_patches`).
The maximum is looked for in t = log sigma, on a coarse grid with few of the patches from the top
down, then by Newton's method with a quarter of them, at last with all.

Standard error, relative to sigma (that is, of t): with J dimensions of a patch, h the curvature of
the maximum per patch and each pixel in r patches,

    error² = r / (N h)  +  misfit²,      misfit² = (a² + (b / sigma)²) / s²,      s = h / 2 J.

The first term is the likelihood's own; r corrects for patches that overlap and are not independent.
The second is what the model does not know about images: a slope of the log-likelihood where there
should be none, which moves a maximum of curvature h by as much over h. s is 1 for a flat image,
and small for one that is all texture. At small levels no statistics tells texture from noise, so
the estimate reads high: by 2 % at 5/255, 1 % at 25/255, on average over six photographs held out
(other images: benchmarks/results/noise_level.md). That bias is not subtracted, since flat images do
not have it, but is part of the error. a and b were fitted to the held-out images of an earlier
density of 40 classes by likelihood and then widened until the 95 % interval covered all at every
level, as errors have heavy tails; today's would do with half of a, but rougher pictures would not:
`benchmarks/noise_level.py calibrate data=FREE`.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from gmdm_prior.ambient import plain_modes
from gmdm_prior.densities.base import DensityModel
from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.densities.opponent import OpponentModel
from gmdm_prior.fast.choose import Evaluator
from gmdm_prior.images.planes import check_images, check_options
from gmdm_prior.noise.evidence import MixturePatches, PlainPatches, evidence_of
from gmdm_prior.noise.patches import informative
from gmdm_prior.sigma import compute_dtype

COARSE_PATCHES, WIDE_PATCHES = 400, 1_250  # on the coarse grid, and for the first steps
PATIENCE = 3  # double steps of the coarse grid after a maximum, in which there must be no higher
LEAST = 1e-4  # noise level below which none is looked for
GRID, WIDE, FINE = 0.25, 0.125, 0.05  # steps in log sigma
MISFIT, TEXTURE = 0.0057, 0.0276 / 255  # a and b
UNSURE = 0.5  # relative standard error above which the level may as well be none


@dataclass(frozen=True)
class Reading:
    """What one image says.

    Attributes:
        sigma: the level.
        own_variance: of log sigma, if the model were right.
        share: s, how much of the curvature of a flat image's likelihood there is.
    """

    sigma: float
    own_variance: float
    share: float

    @property
    def error(self) -> float:
        """Standard error relative to sigma."""
        if self.sigma == 0:
            return 0.0
        return math.sqrt(self.own_variance + misfit(self.sigma, self.share) ** 2)


@dataclass(frozen=True)
class NoiseLevel:
    """Noise levels of images and how far they can be trusted.

    Attributes:
        sigma: (B,), in units of the image.
        error: (B,), standard errors in the same units.
    """

    sigma: Tensor
    error: Tensor

    def interval(self, width: float = 1.96) -> tuple[Tensor, Tensor]:
        """Lower and upper ends (B,), `width` standard errors of log sigma away: 95 %.

        Where the level may as well be none, the lower end is 0; and as texture makes levels read
        high, not low, the upper one is then no further away than it is at the last sure level.
        """
        relative = self.error / self.sigma.clamp(min=LEAST)
        factor = (width * relative.clamp(max=UNSURE)).exp()
        return (self.sigma / factor).where(relative <= UNSURE, 0), self.sigma * factor

    @property
    def told(self) -> Tensor:
        """Whether levels are told from texture, (B,)."""
        return (self.sigma > LEAST) & (self.error <= UNSURE * self.sigma)


@torch.no_grad()
@plain_modes
def white_level(model: DensityModel, images: Tensor) -> NoiseLevel:
    """Levels of images whose noise is white, with standard errors.

    An image of one grey level has no noise to be seen: its level is 0. Where pixels are clipped
    (a spike in the histogram at the lowest or highest value), patches with such pixels are left
    out.

    Args:
        model: a `PatchMixture`; with another density, a plain likelihood without class weights, a
            warning says so. `load("gray-likelihood")` is best.
        images: (B, C, H, W), floating point, clean values in [0, 1]; from two patches a side. A
            model of one channel reads one level from all channels.

    Returns:
        Levels and standard errors, (B,) each, in the dtype and on the device of the images. Never
        NaN: where an answer means little, a warning says why.

    Raises:
        ValueError: for images that do not fit the model or are not finite.
        TypeError: for integer or complex images, or another kind of model.
    """
    check(model, images)
    found = [level_of_image(model, image) for image in images.to(compute_dtype(images.dtype))]
    sigma = images.new_tensor([f.sigma for f in found])
    return NoiseLevel(sigma, images.new_tensor([f.sigma * f.error for f in found]))


def check(model: DensityModel, images: Tensor) -> None:
    """Refuse what levels cannot be read from, and say where only the plain likelihood is at hand.

    Raises:
        ValueError: for images that do not fit the model or are not finite.
        TypeError: for integer or complex images, or another kind of model.
    """
    check_options(model, 1, "reflect")
    check_images(model, images)
    if isinstance(model, OpponentModel):
        raise TypeError(
            "noise levels are read by a density of gray patches, not by an OpponentModel: "
            "load('gray-likelihood') reads one level from all channels"
        )
    if not isinstance(model, PatchMixture):
        warnings.warn(
            f"a {type(model).__name__} has no classes whose weights fit the image: its plain "
            "likelihood reads flat images low. Use load('gray-likelihood')",
            stacklevel=4,
        )


def level_of_image(model: DensityModel, image: Tensor) -> Reading:
    """The noise level of one image (C, H, W)."""
    patches, overlap = informative(image, model)
    if not len(patches):
        warnings.warn("the image is constant: its noise level is read as 0", stacklevel=4)
        return Reading(0.0, 0.0, 1.0)
    found = level_of_patches(model, patches, overlap)
    if found.sigma <= LEAST or found.error > UNSURE:
        warnings.warn(
            f"the noise level {found.sigma:.2g} is not told from texture: the image may be free of "
            "noise",
            stacklevel=4,
        )
    return found


def level_of_patches(model: DensityModel, patches: Tensor, overlap: float = 1.0) -> Reading:
    """The noise level of patches (N, C b²), each pixel of which is in `overlap` of them."""
    evidence = evidence_of(model, patches, Evaluator())
    centred = patches.unflatten(1, (model.channels, -1))
    centred = centred - centred.mean(2, keepdim=True)
    dimensions = model.channels * (model.patch_size**2 - 1)
    highest = centred.double().square().sum((1, 2)).mean().item() / dimensions

    t, curvature = _maximum(evidence, 0.5 * math.log(highest), len(patches))
    return Reading(
        sigma=math.exp(t),
        own_variance=overlap / (len(patches) * curvature),
        share=min(1.0, curvature / (2 * dimensions)),
    )


def misfit(sigma: float, share: float, a: float = MISFIT, b: float = TEXTURE) -> float:
    """What the model does not know about images, as a standard error relative to sigma."""
    return math.hypot(a, b / sigma) / share


def log_likelihood(evidence: MixturePatches | PlainPatches, t: float) -> float:
    """The mean log-density of patches at the level exp t, under the weights that suit them."""
    at = evidence.at(math.exp(t))
    return at.log_prob(at.fitted(evidence.start)).double().mean().item()


def _maximum(
    evidence: MixturePatches | PlainPatches, highest: float, count: int
) -> tuple[float, float]:
    """The place t = log sigma of the largest log-likelihood up to `highest`, and -its curvature."""
    lowest = math.log(LEAST)
    t = _coarse(evidence.every(max(1, count // COARSE_PATCHES)), lowest, highest)
    fewer = evidence.every(max(1, count // WIDE_PATCHES))
    curvature = 1.0
    steps = [(fewer, WIDE)] * 3 + [(evidence, FINE)] * 2
    while steps:
        patches, h = steps.pop(0)
        t = max(t, lowest)
        below, here, above = (log_likelihood(patches, t + d) for d in (-h, 0, h))
        curvature = (2 * here - below - above) / h**2
        slope = (above - below) / (2 * h)
        newton = slope / curvature if curvature > 0 else math.copysign(math.inf, slope)
        move = min(max(newton, -2 * h), 2 * h)
        t += move
        if abs(move) < h / 2:
            steps = [step for step in steps if step[1] < h]
    return max(t, lowest), max(curvature, 1.0)


def _coarse(evidence: MixturePatches | PlainPatches, lowest: float, highest: float) -> float:
    """Where the log-likelihood of a few patches is largest, on a grid from the top down.

    It is gone by double steps, until several in succession bring nothing better.
    """
    found: dict[int, float] = {}

    def at(rung: int) -> float:
        if rung not in found:
            found[rung] = log_likelihood(evidence, highest + GRID * rung)
        return found[rung]

    best = rung = 1
    while rung - best > -2 * PATIENCE and highest + GRID * rung > lowest:
        rung -= 2
        best = max(best, rung, key=at)
    best = max(best, best - 1, best + 1, key=at)
    return max(highest + GRID * best, lowest)
