"""Tables of densities, kept for the next image: a bounded memory that threads may share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Protocol, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

LIMIT = 256 * 2**20  # bytes of tables that are kept: 24 levels of a 15x15 product take 160 MB


class Table(Protocol):
    """What can be kept: it knows its `bytes`, which may grow, at no cost: they are read often."""

    @property
    def bytes(self) -> int:
        """Bytes that it takes."""


T = TypeVar("T", bound=Table)


class TableCache:
    """Least recently used tables, dropped beyond `LIMIT` bytes and where a model's numbers change.

    Whether they have changed is read off their values, which a copy is kept of: version counters
    miss what is changed through `.data`, and comparing takes microseconds. Models are not kept
    alive; their tables go with them. A copy of a cache, or one read from a file, is empty.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._models: WeakKeyDictionary[nn.Module, _TablesOfModel] = WeakKeyDictionary()
        self._clock = 0

    @property
    def bytes(self) -> int:
        """Bytes of what is kept."""
        with self._lock:
            kept = (table for own in self._models.values() for table in own.tables.values())
            return sum(table.bytes for table in kept)

    def get(self, model: nn.Module, key: Hashable, make: Callable[[], T]) -> T:
        """The table of a model and a key, made if it is not there; other threads wait for it.

        Args:
            model: whose parameters and buffers the table is made from.
            key: what else decides it.
            make: makes it.
        """
        numbers = [t.detach() for t in (*model.parameters(), *model.buffers())]
        # tables serve in all modes, and leaving inference mode turns gradients on
        with self._lock, torch.inference_mode(False), torch.no_grad():
            try:
                for values in numbers:
                    values.data_ptr()
            except RuntimeError:  # inside torch.func parameters have no numbers of their own
                return make()
            own = self._models.get(model)
            if own is None or not own.are_of(numbers):
                own = self._models[model] = _TablesOfModel(numbers)
            if key not in own.tables:
                own.tables[key] = make()
            self._clock += 1
            own.used[key] = self._clock
            self._drop_oldest()
            return cast(T, own.tables[key])

    def clear(self) -> None:
        """Drop all tables."""
        with self._lock:
            self._models.clear()

    def _drop_oldest(self) -> None:
        """All but the last used, until the rest is within the bound."""
        while self.bytes > LIMIT:
            used = [(at, own, key) for own in self._models.values() for key, at in own.used.items()]
            if len(used) < 2:
                return
            _, own, key = min(used, key=lambda entry: entry[0])
            del own.tables[key], own.used[key]

    def __deepcopy__(self, memo: dict) -> TableCache:
        """A copy starts empty."""
        return TableCache()

    def __reduce__(self) -> tuple:
        """A pickle holds no tables."""
        return TableCache, ()


class _TablesOfModel:
    """Tables that were made from these numbers, and when each was last used."""

    def __init__(self, numbers: list[Tensor]) -> None:
        self._numbers = [values.clone() for values in numbers]
        self.tables: dict[Hashable, Table] = {}
        self.used: dict[Hashable, int] = {}

    def are_of(self, numbers: list[Tensor]) -> bool:
        """Whether the numbers are those that the tables were made from."""
        return len(numbers) == len(self._numbers) and all(
            (values.dtype, values.device, values.shape) == (own.dtype, own.device, own.shape)
            and torch.equal(values, own)
            for values, own in zip(numbers, self._numbers, strict=True)
        )
