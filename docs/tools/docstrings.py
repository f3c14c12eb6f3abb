"""Docstrings are plain text with `names` in backticks; Sphinx reads them as reStructuredText."""

import re

PIECES = re.compile(r"`[^`]*`(?P<glued>[^\s'\")\]}>\-/:.,;!?])?|[*|\\]|_(?=\W)|_$")


def plain(app, what, name, obj, options, lines: list[str]) -> None:
    """Escape what is no markup, and keep indented formulas as they stand."""
    lines[:] = literal([escape(line) for line in lines])


def escape(line: str) -> str:
    """The line with stars, bars and trailing underscores as characters, `names` apart from text."""

    def apart(found: re.Match) -> str:
        text, glued = found[0], found["glued"]
        if not text.startswith("`"):
            return "\\" + text
        return text if glued is None else text[: -len(glued)] + "\\ " + glued

    return PIECES.sub(apart, line)


def literal(lines: list[str]) -> list[str]:
    """Paragraphs that are indented after a blank line become literal blocks."""
    found: list[str] = []
    base, inside = 0, False
    for before, line in zip(["", *lines], lines, strict=False):
        indent = len(line) - len(line.lstrip())
        if line.strip():
            inside = inside and indent > base
            if not inside and not before.strip() and indent > base + 3:
                inside = True
                found += [" " * base + "::", ""]
            if not inside:
                base = indent
        found.append(line.replace("\\", "") if inside else line)
    return found
