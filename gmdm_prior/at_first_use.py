"""Public names of a package that are imported at their first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def at_first_use(
    package: dict[str, Any], homes: Mapping[str, Sequence[str]], rooms: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__` (PEP 562).

    Args:
        package: its `globals()`, which keep what was imported; `__all__` is in them.
        homes: the names that each module defines.
        rooms: subpackages and modules of it that are attributes without having been imported.
    """
    where = {name: home for home, names in homes.items() for name in names}

    def attribute(name: str) -> Any:
        if name in rooms:
            return import_module(f"{package['__name__']}.{name}")
        if name not in where:
            raise AttributeError(f"module {package['__name__']!r} has no attribute {name!r}")
        package[name] = getattr(import_module(where[name]), name)
        return package[name]

    def names() -> list[str]:
        return sorted({*package, *package["__all__"], *rooms})

    return attribute, names
