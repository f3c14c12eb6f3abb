"""What the channels of an image are to a model: the option `channels` of denoiser and prior."""

from __future__ import annotations

from typing import Any

import gmdm_prior as gm
from deepinv_gmdm.registry import unknown

CHANNELS = ("independent", "opponent", "strict")


def seen_by(model: Any, channels: str, data_range: Any) -> tuple[Any, gm.ImageFrame]:
    """The model as it looks at the channels of images, and the frame that it looks through.

    Args:
        model: a density of patches or of whole images.
        channels: `"independent"`, `"opponent"` (`gmdm_prior.OpponentModel` with the density on all
            three planes) or `"strict"`.
        data_range: the values of black and white, (low, high).

    Raises:
        ValueError: for another name or range, or opponents under what is no density of gray
            patches.
    """
    if channels not in CHANNELS:
        raise ValueError(unknown("channels", channels, CHANNELS))
    if channels != "opponent":
        return model, gm.ImageFrame(model, channels, data_range)
    if not isinstance(model, (gm.PatchMixture, gm.PatchModel)) or model.channels != 1:
        raise ValueError(
            "channels='opponent' is for densities of gray patches; this is a "
            f"{type(model).__name__} of {model.channels} channel(s): leave channels out"
        )
    model = gm.OpponentModel(model)
    return model, gm.ImageFrame(model, data_range=data_range)
