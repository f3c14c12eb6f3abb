"""What deepinv calls models: the denoiser of a GMDM and its score.

Two ways from a density of patches to a denoiser of images, both of which clamp nothing:

    average   each pixel is the mean of the exact posterior means of its patches (empirical Bayes)
    hqs       a few half-quadratic-splitting steps, each an average of patches at a falling level
              and a step back to the data

A density of whole images, `gmdm_prior.WaveletModel`, has one way: its exact posterior mean.

deepinv's samplers take the score (denoiser(x) - x) / sigma². A Gaussian-mixture diffusion model has
it in closed form: `GMDMScore` as a `Denoiser`, `optim.GMDMScorePrior` as a `ScorePrior`,
`sampling.AnalyticScore` for diffusion SDEs. deepinv divides by no number below 1e-7: its score is
too small by a tenth at sigma = 3e-4 and by nine tenths at 1e-4, in float64 too. Divided plainly,
the difference of photographs in float32 errs by 0.04 % at 1e-3 and by 3 to 14 % at 1e-4
(tests/adapter/test_score.py).
"""

from __future__ import annotations

import warnings
from typing import Any, cast

import deepinv
import torch
from torch import Tensor, nn

import gmdm_prior as gm
from deepinv_gmdm.noise_estimator import loaded, noise_estimator_for
from gmdm_prior.images.adapt import adaptable
from gmdm_prior.images.blind import NoiseDenoiser
from gmdm_prior.images.data_range import Framed, in_colour, seen_by
from gmdm_prior.images.planes import planes_of, white_shared
from gmdm_prior.messages import nearest

METHODS = {
    "hqs": gm.HalfQuadraticSplitting,
    "average": gm.PatchAveraging,
    "posterior": gm.WaveletDenoiser,
}


