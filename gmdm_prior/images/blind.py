"""Images denoised under a `Noise`: white, correlated, or growing with brightness.

*White*: half-quadratic splitting (`hqs`) at the level, or at those of the pixels.

*Correlated, gray*: where the picture bears its autocovariance out (`stationary`), it is restored
under that (`correlated`), to whose variance some white noise is added where low frequencies
prevail, at three sizes as below: real noise is wider than a few lags say. Otherwise what matters is
what such noise does to structures as wide as a patch, which is its spectrum around frequency 0:
white noise of that level is restored instead. For noise without low frequencies it is the level
itself.

*Correlated, colour*: each opponent plane has a level of its own. How wide the noise of differences
is tells what happened to it: noise of a mosaic of colours is narrow, that of a camera which
smoothed its colours or stored fewer of them wide, and such noise is stronger in places than
anything says. With w_i from 0, narrow, to 1 where low frequencies have `WIDE` times the level s_i
of difference i, and w their mean, the levels are

    brightness   ((a + b w)² s_0² + w² h²)^½,                        a, b = `LIGHT`,
    differences  (c + d w_i) times that of low frequencies,          c, d = `COLOUR`,

the latter at least w `SHARED` of the former. h is `HIDDEN`, but where next to no noise is seen none
hides: at most `BESIDE` s_0. Luminance comes first, and is the only one to be restored under an
autocovariance. Of the differences, what follows it by local lines is kept, and the rest is
restored; their noise is wide, so that is done at three sizes, u_0 the rest and u_{s+1} the means of
2×2 pixels of u_s,

    x_s = D(u_s; level at that size),     x_s <- x_s + share · up(x_{s+1} - down(x_s)),

with D the splitting. The constants are fitted with those of `noise.estimate.agreement`.

*Growing with brightness*: a transform makes the level the same everywhere (`stabilise`), where the
noise is denoised as above, at a level of at least 1.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmdm_prior.densities.base import DensityModel, PatchDensity
from gmdm_prior.densities.opponent import OpponentModel
from gmdm_prior.gaussian_noise import Noise, NoiseCurve
from gmdm_prior.images.adaptive import WHITE_ONLY, AdaptiveSplitting
from gmdm_prior.images.half_size import halve
from gmdm_prior.images.hqs import HalfQuadraticSplitting
from gmdm_prior.images.planes import check_images, is_gray
from gmdm_prior.images.stabilise import stabiliser
from gmdm_prior.images.stationary import is_believed, is_directed, parts
from gmdm_prior.sigma import compute_dtype

REACH = 3  # pixels whose means count as low frequencies
LIGHT, COLOUR = (0.85, 0.8), (0.7, 0.55)
WIDE = (2.2, 2.6)  # level at low frequencies over the level: where noise begins to be wide, and is
HIDDEN, BESIDE, SHARED = 5 / 255, 4.0, 0.18
NIL = 0.3 / 255  # level of differences that says nothing of their noise
SIZES, SMALLEST = 3, 32  # of what has wide noise; a plane smaller than this is not halved
WINDOW, STIFF = 25, 0.5  # of local lines: pixels, and share of the noise's level
WHITE = 0.1  # of the variance of noise with an autocovariance
SHARE = 0.7  # of the coarser size's correction


class NoiseDenoiser(nn.Module):
    """Denoises images whose noise is described by a `Noise`.

    Args:
        model: a density of gray patches; colour images are taken apart by an `OpponentModel` of it.
        stride: as for `HalfQuadraticSplitting`; None is its default.
        adapt: whether the model is adapted to each picture (`AdaptiveSplitting`) whose noise is
            white, once it is stabilised; of other noise there is a warning.
    """

    def __init__(self, model: DensityModel, stride: int | None = None, adapt: bool = False) -> None:
        super().__init__()
        self.opponent: OpponentModel | None = None
        if isinstance(model, OpponentModel):
            self.opponent, model = model, model.planes[0]
        elif model.channels == 1:
            self.opponent = OpponentModel(cast(PatchDensity, model))
        self.plane = HalfQuadraticSplitting(model, stride)
        self.colour = self.plane
        if self.opponent is not None:
            self.colour = HalfQuadraticSplitting(self.opponent, stride)
        self.adapted: nn.ModuleList | None = None  # a plane's, and that of colours
        if adapt:
            both = (self.plane.model, self.colour.model)
            self.adapted = nn.ModuleList(AdaptiveSplitting(each, stride) for each in both)

    def forward(self, noisy: Tensor, noise: Noise) -> Tensor:
        """Denoise images.

        Args:
            noisy: (B, C, H, W), floating point.
            noise: of B images, or of one.

        Returns:
            The denoised images, like `noisy`; never clamped.

        Raises:
            TypeError: `noise` is no `Noise`.
            ValueError: the noise is that of another number of images or channels.
        """
        if not isinstance(noise, Noise):
            raise TypeError(f"noise must be a Noise; got {type(noise).__name__}. Noise(sigma=…)")
        check_images(self.plane.model, noisy)
        if len(noise) not in (1, len(noisy)):
            raise ValueError(f"noise must be that of {len(noisy)} images or one; got {len(noise)}")
        if noise.channels not in (1, noisy.shape[1]):
            raise ValueError(
                f"noise must have {noisy.shape[1]} channels like the images, or one; got "
                f"{noise.channels}"
            )
        work = noisy.to(compute_dtype(noisy.dtype))
        clean = [self._one(image, noise[i % len(noise)]) for i, image in enumerate(work)]
        return (torch.stack(clean) if clean else work).to(noisy.dtype)

    def _one(self, image: Tensor, noise: Noise) -> Tensor:
        """An image (C, H, W) under the noise of one."""
        if self.opponent is not None and is_gray(image):
            return self._one(image[:1], _shared(noise)).expand_as(image)
        curve = None if noise.curve is None else noise.curve[0]
        if curve is not None and len(curve.brightness) > 1:
            return self._stabilised(image, noise, curve)
        if noise.autocovariance is None or bool(noise.white[0]):
            varies = noise.map is not None and self.adapted is None
            return self._white(image, noise.map.to(image) if varies else noise.sigma[0])
        if self.adapted is not None:
            warnings.warn(WHITE_ONLY, stacklevel=3)
        if len(image) == 3 and noise.opponent:
            return self._opponent(image, noise)
        levels = _levels(noise, REACH)[0].tolist()
        levels = levels * (len(image) // len(levels))
        noises = [noise.channel(i) for i in range(len(image))]
        return torch.stack([self._either(*p) for p in zip(image, levels, noises, strict=True)])

    def _white(self, image: Tensor, level: float | Tensor) -> Tensor:
        """An image (C, H, W) with white noise."""
        colour = len(image) == 3
        if self.adapted is not None:
            return self.adapted[int(colour)](image[None], level)[0]
        return (self.colour if colour else self.plane)(image[None], level)[0]

    def _plane(self, plane: Tensor, level: float | Tensor | Noise) -> Tensor:
        return self.plane(plane[None, None], level)[0, 0]

    def _either(self, plane: Tensor, level: float, noise: Noise) -> Tensor:
        """A plane (H, W) under its noise where the picture bears that out, at a level otherwise."""
        noise = _with_white(noise)
        noisy = list(parts(plane))
        white = [self._plane(p, level) for p in noisy]
        correlated = [self._plane(p, noise) for p in noisy]
        believed = is_believed(noisy, white, correlated, is_directed(noise))
        if not believed:
            return white[0] if len(noisy) == 1 else self._plane(plane, level)
        sizes = _sizes(noise) if _is_low(noise) else [noise]
        return self._pyramid(plane, sizes, correlated[0] if len(noisy) == 1 else None)

    def _opponent(self, image: Tensor, noise: Noise) -> Tensor:
        """Colour, luminance at one size and differences at several."""
        planes, scales = self.opponent.enter(image[None])[0], self.opponent.scales
        level, factors = _strengths(noise)
        light = self._either(planes[0], level / scales[0], noise.channel(0).scaled(1 / scales[0]))
        out, levels = [light], [_levels(size, REACH)[0] for size in _sizes(noise)]
        for i in (1, 2):
            sigmas = [factors[i - 1] * float(v[i]) / scales[i] for v in levels]
            like = predicted(planes[i], light, sigmas[0])
            out.append(like + self._pyramid(planes[i] - like + 0.5, sigmas) - 0.5)
        return self.opponent.leave(torch.stack(out)[None])[0]

    def _pyramid(
        self, plane: Tensor, levels: list[float] | list[Noise], x: Tensor | None = None
    ) -> Tensor:
        """A plane (H, W) at as many sizes as there are levels; `x` is what the first gives."""
        x = self._plane(plane, levels[0]) if x is None else x
        height, width = plane.shape
        if len(levels) == 1 or min(height, width) < SMALLEST:
            return x
        even = (0, width % 2, 0, height % 2)
        wide, now = (F.pad(v[None], even, mode="replicate") for v in (plane[None], x[None]))
        small = self._pyramid(halve(wide[0])[0], levels[1:]) - halve(now[0])[0]
        back = F.interpolate(
            small[None, None], scale_factor=2, mode="bilinear", align_corners=False
        )
        return x + SHARE * back[0, 0, :height, :width]

    def _stabilised(self, image: Tensor, noise: Noise, curve: NoiseCurve) -> Tensor:
        """Denoised where the noise has the same level at every brightness."""
        transform = stabiliser(curve, float(image.min()), float(image.max()))
        stable = transform(image)
        low = float(stable.min())
        wide = max(float(stable.max()) - low, 1e-6)
        flat, level = ((stable - low) / wide).to(image.dtype), 1 / wide
        if noise.autocovariance is None or bool(noise.white[0]):
            clean = self._white(flat, level)
        else:
            own = replace(noise, curve=None).scaled(level / float(noise.sigma[0]))
            level = float(_levels(own, REACH)[0, 0])
            one = len(image) == 1
            clean = self._either(flat[0], level, own)[None] if one else self._white(flat, level)
        return transform.back(clean.double() * wide + low).to(image.dtype)


def _strengths(noise: Noise) -> tuple[float, list[float]]:
    """The level of the luminance of colours, and factors of those of the differences."""
    own = noise.autocovariance[0, :, noise.reach, noise.reach].sqrt().tolist()
    low = noise.low_frequency_sigma(REACH)[0].tolist()
    wide = [
        min(max((a / b - WIDE[0]) / (WIDE[1] - WIDE[0]), 0.0), 1.0) if b > NIL else 1.0
        for a, b in zip(low[1:], own[1:], strict=True)
    ]
    mean = sum(wide) / len(wide)
    hidden = min(HIDDEN, BESIDE * own[0])
    level = math.hypot((LIGHT[0] + LIGHT[1] * mean) * own[0], hidden * mean)
    least = SHARED * mean * level
    factors = [COLOUR[0] + COLOUR[1] * w for w in wide]
    return level, [max(f, least / s) for f, s in zip(factors, own[1:], strict=True)]


def predicted(plane: Tensor, light: Tensor, level: float) -> Tensor:
    """What of a plane (H, W) follows the light (H, W), by local lines (He et al. 2010).

    Around each place, plane = a light + b by least squares, the light's variance enlarged by a
    share of the noise's, and a times the squared correlation of the two: where they go separate
    ways, nothing follows. Lines of all windows that a pixel is in are averaged.
    """

    def mean(values: Tensor) -> Tensor:
        side = min(WINDOW, *values.shape) // 2
        wide = 2 * side + 1
        rows = F.avg_pool2d(values[None], (1, wide), 1, (0, side), count_include_pad=False)
        return F.avg_pool2d(rows, (wide, 1), 1, (side, 0), count_include_pad=False)[0]

    x, y = mean(light), mean(plane)
    both = mean(light * plane) - x * y
    own, other = mean(light * light) - x * x, mean(plane * plane) - y * y
    alike = (both * both / (own * other).clamp(min=1e-12)).clamp(0, 1)
    slope = alike * both / (own + (level * STIFF) ** 2).clamp(min=1e-12)
    return mean(slope) * light + mean(y - slope * x)


def _shared(noise: Noise) -> Noise:
    """The noise of one channel of an image of equal channels."""
    if bool(noise.white[0]):  # of a batch with others it may have planes all the same
        return replace(noise, autocovariance=None, opponent=False)
    one = noise.channel(0)
    return replace(one.scaled(1 / math.sqrt(3)), curve=noise.curve) if noise.opponent else one


def _is_low(noise: Noise) -> bool:
    """Whether low frequencies prevail in the noise of one plane."""
    return float(noise.low_frequency_sigma(REACH)) > float(noise.sigma)


def _sizes(noise: Noise) -> list[Noise]:
    """The noise at all sizes."""
    sizes = [noise]
    while len(sizes) < SIZES:
        sizes.append(sizes[-1].halved())
    return sizes


def _with_white(noise: Noise) -> Noise:
    """The noise of one plane with some white noise besides, where low frequencies prevail."""
    r, m = noise.autocovariance.clone(), noise.reach
    if _is_low(noise):
        r[..., m, m] *= 1 + WHITE
    return Noise(autocovariance=r)


def _levels(noise: Noise, reach: int) -> Tensor:
    """White levels (B, C) to restore at: at low frequencies, where that is more than the level."""
    m = noise.reach
    own = noise.autocovariance[..., m, m].sqrt()
    return torch.maximum(noise.low_frequency_sigma(reach), own)
