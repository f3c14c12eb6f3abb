"""The words of a command line, read before anything slow is imported.

Nothing here imports torch: a misspelt option or a missing file is answered at once.
"""

from __future__ import annotations

import difflib
import glob
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

DENOISE = (
    "sigma",
    "noise",
    "weights",
    "method",
    "adapt",
    "out",
    "data_range",
    "pages",
    "axis",
    "key",
    "overwrite",
)
NOISE = ("map", "noise", "weights", "out", "data_range", "pages", "axis", "key", "overwrite")
PAGES = ("each", "shared")
KINDS = ("auto", "white", "correlated", "poisson")  # of noise
SWITCH = {"true": True, "false": False}


def split_words(words: Sequence[str], example: str) -> tuple[list[str], dict[str, str]]:
    """Files, and options `key=value`.

    A word with `=` is a file where there is one of that name and nothing like an option.

    Raises:
        ValueError: a word that is neither.
    """
    files: list[str] = []
    options: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key.isidentifier() and not Path(word).exists():
            options[key] = value
        else:
            files.append(word)
    for word in files[1:]:
        named = glob.has_magic(word) or Path(word).suffix[1:2].isalpha() or Path(word).exists()
        if not named:
            raise ValueError(f"{word!r} is no option; write key=value, such as {example}")
    return files, options


def check_options(options: Iterable[str], known: Sequence[str]) -> None:
    """Refuse an unknown option; the nearest right one is named."""
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=2, cutoff=0.5)
            hint = f"; did you mean {' or '.join(map(repr, near))}? Known" if near else "; known"
            raise ValueError(f"unknown option {key!r}{hint} are {', '.join(sorted(known))}")


def switch(options: Mapping[str, Any], key: str) -> bool:
    """An option that is true or false, by default false."""
    word = str(options.get(key, "false")).lower()
    if word not in SWITCH:
        raise ValueError(f"{key}={word} is neither true nor false")
    return SWITCH[word]


def existing(words: Sequence[str]) -> list[Path]:
    """The files of a command line; patterns such as *.tif that no shell has opened are opened.

    Raises:
        FileNotFoundError: a file that does not exist, or a pattern that fits none.
        ValueError: none is given, or a folder.
    """
    found: list[Path] = []
    for word in words:
        path = expanded(word, "image")
        names = [path] if path.exists() or not glob.has_magic(word) else None
        names = sorted(map(Path, glob.glob(str(path)))) if names is None else names
        if not names:
            raise FileNotFoundError(f"image {word!r}: no file is named so")
        found += names
    if not found:
        raise ValueError("no picture is given: name one, or several with out=FOLDER")
    for path in found:
        if not path.exists():
            raise FileNotFoundError(f"image {str(path)!r} does not exist")
        if path.is_dir():
            raise ValueError(f"image {str(path)!r} is a folder; give a file")
    return found


def expanded(path: object, what: str) -> Path:
    """A path with `~` replaced by the home folder.

    Raises:
        ValueError: where there is no such user.
    """
    try:
        return Path(str(path)).expanduser()
    except RuntimeError:
        user = Path(str(path)).parts[0]
        raise ValueError(f"{what}={path}: there is no home folder {user}") from None


def one_line(text: object) -> str:
    """A text or an error in one line; an error without a text is named by its kind."""
    return " ".join(str(text).split()) or type(text).__name__
