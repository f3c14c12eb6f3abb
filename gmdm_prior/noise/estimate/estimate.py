"""What the noise of a picture is like, read off the picture itself: `estimate_noise`.

In this order, each in its own file:

1. Pixels that lie are left out (`lying_pixels`, and those of `mask`).
2. The level by maximum likelihood, if the noise were white (`level`).
3. Does that level grow with brightness (`curve`)? Then it is Poisson-like. Where it is the same at
   every brightness (`images.stabilise`), half the size tells whether it is correlated, too.
4. Otherwise: is the noise white (`whiteness`)? If not, its autocovariance comes from the flattest
   blocks (`autocovariance`), in colour of the planes luminance, red - blue and green.
   If so, and parts of the image differ (`parts`), each pixel gets a level (`noise.map`).
5. Where too few patches are left to ask the likelihood, the flattest blocks say the level, and a
   note says so. So do notes for all else that a user should know.

Two pictures of the same scene need no model: half the variance of their difference is the noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.gaussian_noise import Noise, NoiseCurve
from gmdm_prior.images.planes import check_images, is_gray
from gmdm_prior.images.stabilise import stabiliser
from gmdm_prior.noise.estimate.agreement import START, agreed, of_colour
from gmdm_prior.noise.estimate.autocovariance import (
    SIDE,
    Autocovariance,
    cut_blocks,
    most_noise,
    read_autocovariance,
)
from gmdm_prior.noise.estimate.colour import Plane, alike, colour_planes, common, opponent
from gmdm_prior.noise.estimate.curve import Line, grows, line_of_groups, line_of_image
from gmdm_prior.noise.estimate.found import Found, joined, next_to_none
from gmdm_prior.noise.estimate.frames import of_two_frames
from gmdm_prior.noise.estimate.ladder import Ladder
from gmdm_prior.noise.estimate.lying_pixels import lying_pixels
from gmdm_prior.noise.estimate.parts import different_parts, slowly
from gmdm_prior.noise.estimate.whiteness import Whiteness, half_size, is_mild, whiteness
from gmdm_prior.noise.level import LEAST, Reading, level_of_patches
from gmdm_prior.noise.map import uneven_levels
from gmdm_prior.noise.patches import Patches, clipped_pixels, spread_patches
from gmdm_prior.noise.poisson_gaussian import local_mean
from gmdm_prior.sigma import compute_dtype

READER = "gray-likelihood"  # the density that reads noise
KINDS = ("auto", "white", "correlated", "poisson")
GROUPED = 2_000  # patches for what depends on brightness and place
FEWEST = 64  # patches, for the likelihood to be asked
SMALL, SMALL_SIDE = 30_000, 12  # pixels of an image whose blocks are smaller
TWO = 2  # colours of a pixel that lie, for its luminance to
CHROMA_SIDE = 32  # of the blocks of differences of colours, whose noise is wide
FEW_BLOCKS = 16  # in a picture, for correlated noise to be told from it
SPARSE = 0.05  # share of the patches without pixels that lie: perhaps all of them letters
TOUCHED = 0.5  # share of the patches with pixels that lie from which on a note says so
REDUCED, WIDE = 0.02, 2.0  # ranges of brightness outside of which the image is rescaled
UNSURE = 0.5  # relative standard error above which nothing is told
SEEN = 0.5  # relative standard error of white noise that is seen in colour
WIDTH = 1.96  # standard errors on each side of an interval
# Ends of intervals, fitted to simulated noise on every fourth of 52 free photographs (256² pixels,
# `data/free`): HEAVY lets 36 of 39 white ones (15, 25 and 50 / 255) in; GROWING all 22 whose growth
# was seen (gains 0.002 and 0.02); FLAT 38 of 39 (5, 15 and 50 / 255, a fifth of the pixels masked),
# low ends far away as texture is read as noise. Where a tenth of the pixels is clipped, flat areas
# have lost up to a third of their noise: CLIPPED.
HEAVY = 1.6
GROWING = (1 / 1.65, 1.3)
FLAT = (1 / 2.6, 1.15)
CLIPPED = 5.0


@torch.no_grad()
def estimate_noise(
    images: Tensor | Sequence[Tensor],
    model: DensityModel | None = None,
    mask: Tensor | None = None,
    kind: str = "auto",
) -> Noise:
    """Read off images what their noise is like.

    Args:
        images: (B, C, H, W), floating point, in any units; or two such of the same scenes, whose
            difference then says it all.
        model: a `PatchMixture` of gray patches, best one fitted by likelihood; None loads
            `READER`.
        mask: bool, broadcasts to the images; only pixels that are True are looked at.
        kind: `"auto"`, or the kind of noise if it is known: `"white"`, `"correlated"` or
            `"poisson"`, which grows with brightness.

    Returns:
        Level with interval, autocovariance where the noise is correlated (of opponent planes, for
        three channels), curve where it grows with brightness, levels of pixels where parts of the
        image differ in them, and notes. Never NaN; the interval is finite, and wide where little is
        told.

    Raises:
        ValueError: for an unknown kind, images that do not fit or are not finite, or a mask that
            does not fit.
        TypeError: for integer or complex images.
    """
    from gmdm_prior.files.safetensors import load

    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    frames: list[Any] = list(images) if isinstance(images, (list, tuple)) else [images]
    if len(frames) not in (1, 2):
        raise ValueError(f"images must be one batch or two of the same scenes; got {len(frames)}")
    first = frames[0]
    model = load(READER).to(first.device) if model is None else model
    for frame in frames:
        check_images(model, frame)
        if frame.shape != first.shape:
            raise ValueError(
                f"two frames must have the same shape; got {tuple(first.shape)} and "
                f"{tuple(frame.shape)}"
            )
    hidden = _hidden(mask, first)
    work = compute_dtype(first.dtype)
    found = []
    for i in range(len(first)):
        scene = [frame[i].to(work) for frame in frames]
        lying = hidden[i] if hidden is not None else torch.zeros_like(scene[0], dtype=torch.bool)
        found.append(_of_one(scene, model, lying, kind))
    return joined(found)


def _hidden(mask: Tensor | None, images: Tensor) -> Tensor | None:
    if mask is None:
        return None
    mask = torch.as_tensor(mask, device=images.device)
    try:
        return ~(mask > 0).expand(images.shape)
    except RuntimeError:
        raise ValueError(
            f"mask must broadcast to the images {tuple(images.shape)}; got {tuple(mask.shape)}"
        ) from None


def _of_one(scene: list[Tensor], model: DensityModel, hidden: Tensor, kind: str) -> Found:
    """The noise of one scene, in one frame (C, H, W) or two."""
    channels = len(scene[0])
    if channels > 1 and all(map(is_gray, scene)):
        gray = [frame[:1] for frame in scene]
        return _of_one(gray, model, hidden.any(0, keepdim=True), kind).repeated(channels)
    lying = hidden | torch.stack([lying_pixels(frame) for frame in scene]).any(0)
    if bool(lying.all()):
        lying = hidden
    if len(scene) == 2:
        sigma, bounds, lags, curve, notes = of_two_frames(scene[0], scene[1], lying, kind)
        return Found(sigma, bounds, lags, curve, notes, opponent=len(lags) == 3)
    image, (scale, shift) = scene[0], _units(scene[0][~lying])
    if scale != 1:
        image = (image - shift) / scale
    found = _Reader(model, image, lying, kind, hidden, (scale, shift)).read()
    return found if scale == 1 else found.scaled(scale, shift)


def _units(values: Tensor) -> tuple[float, float]:
    """Scale and shift of the image, (1, 0) where it is about in [0, 1] as densities want it."""
    if not len(values):
        return 1.0, 0.0
    sample = values[:: max(1, len(values) // 2**20)]
    low, high = sample.quantile(sample.new_tensor([0.01, 0.99])).tolist()
    wide = high - low
    fits = REDUCED < wide < WIDE and low > -WIDE and high < 2 * WIDE
    return (1.0, 0.0) if fits or wide <= 0 else (wide, low)


class _Reader:
    """Reads one image (C, H, W), whose units are those of the picture less a shift over a scale."""

    def __init__(
        self,
        model: DensityModel,
        image: Tensor,
        lying: Tensor,
        kind: str,
        hidden: Tensor,
        units: tuple[float, float],
    ) -> None:
        self.model, self.image, self.kind, self._hidden = model, image, kind, hidden
        self._scale, self._shift = units
        self._masked = lying.any(0, keepdim=True)
        self.lying = lying | clipped_pixels(image)
        self.notes: list[str] = []
        self.gray = image.mean(0, keepdim=True)
        self.gray_lying = self.lying.any(0, keepdim=True)

    def read(self) -> Found:
        """Everything, in the order of the module's head."""
        patches = spread_patches(self.image, self.model, self.lying)
        if not len(patches) and not bool(self.lying.any()):
            return Found(0.0, (0.0, 0.0), notes=("the image is constant: it shows no noise",))
        self._limit = math.inf
        if bool(self.lying.any()) and self._say_what_lies(len(patches)) < SPARSE:
            self._limit = self._most()
        if len(patches) < FEWEST:
            return self._of_blocks("too few patches are free of pixels that lie")
        planes = self._planes(patches)
        light = planes[0]
        ladder, some = self._ladder(light)
        brightness = some.values.mean(1)
        line = None if self.kind in ("white", "correlated") else line_of_groups(ladder, brightness)
        if self.kind == "auto" and grows(line) and self._is_of_places(ladder, some, line):
            line = None
        if self.kind == "poisson" or grows(line):
            return self._poisson(light.full, line)
        best = min(planes, key=lambda p: p.full.error)
        if self.kind == "white":
            return self._white(common(planes), common(planes).sigma)
        test = whiteness(self.model, best.values, best.full, best.lying)
        if not test.white and test.ratio > 1:  # of levels far apart, too
            test = self._of_louder_half(best, ladder, some) or test
        white = test.white
        if len(planes) == 3:
            white &= best.full.error < SEEN and alike(planes, common(planes).sigma)
        if self.kind == "correlated" or not (white or self._is_tiny()):
            return self._correlated(light, test if best is light else None)
        levels = self._levels_of_places(ladder, some)
        half = common(planes).sigma / test.ratio
        return replace(self._white(common(planes), half), levels=levels)

    def _planes(self, patches: Patches) -> list[Plane]:
        """The brightness, and in colour the differences, each with its level if it were white."""
        if len(self.image) != 3:
            return [self._mean_plane(patches)]
        shared = spread_patches(self.gray, self.model, self.gray_lying, GROUPED)
        if len(shared) < FEWEST:  # no place is free of pixels that lie in all channels
            return [self._mean_plane(patches)]
        return colour_planes(self.model, self.image, self.gray_lying)

    def _mean_plane(self, patches: Patches) -> Plane:
        """The mean of the channels, whose noise is less where theirs is independent."""
        full = level_of_patches(self.model, patches.values, patches.overlap)
        own = spread_patches(self.gray, self.model, self.gray_lying, GROUPED)
        if len(self.image) == 1 or len(own) < FEWEST:
            return Plane(self.gray, self.gray_lying, full)
        mean = level_of_patches(self.model, own.values, own.overlap)
        told = max(full.error, mean.error) < UNSURE
        unit = full.sigma / mean.sigma if told else math.sqrt(len(self.image))
        return Plane(self.gray, self.gray_lying, mean, unit)

    def _ladder(self, light: Plane) -> tuple[Ladder, Patches]:
        """Some patches of the brightness, at levels around its own."""
        patches = spread_patches(self.gray, self.model, self.gray_lying, GROUPED)
        if len(patches) < FEWEST:  # no place is free of pixels that lie in all channels
            patches = spread_patches(self.image, self.model, self.lying, GROUPED)
        return Ladder(self.model, patches, light.full.sigma), patches

    def _white(self, full: Reading, half: float) -> Found:
        """One level; the interval knows what the half-size image says differently."""
        sigma = min(max(full.sigma, 0.0), self._limit)
        if sigma <= LEAST or full.error > UNSURE:
            self.notes.append(
                f"the noise level {sigma * self._scale:.2g} is not told from texture: the image "
                "may be free of noise"
            )
        error = min(full.error, 1.0)
        apart = abs(math.log(max(half, LEAST) / max(sigma, LEAST)))
        wide = HEAVY * WIDTH * math.hypot(error, min(apart, 1.0) / 8, 0.01)
        return Found(sigma, (sigma * math.exp(-wide), sigma * math.exp(wide)), notes=self._said())

    def _poisson(self, full: Reading, line: Line | None) -> Found:
        """A curve; the level is that of the mean brightness."""
        fitted = line_of_image(self.gray[0], self._masked[0], line)
        if fitted is None:
            self.notes.append("no growth of the noise with brightness is to be seen")
            return self._white(full, full.sigma)
        low, high = float(self.image.min()), float(self.image.max())
        curve = fitted.curve(min(low, 0.0), high)
        level = float(curve.at(self.image.double()).square().mean().sqrt())
        level = max(level, LEAST)
        gain = fitted.gain * self._scale
        offset = fitted.offset * self._scale**2 - gain * self._shift
        self.notes.append(
            f"the noise grows with brightness: variance {gain:.3g} x brightness {offset:+.3g}"
        )
        read = self._stabilised(curve)
        lags: tuple[Tensor, ...] = ()
        if read is not None:
            curve, level = (
                NoiseCurve(curve.brightness, curve.level * read.sigma),
                level * read.sigma,
            )
            lags = (read.lags * (level / read.sigma) ** 2,)
            self.notes.append(
                "it is correlated, too: neighbours by {:.2f} vertically and {:.2f} horizontally, "
                "of {:.2g} times that variance".format(*read.lag1, read.sigma**2)
            )
        bounds = (level * GROWING[0], level * GROWING[1])
        return Found(level, bounds, lags, curve, self._said())

    def _stabilised(self, curve: NoiseCurve) -> Autocovariance | None:
        """Of gray noise over its curve, if it is correlated: half the size tells that."""
        if len(self.image) > 1:
            return None
        transform = stabiliser(curve, float(self.image.min()), float(self.image.max()))
        stable = transform(self.image)
        low, wide = float(stable.min()), max(float(stable.max() - stable.min()), LEAST)
        flat = ((stable - low) / wide).to(self.image.dtype)
        patches = spread_patches(flat, self.model, self.lying, GROUPED)
        if len(patches) < FEWEST:
            return None
        full = level_of_patches(self.model, patches.values, patches.overlap)
        half = half_size(self.model, flat, max(full.sigma / 2, LEAST), self.lying)
        read = _autocovariance(flat[0], self.lying[0])
        if half is None or read is None or not is_mild(full, half, read):
            return None
        return replace(read, lags=read.lags * wide**2)

    def _correlated(self, light: Plane, test: Whiteness | None) -> Found:
        """An autocovariance of each plane, at a level that other evidence agrees to.

        Args:
            light: the brightness.
            test: of it, if that was asked.
        """
        colour = len(self.image) == 3
        planes, lying, seen = self.image, self.lying, light.lying
        if colour:  # luminance has most of its noise where one colour is clipped
            seen = self.lying.sum(0, keepdim=True) >= TWO
            planes, lying = opponent(self.image), seen.expand(self.image.shape)
        if test is None or not torch.equal(seen, light.lying):
            test = whiteness(self.model, light.values, light.full, seen)
        read = [
            _autocovariance(plane, hidden, CHROMA_SIDE if colour and i else None)
            for i, (plane, hidden) in enumerate(zip(planes, lying, strict=True))
        ]
        if read[0] is None:
            return self._of_blocks("flat areas hold no noise")
        if colour:
            half = [half_size(self.model, p[None], START, seen) for p in planes[1:]]
            lags = of_colour(read, test, light.unit, half)
        else:
            none = next_to_none(read[0].lags)
            lags = [none if r is None else agreed(r, test, light.unit) for r in read]
        m = len(lags[0]) // 2
        sigma = math.sqrt(sum(float(r[m, m]) for r in lags) / len(lags))
        across, along = read[0].lag1
        self.notes.append(
            f"the noise is correlated: neighbours by {across:.2f} vertically and {along:.2f} "
            f"horizontally (full size reads {test.ratio:.2g} times the level of half the size)"
        )
        error = math.hypot(0.06, 0.5 * math.log(max(read[0].plateau, 1.0)))
        high = sigma * math.exp(WIDTH * 0.06) * self._lost()
        bounds = (sigma * math.exp(-WIDTH * min(error, 0.7)), high)
        return Found(sigma, bounds, tuple(lags), notes=self._said(), opponent=colour)

    def _of_blocks(self, why: str) -> Found:
        """The level of the flattest areas, where there is nothing better."""
        blocks = [cut_blocks(p, hidden) for p, hidden in zip(self.image, self.lying, strict=True)]
        levels = [float(b.flattest().variances.mean()) for b in blocks if len(b.variances)]
        if not levels:
            self.notes.append("nothing in the image tells its noise")
            return Found(0.0, (0.0, float(self.image.std())), notes=self._said())
        read = [_autocovariance(p, h) for p, h in zip(self.image, self.lying, strict=True)]
        levels = [r.sigma**2 for r in read if r is not None] or levels
        sigma = min(math.sqrt(sum(levels) / len(levels)), self._most())
        self.notes.append(f"{why}: the level is that of the flattest areas, and uncertain")
        bounds = (sigma * FLAT[0], sigma * FLAT[1] * self._lost())
        return Found(sigma, bounds, notes=self._said())

    def _is_tiny(self) -> bool:
        """Whether there are too few blocks for the flattest to be any flatter than the picture."""
        return math.prod(max(1, 2 * n // SMALL_SIDE - 1) for n in self.gray.shape[1:]) < FEW_BLOCKS

    def _most(self) -> float:
        """The most noise that there may be in flat areas, pixels that are clipped included."""
        return max(most_noise(p, h) for p, h in zip(self.image, self._hidden, strict=True))

    def _lost(self) -> float:
        """By how much flat areas may show too little, as pixels are clipped."""
        return 1 + CLIPPED * float(clipped_pixels(self.image).double().mean())

    def _say_what_lies(self, left: int) -> float:
        """Notes, and the share of the patches that are left."""
        share = float(self.lying.double().mean())
        self.notes.append(
            f"{100 * share:.2g} % of the pixels are clipped, masked or far outside, and left out"
        )
        total = len(spread_patches(self.image, self.model, torch.zeros_like(self.lying)))
        if left < (1 - TOUCHED) * total:
            self.notes.append(
                f"only {100 * left / max(total, 1):.2g} % of the patches are free of them"
            )
        return left / max(total, 1)

    def _of_louder_half(self, plane: Plane, ladder: Ladder, patches: Patches) -> Whiteness | None:
        """Whether noise is white in the half that has more; None if halves do not differ."""
        shape = self.gray.shape[1:]
        found = [part.louder_half(*shape) for part in different_parts(ladder, patches, shape)]
        half = next((ends for ends in found if ends is not None), None)
        if half is None:
            return None
        values, lying = (whole[:, half[0], half[1]] for whole in (plane.values, plane.lying))
        inside = spread_patches(values, self.model, lying, GROUPED)
        if len(inside) < FEWEST:
            return None
        full = level_of_patches(self.model, inside.values, inside.overlap)
        return whiteness(self.model, values, full, lying)

    def _is_of_places(self, ladder: Ladder, patches: Patches, line: Line) -> bool:
        """Whether noise that follows brightness follows the place far better."""
        apart = next(different_parts(ladder, patches, self.gray.shape[1:]), None)
        if apart is None:
            return False
        curve = line.curve(float(self.gray.min()), float(self.gray.max()))
        side = 2 * (self.model.patch_size // 2) - 1  # of about a patch
        levels = curve.at(local_mean(self.gray[None], side))[0, 0]
        found = uneven_levels(self.model, self.gray, self.gray_lying, apart.middle, levels)
        return found is not None

    def _levels_of_places(self, ladder: Ladder, patches: Patches) -> Tensor | None:
        """Levels of pixels (H, W), with notes, where parts of the image differ in them."""
        apart = list(different_parts(ladder, patches, self.gray.shape[1:]))
        if not apart:
            return None
        found = uneven_levels(self.model, self.image, self.lying, apart[0].middle)
        if found is None:
            return None
        levels, slow = found
        said = [part.said(self._scale) for part in apart]
        self.notes += [slowly(levels * self._scale)] if slow else said
        return levels

    def _said(self) -> tuple[str, ...]:
        return tuple(self.notes)


def _autocovariance(plane: Tensor, lying: Tensor, side: int | None = None) -> Autocovariance | None:
    lying = lying if bool(lying.any()) else None
    if side is None:
        side = SIDE if plane.numel() >= SMALL else SMALL_SIDE
    return read_autocovariance(plane, lying, side)
