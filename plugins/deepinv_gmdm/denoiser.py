"""The GMDM as a deepinv denoiser.

Two ways from a density of patches to a denoiser of images, both of which clamp nothing:

    average   each pixel is the mean of the exact posterior means of its patches (empirical Bayes)
    hqs       a few half-quadratic-splitting steps, each an average of patches at a falling level
              and a step back to the data

A density of whole images, `gmdm_prior.WaveletModel`, has one way: its exact posterior mean.
"""

from __future__ import annotations

import difflib
from typing import Any

import deepinv
import torch
from torch import Tensor, nn

import gmdm_prior as gm
from deepinv_gmdm.channels import seen_by
from deepinv_gmdm.noise_estimator import DEFAULT_WEIGHTS, GMDMNoiseEstimator


class GMDMDenoiser(deepinv.models.Denoiser):
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
            a scale of its own (`gmdm_prior.OpponentModel`). `"strict"` refuses images of other
            channels than the model's. A colour model, `bsds-color`, takes three as they are.
        data_range: the values of black and white, (low, high); (0, 255) for 8 bits, say. Exact:
            images and noise levels are scaled.
        device: where the weights live; None leaves them where they are.
        sigma: `"estimate"`: where no noise level is given, read it from each image, with the
            likelihood-trained `bsds-gray-likelihood` for bundled weights and with your own model
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
        weights: str | nn.Module = "bsds-gray",
        method: str | None = None,
        stride: int | None = None,
        boundary: str | None = None,
        channels: str = "independent",
        data_range: tuple[float, float] = (0.0, 1.0),
        device: torch.device | str | None = None,
        sigma: str | None = None,
    ) -> None:
        super().__init__()
        model = weights if isinstance(weights, nn.Module) else gm.load(weights)
        self.model, self.frame = seen_by(model, channels, data_range)
        whole = isinstance(self.model, gm.WaveletModel)
        methods = ("posterior",) if whole else ("hqs", "average")
        method = methods[0] if method is None else method
        if method not in methods:
            near = difflib.get_close_matches(str(method), methods, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            allowed = " or ".join(map(repr, methods))
            raise ValueError(
                f"method must be {allowed} for a {type(self.model).__name__}; got {method!r}{hint}"
            )
        if whole and (stride, boundary) != (None, None):
            raise ValueError(
                "stride and boundary are for densities of patches; a WaveletModel takes the whole "
                f"image, periodic: leave them out. Got stride={stride}, boundary={boundary!r}"
            )
        self.method = method
        options: dict[str, Any] = {} if boundary is None else {"boundary": boundary}
        if whole:
            self.operator = gm.WaveletDenoiser(self.model)
        elif method == "average":
            self.operator = gm.PatchAveraging(
                self.model, stride=1 if stride is None else stride, **options
            )
        else:
            self.operator = gm.HalfQuadraticSplitting(self.model, stride=stride, **options)
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
        return self.frame.leave(self.operator(planes, level), x)

    def score(self, x: Tensor, sigma: Any) -> Tensor:
        """The score that belongs to the denoiser, (forward(x) - x) / sigma², in closed form.

        With all digits at small sigma, where the difference has none in float32.

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
            values = self.operator.score(planes, level)
        else:
            values = gm.WaveletLikelihood(self.model).score(planes, level)
        return self.frame.gradient(values, x)


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
