"""Noise levels as they are written; it needs no torch, so that bad ones are refused at once."""

from __future__ import annotations

import math
from typing import Any


def parse(value: object, name: str = "sigma", white: float | None = None) -> float:
    """A noise level that is written as a number or a fraction, such as 25/255.

    Args:
        value: a number, of any kind (a tensor or array of one number too), or a text.
        name: what it is called in the message of an error.
        white: where the level is a share of the data range, the value of white, such as 255, which
            is what a level above 1 probably was to be divided by; None allows any level.

    Raises:
        ValueError: for anything else, such as a map of levels, and where it is negative, NaN or
            infinite, or above 1 with `white`.
    """
    value = one_number(value)
    shape = getattr(value, "shape", ())
    if shape:
        raise ValueError(
            f"{name} is one level here; got a {type(value).__name__} of shape {tuple(shape)}. "
            "Of levels that differ give their root mean square"
        )
    text = str(value).strip()
    try:
        numerator, slash, denominator = text.partition("/")
        level = float(numerator) / (float(denominator) if slash else 1)
    except (ValueError, ZeroDivisionError):
        level = math.nan
    if not 0 <= level < math.inf:
        raise ValueError(
            f"{name}={text} is no noise level, finite and not negative; write a number or a "
            "fraction such as 25/255"
        )
    if white is not None and level > 1:
        raise ValueError(
            f"{name}={text} is above 1, and a level is a share of the range from black to white; "
            f"did you mean {text}/{white:g}?"
        )
    return level


def one_number(value: Any) -> Any:
    """A tensor or array of one number as that number; anything else as it is."""
    shape = getattr(value, "shape", None)
    return value.item() if shape is not None and math.prod(shape) == 1 else value
