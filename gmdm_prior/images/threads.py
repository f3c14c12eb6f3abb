"""Independent parts of a computation side by side on torch's threads."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import torch

_TICK: ContextVar[Callable[[float], object] | None] = ContextVar("tick", default=None)


@contextlib.contextmanager
def ticking(listener: Callable[[float], object] | None) -> Iterator[None]:
    """Call `listener` inside with the share of a computation that a finished part was of it."""
    token = _TICK.set(listener)
    try:
        yield
    finally:
        _TICK.reset(token)


def tick(share: float) -> None:
    """Say that a part is finished, which was this share of a computation."""
    listener = _TICK.get()
    if listener is not None:
        listener(share)


class Workers:
    """Torch's threads, for parts that each take one of them: the calling thread and helpers.

    Within `with Workers() as workers:` every operation of the calling thread keeps to one thread
    too. (OpenMP's threads go on spinning for milliseconds after an operation, in the way of the
    helpers.) Results are those of one thread to the bit.

    Args:
        wanted: False leaves the threads to torch's operations, and parts follow one another.
    """

    def __init__(self, wanted: bool = True) -> None:
        self._threads = torch.get_num_threads() if wanted else 1

    def __enter__(self) -> Workers:
        """Take the threads from torch's operations."""
        if self._threads > 1:
            torch.set_num_threads(1)
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        if self._threads > 1:
            torch.set_num_threads(self._threads)

    def in_order(self, function: Callable[..., Any], work: Iterable[tuple]) -> Iterator[Any]:
        """`function(*arguments)` for each tuple of `work`, in their order, like `starmap`."""
        work = list(work)
        for result in self._in_order(function, work):
            yield result
            tick(1 / len(work))

    def _in_order(self, function: Callable[..., Any], work: list[tuple]) -> Iterator[Any]:
        helpers = min(self._threads, len(work)) - 1
        if helpers < 1:
            yield from itertools.starmap(function, work)
            return
        results: list[Future] = [Future() for _ in work]
        left = deque(enumerate(work))

        def take_one() -> bool:
            """Do the next part; False if there is none."""
            try:
                i, arguments = left.popleft()
            except IndexError:
                return False
            try:
                results[i].set_result(function(*arguments))
            except BaseException as error:  # raised where the result is awaited
                results[i].set_exception(error)
            return True

        recorded, pool = torch.is_grad_enabled(), _pool(self._threads - 1, os.getpid())
        for _ in range(helpers):
            pool.submit(_help, take_one, recorded)
        try:
            for result in results:
                while not result.done() and take_one():
                    pass
                yield result.result()
        finally:
            left.clear()


def _help(take_one: Callable[[], bool], recorded: bool) -> None:
    """What a helper does; its gradient mode and number of threads are its own."""
    torch.set_num_threads(1)
    with torch.set_grad_enabled(recorded):
        while take_one():
            pass


@lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads of this process: those of its parent do not survive a fork."""
    del process
    return ThreadPoolExecutor(threads, "gmdm_prior")
