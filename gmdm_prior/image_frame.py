"""Images in other units and colours than those a density was fitted to, exactly.

A density f of planes u in [0, 1] also is one of images x through an affine change of coordinates.
With r = high - low of the `data_range`, T orthonormal over the channels and a scale s_c of each,

    u_c = (T (x - low))_c / (r s_c) + o_c,        noise:  sigma_c = sigma / (r s_c),

since T keeps white noise white. Nothing is approximated: with s = r s_c the log-density of a plane
of d dimensions is log f(u, sigma / s) - d log s, its score that of u over s, its posterior mean
that of u carried back.

    independent   T = Id, s_c = 1, o_c = 0: each channel (or each group of the model's) on its own
    strict        the same, and images must have the model's channels
    opponent      three channels, red, green and blue, under a model of one:
                      luminance  (R + G + B) / √3   s = √3, so that gray images keep their values
                      (R - B) / √2               s = 0.4, o = 1/2
                      (R - 2 G + B) / √6         s = 0.2, o = 1/2

Differences of colours have less contrast than luminance: these are the scales at which training
photographs are most probable (`benchmarks/color.py scales`). A noise map in three colours becomes
one of opponents by its diagonal, sum_c T_jc² sigma_c²: exact where the colours have the same level.
"""

from __future__ import annotations

import difflib
import math

import torch
from torch import Tensor

from ._noise_level import compute_dtype, image_level
from .denoisers import check_images
from .density import DensityModel

CHANNELS = ("independent", "opponent", "strict")
OPPONENT = (
    (1 / math.sqrt(3), 1 / math.sqrt(3), 1 / math.sqrt(3)),
    (1 / math.sqrt(2), 0.0, -1 / math.sqrt(2)),
    (1 / math.sqrt(6), -2 / math.sqrt(6), 1 / math.sqrt(6)),
)
SCALES, OFFSETS = (math.sqrt(3), 0.4, 0.2), (0.0, 0.5, 0.5)


class ImageFrame:
    """The coordinates in which a density looks at images.

    Args:
        model: the density.
        channels: `"independent"`, `"opponent"` or `"strict"`.
        data_range: the values of black and white, (low, high).

    Raises:
        ValueError: for another name, a range that is not rising and finite, or opponents under a
            model of several channels.
    """

    def __init__(
        self,
        model: DensityModel,
        channels: str = "independent",
        data_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if channels not in CHANNELS:
            near = difflib.get_close_matches(str(channels), CHANNELS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"channels must be one of {', '.join(map(repr, CHANNELS))}; got {channels!r}{hint}"
            )
        if channels == "opponent" and model.channels != 1:
            raise ValueError(
                "channels='opponent' is for models of one channel; this one has "
                f"{model.channels} and needs no such help: leave channels out"
            )
        self.model, self.channels = model, channels
        self.low, self.high = _range(data_range)

    @property
    def width(self) -> float:
        """High less low: what a difference of one in [0, 1] is in the images' units."""
        return self.high - self.low

    @property
    def scales(self) -> tuple[float, ...]:
        """By how much values are divided: one number for all channels, or one of each opponent."""
        own = SCALES if self.channels == "opponent" else (1.0,)
        return tuple(self.width * s for s in own)

    def log_volume(self, channels: int) -> float:
        """The sum over the planes of an image of that many channels of log s."""
        planes = 1 if self.channels == "opponent" else channels / self.model.channels
        return planes * sum(math.log(s) for s in self.scales)

    def enter(self, images: Tensor, sigma: object) -> tuple[Tensor, object]:
        """Planes that the density can look at, and their noise level.

        Args:
            images: (B, C, H, W).
            sigma: as image denoisers take it, in the images' units.

        Returns:
            With opponents planes (3 B, 1, H, W), otherwise (B, C, H, W), in the working dtype; and
            their levels. Both as they came where nothing changes.

        Raises:
            ValueError: for images that the density or the frame cannot take, or a bad sigma.
            TypeError: likewise.
        """
        if self._is_identity and self.channels != "strict":
            return images, sigma
        check_images(self.model, images)
        self._check_channels(images)
        if self._is_identity:
            return images, sigma
        level, is_map = image_level(sigma, images)
        values = (images.to(compute_dtype(images.dtype)) - self.low) / self.width
        level = level / self.width
        if self.channels != "opponent":
            return values, level
        turn, scale = self._turn(values), values.new_tensor(SCALES)
        offset = values.new_tensor(OFFSETS)
        planes = _mix(turn, values) / scale[:, None, None] + offset[:, None, None]
        if is_map:
            level = _mix(turn.square(), level.square()).sqrt() / scale[:, None, None]
            level = level.reshape(-1, 1, *images.shape[2:])
        else:
            level = (level[:, None] / scale).flatten()
        return planes.reshape(-1, 1, *images.shape[2:]), level

    def leave(self, planes: Tensor, images: Tensor) -> Tensor:
        """Planes as images like `images`: `enter` undone."""
        if self.channels == "opponent":
            planes = planes.reshape(images.shape)
            scale, offset = planes.new_tensor(SCALES), planes.new_tensor(OFFSETS)
            planes = (planes - offset[:, None, None]) * scale[:, None, None]
            planes = _mix(self._turn(planes).T, planes)
        if self._is_identity:
            return planes
        return (self.low + self.width * planes).to(images.dtype)

    def gradient(self, planes: Tensor, images: Tensor) -> Tensor:
        """A gradient with respect to planes as one with respect to `images`."""
        if self.channels == "opponent":
            planes = planes.reshape(images.shape)
            scale = planes.new_tensor(SCALES)
            planes = _mix(self._turn(planes).T, planes / scale[:, None, None])
        if self._is_identity:
            return planes
        return (planes / self.width).to(images.dtype)

    @property
    def _is_identity(self) -> bool:
        return self.channels != "opponent" and (self.low, self.high) == (0.0, 1.0)

    def _check_channels(self, images: Tensor) -> None:
        """Refuse images (B, C, H, W) whose channels the frame cannot take."""
        count, own = images.shape[1], self.model.channels
        if self.channels == "strict" and count != own:
            raise ValueError(
                f"images must have {own} channel(s) with channels='strict'; got {count} in "
                f"{tuple(images.shape)}. channels='independent' takes one after the other, "
                "'opponent' is for red, green and blue"
            )
        if self.channels == "opponent" and count != 3:
            raise ValueError(
                "images must have 3 channels (red, green, blue) with channels='opponent'; got "
                f"{count} in {tuple(images.shape)}. channels='independent' takes any number"
            )

    def _turn(self, like: Tensor) -> Tensor:
        return torch.tensor(OPPONENT, dtype=like.dtype, device=like.device)


def _mix(turn: Tensor, values: Tensor) -> Tensor:
    """(B, 3, H, W) with its channels multiplied by a matrix."""
    return torch.einsum("jc,bchw->bjhw", turn, values)


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
