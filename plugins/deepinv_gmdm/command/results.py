"""What `restore` writes: the restored picture twice, a figure, the config and the metrics."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from deepinv_gmdm.command.config import FILES, INPUTS, shipped
from deepinv_gmdm.command.output_folder import OutputFolder, refuse_loss
from deepinv_gmdm.operator_config import USES
from gmdm_prior.files.formats import choose
from gmdm_prior.files.formats.layout import plain
from gmdm_prior.files.formats.picture import Picture
from gmdm_prior.files.pictures import save_picture

MARK = "# Written by gmdm restore, with "


def psnr(result: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of a result, clipped to [0, 1], for a truth in [0, 1]."""
    error = (result.clamp(0, 1) - truth).square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


class Results:
    """The folder `out` of a config, which gets all results at the end or none.

    An earlier run's own files are replaced; anything else that is there is refused, and inputs
    always are.

    Args:
        config: the whole config.
        suffix: of the restored picture.
        configs: YAML files that were read.
    """

    def __init__(self, config: DictConfig, suffix: str, configs: Sequence[Path]) -> None:
        self.config, self.suffix = config, suffix
        self.folder = OutputFolder(config.out)
        names = [f"restored{suffix}", "restored.png", "comparison.png", "progress.png"]
        self.files = list(dict.fromkeys([*names, "config.yaml", "metrics.json"]))
        keys = (*INPUTS, *FILES)
        given = [OmegaConf.select(config, key) for key in keys]
        inputs = [Path(value) for value in given if isinstance(value, str)]
        targets = [self.folder.path / name for name in self.files]
        if self.folder.path.is_dir():
            own = _of_earlier_run(self.folder.path / "config.yaml")
            refuse_loss(targets, [*inputs, *configs], bool(config.overwrite), own)

    def __enter__(self) -> Results:
        """Find the folder writable."""
        self.folder.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave nothing that was not published."""
        self.folder.__exit__(*exception)

    @property
    def aside(self) -> Path:
        """The folder where files are written for now."""
        return self.folder.aside

    def add(self, picture: Picture, pages: Sequence[Tensor]) -> None:
        """The restored picture, (1, C, H, W) each in units of the range, and one to look at."""
        shape = (len(pages), *pages[0].shape[1:])
        if shape[1] != picture.channels:
            values = np.zeros(shape, picture.dtype)
            picture = replace(picture, values=values, layout=plain(shape), alpha=None)
        choose.write(picture.with_pages(pages), self.aside / f"restored{self.suffix}")
        self.add_preview(pages)

    def add_preview(self, pages: Sequence[Tensor]) -> None:
        """The middle page in 8 bits, where that is another file."""
        if self.suffix != ".png":
            save_picture(pages[len(pages) // 2], self.aside / "restored.png")

    def add_progress(self, info: dict[str, Any]) -> None:
        """The figure of what a solver tells of its steps, where it tells anything."""
        if info:
            draw_progress(info, self.aside / "progress.png")
        else:
            self.files.remove("progress.png")

    def publish(self, metrics: dict[str, Any]) -> None:
        """Write config and metrics, and move everything to its place."""
        body = OmegaConf.to_yaml(OmegaConf.create(written_config(self.config)))
        text = f"{MARK}{', '.join(self.files)}\n{body}"
        (self.aside / "config.yaml").write_text(text, encoding="utf-8")
        (self.aside / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        self.folder.publish()
        for name in {"progress.png"} - set(self.files):  # an earlier run's, of another solver
            (self.folder.path / name).unlink(missing_ok=True)

    def written(self) -> str:
        """The sentence on what was written."""
        return f"written to {self.folder.path}{os.sep}: {', '.join(self.files)}"


def _of_earlier_run(config: Path) -> list[str]:
    try:
        first = config.read_text(encoding="utf-8").partition("\n")[0]
    except (OSError, UnicodeDecodeError):
        return []
    return first.removeprefix(MARK).split(", ") if first.startswith(MARK) else []


def written_config(config: DictConfig) -> dict[str, Any]:
    """A config as it is stored: what its operator uses only, and paths relative to the folder."""
    everything = OmegaConf.to_container(config, resolve=True)
    assert isinstance(everything, dict)
    physics = everything["physics"]
    used = ("name", *USES[physics["name"]], "seed")
    noise = physics["noise"]
    if noise["name"] in ("gaussian", "correlated"):
        noise.pop("gain")
    if noise["name"] == "poisson":
        noise.pop("sigma")
    if noise["name"] != "correlated":
        noise.pop("kernel")
    kept = {key: physics[key] for key in used if physics[key] is not None}
    everything["physics"] = {**kept, "noise": noise}
    everything["solver"] = {k: v for k, v in everything["solver"].items() if v is not None}
    folder = Path(everything["out"]).expanduser().absolute()
    for key in INPUTS:
        if everything[key]:
            everything[key] = _relative(everything[key], folder)
    for key in (name.removeprefix("physics.") for name in FILES):
        if isinstance(everything["physics"].get(key), str):
            everything["physics"][key] = _relative(everything["physics"][key], folder)
    return {str(key): value for key, value in everything.items() if value is not None}


def _relative(path: str, folder: Path) -> str:
    if Path(path).parent == shipped("images").resolve():
        return Path(path).name
    try:
        return os.path.relpath(path, folder.resolve())
    except ValueError:  # on another drive
        return path


def compare(
    truth: Tensor | None,
    measurement: Tensor,
    result: Tensor,
    path: str | os.PathLike,
    title: str = "measurement",
) -> None:
    """Write the figure truth | measurement | result, with PSNR in the titles where it is known.

    `title` says what the picture of the measurement is.
    """
    from matplotlib.figure import Figure  # late: it is slow to import

    panels = {}
    if truth is not None:
        panels["truth"] = truth
    scored = truth is not None and measurement.shape == truth.shape
    panels[f"{title}, {psnr(measurement, truth):.2f} dB" if scored else title] = measurement
    name = "restored" if truth is None else f"restored, {psnr(result, truth):.2f} dB"
    panels[name] = result
    height, width = result.shape[-2:]
    size = (len(panels) * 3.6, min(3.6 * height / width + 0.4, 20))
    figure = Figure(figsize=size, layout="constrained")
    for axes, (title, image) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        pixels = image[0].detach().cpu().clamp(0, 1).permute(1, 2, 0).squeeze(-1).numpy()
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(title)
        axes.set_axis_off()
    figure.savefig(path, dpi=110)


def draw_progress(info: dict[str, Any], path: str | os.PathLike) -> None:
    """Write the figure of a solver's steps: levels and changes, and the residual in units of noise.

    Args:
        info: of `HalfQuadratic`.
        path: of the PNG file.
    """
    from matplotlib.figure import Figure  # late: it is slow to import

    steps = range(1, len(info["levels"]) + 1)
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.semilogy(steps, info["levels"], label="level handed to the prior")
    left.semilogy(steps, [max(c, 1e-12) for c in info["change"]], label="change of the image")
    right.semilogy(steps, [max(r, 1e-12) for r in info["residual"]], label="residual")
    right.axhline(info["expected"], color="gray", linestyle="--", label="where it should end")
    left.set_title("in units of the image")
    right.set_title("beside the data, in units of their noise")
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.legend(frameon=False)
    figure.savefig(path, dpi=110)
