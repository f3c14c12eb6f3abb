"""`key=value` command lines of the benchmark scripts, and how they end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence


def read(
    words: Sequence[str], defaults: Mapping[str, str], needed: Mapping[str, str]
) -> dict[str, str]:
    """Options from `key=value` words over defaults.

    Raises:
        ValueError: in one sentence, for a word that makes no sense or a `needed` key (each with
            what to give) that is empty.
    """
    options = dict(defaults)
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in options:
            raise ValueError(f"unknown key {key!r}: use {', '.join(options)}, each as key=value")
        options[key] = value
    for key, remedy in needed.items():
        if not options[key]:
            raise ValueError(f"{key}={remedy}")
    return options


def status(run: Callable[[list[str]], object], words: list[str]) -> int:
    """Run with the words; the exit status, 2 with a sentence for bad input."""
    try:
        run(words)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def with_folder(
    run: Callable[[str, dict[str, str]], object],
    words: list[str],
    defaults: Mapping[str, str],
    needed: Mapping[str, str],
    what: str = "the folder of clean images",
) -> int:
    """Run with a first word, `what`, and options from the others; the exit status as `status`."""
    if not words or "=" in words[0]:
        print(f"give {what}", file=sys.stderr)
        return 2
    return status(lambda given: run(words[0], read(given, defaults, needed)), words[1:])


BSDS500 = {"data": "bsds500:ROOT is needed: the folder that holds BSDS500"}
