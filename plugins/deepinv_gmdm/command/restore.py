"""The command `restore`: from a picture to a simulated measurement and its restoration on disk."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from typing import Any

import deepinv
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from deepinv_gmdm.command.config import load_config
from deepinv_gmdm.command.output_folder import OutputFolder
from deepinv_gmdm.correlated_noise import CorrelatedL2
from deepinv_gmdm.half_quadratic import HalfQuadratic
from deepinv_gmdm.noise import WeightedL2
from deepinv_gmdm.operators import as_picture, picture_title, with_phase
from deepinv_gmdm.physics import COUNTED, build_physics, data_term, physics_noise, physics_sigma
from deepinv_gmdm.registry import accepts, build_prior
from deepinv_gmdm.solver import (
    StabilisedDenoising,
    build_solver,
    first_iterate,
    takes_stabilised,
)
from deepinv_gmdm.solver_config import SolverConfig
from gmdm_prior.files.pictures import read_picture, save_picture
from gmdm_prior.sigma import parse

FILES = ("restored.png", "comparison.png", "config.yaml", "metrics.json")


def psnr(result: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of a result, clipped to [0, 1], for a truth in [0, 1]."""
    error = (result.clamp(0, 1) - truth).square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


def restore(source: str, words: Sequence[str] = (), progress: bool = True) -> dict[str, float]:
    """Simulate a measurement of a picture and restore it; the command `restore`.

    Args:
        source: path of a YAML config, or the bare name of one that comes with the package.
        words: `key=value` overrides.
        progress: show a progress bar.

    Returns:
        `psnr_measurement`, `psnr_restored` (dB) and `seconds`, which are also in `metrics.json`.

    Raises:
        ValueError: for bad input, in one sentence.
        OSError: where the results cannot be written.
    """
    config = load_config(source, words)
    truth = read_picture(config.image)[0].to(_device(config.device))
    scene = scene_of(config, truth)
    physics = build_physics(config.physics, tuple(scene.shape[1:]), scene.device)
    with OutputFolder(config.out) as folder, torch.no_grad():
        measurement = physics(scene)
        seen = visible(as_picture(physics, measurement, scene), truth)
        title = picture_title(physics)
        print(f"{title:12} {psnr(seen, truth):6.2f} dB", flush=True)
        start = time.perf_counter()
        result = visible(solve(config, physics, measurement, scene, progress), truth)
        metrics = {
            "psnr_measurement": psnr(seen, truth),
            "psnr_restored": psnr(result, truth),
            "seconds": time.perf_counter() - start,
        }
        if not math.isfinite(result.abs().max().item()):
            raise ValueError("the solver diverged; choose a smaller solver.stepsize")
        save_picture(result, folder.aside / "restored.png")
        compare(truth, seen, result, folder.aside / "comparison.png", title)
        OmegaConf.save(config, folder.aside / "config.yaml")
        (folder.aside / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        folder.publish()
    print(f"restored     {metrics['psnr_restored']:6.2f} dB  ({metrics['seconds']:.1f} s)")
    print(f"written to {folder.path}{os.sep}: {', '.join(FILES)}")
    return metrics


def scene_of(config: DictConfig, picture: Tensor) -> Tensor:
    """What is measured of a picture (1, C, H, W): itself, or with mri a complex image of it.

    Raises:
        ValueError: for a colour picture with mri.
    """
    if config.physics.name != "mri":
        return picture
    if picture.shape[1] != 1:
        raise ValueError("physics.name=mri needs a gray image; got one in colour")
    return with_phase(picture, config.physics.phase)


def visible(image: Tensor, picture: Tensor) -> Tensor:
    """An image of a scene as one like the picture: of a complex one its magnitude."""
    if image.shape[1] == picture.shape[1]:
        return image
    return image.square().sum(1, keepdim=True).sqrt()


def solve(
    config: DictConfig, physics: Any, measurement: Tensor, scene: Tensor, progress: bool = False
) -> Tensor:
    """Restore a measurement as a config says; `scene` only tells shape and device.

    Where photons were counted it is done twice, as the first result says how much noise each pixel
    has; unless the noise could be stabilised, which needs that nothing else happened.
    """
    fidelity = data_term(physics, measurement)
    solver = make_solver(config, physics, scene, progress, fidelity)
    start = as_picture(physics, measurement, scene)
    init = {}
    if start is not measurement and not isinstance(solver, HalfQuadratic):  # which derives its own
        init = {"init": first_iterate(config.solver.name, start)}
    result = solver(measurement, physics, **init)
    counted = isinstance(physics.noise_model, COUNTED)
    if counted and not isinstance(solver, StabilisedDenoising):
        fidelity = data_term(physics, measurement, result)
        solver = make_solver(config, physics, scene, progress, fidelity)
        result = solver(measurement, physics, **init)
    return result


def make_solver(
    config: DictConfig,
    physics: Any,
    like: Tensor,
    progress: bool,
    fidelity: WeightedL2 | CorrelatedL2 | None = None,
) -> Any:
    """The solver of a config, its prior built, both scaled by the noise.

    That is the physics' own level, or the root mean square of those of the data term `fidelity`;
    of counted photons that are to be denoised only it is their curve, if solver and prior take it.
    """
    options = dict(config.prior)
    name, weight, sigma = (
        options.pop("name"),
        options.pop("lambda", None),
        options.pop("sigma", None),
    )
    sigma = None if sigma is None else parse(sigma, "prior.sigma")
    if sigma is not None and accepts("priors", name, "sigma"):
        options["sigma"] = sigma
    options = {key: _plain(value) for key, value in options.items()}
    prior = build_prior({"name": name, **options})
    if isinstance(prior, torch.nn.Module):
        prior = prior.to(like.device)
    _check_size(prior, like)
    settings = OmegaConf.to_object(config.solver)
    assert isinstance(settings, SolverConfig)
    norm = 1.0
    if settings.name != "hqs" and settings.stepsize is None:
        probe = torch.ones_like(like) + torch.linspace(0, 1, like.shape[-1], device=like.device)
        norm = float(physics.compute_sqnorm(probe, verbose=False))
    noise: Any = physics_sigma(physics) if fidelity is None else fidelity.level
    plain = type(physics) is deepinv.physics.Denoising
    if plain and isinstance(physics.noise_model, COUNTED) and takes_stabilised(settings, prior):
        noise = physics_noise(physics)
    return build_solver(
        settings,
        prior,
        sigma=noise,
        data_fidelity=fidelity,
        physics_norm=norm,
        prior_sigma=sigma,
        prior_lambda=weight,
        progress=progress,
    )


def compare(
    truth: Tensor,
    measurement: Tensor,
    result: Tensor,
    path: str | os.PathLike,
    title: str = "measurement",
) -> None:
    """Write the figure truth | measurement | result, with PSNR in the titles.

    `title` says what the picture of the measurement is.
    """
    from matplotlib.figure import Figure  # late: it is slow to import

    height, width = truth.shape[-2:]
    panels = {
        "truth": truth,
        f"{title}, {psnr(measurement, truth):.2f} dB": measurement,
        f"restored, {psnr(result, truth):.2f} dB": result,
    }
    figure = Figure(figsize=(3 * 3.6, 3.6 * height / width + 0.4), layout="constrained")
    for axes, (title, image) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        pixels = image[0].detach().cpu().clamp(0, 1).permute(1, 2, 0).squeeze(-1).numpy()
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(title)
        axes.set_axis_off()
    figure.savefig(path, dpi=110)


def _check_size(prior: Any, image: Tensor) -> None:
    """Refuse an image smaller than a patch of the prior's model before the solver starts."""
    owner = getattr(prior, "denoiser", prior)
    size = getattr(getattr(owner, "model", None), "patch_size", 1)
    if min(image.shape[-2:]) < size:
        raise ValueError(
            f"the image is {image.shape[-2]}x{image.shape[-1]} pixels; "
            f"the prior needs at least one patch, {size}x{size}"
        )


def _device(name: str) -> torch.device:
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"config key 'device': {name!r} is not usable: {reason}") from None
    if device.type == "meta":
        raise ValueError("config key 'device': 'meta' is not usable: its tensors have no values")
    return device


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
