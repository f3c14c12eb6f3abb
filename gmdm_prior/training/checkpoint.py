"""Checkpoints that survive `kill -9`, a full disk and a truncated file.

A checkpoint is written aside, flushed to the disk and then renamed; the two newest are kept. It
holds tensors, numbers, strings, lists and dictionaries only, and is read with `weights_only=True`:
nothing is ever unpickled into objects.
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gmdm_prior.files.safetensors import UNREADABLE, write_aside
from gmdm_prior.training.settings import FitSettings

FORMAT = "gmdm-prior training/2"
KEPT = 2
DEFAULTS = {f.name: f.default for f in dataclasses.fields(FitSettings) if f.default is not None}
NAME = re.compile(r"step-(\d{8})\.pt")
PART = re.compile(r".+\.(\d+)\.part")  # of a file that the process of this number writes


@dataclass(frozen=True)
class Checkpoint:
    """Holds where a run stands.

    Attributes:
        step: completed steps.
        settings: what the run was told, and the fingerprint of its images.
        state: of the method.
    """

    step: int
    settings: dict[str, Any]
    state: dict[str, Any]


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run, in a folder of their own."""

    folder: Path

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then drop all but the two newest.

        Raises:
            OSError: where it cannot be written; the older ones stay.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, **vars(checkpoint)}, buffer)
        path = self.folder / f"step-{checkpoint.step:08}.pt"
        write_aside(path, buffer.getvalue())
        for old in self.files()[KEPT:]:
            old.unlink(missing_ok=True)
        remove_parts(self.folder)

    def files(self) -> list[Path]:
        """The checkpoints, newest first."""
        if not self.folder.is_dir():
            return []
        found = [p for p in self.folder.iterdir() if NAME.fullmatch(p.name)]
        return sorted(found, key=lambda p: p.name, reverse=True)

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that can be read; a damaged one is named in a warning.

        Raises:
            ValueError: the newest one was written by another version of this package.
        """
        for path in self.files():
            try:
                content = torch.load(path, map_location="cpu", weights_only=True)
                version, found = content.pop("format"), Checkpoint(**content)
            except (*UNREADABLE, AttributeError, KeyError, TypeError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                warnings.warn(
                    f"checkpoint {path.name} cannot be read ({reason}); falling back to the one "
                    "before it",
                    stacklevel=2,
                )
                continue
            if version != FORMAT:
                raise ValueError(
                    f"checkpoint {path} is of another version of gmdm_prior ({version}, not "
                    f"{FORMAT}): go on with that one, or begin anew in another folder"
                )
            return found
        return None


def remove_parts(folder: Path) -> None:
    """Remove what processes that run no more have left half written in a folder."""
    for path in folder.glob("*.part"):
        name = PART.fullmatch(path.name)
        if name and not _runs(int(name[1])):
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether a process of this machine runs."""
    if os.name != "posix":
        return True  # nobody knows
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it is another user's
    return True


def disagreement(stored: dict[str, Any], given: dict[str, Any]) -> str:
    """The settings in which a run would go on otherwise than it began, with both values; or "".

    Intervals of checkpoints and measurements may change, and iPALM may be given more steps: only
    its last tenth depends on how many there are, and picks up speed again. A setting that the
    stored run did not know had its default.
    """
    differing = []
    for key, new in given.items():
        old = stored.get(key, DEFAULTS.get(key, new))
        if old == new or key in ("checkpoint_every", "measure_every"):
            continue
        if key == "steps" and given.get("method") == "ipalm" and new >= (old or 0):
            continue
        differing.append(f"{key} is {old} there and {new} now")
    return "; ".join(differing)
