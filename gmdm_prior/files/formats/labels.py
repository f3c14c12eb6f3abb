"""What is no picture of brightness: 1-bit pictures, masks, and labels of regions."""

from __future__ import annotations

import numpy as np

from gmdm_prior.files.formats.picture import Picture

MOST_LABELS = 64
LEAST_ALIKE = 0.8  # share of neighbours in one region; counted photons agree much less


def refuse_labels(picture: Picture) -> None:
    """Refuse 1-bit pictures, masks (two values) and small whole numbers in constant regions.

    Raises:
        ValueError: with the reason.
    """
    values = picture.values
    if values.dtype == bool:
        raise ValueError(
            "it has 1 bit: black and white with nothing between, in which noise has no level. Take "
            "the gray picture that it was made from"
        )
    if values.dtype.kind not in "iu" or picture.channels != 1 or values[0].size < MOST_LABELS:
        return
    low, high = int(values.min()), int(values.max())
    if low == high:
        return
    if ((values == low) | (values == high)).all():
        raise ValueError(
            f"it is a mask: all of its values are {low} or {high}, so that it has no noise to take "
            "away. Where pixels are missing, give it as physics.mask of restore"
        )
    if 0 <= low and high < MOST_LABELS and _constant_regions(values):
        raise ValueError(
            f"it is a label image: whole numbers up to {high} in constant regions, which say what "
            "a pixel belongs to and not how bright it is"
        )


def _constant_regions(values: np.ndarray) -> bool:
    """Whether neighbours agree, not counting those that both are zero."""
    left, right = values[..., :-1], values[..., 1:]
    counted = (left > 0) | (right > 0)
    return bool(counted.any() and (left == right)[counted].mean() > LEAST_ALIKE)
