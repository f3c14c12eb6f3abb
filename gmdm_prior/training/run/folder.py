"""The folder of a run: config.yaml, metrics.csv, checkpoints/, model.safetensors, report.png."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from gmdm_prior.files.safetensors import write_aside
from gmdm_prior.training.checkpoint import Checkpoints
from gmdm_prior.training.fit import StepRecord

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

    def occupied(self) -> bool:
        """Whether something is there.

        Raises:
            ValueError: the path is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"out={self.path} is a file; give a folder")
        return self.path.is_dir() and any(self.path.iterdir())

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
        with open(self.metrics, "a", encoding="utf-8") as file:
            row = [str(record.step), record.stage, *shown, f"{record.seconds:.3f}"]
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


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
