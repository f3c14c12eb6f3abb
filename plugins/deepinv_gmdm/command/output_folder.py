"""A folder for results that are written all together or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path


def expanded(path: str | os.PathLike, what: str) -> Path:
    """A path with `~` replaced by the home folder.

    Raises:
        ValueError: where there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = Path(path).parts[0]
        raise ValueError(f"{what}={path}: there is no home folder {user}") from None


class OutputFolder:
    """A folder found writable before the work, which gets all of its files at the end or none.

    Files are written into a hidden folder inside and then renamed; an interrupted or failed run
    leaves what was there before. Raises ValueError where the folder cannot be made or written to.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = expanded(path, "out")
        self._made: list[Path] = []

    def __enter__(self) -> OutputFolder:
        """Make the folder and try to write in it."""
        missing = [p for p in (self.path, *self.path.parents) if not p.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._made = missing
            self.aside = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.path))
        except OSError as error:
            self._clean()
            reason = error.strerror or error
            raise ValueError(
                f"output folder {str(self.path)!r} is not writable: {reason}"
            ) from None
        return self

    def publish(self) -> None:
        """Move everything written so far to its place."""
        for file in sorted(self.aside.iterdir()):
            os.replace(file, self.path / file.name)

    def __exit__(self, *exception: object) -> None:
        """Remove what was not published."""
        shutil.rmtree(self.aside, ignore_errors=True)
        self._clean()

    def _clean(self) -> None:
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:  # not empty: it holds results
                return