class GMDMDenoiser(Framed, deepinv.models.Denoiser):
    """Denoiser from a Gaussian-mixture diffusion model.

    Args:
        weights: name of bundled weights, path of a `.safetensors` file, or a model of `gmdm_prior`.
        method: of patches, `"hqs"` (default, best) or `"average"` (one empirical-Bayes step, the
            exact posterior means averaged); of a `WaveletModel`, `"posterior"`, the exact posterior
            mean, and sigma must be one level for each image. Images whose sides are no multiples of
            its `patch_size` are reflected up to the next ones and cropped.
        stride: distance between patches in pixels; None is the method's tuned default (1 for
            `"average"`).
        boundary: how the image goes on outside: `"reflect"`, `"circular"` (symmetric Jacobian) or
            `"valid"`; None is the method's default, reflect. A `WaveletModel` is periodic.
        channels: what the channels of an image are to a model of one: `"independent"` planes, or
            red, green and blue, which `"opponent"` takes for luminance and two differences, each at
            a scale of its own (`gmdm_prior.OpponentModel`). `"auto"` takes three channels for red,
            green and blue, and any other number for independent ones. `"strict"` refuses images of
            other channels than the model's.
        data_range: the values of black and white, (low, high); (0, 255) for 8 bits, say. Exact:
            images and noise levels are scaled.
        device: where the weights live; None leaves them where they are.
        sigma: `"estimate"`: where no noise is given, read it from each image (`estimate_noise`),
            with the likelihood-trained `gray-likelihood` for bundled weights and with your own
            model otherwise. Noise that is not white is taken away by `gmdm_prior`'s
            `NoiseDenoiser` where method is `"hqs"`, with the borders reflected. None: a level must
            be given.
        adapt: adapt the model to each picture (`gmdm_prior.AdaptiveSplitting`): a gain of up to a
            decibel where it repeats itself, hardly any elsewhere, at up to five times the time.
            Only of `"hqs"` with a `PatchMixture`, and of white noise of one level.
        noise: with `sigma="estimate"`, the kind of noise: `"auto"` finds out, `"white"`,
            `"correlated"` or `"poisson"` (it grows with brightness) if it is known.

    Attributes:
        halo: how many pixels around a tile influence its result: the least `overlap` for
            `deepinv.distributed.distribute`. Tiles then give what the whole image gives, those of
            `"average"` of any size, those of `"hqs"` where the sides of tiles and image are
            multiples of four times the stride (16 for most models), as `halo` is. With
            `adapt=True` the whole picture is looked at, and there is none.

    Raises:
        ValueError: for unknown or corrupt weights, or an unknown method, stride, boundary,
            channels, data_range, sigma or noise, or `adapt` where it cannot be.
    """

    def __init__(
        self,
        weights: str | nn.Module = "gray",
        method: str | None = None,
        stride: int | None = None,
        boundary: str | None = None,
        channels: str = "auto",
        data_range: tuple[float, float] = (0.0, 1.0),
        device: torch.device | str | None = None,
        sigma: str | None = None,
        noise: str = "auto",
        adapt: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.frame = seen_by(loaded(weights), channels, data_range)
        self.method = _checked(method, self.model, stride, boundary)
        options = {"stride": stride, "boundary": boundary}
        given = {key: value for key, value in options.items() if value is not None}
        make: Any = METHODS[self.method]
        self.stride, self.adapt = stride, adapt
        if adapt:
            _check_adaptable(self.method, self.model)
            make = gm.AdaptiveSplitting
        self.operator = make(self.model, **given)
        colour = in_colour(self.model, channels)
        self.colour = None if colour is None else make(colour, **given)
        if sigma not in (None, "estimate"):
            raise ValueError(
                f"sigma must be 'estimate' or None here; got {sigma!r}. Give a noise level with "
                "the images: denoiser(noisy, sigma)"
            )
        if sigma is None and noise != "auto":
            raise ValueError(
                f"noise={noise!r} says which noise to look for; give it with sigma='estimate'"
            )
        self.estimator = None
        if sigma is not None:
            self.estimator = noise_estimator_for(
                weights, self.model, data_range=data_range, kind=noise
            )
        if device is not None:
            self.to(device)

    @property
    def halo(self) -> int:
        """The number of pixels around a tile that influence its result.

        Raises:
            ValueError: a `WaveletModel`, and `adapt=True`, take the whole image, which cannot be
                tiled.
        """
        if self.adapt:
            raise ValueError("adapt=True learns from the whole image, which cannot be tiled")
        if isinstance(self.model, gm.WaveletModel):
            raise ValueError("a WaveletModel denoises whole images, which cannot be tiled")
        return self.operator.halo

    def forward(self, x: Tensor, sigma: Any = None, *, step: int = 0, **kwargs: Any) -> Tensor:
        """Denoise images.

        Args:
            x: noisy images (B, C, H, W), real, clean values in `data_range`.
            sigma: noise level in the units of `x`: a number, one level per image ((B,), (B, 1, 1,
                1), list, array) or a map (B or 1, 1 or C, H, W). Or a `gmdm_prior.Noise`, which is
                believed: what is correlated is denoised under its covariance, what grows with
                brightness is stabilised.
            step: of an iteration around `"average"`, whose grid of patches moves with it
                (`gmdm_prior.PatchAveraging`); other methods move theirs themselves.
            **kwargs: what deepinv passes besides; not used.

        Returns:
            Shaped like `x`, same dtype and device, not clamped.

        Raises:
            ValueError: where sigma is missing, negative, NaN or of a shape that does not fit, or
                `x` is not a batch of images at least as large as a patch.
        """
        if sigma is None and self.estimator is not None:
            return self.without(x, self.estimator.noise(x))
        if sigma is None:
            raise ValueError(
                "GMDMDenoiser needs the noise level sigma, in the units of the image (25/255, "
                "say), or sigma='estimate' when it is made"
            )
        planes, level = self.frame.enter(x, sigma)
        if isinstance(level, gm.Noise) and (level.curve is not None or level.opponent):
            return self.frame.leave(self._real(planes, level), x)
        own = {"step": step} if self.method == "average" else {}
        return self.frame.leave(self._operator_for(x)(planes, level, **own), x)

    def without(self, x: Tensor, noise: gm.Noise) -> Tensor:
        """Images (B, C, H, W) without noise that was read off them, in their units.

        White noise goes as at its level. The rest is not taken at its word, as noise of real
        pictures is neither stationary nor Gaussian: see `gmdm_prior.images.blind`.
        """
        if len(noise) == 1 and len(x) > 1:  # of all of them
            return torch.cat([self.without(image[None], noise) for image in x])
        planes, _ = self.frame.enter(x, 0.0)
        noise = self.frame.inside(noise)
        level = self._white_levels(planes, noise)
        plain = noise.white.clone()
        if noise.curve is not None:
            plain &= torch.tensor([len(curve.brightness) < 2 for curve in noise.curve])
        if noise.levels is not None and self._takes_all:
            plain &= torch.tensor([own is None for own in noise.levels])
        if bool(plain.all()) or not len(x):
            return self.frame.leave(self._operator_for(x)(planes, level), x)
        restored = [
            self._operator_for(x)(image[None], level[i])
            if plain[i]
            else self._real(image[None], noise[i])
            for i, image in enumerate(planes)
        ]
        return self.frame.leave(torch.cat(restored), x)

    def _white_levels(self, planes: Tensor, noise: gm.Noise) -> Tensor:
        """White levels (B,) of images in [0, 1], whose colours are looked at together or apart."""
        level = noise.sigma[: len(planes)].to(planes)
        if self.colour is None and self.model.channels == 1:
            return level
        shared = [white_shared(image, own) for image, own in zip(planes, level, strict=True)]
        return torch.stack(shared) if shared else level

    @property
    def _takes_all(self) -> bool:
        """Whether noise that is not white, or not even, is taken as it is."""
        gray = isinstance(self.model, gm.OpponentModel) or self.model.channels == 1
        return self.method == "hqs" and gray

    def _real(self, planes: Tensor, noise: gm.Noise) -> Tensor:
        """Images in [0, 1] without noise that is not white."""
        if not self._takes_all:
            warnings.warn(
                "this noise is not white, of which only its level is used here: method='hqs' with "
                "weights of one channel ('gray') takes all of it",
                stacklevel=3,
            )
            return self._operator_for(planes)(planes, noise.sigma.to(planes))
        return NoiseDenoiser(self.model, self.stride, self.adapt)(planes, noise)

    def score(self, x: Tensor, sigma: Any) -> Tensor:
        """The score that belongs to the denoiser, (forward(x) - x) / sigma², in closed form.

        Args:
            x: images (B, C, H, W), as in `forward`.
            sigma: noise level, as in `forward`.

        Raises:
            ValueError: of half-quadratic splitting, which is no posterior mean and has none, and as
                in `forward`.
        """
        if self.method == "hqs":
            raise ValueError(
                "method='hqs' is no posterior mean and has no score; use method='average'"
            )
        planes, level = self.frame.enter(x, sigma)
        if self.method == "average":
            values = self._operator_for(x).score(planes, level)
        else:
            values = gm.WaveletLikelihood(cast(gm.WaveletModel, self.model)).score(planes, level)
        return self.frame.gradient(values, x)

    def _operator_for(self, x: Tensor) -> Any:
        """What denoises images with the channels of x, or refuses them."""
        colour = isinstance(x, Tensor) and x.ndim == 4 and x.shape[1] == 3
        return self.colour if colour and self.colour is not None else self.operator


def _checked(method: str | None, model: nn.Module, stride: int | None, boundary: str | None) -> str:
    """The method, by default the first one for a model, if it goes with the other options."""
    whole = isinstance(model, gm.WaveletModel)
    methods = ("posterior",) if whole else ("hqs", "average")
    method = methods[0] if method is None else method
    if method not in methods:
        raise ValueError(
            f"method must be {' or '.join(map(repr, methods))} for a {type(model).__name__}; got "
            f"{method!r}{nearest(method, methods)}"
        )
    if whole and (stride, boundary) != (None, None):
        raise ValueError(
            "stride and boundary are for densities of patches; a WaveletModel takes the whole "
            f"image, periodic: leave them out. Got stride={stride}, boundary={boundary!r}"
        )
    return method


def _check_adaptable(method: str, model: gm.DensityModel) -> None:
    """Refuse `adapt=True` where there is nothing that could be adapted."""
    if method != "hqs":
        raise ValueError(f"adapt=True is for method='hqs'; got method={method!r}")
    for plane in planes_of(model):
        if not adaptable(plane):
            raise ValueError(
                "adapt=True is for mixtures, such as weights='gray', with a flat mean; got a "
                f"{type(plane).__name__}"
            )


class GMDMScore(deepinv.models.Denoiser):
    """The score as a map of images, where deepinv wants a denoiser.

    Minus it is the gradient of a prior, which `deepinv.distributed.distribute` does not take as a
    `Prior`; tiles with an overlap of at least `halo` give what the whole image gives.

    Args:
        weights: name of bundled weights, path of a `.safetensors` file, or a model of `gmdm_prior`.
        **options: of `GMDMDenoiser`: stride, boundary, channels, data_range, device.

    Raises:
        ValueError: as `GMDMDenoiser` does.
    """

    def __init__(self, weights: str | nn.Module = "gray", **options: Any) -> None:
        super().__init__()
        model = loaded(weights)
        method = None if isinstance(model, gm.WaveletModel) else "average"
        self.denoiser = GMDMDenoiser(model, method=method, **options)

    @property
    def halo(self) -> int:
        """The number of pixels around a tile that influence its result."""
        return self.denoiser.halo

    def forward(self, x: Tensor, sigma: Any = None, **kwargs: Any) -> Tensor:
        """The score at noisy images (B, C, H, W); arguments as those of `GMDMDenoiser`."""
        return self.denoiser.score(x, sigma)


class WithNoiseMap(deepinv.models.Denoiser):
    """A denoiser whose noise map travels as the last channel of the images, and comes back there.

    `deepinv.distributed.distribute` cuts images into tiles, but no map that is given beside them.

    Args:
        denoiser: any that takes maps, such as `GMDMDenoiser`.
    """

    def __init__(self, denoiser: deepinv.models.Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    @property
    def halo(self) -> int:
        """The halo of the denoiser."""
        return self.denoiser.halo

    def forward(self, x: Tensor, sigma: Any = None, **kwargs: Any) -> Tensor:
        """Denoise the first channels.

        Args:
            x: (B, C + 1, H, W): images and in the last channel their noise level at every pixel.
            sigma: must not be given.
            **kwargs: for the denoiser.

        Returns:
            Shaped like `x`: denoised images, and the map as it was.

        Raises:
            ValueError: a level is given besides, or there is no channel for it.
        """
        if sigma is not None:
            raise ValueError(
                "sigma must be left out: the noise level is the last channel of the images"
            )
        if x.ndim != 4 or x.shape[1] < 2:
            raise ValueError(
                "images must be (B, C + 1, H, W), the last channel their noise map; got "
                f"{tuple(x.shape)}"
            )
        return torch.cat([self.denoiser(x[:, :-1], x[:, -1:], **kwargs), x[:, -1:]], 1)
