"""Results that are written all together or not at all, and never over anything of the user's."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from deepinv_gmdm.command.words import expanded

__all__ = ["OutputFolder", "expanded", "refuse_loss"]


def refuse_loss(
    targets: Iterable[Path], inputs: Iterable[Path], overwrite: bool, own: Iterable[str] = ()
) -> None:
    """Refuse to write over an input, or over another file that is there.

    Args:
        targets: the files to be written.
        inputs: the files that the command reads, which are never written over.
        overwrite: other files may be.
        own: names of files that an earlier run of the command wrote, which may be too.

    Raises:
        ValueError: with the remedy.
    """
    read = [path for path in inputs if path.exists()]
    for target in targets:
        if not os.path.lexists(target):
            continue
        same = [path for path in read if target.exists() and os.path.samefile(path, target)]
        if same:
            raise ValueError(f"out={str(target)!r} is an input ({same[0]}): choose another out=")
        if target.is_dir():
            raise ValueError(f"out={str(target)!r} is a folder; name a picture file")
        if not overwrite and target.name not in own:
            raise ValueError(
                f"out={str(target)!r} exists: choose another out=, or add overwrite=true"
            )


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
        """Move everything written so far to its place; Ctrl-C waits for the end of it."""
        files = sorted(self.aside.iterdir())
        for file in files:
            with open(file, "rb") as written:
                os.fsync(written.fileno())
        with _uninterrupted():
            for file in files:
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


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C inside is acted upon afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt
