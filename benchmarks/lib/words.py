"""The command line of every script: `key=value`, or `--key value …`, over typed defaults.

    main = command(run, place="test", test=Needed("a folder"), every=1, sigmas=(15.0, 25.0))

reads `BSD68 every=2 sigmas=15,50` and `BSD68 --every 2 --sigmas 15 50` alike. A default's type is
that of its option; a type in its place (`int`, `Path`) is an option that is None unless given.
"""

import importlib.util
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

Options = SimpleNamespace
Main = Callable[..., int]


class Needed(str):
    """Stands for a text that has to be given: what it is."""


BSDS500 = Needed("bsds500:ROOT, the folder that holds BSDS500")
WHOLE = "a whole number of at least"


def command(
    run: Callable[[Options], object], place: str = "", others: str = "", **defaults: Any
) -> Main:
    """A `main(words)` that runs with the options and returns the exit status.

    The status is 2, with a sentence, for an OSError or ValueError; `--help` prints the docstring of
    the script. The other arguments are those of `read`.
    """

    def main(words: Sequence[str] | None = None) -> int:
        words = sys.argv[1:] if words is None else words
        if "--help" in words or "-h" in words:
            print(sys.modules[run.__module__].__doc__)
            return 0
        try:
            run(read(words, defaults, place, others))
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            return 2
        return 0

    return main


def choice(otherwise: Main | None = None, **commands: Main) -> Main:
    """A `main(words)` whose first word names one of several; `otherwise` takes other words."""

    def main(words: Sequence[str] | None = None) -> int:
        words = sys.argv[1:] if words is None else words
        if words and words[0] in commands:
            return commands[words[0]](words[1:])
        if otherwise or {"--help", "-h"} & set(words):
            return (otherwise or next(iter(commands.values())))(words)
        print(f"give {' or '.join(commands)}", file=sys.stderr)
        return 2

    return main


def read(
    words: Sequence[str], defaults: Mapping[str, Any], place: str = "", others: str = ""
) -> Options:
    """Options from words over defaults.

    Args:
        words: of the command line.
        defaults: by option; tuples take several values, `key=a,b` or `--key a b`.
        place: the option that words without a key go to.
        others: the option, a tuple, that `key=value` words of unknown keys go to as they are.

    Raises:
        ValueError: a word that makes no sense, a value of the wrong type, or an option that is
            `Needed` and not given.
    """
    given: dict[str, list[str]] = {}
    key = ""  # of the last `--key`, as long as it takes values
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("--") and word[2:].replace("-", "_") in defaults:
            key = word[2:].replace("-", "_")
            given[key] = []
        elif equals and name in defaults:
            key, given[name] = "", value.split(",") if several(defaults, name) else [value]
        elif equals and others:
            given.setdefault(others, []).append(word)
        elif key and not word.startswith("--") and (several(defaults, key) or not given[key]):
            given[key].append(word)
        elif place and not word.startswith("--") and not equals:
            given.setdefault(place, []).append(word)
        else:
            known = ", ".join(defaults)
            raise ValueError(f"unknown key {name.removeprefix('--')!r}: use {known}, as key=value")
    return Options(**{k: typed(k, v, given.get(k)) for k, v in defaults.items()})


def several(defaults: Mapping[str, Any], key: str) -> bool:
    """Whether an option takes several values."""
    return isinstance(defaults[key], tuple)


def typed(key: str, default: Any, values: list[str] | None) -> Any:
    """The value of an option, of the type of its default."""
    if values is None and not isinstance(default, Needed):
        return None if isinstance(default, type) else default
    if not values or not all(values):
        raise ValueError(f"{key}={default if isinstance(default, Needed) else '…'} is needed")
    if isinstance(default, tuple):
        return tuple(one(key, default[0] if default else "", value) for value in values)
    if len(values) > 1:
        raise ValueError(f"{key} takes one value; got {' '.join(values)}")
    return one(key, default, values[0])


def one(key: str, default: Any, text: str) -> Any:
    """One value: whole numbers are at least 1 (0 where that is the default), others positive."""
    kind = default if isinstance(default, type) else type(default)
    number = math.nan
    if kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            pass
        least = 0 if default == 0 else 1
        if not (0 < number < math.inf or number == least):
            must = f"{WHOLE} {least}" if kind is int else "positive"
            raise ValueError(f"{key} must be {must}; got {text!r}")
        return number
    if kind is bool and text not in ("true", "false"):
        raise ValueError(f"{key} must be true or false; got {text!r}")
    return text == "true" if kind is bool else Path(text) if issubclass(kind, Path) else text


def need(package: str) -> None:
    """Refuse to go on without a package.

    Raises:
        ValueError: it is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise ValueError(f'this needs the package {package}: pip install -e ".[bench]"')
