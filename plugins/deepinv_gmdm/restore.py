"""The commands `restore` and `denoise`: from a picture to a restored picture on disk."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from .config import load_config
from .denoiser import GMDMDenoiser, noise_estimator_for
from .noise_estimator import GMDMNoiseEstimator
from .physics import build_physics, noise_level, parse_level
from .picture import check_suffix, read_picture, save_picture
from .registry import accepts, build_prior, unknown
from .solver import SolverConfig, build_solver

FILES = ("restored.png", "comparison.png", "config.yaml", "metrics.json")


class OutputFolder:
    """A folder found writable before the work, which gets all of its files at the end or none.

    Files are written into a hidden folder inside and then renamed; an interrupted or failed run
    leaves what was there before. Raises ValueError where the folder cannot be made or written to.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path).expanduser()
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
    physics = build_physics(config.physics, tuple(truth.shape[1:]), truth.device)
    solver = make_solver(config, physics, truth, progress)
    with OutputFolder(config.out) as folder, torch.no_grad():
        measurement = physics(truth)
        print(f"measurement  {psnr(measurement, truth):6.2f} dB", flush=True)
        start = time.perf_counter()
        result = solver(measurement, physics)
        metrics = {
            "psnr_measurement": psnr(measurement, truth),
            "psnr_restored": psnr(result, truth),
            "seconds": time.perf_counter() - start,
        }
        if not math.isfinite(result.abs().max().item()):
            raise ValueError("the solver diverged; choose a smaller solver.stepsize")
        save_picture(result, folder.aside / "restored.png")
        compare(truth, measurement, result, folder.aside / "comparison.png")
        OmegaConf.save(config, folder.aside / "config.yaml")
        (folder.aside / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        folder.publish()
    print(f"restored     {metrics['psnr_restored']:6.2f} dB  ({metrics['seconds']:.1f} s)")
    print(f"written to {folder.path}{os.sep}: {', '.join(FILES)}")
    return metrics


def make_solver(config: DictConfig, physics: Any, like: Tensor, progress: bool) -> Any:
    """The solver of a config, its prior built, both scaled by the physics' own noise level."""
    options = dict(config.prior)
    name, weight, sigma = (
        options.pop("name"),
        options.pop("lambda", None),
        options.pop("sigma", None),
    )
    sigma = None if sigma is None else parse_level(sigma, "prior.sigma")
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
    if settings.name in ("pgd", "gd", "drs", "admm") and settings.stepsize is None:
        probe = torch.ones_like(like) + torch.linspace(0, 1, like.shape[-1], device=like.device)
        norm = float(physics.compute_sqnorm(probe, verbose=False))
    return build_solver(
        settings,
        prior,
        sigma=noise_level(physics),
        physics_norm=norm,
        prior_sigma=sigma,
        prior_lambda=weight,
        progress=progress,
    )


def compare(truth: Tensor, measurement: Tensor, result: Tensor, path: str | os.PathLike) -> None:
    """Write the figure truth | measurement | result, with PSNR in the titles."""
    from matplotlib.figure import Figure  # late: it is slow to import

    height, width = truth.shape[-2:]
    panels = {
        "truth": truth,
        f"measurement, {psnr(measurement, truth):.2f} dB": measurement,
        f"restored, {psnr(result, truth):.2f} dB": result,
    }
    figure = Figure(figsize=(3 * 3.6, 3.6 * height / width + 0.4), layout="constrained")
    for axes, (title, image) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        pixels = image[0].detach().cpu().clamp(0, 1).permute(1, 2, 0).squeeze(-1).numpy()
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(title)
        axes.set_axis_off()
    figure.savefig(path, dpi=110)


def denoise(source: str, options: Mapping[str, Any]) -> Path:
    """Denoise a picture file; the command `denoise`.

    Args:
        source: the noisy picture.
        options: `sigma` (a level such as `25/255`; `auto` estimates it, `map` for every pixel), and
            if wanted `weights`, `method`, `out`.

    Returns:
        Where the result was written: `out`, else beside the working directory as
        `NAME-denoised.png`.

    Raises:
        ValueError: for bad input, in one sentence.
        OSError: where the result cannot be written.
    """
    known = ("sigma", "weights", "method", "out")
    for key in options:
        if key not in known:
            raise ValueError(unknown("option", key, known))
    sigma = options.get("sigma")
    if sigma is None:
        raise ValueError(
            "sigma is needed: sigma=25/255 for a standard deviation of 25 gray levels, sigma=auto "
            "to estimate it, sigma=map to estimate it for every pixel"
        )
    level = None if sigma in ("auto", "map") else parse_level(sigma, "sigma")
    noisy, bits = read_picture(source)
    out = Path(options.get("out") or f"{Path(source).stem}-denoised.png").expanduser()
    check_suffix(out)
    if out.is_dir():
        raise ValueError(f"out={str(out)!r} is a folder; name a picture file")
    weights = options.get("weights") or "bsds-gray"
    denoiser = GMDMDenoiser(weights, method=options.get("method") or "hqs")
    with OutputFolder(out.parent) as folder, torch.no_grad():
        if level is None:
            estimator = noise_estimator_for(weights, denoiser.model, per_pixel=sigma == "map")
            level = _estimated(estimator, noisy)
        save_picture(denoiser(noisy, level), folder.aside / out.name, bits)
        folder.publish()
    print(f"written to {out}")
    return out


def _estimated(estimator: GMDMNoiseEstimator, noisy: Tensor) -> Tensor:
    """The noise level of a picture, or its map, printed in gray levels of 255."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if estimator.per_pixel:
            level = estimator(noisy)
            low, middle, high = (255 * v.item() for v in (level.min(), level.median(), level.max()))
            text = f"levels {low:.2f}/255 to {high:.2f}/255, median {middle:.2f}/255"
        else:
            found = estimator.with_error(noisy)
            level, (low, high) = found.sigma, found.interval()
            ends = f"95 %: {255 * low.item():.2f} to {255 * high.item():.2f}"
            text = f"level {255 * level.item():.2f}/255 ({ends})"
    print(f"estimated noise {text}", flush=True)
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        print(f"note: {message}", file=sys.stderr)
    return level


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
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"config key 'device': {name!r} is not usable: {reason}") from None


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
