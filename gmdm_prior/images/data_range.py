"""Images in another range of values than a density was fitted to, exactly.

With width = high - low of the `data_range`, a density of images u in [0, 1] also is one of

    x = low + width u,      noise:  sigma_u = sigma / width.

Nothing is approximated: the log-density of an image of d dimensions is log f(u, sigma / width) -
d log(width), its score that of u over the width, its posterior mean that of u carried back.
"""

from __future__ import annotations

import dataclasses
import math
from typing import cast

import torch
from torch import Tensor, nn

from gmdm_prior.densities.base import DensityModel, PatchDensity
from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.densities.opponent import OpponentModel
from gmdm_prior.densities.product import PatchModel
from gmdm_prior.gaussian_noise import Noise, NoiseCurve
from gmdm_prior.images.planes import check_images
from gmdm_prior.messages import unknown
from gmdm_prior.sigma import compute_dtype, image_level

CHANNELS = ("auto", "independent", "strict")


class ImageFrame:
    """The range and the channels in which a density looks at images.

    Args:
        model: the density.
        channels: `"independent"`: a density of one channel takes each on its own; `"strict"`:
            images must have the density's channels; `"auto"`: what `in_colour` says.
        data_range: the values of black and white, (low, high).

    Raises:
        ValueError: for another name, or a range that is not rising and finite.
    """

    def __init__(
        self,
        model: DensityModel,
        channels: str = "independent",
        data_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if channels not in CHANNELS:
            raise ValueError(
                f"channels must be one of {', '.join(map(repr, CHANNELS))}; got {channels!r}"
            )
        self.model, self.channels = model, channels
        self.low, self.high = _range(data_range)

    @property
    def width(self) -> float:
        """High less low: what a difference of one in [0, 1] is in the images' units."""
        return self.high - self.low

    def enter(self, images: Tensor, sigma: object) -> tuple[Tensor, object]:
        """Images in [0, 1], and their noise level.

        Args:
            images: (B, C, H, W).
            sigma: as image denoisers take it, or a `Noise`; in the images' units.

        Returns:
            Both in the working dtype; as they came where nothing changes.

        Raises:
            ValueError: for images that the density or the frame cannot take, or a bad sigma.
            TypeError: likewise.
        """
        if self.channels == "strict":
            check_images(self.model, images)
            self._check_channels(images)
        if self._is_identity:
            return images, sigma
        check_images(self.model, images)
        values = (images.to(compute_dtype(images.dtype)) - self.low) / self.width
        if isinstance(sigma, Noise):
            return values, self.inside(sigma)
        level, _ = image_level(sigma, images)
        return values, level / self.width

    def leave(self, values: Tensor, images: Tensor) -> Tensor:
        """Values in [0, 1] in the range and type of `images`: `enter` undone."""
        if self._is_identity:
            return values
        return (self.low + self.width * values).to(images.dtype)

    def inside(self, noise: Noise) -> Noise:
        """The noise of images in the range as that of images in [0, 1]."""
        if self._is_identity:
            return noise
        return _moved(noise, 1 / self.width, -self.low / self.width)

    def outside(self, noise: Noise) -> Noise:
        """The noise of images in [0, 1] as that of images in the range: `enter` undone."""
        return noise if self._is_identity else _moved(noise, self.width, self.low)

    def gradient(self, values: Tensor, images: Tensor) -> Tensor:
        """A gradient with respect to values in [0, 1] as one with respect to `images`."""
        return values if self._is_identity else (values / self.width).to(images.dtype)

    @property
    def _is_identity(self) -> bool:
        return (self.low, self.high) == (0.0, 1.0)

    def _check_channels(self, images: Tensor) -> None:
        count, own = images.shape[1], self.model.channels
        if count != own:
            raise ValueError(
                f"images must have {own} channel(s) with channels='strict'; got {count} in "
                f"{tuple(images.shape)}. channels='independent' takes one after the other, "
                "channels='auto' three as red, green and blue"
            )


def seen_by(
    model: DensityModel, channels: str, data_range: tuple[float, float]
) -> tuple[DensityModel, ImageFrame]:
    """The model as it looks at the channels of images, and the frame that it looks through.

    Args:
        model: a density of patches or of whole images.
        channels: `"auto"`, `"independent"`, `"opponent"` (`OpponentModel` with the density on all
            three planes) or `"strict"`.
        data_range: the values of black and white, (low, high).

    Raises:
        ValueError: for another name or range, or opponents under what is no density of gray
            patches.
    """
    if channels not in (*CHANNELS, "opponent"):
        raise ValueError(unknown("channels", channels, (*CHANNELS, "opponent")))
    if channels != "opponent":
        return model, ImageFrame(model, channels, data_range)
    if not _is_gray(model):
        raise ValueError(
            "channels='opponent' is for densities of gray patches; this is a "
            f"{type(model).__name__} of {model.channels} channel(s): leave channels out"
        )
    model = OpponentModel(cast(PatchDensity, model))
    return model, ImageFrame(model, data_range=data_range)


def in_colour(model: DensityModel, channels: str) -> OpponentModel | None:
    """The density of images in red, green and blue with `channels="auto"`; else None.

    A density of gray patches takes them as luminance and two differences, images of other numbers
    of channels one channel after the other.
    """
    if channels != "auto" or not _is_gray(model):
        return None
    return OpponentModel(cast(PatchDensity, model))


def _is_gray(model: DensityModel) -> bool:
    return isinstance(model, (PatchMixture, PatchModel)) and model.channels == 1


class Framed(nn.Module):
    """A module that looks at images through a `frame`, whose range belongs to its state.

    The state of a module for images in [0, 255] is one of other numbers in a module for [0, 1],
    which refuses it.
    """

    frame: ImageFrame

    @property
    def data_range(self) -> tuple[float, float]:
        """The values of black and white."""
        return self.frame.low, self.frame.high

    def get_extra_state(self) -> Tensor:
        """The values of black and white, (2,), float64."""
        return torch.tensor(self.data_range, dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Refuse the state of a module with another range."""
        given = tuple(state.tolist())
        if given != self.data_range:
            raise ValueError(
                f"the state is of a {type(self).__name__} with data_range={given}; this one has "
                f"{self.data_range}: make it with that data_range"
            )


def _moved(noise: Noise, factor: float, shift: float) -> Noise:
    """The noise of images times a factor plus a shift."""
    scaled = noise.scaled(factor)
    if scaled.curve is None:
        return scaled
    curves = tuple(NoiseCurve(c.brightness + shift, c.level) for c in scaled.curve)
    return dataclasses.replace(scaled, curve=curves)


def _range(data_range: object) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in data_range)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            "data_range must be (low, high), the values of black and white, such as (0, 255); got "
            f"{data_range!r}"
        )
    return low, high
