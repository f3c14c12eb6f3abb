"""Seconds and bytes of calls, ours and rivals' in turns so that other load hits them alike."""

import contextlib
import ctypes
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

Run = Callable[[int], object]  # is told the number of the turn
Clock = Callable[[], float]


def timed(call: Callable[[], Any], clock: Clock = time.process_time) -> tuple[Any, float]:
    """The result of a call, and its seconds."""
    start = clock()
    result = call()
    return result, clock() - start


def in_turns(
    *functions: Run,
    turns: int,
    warm: int = 1,
    clock: Clock = time.perf_counter,
    long: float = math.inf,
) -> list[list[float]]:
    """Seconds of each function in every turn, after `warm` turns that do not count.

    All functions run in every turn, but for those that took more than `long` seconds before.
    """
    samples: list[list[float]] = [[] for _ in functions]
    for turn in tqdm(range(-warm, turns), leave=False, desc="turns"):
        for function, taken in zip(functions, samples, strict=True):
            if taken and taken[0] > long:
                continue
            _, seconds = timed(functools.partial(function, turn), clock)
            if turn >= 0:
                taken.append(seconds)
    return samples


def medians(*functions: Run, **options: Any) -> list[float]:
    """The median seconds of each function; options of `in_turns`."""
    return [statistics.median(taken) for taken in in_turns(*functions, **options)]


@contextlib.contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Torch with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function of a module, called in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak(call: Callable[[], object]) -> tuple[float, float]:
    """Bytes that a call adds at its peak to what this process holds, and its seconds; on Linux.

    Not by getrusage's ru_maxrss: that begins with the peak of the process that started this one,
    and cannot be reset.
    """
    ctypes.CDLL(None).malloc_trim(0)  # glibc: what a warm-up has freed counts again
    with contextlib.suppress(OSError):  # without the right to, the peak includes what came before
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = held("VmRSS")
    _, seconds = timed(call, time.perf_counter)
    return held("VmHWM") - before, seconds


def held(name: str) -> int:
    """A size in bytes from this process's status (`VmRSS` now, `VmHWM` at its peak)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
