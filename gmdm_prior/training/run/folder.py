"""What a run of the command line reads and writes: images, and the files of its folder.

These are config.yaml, metrics.csv, checkpoints/, model.safetensors and report.png.

While a run writes there it holds `lock`, a file that names its process. The lock itself is the
kernel's, so that it is gone when the process is, however that ends.
"""

from __future__ import annotations

import contextlib
import csv
import os
import platform
import shlex
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gmdm_prior.files.formats.picture import parse_range
from gmdm_prior.files.safetensors import write_aside
from gmdm_prior.training.checkpoint import Checkpoint, Checkpoints, disagreement, remove_parts
from gmdm_prior.training.data.images import find_images, read_images, split_held_out
from gmdm_prior.training.data.noise import in_words, is_table, look_up, read_table, write_table
from gmdm_prior.training.data.pool import usable
from gmdm_prior.training.fit import StepRecord
from gmdm_prior.training.run.config import TrainConfig, read_yaml

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

QUARTER = 4  # of a single image, one part in so many is held out
COLUMNS = ("step", "stage", "loss", "held_out_loss", "psnr", "seconds")


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run, and what is written to them."""

    path: Path

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints."""
        return Checkpoints(self.path / "checkpoints")

    @property
    def config(self) -> Path:
        """All settings of the run."""
        return self.path / "config.yaml"

    @property
    def model(self) -> Path:
        """The result."""
        return self.path / "model.safetensors"

    @property
    def report(self) -> Path:
        """The picture of the result."""
        return self.path / "report.png"

    @property
    def metrics(self) -> Path:
        """The curves."""
        return self.path / "metrics.csv"

    @property
    def lock(self) -> Path:
        """What says whose the folder is."""
        return self.path / "lock"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and hold it; what is empty in the end is removed again.

        Raises:
            ValueError: the path is a file, or another run holds the folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"out={self.path} is a file; give a folder")
        made = [p for p in (self.path, *self.path.parents) if not p.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        file = _locked(self.lock)
        try:
            for folder in (self.path, self.checkpoints.folder):
                remove_parts(folder)
            yield
        finally:
            self.lock.unlink(missing_ok=True)
            os.close(file)
            with contextlib.suppress(OSError):
                for folder in made:
                    folder.rmdir()

    def occupied(self) -> bool:
        """Whether something but a lock is there."""
        return self.path.is_dir() and any(p != self.lock for p in self.path.iterdir())

    def resumed(self, config: TrainConfig) -> Checkpoint | None:
        """The checkpoint of a run that goes on here; None for one that begins.

        Raises:
            ValueError: the folder is occupied and resume=false, or its run is another one.
        """
        if not config.resume:
            if self.occupied():
                raise ValueError(
                    f"out={config.out} is occupied; add resume=true to go on there, or name another"
                )
            return None
        found = self.checkpoints.latest() if self.occupied() else None
        if found is None:
            print(f"no checkpoint in {self.path}: starting anew")
            return None
        stored = found.settings
        if self.config.is_file():
            written = read_yaml(self.config)
            stored = stored | {key: written[key] for key in ("holdout",) if key in written}
        now = vars(config.fit_settings()) | {"holdout": config.holdout}
        differing = disagreement({"holdout": config.holdout} | stored, now)
        if differing:
            raise ValueError(f"the checkpoint in out={config.out} is of another run: {differing}")
        print(f"resumed at step {found.step}")
        return found

    def how_to_go_on(self) -> str:
        """What an interrupted run leaves, and how to take it up again."""
        files = self.checkpoints.files()
        if not files:
            return "no checkpoint has been written"
        step = int(files[0].stem.removeprefix("step-"))
        words = shlex.join([f"out={self.path}", "resume=true"])
        return f"the checkpoint of step {step} is kept: go on with {words}"

    def write_config(self, text: str) -> None:
        """Write config.yaml."""
        write_aside(self.config, text.encode())

    def start_metrics(self, step: int) -> None:
        """Begin metrics.csv, or keep its rows up to a step where a run goes on."""
        rows = [row for row in self.rows() if int(row[0]) <= step]
        lines = [",".join(row) for row in [list(COLUMNS), *rows]]
        write_aside(self.metrics, ("\n".join(lines) + "\n").encode())

    def add(self, record: StepRecord) -> None:
        """Append a row."""
        numbers = (record.loss, record.held_out_loss, record.psnr)
        shown = ["" if number is None else f"{number:.7g}" for number in numbers]
        row = [str(record.step), record.stage, *shown, f"{record.seconds:.3f}"]
        with named(self.metrics), open(self.metrics, "a", encoding="utf-8") as file:
            file.write(",".join(row) + "\n")

    def rows(self) -> list[list[str]]:
        """Whole rows of metrics.csv; one that a killed run left half written is dropped."""
        if not self.metrics.is_file():
            return []
        with open(self.metrics, encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        whole = [row for row in rows if len(row) == len(COLUMNS) and row[0].isdecimal()]
        return [row for row in whole if _is_number(row[-1])]

    def curve(self) -> list[dict[str, float | str]]:
        """The rows as numbers, for plots."""
        return [
            {
                name: text if name == "stage" else float(text) if text else float("nan")
                for name, text in zip(COLUMNS, row, strict=True)
            }
            for row in self.rows()
        ]

    def training_noise(self, noise: Any, files: Sequence[Path]) -> dict[str, str]:
        """The card's entry `training_noise`; clean images have none.

        Levels estimated of each image (`noise=auto`) are also written to `noise_levels.csv`, as a
        table that `noise=` reads.
        """
        levels = None
        if is_table(noise):
            levels = torch.tensor(look_up(read_table(noise), files, noise))
        elif noise == "auto":
            found = self.checkpoints.latest().state["em"]["sigmas"]  # after the last iteration
            write_table(self.path / "noise_levels.csv", files, found)
            levels = found[found.isfinite()]
        return {"training_noise": in_words(noise, levels)} if noise else {}


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Errors of the disk inside name the file that was written."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def _locked(path: Path) -> int:
    """The lock file, open; the lock lasts until it is closed, or the process ends."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _lock(file):
            holder = os.read(file, 200).decode(errors="replace").strip() or "another process"
            os.close(file)
            raise ValueError(
                f"out={path.parent} is in use: {holder} is training there; wait for its end, or "
                "name another folder"
            )
        with contextlib.suppress(FileNotFoundError), named(path):
            os.ftruncate(file, 0)
            os.write(file, f"process {os.getpid()} on {platform.node()}\n".encode())
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        os.close(file)  # its holder has just removed it


def _lock(file: int) -> bool:
    """Whether an open file could be locked; where there are no locks it always can."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a disk without locks
    return True


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def split(config: TrainConfig) -> tuple[dict[Path, Tensor], dict[Path, Tensor]]:
    """Training and held-out images, all at least as large as a patch.

    Raises:
        ValueError: the data hold no such image, or a single one that is too small to be cut.
    """
    size = config.patch_size
    data_range = parse_range(config.data_range)
    pictures = read_images(find_images(config.data), config.channels, data_range)
    images: dict[Any, Tensor] = usable(pictures, size, f"a patch with patch_size={size}")
    if len(images) > 1:
        training, held_out = split_held_out(list(images), config.holdout)
        seen = at_scales({f: images[f] for f in training}, config.scales, size)
        return seen, {f: images[f] for f in held_out}
    ((name, image),) = images.items()
    cut = image.shape[1] - max(image.shape[1] // QUARTER, size)
    if cut < 2 * size:
        raise ValueError(
            f"{name} is the only image and too small to hold a quarter of it out: give at least two"
        )
    warnings.warn("there is one image only: its lowest quarter is held out", stacklevel=1)
    return at_scales({name: image[:, :cut]}, config.scales, size), {name: image[:, cut:]}


def at_scales(images: dict[Path, Tensor], scales: int, least: int) -> dict[Path, Tensor]:
    """The images (C, H, W), and all means of 2x2 to scales x scales pixels of `least` a side."""
    sizes = dict(images)
    for k in range(2, scales + 1):
        for name, image in images.items():
            if min(image.shape[1:]) >= k * least:
                sizes[name.with_name(f"{name.name}, means of {k}x{k}")] = F.avg_pool2d(image, k)
    return sizes
