"""Libraries of the extra `formats`, whose absence is one sentence."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def needed(module: str, what: str) -> Any:
    """A module of the extra `formats`.

    Args:
        module: its name.
        what: what it reads or writes, for the message.

    Raises:
        ValueError: it is not installed; the remedy is named.
    """
    try:
        return import_module(module)
    except ImportError:
        package = module.split(".")[0]
        raise ValueError(
            f"{what} needs {package}, of the extra 'formats': pip install 'gmdm-prior[formats]'"
        ) from None
