"""The command `restore`, of your own measurement or of a simulated one.

`measured` has what is only for measurements, `results` what is written.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from deepinv_gmdm.command.config import load_config
from deepinv_gmdm.command.files import say
from deepinv_gmdm.command.measured import restore_file
from deepinv_gmdm.command.progress import seen
from deepinv_gmdm.command.results import Results, compare, psnr
from deepinv_gmdm.command.solving import (
    device_of,
    plain_value,
    scene_of,
    solve,
    solver_of,
    visible,
)
from deepinv_gmdm.operators import as_picture, picture_title
from deepinv_gmdm.physics import build_physics, data_term
from deepinv_gmdm.restoration import make_solver
from gmdm_prior.files.formats import choose
from gmdm_prior.files.formats.picture import Picture, parse_range

__all__ = ["FILES", "compare", "psnr", "restore", "scene_of", "solve", "visible"]

FILES = ("restored.png", "comparison.png", "progress.png", "config.yaml", "metrics.json")


def restore(source: str, words: Sequence[str] = (), progress: bool | None = None) -> dict[str, Any]:
    """Restore a measurement, or simulate one of a picture and restore it; the command `restore`.

    Args:
        source: path of a YAML config, or the bare name of one that comes with the package.
        words: `key=value` overrides.
        progress: show a progress bar; None: where standard error is a terminal.

    Returns:
        What is also in `metrics.json`: `seconds`, and of simulations `psnr_measurement` and
        `psnr_restored` (dB), of measurements `sigma`, and `psnr_restored` where `truth` is given.

    Raises:
        ValueError: for bad input, in one sentence.
        OSError: where the results cannot be written.
    """
    return restore_config(load_config(source, words), source, progress)


def restore_config(config: DictConfig, source: str, progress: bool | None = None) -> dict[str, Any]:
    """The same of a config that `source` gave."""
    progress = seen() if progress is None else progress
    configs = [Path(source)] if Path(source).suffix else []
    if config.measurement:
        return restore_file(config, configs, progress)
    return _simulated(config, configs, progress)


def _simulated(config: DictConfig, configs: list[Path], progress: bool) -> dict[str, Any]:
    if config.physics.boundary == "open":
        raise ValueError("physics.boundary=open is for measurement=; a simulated blur is circular")
    picture = choose.read(
        config.image, data_range=parse_range(plain_value(config.data_range)), axis=config.axis
    )
    for note in picture.notes:
        say(note)
    truth = _page(picture, config.image).to(device_of(config.device))
    scene = scene_of(config, truth)
    physics = build_physics(_physics_config(config), tuple(scene.shape[1:]), scene.device)
    with Results(config, choose.suffix_for(config.image), configs) as results, torch.no_grad():
        measurement = physics(scene)
        fidelity = data_term(physics, measurement)
        prior = plain_value(config.prior)
        make_solver(prior, solver_of(config), physics, scene, False, fidelity)  # or refuse it
        shown = visible(as_picture(physics, measurement, scene), truth)
        title = picture_title(physics)
        print(f"{title:12} {psnr(shown, truth):6.2f} dB", flush=True)
        start = time.perf_counter()
        solution, info = solve(config, physics, measurement, scene, progress)
        result = visible(solution, truth)
        metrics = {
            "psnr_measurement": psnr(shown, truth),
            "psnr_restored": psnr(result, truth),
            "seconds": time.perf_counter() - start,
        }
        results.add(picture, [result])
        compare(truth, shown, result, results.aside / "comparison.png", title)
        results.add_progress(info)
        results.publish(metrics)
    print(f"restored     {metrics['psnr_restored']:6.2f} dB  ({metrics['seconds']:.1f} s)")
    print(results.written())
    return metrics


def _page(picture: Picture, name: str) -> Tensor:
    if picture.pages > 1:
        raise ValueError(
            f"image={name} has {picture.pages} pages, and one is measured by simulation; give a "
            "file of one, or measurement= where it is your own"
        )
    try:
        return picture.page(0)
    except ValueError as error:
        raise ValueError(f"image {name!r} cannot be read: {error}") from None


def _physics_config(config: DictConfig) -> Any:
    """Give the config as a dataclass, whose fields also hold arrays."""
    physics: Any = OmegaConf.to_object(config.physics)
    if str(physics.noise.sigma) == "auto":
        raise ValueError(
            "physics.noise.sigma=auto reads the noise off a measurement=; a simulation of image= "
            "needs a number, such as 5/255"
        )
    return physics
