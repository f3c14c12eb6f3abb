"""How far a command is and how long it will still take: on a terminal, from two seconds on."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

from gmdm_prior.images.threads import ticking

AFTER = 2  # seconds


def seen() -> bool:
    """Whether somebody looks: standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextlib.contextmanager
def bar(what: str, total: float) -> Iterator[Callable[[float], Any]]:
    """A bar on standard error, silent where that is no terminal; gives what moves it on."""
    with tqdm(
        desc=what,
        total=total,
        delay=AFTER,
        disable=not seen(),
        file=sys.stderr,
        leave=False,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left",
    ) as shown:
        yield shown.update


def watched(what: str, work: Callable[[Any], Any], subjects: list[Any], small: Any = None) -> list:
    """`work(subject)` for each subject, with a bar that moves on within a subject too.

    Args:
        what: the bar's name.
        work: evaluates a density on an image, strip by strip.
        subjects: what is worked on.
        small: a small subject of the same kind, on which the parts of the work are counted; None
            moves the bar on once for each subject.
    """
    parts = 1.0
    if small is not None and seen():
        counted: list[float] = []
        with ticking(counted.append):
            work(small)
        parts = sum(counted) or 1.0
    results = []
    with bar(what, len(subjects)) as move:
        for done, subject in enumerate(subjects, 1):
            moved = [float(done - 1)]

            def tick(share: float, moved: list[float] = moved, done: int = done) -> None:
                step = min(share / parts, done - moved[0])
                moved[0] += step
                move(step)

            with ticking(tick if small is not None else None):
                results.append(work(subject))
            move(done - moved[0])
    return results
