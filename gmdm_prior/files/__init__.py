"""What is read and written: models (`safetensors`, `pogmdm`) and pictures (`pictures`).

`register` makes a density from outside the package readable and writable.
"""

from gmdm_prior.files.safetensors import bundled, card, load, register, save

__all__ = ["bundled", "card", "load", "register", "save"]
