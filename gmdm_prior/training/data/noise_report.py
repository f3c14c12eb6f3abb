"""What a run says of the noise in its training images: on the model's card, and as a table."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from gmdm_prior.files.safetensors import write_aside
from gmdm_prior.training.data.noise import COLUMNS, is_table, look_up, read_table
from gmdm_prior.training.run.config import TrainConfig
from gmdm_prior.training.run.folder import RunFolder


def training_noise(config: TrainConfig, folder: RunFolder, files: Sequence[Path]) -> dict[str, str]:
    """The card's entry `training_noise`.

    Levels estimated of each image (`noise=auto`) are also written to `noise_levels.csv` in the
    run's folder, as a table that `noise=` reads. Clean images have no entry.
    """
    if not config.noise:
        return {}
    if config.noise == "map":
        text = "Gaussian, its level estimated at each pixel"
    elif isinstance(config.noise, str):
        known = is_table(config.noise)
        levels = _table(config.noise, files) if known else _estimated(folder, files)
        source = f"read from {config.noise}" if known else "estimated of each image"
        low, high, middle = levels.min(), levels.max(), levels.median()
        text = (
            f"Gaussian, its standard deviation {source}: {low:.4f} to {high:.4f}, median "
            f"{middle:.4f}"
        )
    else:
        text = f"Gaussian, standard deviation {config.noise:.6g}"
    return {"training_noise": f"{text}; no clean image was used"}


def _table(path: str, files: Sequence[Path]) -> torch.Tensor:
    return torch.tensor(look_up(read_table(path), files, path))


def _estimated(folder: RunFolder, files: Sequence[Path]) -> torch.Tensor:
    """The levels that the last iteration ended with, also written down.

    An image that no patch was drawn from has none.
    """
    levels = folder.checkpoints.latest().state["em"]["sigmas"]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    named = zip(files, levels.tolist(), strict=False)  # the last ones may have no patches
    rows.writerows([file, f"{level:.6g}"] for file, level in named if math.isfinite(level))
    write_aside(folder.path / "noise_levels.csv", text.getvalue().encode())
    return levels[levels.isfinite()]
