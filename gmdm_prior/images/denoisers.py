"""Denoisers of whole images from densities of patches.

`PatchAveraging` (EB-PA, the paper's Section 4.3): the exact posterior mean of every overlapping
patch, averaged.

`HalfQuadraticSplitting` (HQS): for falling levels sigma_i, one empirical-Bayes step on the current
image, then the data term in closed form,

    z = average of posterior means of the patches of x at sigma_i,
    x = (1 - w_i) z + w_i y,

on grids of patches that shift from step to step, so that a coarse `stride` costs little. The image
is padded once, by all that the steps reach; each takes its border off again. Levels
sigma_i and data weights w_i are smooth functions of the input sigma (`schedule`), of a noise map
pixel by pixel. Strong noise hides structures that are wider than a patch: the same steps with the
same density also restore the image of half the size, and a share of what they differ by there is
added (`half_size`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.densities.opponent import OpponentModel
from gmdm_prior.densities.product import PatchModel
from gmdm_prior.fast.choose import (
    at_one_level,
    pixel_by_pixel,
    posterior_means,
    posterior_means_of_map,
    posterior_variances,
)
from gmdm_prior.images.half_size import MARGIN, double, halve, halve_level
from gmdm_prior.images.patches import Run, inner, interior_average, pad
from gmdm_prior.images.schedule import DEFAULT, Schedule
from gmdm_prior.images.threads import Workers
from gmdm_prior.images.untraced import untraced
from gmdm_prior.sigma import compute_dtype, image_level, readable

PlaneModel = PatchModel | PatchMixture
BOUNDARIES = ("reflect", "circular")
DEFAULT_STRIDE = 4


class PatchAveraging(nn.Module):
    """Empirical-Bayes patch averaging: the mean of the posterior means of all patches over a pixel.

    Args:
        model: a `PatchModel`, `PatchMixture` or `OpponentModel`.
        stride: distance of neighbouring patches; 1 takes all of them.
        boundary: `"reflect"` (tiles give the same result as the whole image) or `"circular"`, for
            which with stride 1 the Jacobian of the denoiser is symmetric.
    """

    def __init__(self, model: DensityModel, stride: int = 1, boundary: str = "reflect") -> None:
        super().__init__()
        check_options(model, stride, boundary)
        self.model, self.stride, self.boundary = model, stride, boundary

    @property
    def halo(self) -> int:
        """How many pixels away an input pixel can change an output pixel, up to a whole stride.

        Tiles that begin at multiples of the stride, each with so much around it, give what the
        whole image gives.
        """
        return _multiple(self.model.patch_size - 1, self.stride)

    def forward(self, noisy: Tensor, sigma: object) -> Tensor:
        """Denoise images.

        Args:
            noisy: (B, C, H, W), floating point; a model of one channel treats channels
                independently.
            sigma: number, (B,), (B, 1, 1, 1) or a map (B|1, 1|C, H, W), in units of the image.

        Returns:
            The denoised images, in the shape, dtype and device of `noisy`; never clamped.

        Raises:
            ValueError: for shapes that do not fit, an image smaller than a patch, a bad sigma, or
                NaN pixels.
            TypeError: for integer or complex images.
        """
        return _per_plane(self.model, self._average, noisy, sigma)

    def variance(self, noisy: Tensor, sigma: object) -> Tensor:
        """Predicted squared error of every pixel that `forward` restores, a composite one.

        The mean of the exact posterior variances of all patches over a pixel. It is not the
        posterior variance of an image, of which a density of patches knows nothing. If every
        patch's posterior were true, the squared error of the average would be in the mean

            mean of the variances - mean of (a patch's posterior mean - their average)²,

        so that this is an upper bound (Jensen); docs/math.md has what is measured. Exact, without
        tables or a compiled kernel: 20 s for 481×321 pixels where `forward` takes less than one,
        a quarter of that at `stride=2`. Memory is bounded.

        Args:
            noisy: (B, C, H, W), as in `forward`.
            sigma: as in `forward`.

        Returns:
            Variances in squared units of the image, like `noisy`; its square root is a standard
            deviation. Zero where sigma is zero.

        Raises:
            ValueError: as in `forward`.
            TypeError: as in `forward`.
        """
        return _per_plane(self.model, self._spread, noisy, sigma, kind="variance")

    def score(self, images: Tensor, sigma: object) -> Tensor:
        """The average of the scores of all patches over a pixel, shaped like the images.

        By Tweedie's formula that is (forward(images) - images) / sigma², which in float32 has no
        digits left at small sigma; here it has all of them, also at sigma = 0. With stride 1 and
        `boundary="circular"` it is the gradient of `PatchLikelihood`.

        Args:
            images: (B, C, H, W), as in `forward`.
            sigma: as in `forward`; of a map, each patch's score is that under its own noise.

        Raises:
            ValueError: as in `forward`.
            TypeError: as in `forward`.
        """
        return _per_plane(self.model, self._scores, images, sigma, kind="gradient")

    def _scores(self, model: PlaneModel, image: Tensor, level: Tensor, run: Run) -> Tensor:
        return self._step(model, run).score(*self._padded(image, level))

    def _average(self, model: PlaneModel, image: Tensor, level: Tensor, run: Run) -> Tensor:
        return self._step(model, run)(*self._padded(image, level))

    def _spread(self, model: PlaneModel, image: Tensor, level: Tensor, run: Run) -> Tensor:
        return self._step(model, run).variance(*self._padded(image, level))

    def _step(self, model: PlaneModel, run: Run) -> _Step:
        return _Step(model, self.stride, (0, 0), exact=True, run=run)

    def _padded(self, image: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        border = self.model.patch_size - 1
        return _pad_both(image, level, border, border, self.boundary)


class HalfQuadraticSplitting(nn.Module):
    """A few empirical-Bayes steps at falling noise levels, on shifting grids of patches.

    Args:
        model: a `PatchModel`, `PatchMixture` or `OpponentModel`.
        stride: distance of neighbouring patches, each of them evaluated exactly. None is the fast
            default: up to `DEFAULT_STRIDE` but at most half a patch; where no compiled kernel
            applies (`fused_mixture`), a `PatchMixture` looks at a patch only in the few bases that
            explain it, and noise maps are rounded patch by patch (`mixture_gate`).
        boundary: `"reflect"` or `"circular"`.
        levels: noise level of each step, in units of the input sigma, at full size only; None is
            the default schedule.
        data_shares: weight of the noisy image after each step, from 0 to 1; None with `levels`.
    """

    def __init__(
        self,
        model: DensityModel,
        stride: int | None = None,
        boundary: str = "reflect",
        levels: Sequence[float] | None = None,
        data_shares: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check_options(model, 1 if stride is None else stride, boundary)
        self.exact = stride is not None
        if stride is None:
            stride = min(DEFAULT_STRIDE, max(1, model.patch_size // 2))
        self.model, self.stride, self.boundary = model, stride, boundary
        self.schedule = DEFAULT
        if levels is not None or data_shares is not None:
            self.schedule = Schedule.constant(list(levels or ()), list(data_shares or ()))

    @property
    def halo(self) -> int:
        """How many pixels away an input pixel can change an output pixel, up to two whole strides.

        Tiles that begin at multiples of twice the stride (the grid of patches, at half the size
        too), each with so much around it, give what the whole image gives.
        """
        reach = 2 * (self._reach + 1) if self.schedule.has_coarse_scale else self._reach
        return _multiple(reach, 2 * self.stride)

    @property
    def _reach(self) -> int:
        """How many pixels around a result the steps take, at one scale."""
        return len(self.schedule) * (self.model.patch_size - 1)

    def forward(self, noisy: Tensor, sigma: object) -> Tensor:
        """Denoise images; arguments, result and errors are those of `PatchAveraging.forward`."""
        return _per_plane(self.model, self._restore, noisy, sigma)

    def _restore(self, model: PlaneModel, image: Tensor, level: Tensor, run: Run) -> Tensor:
        """An image (c, H, W) at both scales."""
        share, (height, width) = self.schedule.coarse_share(level), image.shape[1:]
        small = min(height + 1, width + 1) // 2 < model.patch_size
        if small or (readable(share) and not bool(share.any())):
            wide = _pad_both(image, level, self._reach, self._reach, self.boundary)
            return self._split(model, *wide, run)
        around = 2 * (self._reach + 1)  # for the result at half the size and a pixel around it
        image, level = _pad_both(image, level, around, around + 1, self.boundary)
        even = (slice(None), slice(2 * (image.shape[1] // 2)), slice(2 * (image.shape[2] // 2)))
        image, level = image[even], level[even] if level.ndim else level
        off = around - self._reach - MARGIN
        x = self._split(model, inner(image, off), inner(level, off), run, MARGIN)
        coarse = self._split(model, halve(image), halve_level(level), run, MARGIN // 2)
        x, correction = inner(x, MARGIN), double(coarse - halve(x))
        return x[:, :height, :width] + share * correction[:, :height, :width]

    def _split(
        self, model: PlaneModel, image: Tensor, level: Tensor, run: Run, margin: int = 0
    ) -> Tensor:
        """All steps on an image (c, H, W) at one scale, less the border that each takes.

        The result begins `margin` pixels above and left of where the grids of patches are counted
        from.
        """
        x, s, border = image, self.stride, model.patch_size - 1
        for i, (at, weight) in enumerate(self.schedule.at(level)):
            beyond = margin + self._reach - (i + 1) * border  # of the result
            phase = tuple((first + beyond) % s for first in grid(i, s))
            x = _Step(model, s, phase, self.exact, run)(x, inner(at, i * border))
            taken = (i + 1) * border
            x = torch.lerp(x, inner(image, taken), inner(weight, taken))
        return x


def check_options(model: object, stride: int, boundary: str) -> None:
    """Refuse what image denoisers cannot work with."""
    if not isinstance(model, (PatchModel, PatchMixture, OpponentModel)):
        raise TypeError(
            "model must be a PatchModel, PatchMixture or OpponentModel; got "
            f"{type(model).__name__}. gmdm_prior.load('bsds-gray') gives one. Densities of whole "
            "images have a `denoise` of their own (WaveletDenoiser for batches)"
        )
    if not isinstance(stride, int) or not 1 <= stride <= model.patch_size:
        raise ValueError(
            f"stride must be an integer from 1 to the patch size {model.patch_size}, so that "
            f"patches cover every pixel; got {stride!r}"
        )
    if boundary not in BOUNDARIES:
        raise ValueError(f"boundary must be one of {', '.join(BOUNDARIES)}; got {boundary!r}")


def prepare(model: DensityModel, images: Tensor, sigma: object) -> tuple[Tensor, Tensor, bool]:
    """Check images (B, C, H, W) and align the noise with them.

    Returns:
        Planes (M, c, H, W) with the c channels of `planes_of(model)`, whose densities take turns,
        in the working dtype; levels, (M,) or maps (M, c, H, W); and whether they are maps.
    """
    check_images(model, images)
    channels = images.shape[1]
    level, is_map = image_level(sigma, images)
    planes = images.to(compute_dtype(images.dtype))
    if isinstance(model, OpponentModel):
        levels = model.levels(level.square() if is_map else _flat(level.square()))
        levels = levels.reshape(-1, 1, *planes.shape[2:]) if is_map else levels.flatten()
        return model.enter(planes).reshape(-1, 1, *images.shape[2:]), levels, is_map
    if model.channels == 1 and channels > 1:
        planes = planes.reshape(-1, 1, *images.shape[2:])
        level = level.reshape(planes.shape) if is_map else level.repeat_interleave(channels)
    return planes, level, is_map


def planes_of(model: PlaneModel | OpponentModel) -> list[PlaneModel]:
    """The densities that look at the planes of `prepare`, in turns."""
    return list(model.planes) if isinstance(model, OpponentModel) else [model]


def check_images(model: DensityModel, images: Tensor) -> None:
    """Refuse what is no batch of images for this model, with the remedy."""
    if not isinstance(images, Tensor):
        raise TypeError(
            f"images must be a tensor (B, C, H, W); got {type(images).__name__}. "
            "torch.as_tensor(images) makes one of an array or a list"
        )
    if images.is_complex():
        raise TypeError(
            "images must be real; got complex ones. Denoise real and imaginary part as two "
            "channels (deepinv's ComplexDenoiserWrapper does)"
        )
    if not images.is_floating_point():
        raise TypeError(
            f"images must be floating point in [0, 1]; got {images.dtype}. Use images.float() / 255"
        )
    if images.ndim != 4:
        remedy = (
            "Add leading axes with images[None]"
            if images.ndim < 4
            else "Fold time and depth into the batch, images.flatten(0, 1) say"
        )
        raise ValueError(f"images must be (B, C, H, W); got {tuple(images.shape)}. {remedy}")
    if model.channels not in (1, images.shape[1]):
        raise ValueError(
            f"images must have {model.channels} channels for this model; got {images.shape[1]} in "
            f"{tuple(images.shape)}"
        )
    home = next(model.parameters()).device
    if images.device != home:
        raise ValueError(
            f"images must be on the device of the model, {home}; got {images.device}. Move one of "
            f"them: model.to({str(images.device)!r})"
        )
    size = model.patch_size
    if min(images.shape[2:]) < size:
        raise ValueError(
            f"images must be at least one patch, {size}x{size} pixels; got "
            f"{images.shape[2]}x{images.shape[3]}"
        )
    if readable(images) and not bool(torch.isfinite(images.detach()).all()):
        raise ValueError(
            "images must be finite; they hold NaN or infinity. Replace those pixels "
            "(torch.nan_to_num) or inpaint them"
        )


def _multiple(number: int, of: int) -> int:
    """The next multiple."""
    return -(-number // of) * of


def grid(step: int, stride: int) -> tuple[int, int]:
    """First row and column of the patches of a step, in an image padded by b - 1."""
    return step % stride, (step // stride + step) % stride


@untraced
def _per_plane(
    model: PlaneModel | OpponentModel,
    restore: Callable[[PlaneModel, Tensor, Tensor, Run], Tensor],
    noisy: Tensor,
    sigma: object,
    kind: str = "image",
) -> Tensor:
    """Restore each plane at its level, and give back shape and dtype.

    `kind` says what `restore` gives: an `"image"`, which without noise stays as it is, a
    `"variance"`, which is then zero, or a `"gradient"`.
    """
    with Workers(_may_be_shared(model, noisy, sigma)) as workers:
        planes, level, is_map = prepare(model, noisy, sigma)
        triples = zip(itertools.cycle(planes_of(model)), planes, level, strict=False)
        restored = [restore(*triple, workers.in_order) for triple in triples]
        out = (torch.stack(restored) if restored else planes).reshape(noisy.shape)
        if isinstance(model, OpponentModel):
            back = {"image": model.leave, "variance": model.spread, "gradient": model.gradient}
            out = back[kind](out)
        if not is_map and kind != "gradient":
            of_one = max(1, len(planes) // max(1, len(noisy)))  # planes of an image: one level
            noiseless = (level[::of_one] == 0)[:, None, None, None]
            out = torch.where(noiseless, noisy if kind == "image" else torch.zeros_like(out), out)
    return out.to(noisy.dtype)


def _flat(variance: Tensor) -> Tensor:
    """One level of each image (B,) as that of three colours (B, 3, 1, 1)."""
    return variance[:, None, None, None].expand(-1, 3, 1, 1)


def _may_be_shared(model: DensityModel, *inputs: object) -> bool:
    """Whether threads can work beside one another: not while gradients are recorded or traced."""
    tensors = [t for t in inputs if isinstance(t, Tensor)]
    if torch.is_grad_enabled() and any(t.requires_grad for t in (*model.parameters(), *tensors)):
        return False
    return all(map(readable, tensors))


def _pad_both(
    image: Tensor, level: Tensor, before: int, after: int, boundary: str
) -> tuple[Tensor, Tensor]:
    """Pad an image and, where it is a map, its noise level."""
    image = pad(image, before, after, boundary)
    return image, pad(level, before, after, boundary) if level.ndim else level


@dataclass(frozen=True)
class _Step:
    """One averaging of posterior means, of which images lose a border of b - 1 pixels."""

    model: PlaneModel
    stride: int
    phase: tuple[int, int]
    exact: bool
    run: Run

    def __call__(self, image: Tensor, level: Tensor) -> Tensor:
        """An image (C, H, W) at a level () or a map, denoised."""
        noise = level.square()
        means = posterior_means_of_map if noise.ndim else posterior_means
        return self._average(means(self.model, image, noise, self.exact), image, noise)

    def variance(self, image: Tensor, level: Tensor) -> Tensor:
        """The average of posterior variances instead."""
        noise = level.square()
        return self._average(posterior_variances(self.model, noise), image, noise)

    def score(self, image: Tensor, level: Tensor) -> Tensor:
        """The average of scores instead."""
        noise = level.square()
        if noise.ndim:
            evaluate = pixel_by_pixel(self.model, "score")
        else:
            evaluate = at_one_level(self.model, image, noise, "score")
        return self._average(evaluate, image, noise)

    def _average(self, evaluate: Callable[..., Tensor], image: Tensor, noise: Tensor) -> Tensor:
        images, size = ((image, noise) if noise.ndim else (image,)), self.model.patch_size
        return interior_average(images, size, evaluate, self.stride, self.phase, self.run)
