"""Tables of a model, kept for the next image: a bounded memory of what was last made."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Protocol

import torch
from torch import Tensor

LIMIT = 128 * 2**20  # bytes of tables that are kept


class Table(Protocol):
    """What can be kept: it knows its `bytes`, which may grow."""

    bytes: int


class TableCache:
    """Least recently used tables, dropped beyond `LIMIT` bytes and where the parameters change.

    Whether they have changed is read off their values, so that no way of changing them is missed.
    A copy of a cache, or one read from a file, is empty.
    """

    def __init__(self) -> None:
        self._made_from: int | None = None
        self._tables: OrderedDict[Hashable, Table] = OrderedDict()

    @property
    def bytes(self) -> int:
        """What is kept."""
        return sum(table.bytes for table in self._tables.values())

    def get(self, parameters: list[Tensor], key: Hashable, make: Callable[[], Table]) -> Table:
        """The table of a key, made if it is not there.

        Args:
            parameters: that it is made from.
            key: what else decides it.
            make: makes it.
        """
        make = _for_all_modes(make)
        try:
            now = fingerprint(parameters)
        except RuntimeError:  # inside torch.func parameters have no storage to read
            return make()
        if now != self._made_from:
            self._tables.clear()
            self._made_from = now
        if key in self._tables:
            self._tables.move_to_end(key)
        else:
            self._tables[key] = make()
        while self.bytes > LIMIT and len(self._tables) > 1:
            self._tables.popitem(last=False)
        return self._tables[key]

    def at_level(
        self, parameters: list[Tensor], noise: Tensor, make: Callable[[Tensor], Table]
    ) -> Table:
        """The table of a noise variance (), made of a copy that carries no gradient."""

        def make_apart() -> Table:
            return make(torch.tensor(float(noise), dtype=noise.dtype, device=noise.device))

        return self.get(parameters, ("level", float(noise), noise.dtype), make_apart)

    def __deepcopy__(self, memo: dict) -> TableCache:
        """A copy starts empty."""
        return TableCache()

    def __reduce__(self) -> tuple:
        """A pickle holds no tables."""
        return TableCache, ()


def _for_all_modes(make: Callable[[], Table]) -> Callable[[], Table]:
    """What is made under `torch.inference_mode` has to serve outside it, and holds no graph."""

    def run() -> Table:
        with torch.inference_mode(False), torch.no_grad():
            return make()

    return run


def fingerprint(parameters: list[Tensor]) -> int:
    """A hash of types, shapes and values."""
    parts = []
    for p in parameters:
        values = p.detach().cpu().contiguous()
        parts.append(
            (str(p.device), str(p.dtype), p.shape, values.view(torch.uint8).numpy().tobytes())
        )
    return hash(tuple(parts))
