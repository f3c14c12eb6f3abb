"""deepinv's priors around a denoiser, which may be given by name.

Each takes first how a denoiser is built, which `registry` hands over, and then its options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import deepinv


def pnp(build: Callable[[Any], Any], denoiser: str | Mapping[str, Any] | Any = "gmdm") -> Any:
    """Deepinv's plug-and-play prior around a denoiser: a name, a mapping or a module."""
    return deepinv.optim.PnP(build(denoiser))


def red(build: Callable[[Any], Any], denoiser: str | Mapping[str, Any] | Any = "gmdm") -> Any:
    """Deepinv's regularisation by denoising around any denoiser."""
    return deepinv.optim.RED(build(denoiser))


def score(build: Callable[[Any], Any], denoiser: str | Mapping[str, Any] | Any = "gmdm") -> Any:
    """Deepinv's score prior, by Tweedie's formula, around any denoiser."""
    return deepinv.optim.ScorePrior(build(denoiser))
