"""Docstrings are plain text with `names` in backticks; Sphinx reads them as reStructuredText."""

import re

ESCAPED = re.compile(r"(`[^`]*`)|([*|\\]|_(?=[^\w])|_$)")


def plain(app, what, name, obj, options, lines: list[str]) -> None:
    """Escape what is no markup, and keep indented formulas as they stand."""
    lines[:] = literal([escape(line) for line in lines])


def escape(line: str) -> str:
    """The line with its stars, bars and trailing underscores as characters."""
    return ESCAPED.sub(lambda found: found[1] or "\\" + found[2], line)


def literal(lines: list[str]) -> list[str]:
    """Paragraphs that are indented after a blank line become literal blocks."""
    found: list[str] = []
    base = 0
    inside = False
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if line.strip():
            after_blank = i > 0 and not lines[i - 1].strip()
            if inside and indent <= base:
                inside = False
            if not inside and after_blank and indent > base + 3:
                inside = True
                found += [" " * base + "::", ""]
            if not inside:
                base = indent if indent <= base or not heading(lines, i) else base
        found.append(line.replace("\\", "") if inside else line)
    return found


def heading(lines: list[str], i: int) -> bool:
    """Whether a line follows one that ends a sentence of its own, such as `Args:`."""
    return i > 0 and lines[i - 1].rstrip().endswith(":")
