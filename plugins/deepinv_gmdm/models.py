"""What deepinv calls models: the denoiser of a GMDM, its score, and its noise estimator.

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

from typing import Any

import deepinv
import torch
from torch import Tensor, nn

import gmdm_prior as gm
from gmdm_prior.images.data_range import Framed, in_colour, seen_by
from gmdm_prior.messages import nearest

DEFAULT_WEIGHTS = "gray-likelihood"
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
        sigma: `"estimate"`: where no noise level is given, read it from each image, with the
            likelihood-trained `gray-likelihood` for bundled weights and with your own model
            otherwise. None: a level must be given.

    Attributes:
        halo: how many pixels around a tile influence its result: the least `overlap` for
            `deepinv.distributed.distribute`. Tiles then give what the whole image gives, those of
            `"average"` of any size, those of `"hqs"` where the sides of tiles and image are
            multiples of twice the stride (8 for most models), as `halo` is.

    Raises:
        ValueError: for unknown or corrupt weights, or an unknown method, stride, boundary,
            channels, data_range or sigma.
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
    ) -> None:
        super().__init__()
        self.model, self.frame = seen_by(loaded(weights), channels, data_range)
        self.method = _checked(method, self.model, stride, boundary)
        options = {"stride": stride, "boundary": boundary}
        given = {key: value for key, value in options.items() if value is not None}
        self.operator = METHODS[self.method](self.model, **given)
        colour = in_colour(self.model, channels)
        self.colour = None if colour is None else METHODS[self.method](colour, **given)
        if sigma not in (None, "estimate"):
            raise ValueError(
                f"sigma must be 'estimate' or None here; got {sigma!r}. Give a noise level with "
                "the images: denoiser(noisy, sigma)"
            )
        self.estimator = (
            None
            if sigma is None
            else noise_estimator_for(weights, self.model, data_range=data_range)
        )
        if device is not None:
            self.to(device)

    @property
    def halo(self) -> int:
        """How many pixels around a tile influence its result.

        Raises:
            ValueError: a `WaveletModel` takes the whole image, which cannot be tiled.
        """
        if isinstance(self.model, gm.WaveletModel):
            raise ValueError("a WaveletModel denoises whole images, which cannot be tiled")
        return self.operator.halo

    def forward(self, x: Tensor, sigma: Any = None, **kwargs: Any) -> Tensor:
        """Denoise images.

        Args:
            x: noisy images (B, C, H, W), real, clean values in `data_range`.
            sigma: noise level in the units of `x`: a number, one level per image ((B,), (B, 1, 1,
                1), list, array) or a map (B or 1, 1 or C, H, W).
            **kwargs: what deepinv passes besides; not used.

        Returns:
            Shaped like `x`, same dtype and device, not clamped.

        Raises:
            ValueError: where sigma is missing, negative, NaN or of a shape that does not fit, or
                `x` is not a batch of images at least as large as a patch.
        """
        if sigma is None and self.estimator is not None:
            sigma = self.estimator(x)
        if sigma is None:
            raise ValueError(
                "GMDMDenoiser needs the noise level sigma, in the units of the image (25/255, "
                "say), or sigma='estimate' when it is made"
            )
        planes, level = self.frame.enter(x, sigma)
        return self.frame.leave(self._operator_for(x)(planes, level), x)

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
            values = gm.WaveletLikelihood(self.model).score(planes, level)
        return self.frame.gradient(values, x)

    def _operator_for(self, x: Tensor) -> nn.Module:
        """What denoises images with the channels of x."""
        return self.operator if self.colour is None or x.shape[1] != 3 else self.colour


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


def loaded(weights: str | nn.Module) -> nn.Module:
    """A model as it is, or the one of a name or path."""
    return weights if isinstance(weights, nn.Module) else gm.load(weights)


def noise_estimator_for(
    weights: str | nn.Module,
    model: nn.Module,
    per_pixel: bool = False,
    data_range: tuple[float, float] = (0.0, 1.0),
) -> GMDMNoiseEstimator:
    """What reads the noise level for a denoiser of these weights, loaded as `model`."""
    bundled = isinstance(weights, str) and weights in gm.bundled()
    reads = isinstance(model, (gm.PatchMixture, gm.PatchModel))
    own = model if reads and not bundled else DEFAULT_WEIGHTS
    return GMDMNoiseEstimator(own, per_pixel, data_range=data_range)


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
        """How many pixels around a tile influence its result."""
        return self.denoiser.halo

    def forward(self, x: Tensor, sigma: Any = None, **kwargs: Any) -> Tensor:
        """The score at noisy images (B, C, H, W); arguments as those of `GMDMDenoiser`."""
        return self.denoiser.score(x, sigma)


class GMDMNoiseEstimator(Framed):
    """Gaussian noise level of images, one each or one per pixel, by maximum likelihood.

    Args:
        weights: name of bundled weights, path of a `.safetensors` file, or a model of `gmdm_prior`.
            The default was trained by likelihood alone, which reads levels best.
        per_pixel: estimate a map instead of one level for each image.
        window: for maps, the scale in pixels on which levels are smoothed; at least 8.
        device: where the weights live; None leaves them where they are.
        data_range: the values of black and white, (low, high); levels are in the images' units.

    Raises:
        FileNotFoundError: for unknown weights.
        ValueError: for corrupt weights, or a bad data_range.
    """

    def __init__(
        self,
        weights: str | nn.Module = DEFAULT_WEIGHTS,
        per_pixel: bool = False,
        window: int = 12,
        device: torch.device | str | None = None,
        data_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        self.model = loaded(weights)
        self.frame = gm.ImageFrame(self.model, data_range=data_range)
        self.per_pixel, self.window = per_pixel, window
        if device is not None:
            self.to(device)

    def forward(self, x: Tensor) -> Tensor:
        """Estimate noise levels.

        Args:
            x: noisy images (B, C, H, W), real, clean values in `data_range`.

        Returns:
            Standard deviations in the units of `x`: (B,), or with `per_pixel` (B, 1, H, W), which
            `GMDMDenoiser` takes as sigma.

        Raises:
            ValueError: where x does not fit the model, is not finite, or the window is too narrow.
        """
        planes, _ = self.frame.enter(x, 0.0)
        if self.per_pixel:
            return self.frame.width * gm.estimate_sigma_map(self.model, planes, self.window)
        return self.frame.width * gm.estimate_sigma(self.model, planes)

    def with_error(self, x: Tensor) -> gm.NoiseLevel:
        """Levels (B,) with standard errors and intervals (`gmdm_prior.noise_level`)."""
        planes, _ = self.frame.enter(x, 0.0)
        found = gm.noise_level(self.model, planes)
        return gm.NoiseLevel(self.frame.width * found.sigma, self.frame.width * found.error)


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
        """That of the denoiser."""
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
