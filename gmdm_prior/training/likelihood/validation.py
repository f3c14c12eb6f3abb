"""Checks of what a caller gives to the likelihood trainer."""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gmdm_prior import symmetry

if TYPE_CHECKING:
    from gmdm_prior.training.likelihood.problem import EMSettings

LEAST = {"bases": 1, "classes": 1, "components": 1, "full_iterations": 0, "iterations": 1}


def check_settings(settings: EMSettings) -> None:
    """Raise TypeError or ValueError for settings that cannot be fitted."""
    for name, least in LEAST.items():
        value = getattr(settings, name)
        if not isinstance(value, numbers.Integral) or isinstance(value, bool):
            raise TypeError(f"{name} must be an integer; got {value!r}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}")
    for name in ("noise", "truncation"):
        value = getattr(settings, name)
        if not isinstance(value, numbers.Real) or isinstance(value, bool):
            raise TypeError(f"{name} must be a number; got {value!r}")
    if not (0 <= settings.noise < math.inf):
        raise ValueError(
            f"noise must be a finite standard deviation of at least 0; got {settings.noise}"
        )
    if not 0 <= settings.truncation < 0.5:
        raise ValueError(f"truncation must lie in [0, 0.5); got {settings.truncation}")
    symmetry.group(settings.symmetries)
    if settings.classes < settings.bases:
        raise ValueError(
            f"classes must be at least bases, each basis has one of its own: got "
            f"classes={settings.classes}, bases={settings.bases}; raise classes or lower bases"
        )
    if settings.components < settings.classes:
        raise ValueError(
            f"classes must not exceed components, which they are merged from: got "
            f"classes={settings.classes}, components={settings.components}; raise components"
        )


def check_patches(patches: Tensor, settings: EMSettings) -> None:
    """Raise TypeError or ValueError for patches that cannot be fitted."""
    if not isinstance(patches, Tensor) or not patches.is_floating_point():
        got = f"{patches.dtype} tensor" if isinstance(patches, Tensor) else type(patches).__name__
        raise TypeError(
            f"patches must be a floating-point tensor with values in [0, 1]; got a {got}"
        )
    if patches.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"patches must be float32 or float64; got {patches.dtype}: use .float()")
    if patches.ndim != 4 or patches.shape[2] != patches.shape[3] or 0 in patches.shape[1:]:
        raise ValueError(
            f"patches must be (N, C, b, b); got {tuple(patches.shape)}: "
            "add the channel axis with patches.unsqueeze(1) if it is missing"
        )
    if patches.shape[-1] < 2:
        raise ValueError("patches must be at least 2×2: a zero-mean patch of one pixel is nothing")
    if len(patches) < settings.components:
        raise ValueError(
            f"patches must be at least as many as components={settings.components}; "
            f"got {len(patches)}: give more patches or lower components"
        )
    if not all(torch.isfinite(part).all() for part in patches.split(65536)):
        raise ValueError("patches must be finite; they hold NaN or infinity: drop those patches")


def check_levels(sigma: Tensor, patches: Tensor) -> None:
    """Raise ValueError for noise levels that do not fit patches (N, C, b, b)."""
    if sigma.shape != patches.shape[:1]:
        raise ValueError(
            f"noise must be a number or one level for each of {len(patches)} patches, "
            f"({len(patches)},); got {tuple(sigma.shape)}"
        )
    if not bool(((sigma >= 0) & (sigma < math.inf)).all()):
        raise ValueError("noise must hold finite standard deviations of at least 0")
