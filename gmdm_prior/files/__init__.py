"""What is read and written: models (`safetensors`, `pogmdm`) and pictures (`pictures`).

`register` makes a density from outside the package readable and writable. The names below are
imported at their first use: pictures need no densities.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gmdm_prior.files.safetensors import bundled, card, load, register, save

__all__ = ["bundled", "card", "load", "register", "save"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module("gmdm_prior.files.safetensors"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
