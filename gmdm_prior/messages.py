"""What error messages share: the nearest right name, and one line for any text."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: object, names: Iterable[str], cutoff: float = 0.5) -> str:
    """How a sentence on a wrong name goes on: "; did you mean 'a' or 'b'?", or not at all.

    Args:
        name: what was given.
        names: what could have been given.
        cutoff: the least likeness, 0 to 1; 0 always finds one where there are names.
    """
    near = difflib.get_close_matches(str(name), list(names), n=2, cutoff=cutoff)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def unknown(what: str, name: object, names: Iterable[str]) -> str:
    """The sentence for a name that is not known: the nearest names, then all of them."""
    names = sorted(names)
    near, known = nearest(name, names), ", ".join(names) or "none"
    if near:
        return f"unknown {what} {name!r}{near} Known are {known}"
    return f"unknown {what} {name!r}; known are {known}"


def one_line(text: object) -> str:
    """A text or an error in one line; an error without a text is named by its kind."""
    return " ".join(str(text).split()) or type(text).__name__
