"""Links of the built site that lead nowhere: `python docs/tools/links.py docs/_build/html`.

Every address inside the site must be a file, and what follows its `#` must be a name on that page.
Addresses of other sites are not looked up: the site builds offline.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The names on a page, and the addresses that it links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of names and addresses."""
        for key, value in attrs:
            if key in ("id", "name") and value:
                self.names.add(value)
            elif key in ("href", "src") and value:
                self.links.append(value)


def dead(folder: Path) -> list[str]:
    """A line for each link that leads nowhere."""
    files = [file for file in folder.rglob("*.html") if "_static" not in file.parts]
    pages = {file: Page(file.read_text(encoding="utf-8")) for file in files}
    lines = []
    for file, page in sorted(pages.items()):
        for link in page.links:
            address = urlsplit(link)
            if address.scheme or address.netloc:
                continue
            target = file
            if address.path:
                target = (file.parent / unquote(address.path)).resolve()
            name = unquote(address.fragment)
            missing = not target.is_file()
            if not missing and name and target in pages:
                missing = name not in pages[target].names
            if missing:
                lines.append(f"{file.relative_to(folder)}: {link}")
    return lines


if __name__ == "__main__":
    found = dead(Path(sys.argv[1]).resolve())
    print("\n".join(found) or "no dead links inside the site")
    sys.exit(bool(found))
