"""The commands `denoise` and `noise`: a noisy picture without its noise, and how much it has."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepinv_gmdm.command.files import plan, read_noisy, save, shared_pages
from deepinv_gmdm.command.output_folder import OutputFolder
from deepinv_gmdm.command.progress import watched
from deepinv_gmdm.command.words import DENOISE, NOISE, check_options, existing, switch
from deepinv_gmdm.models import (
    DEFAULT_WEIGHTS,
    GMDMDenoiser,
    GMDMNoiseEstimator,
    noise_estimator_for,
)
from gmdm_prior.files.formats.picture import Picture, parse_range
from gmdm_prior.files.pictures import save_picture
from gmdm_prior.sigma import parse

ESTIMATED = ("auto", "map")
SMALL = 40  # side of a corner in pixels, on which the steps of a denoiser are counted
DEFAULT = {1: "bsds-gray", 3: "bsds-color"}  # weights by channels


def denoise(words: str | Sequence[str], options: Mapping[str, str]) -> list[Path]:
    """Denoise picture files; the command `denoise`.

    Args:
        words: the noisy pictures: files or patterns of them.
        options: `sigma` (a level such as `25/255` in units of the data range; `auto` estimates it,
            `map` for every pixel), and if wanted `weights` (default: `bsds-gray`, of pictures in
            colour `bsds-color`), `method`, `out`, `data_range`, `pages`, `axis`, `key`,
            `overwrite`.

    Returns:
        Where the results were written: `out`, in that folder, else in the working directory as
        `NAME-denoised` with the suffix of the picture.

    Raises:
        ValueError: for bad input, in one sentence.
        OSError: where the result cannot be written.
    """
    check_options(options, DENOISE)
    sigma = options.get("sigma")
    if sigma is None:
        raise ValueError(
            "sigma is needed: sigma=25/255 for a standard deviation of 25 gray levels, sigma=auto "
            "to estimate it, sigma=map to estimate it for every pixel"
        )
    level = None if sigma in ESTIMATED else parse(sigma, "sigma", _white(options))
    sources = existing([words] if isinstance(words, str) else words)
    targets = plan(sources, options.get("out"), "-denoised", switch(options, "overwrite"))
    shared = shared_pages(options)
    for source, target in zip(sources, targets, strict=True):
        with OutputFolder(target.parent) as folder, torch.no_grad():
            picture = read_noisy(source, options)
            pages = _denoised(picture, source.name, level, options, shared)
            save(picture, pages, source, folder.aside / target.name, target.name)
            folder.publish()
        print(f"written to {target}")
    return targets


def _denoised(
    picture: Picture, name: str, level: float | None, options: Mapping[str, str], shared: bool
) -> list[Tensor]:
    """Every page without its noise."""
    weights = options.get("weights") or DEFAULT[picture.channels]
    denoiser = GMDMDenoiser(weights, method=options.get("method"))
    levels: list[Any] = [level] * picture.pages
    if level is None:
        per_pixel = options["sigma"] == "map"
        estimator = noise_estimator_for(weights, denoiser.model, per_pixel=per_pixel)
        noun = "estimated noise"
        work = partial(_level_of, estimator, picture, noun)
        small = -1 if per_pixel else None
        levels = watched(f"noise of {name}", work, list(range(picture.pages)), small)
        if shared:
            levels = [torch.stack(levels).median(0).values] * picture.pages

    def one(index: int) -> Tensor:
        page = picture.page(max(index, 0))
        if index < 0:
            page = page[..., :SMALL, :SMALL]
        found = levels[max(index, 0)]
        is_map = isinstance(found, Tensor) and found.ndim == 4
        return denoiser(page, found[..., :SMALL, :SMALL] if is_map and index < 0 else found)

    return watched(f"denoising {name}", one, list(range(picture.pages)), small=-1)


def _level_of(estimator: GMDMNoiseEstimator, picture: Picture, noun: str, index: int) -> Tensor:
    """The level of one page, printed; of page -1 that of a corner of the first, for its steps."""
    if index < 0:
        return estimator(picture.page(0)[..., :SMALL, :SMALL])
    what = noun if picture.pages == 1 else f"page {index + 1}: {noun}"
    return _estimated(estimator, picture.page(index), what)


def _white(options: Mapping[str, str]) -> float:
    """What a level above 1 was probably to be divided by."""
    given = parse_range(options.get("data_range"))
    return given[1] - given[0] if isinstance(given, tuple) else 255.0


def noise(words: str | Sequence[str], options: Mapping[str, str]) -> None:
    """Print the noise level of picture files, with its 95 % interval; the command `noise`.

    Args:
        words: the noisy pictures: files or patterns of them.
        options: if wanted `map` (`true`: the level of every pixel too, drawn beside the picture),
            `weights`, the drawing's `out` (else `NAME-noise.png` in the working directory),
            `data_range`, `axis`, `key`, `overwrite`.

    Raises:
        ValueError: for bad input, in one sentence.
        OSError: where the drawing cannot be written.
    """
    check_options(options, NOISE)
    drawn = switch(options, "map")
    if "out" in options and not drawn:
        raise ValueError("out is where the map is drawn: give map=true with it")
    sources = existing([words] if isinstance(words, str) else words)
    overwrite = switch(options, "overwrite")
    targets = plan(sources, options.get("out"), "-noise", overwrite, ".png") if drawn else sources
    weights = options.get("weights") or DEFAULT_WEIGHTS
    estimator = GMDMNoiseEstimator(weights)
    per_pixel = GMDMNoiseEstimator(weights, per_pixel=True) if drawn else None
    for source, target in zip(sources, targets, strict=True):
        picture = read_noisy(source, options)
        noun = "noise" if len(sources) == 1 else f"{source}: noise"
        pages = list(range(picture.pages))
        if per_pixel is None:
            watched(f"noise of {source.name}", partial(_level_of, estimator, picture, noun), pages)
            continue
        if picture.pages > 1:
            raise ValueError(f"{source} has {picture.pages} pages; a map is drawn of one picture")
        with OutputFolder(target.parent) as folder:
            _level_of(estimator, picture, noun, 0)
            work = partial(_level_of, per_pixel, picture, noun)
            levels = watched(f"noise map of {source.name}", work, pages, small=-1)[0]
            save_picture(drawing(picture.page(0), levels), folder.aside / target.name)
            folder.publish()
        print(f"written to {target}")


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


def _estimated(estimator: GMDMNoiseEstimator, noisy: Tensor, what: str) -> Tensor:
    """The noise level of a picture, or its map, printed in gray levels of 255 and in [0, 1]."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if estimator.per_pixel:
            level = estimator(noisy)
            name, text = "levels", "{0}{unit} to {2}{unit}, median {1}{unit}"
            values = (level.min(), level.median(), level.max())
            if values[0] == values[2]:
                text = "uniform, {1}{unit}"
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
