"""What is read and written: models (`safetensors`, `pogmdm`) and pictures (`pictures`).

`register` makes a density from outside the package readable and writable. The names below are
imported at their first use: pictures need no densities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gmdm_prior.at_first_use import at_first_use

if TYPE_CHECKING:
    from gmdm_prior.files.safetensors import bundled, card, load, register, save

__all__ = ["bundled", "card", "load", "register", "save"]

__getattr__, __dir__ = at_first_use(globals(), {"gmdm_prior.files.safetensors": __all__})
