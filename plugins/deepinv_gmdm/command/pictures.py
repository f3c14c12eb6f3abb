"""The commands `denoise` and `noise`: a noisy picture without its noise, and how much it has."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepinv_gmdm.command.output_folder import OutputFolder, expanded
from deepinv_gmdm.models import (
    DEFAULT_WEIGHTS,
    GMDMDenoiser,
    GMDMNoiseEstimator,
    noise_estimator_for,
)
from gmdm_prior.files.pictures import check_suffix, read_picture, save_picture
from gmdm_prior.messages import unknown
from gmdm_prior.sigma import parse

ESTIMATED = ("auto", "map")
SWITCH = {"true": True, "false": False}


def denoise(source: str, options: Mapping[str, Any]) -> Path:
    """Denoise a picture file; the command `denoise`.

    Args:
        source: the noisy picture.
        options: `sigma` (a level such as `25/255`; `auto` estimates it, `map` for every pixel), and
            if wanted `weights` (default: `gray`), `method`, `out`.

    Returns:
        Where the result was written: `out`, else in the working directory as `NAME-denoised.png`.

    Raises:
        ValueError: for bad input, in one sentence.
        OSError: where the result cannot be written.
    """
    _check(options, ("sigma", "weights", "method", "out"))
    sigma = options.get("sigma")
    if sigma is None:
        raise ValueError(
            "sigma is needed: sigma=25/255 for a standard deviation of 25 gray levels, sigma=auto "
            "to estimate it, sigma=map to estimate it for every pixel"
        )
    level = None if sigma in ESTIMATED else parse(sigma, "sigma")
    noisy, bits = read_picture(source)
    out = _target(options.get("out") or f"{Path(source).stem}-denoised.png")
    weights = options.get("weights") or "gray"
    denoiser = GMDMDenoiser(weights, method=options.get("method"))
    with OutputFolder(out.parent) as folder, torch.no_grad():
        if level is None:
            estimator = noise_estimator_for(weights, denoiser.model, per_pixel=sigma == "map")
            level = _estimated(estimator, noisy, "estimated noise")
        save_picture(denoiser(noisy, level), folder.aside / out.name, bits)
        folder.publish()
    print(f"written to {out}")
    return out


def noise(source: str, options: Mapping[str, Any]) -> None:
    """Print the noise level of a picture file, with its 95 % interval; the command `noise`.

    Args:
        source: the noisy picture.
        options: if wanted `map` (`true`: the level of every pixel too, drawn beside the picture),
            `weights`, and the drawing's `out` (else `NAME-noise.png` in the working directory).

    Raises:
        ValueError: for bad input, in one sentence.
        OSError: where the drawing cannot be written.
    """
    _check(options, ("map", "weights", "out"))
    word = str(options.get("map", "false")).lower()
    if word not in SWITCH:
        raise ValueError(f"map={word} is neither true nor false")
    if "out" in options and not SWITCH[word]:
        raise ValueError("out is where the map is drawn: give map=true with it")
    noisy, _ = read_picture(source)
    out = _target(options.get("out") or f"{Path(source).stem}-noise.png")
    weights = options.get("weights") or DEFAULT_WEIGHTS
    estimator = GMDMNoiseEstimator(weights)
    if not SWITCH[word]:
        _estimated(estimator, noisy, "noise")
        return
    with OutputFolder(out.parent) as folder:
        _estimated(estimator, noisy, "noise")
        levels = _estimated(GMDMNoiseEstimator(weights, per_pixel=True), noisy, "noise")
        save_picture(drawing(noisy, levels), folder.aside / out.name)
        folder.publish()
    print(f"written to {out}")


def drawing(noisy: Tensor, levels: Tensor) -> Tensor:
    """The figure picture (1, C, H, W) | levels (1, 1, H, W) in gray levels of 255: (1, 3, h, w)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # late: it is slow to import
    from matplotlib.figure import Figure

    height, width = noisy.shape[-2:]
    figure = Figure(figsize=(9, 4 * height / width + 0.4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    pixels = noisy[0].clamp(0, 1).permute(1, 2, 0).squeeze(-1).numpy()
    left.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    left.set_title("picture")
    top = max(255 * levels.max().item(), 1e-3)
    shown = right.imshow(255 * levels[0, 0].numpy(), vmin=0, vmax=top, interpolation="nearest")
    right.set_title("noise level · 255")
    figure.colorbar(shown, ax=right, shrink=0.85)
    for axes in (left, right):
        axes.set_axis_off()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = torch.tensor(np.asarray(canvas.buffer_rgba()))[..., :3]
    return pixels.movedim(-1, 0)[None] / 255


def _check(options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in options:
        if key not in known:
            raise ValueError(unknown("option", key, known))


def _target(name: str) -> Path:
    """The file to write."""
    out = expanded(name, "out")
    check_suffix(out)
    if out.is_dir():
        raise ValueError(f"out={str(out)!r} is a folder; name a picture file")
    return out


def _estimated(estimator: GMDMNoiseEstimator, noisy: Tensor, what: str) -> Tensor:
    """The noise level of a picture, or its map, printed in gray levels of 255 and in [0, 1]."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if estimator.per_pixel:
            level = estimator(noisy)
            name, text = "levels", "{0}{unit} to {2}{unit}, median {1}{unit}"
            values = (level.min(), level.median(), level.max())
        else:
            found = estimator.with_error(noisy)
            level, name, text = found.sigma, "level", "{}{unit} (95 %: {} to {})"
            values = (level, *found.interval())
    gray = text.format(*(f"{255 * value.item():.2f}" for value in values), unit="/255")
    plain = text.format(*(f"{value.item():.4f}" for value in values), unit="")
    print(f"{what} {name} {gray}; in [0, 1]: {plain}", flush=True)
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        print(f"note: {message}", file=sys.stderr)
    return level
