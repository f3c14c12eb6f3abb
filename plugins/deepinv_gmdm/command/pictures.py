"""The commands `denoise` and `noise`: pictures without their noise, and how much they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepinv_gmdm.command.files import plan, read_noisy, save, shared_pages
from deepinv_gmdm.command.noise import describe, level_map, said_noise
from deepinv_gmdm.command.output_folder import OutputFolder
from deepinv_gmdm.command.progress import watched
from deepinv_gmdm.command.words import DENOISE, NOISE, check_options, existing, switch
from deepinv_gmdm.models import GMDMDenoiser
from deepinv_gmdm.noise_estimator import GMDMNoiseEstimator
from gmdm_prior.files.formats.picture import Picture, parse_range
from gmdm_prior.files.pictures import save_picture
from gmdm_prior.messages import unknown
from gmdm_prior.noise.estimate.estimate import KINDS
from gmdm_prior.sigma import parse

ESTIMATED = ("auto", "map")
SMALL = 40  # side of a corner in pixels, on which the steps of a denoiser are counted


def denoise(words: str | Sequence[str], options: Mapping[str, Any]) -> list[Path]:
    """Denoise picture files; the command `denoise`.

    Args:
        words: the noisy pictures: files or patterns of them.
        options: if wanted `sigma` (a level such as `25/255` in units of the data range; `auto`, the
            default, reads the noise off the picture, `map` a level for every pixel), `noise` (its
            kind with `sigma=auto`: `white`, `correlated`, `poisson` or `auto`), `weights` (default:
            `gray`), `method`, `out`, `data_range`, `pages`, `axis`, `key`, `overwrite`.

    Returns:
        Where the results were written: `out`, in that folder, else in the working directory as
        `NAME-denoised` with the suffix of the picture.

    Raises:
        ValueError: for bad input, in one sentence.
        OSError: where the result cannot be written.
    """
    check_options(options, DENOISE)
    sigma, kind = options.get("sigma", "auto"), _kind(options)
    if kind != "auto" and sigma != "auto":
        raise ValueError(f"noise={kind} says which noise to look for; give it with sigma=auto")
    level = sigma if sigma in ESTIMATED else parse(sigma, "sigma", _white(options))
    sources = existing([words] if isinstance(words, str) else words)
    targets = plan(sources, options.get("out"), "-denoised", switch(options, "overwrite"))
    shared = shared_pages(options)
    weights = options.get("weights") or "gray"
    denoiser = GMDMDenoiser(weights, method=options.get("method"), sigma="estimate", noise=kind)
    for source, target in zip(sources, targets, strict=True):
        with OutputFolder(target.parent) as folder, torch.no_grad():
            picture = read_noisy(source, options)
            pages = _denoised(picture, source.name, denoiser, weights, level, shared)
            save(picture, pages, source, folder.aside / target.name, target.name)
            folder.publish()
        print(f"written to {target}")
    return targets


def _denoised(
    picture: Picture, name: str, denoiser: GMDMDenoiser, weights: str, level: Any, shared: bool
) -> list[Tensor]:
    """Every page without its noise."""
    noises: list[Any] = [level] * picture.pages
    if level in ESTIMATED:

        def read(index: int) -> Any:
            if index < 0:
                return _map_of_a_corner(picture)
            page = picture.page(index)
            what = "estimated noise" if picture.pages == 1 else f"page {index + 1}: estimated noise"
            if level == "map":
                return level_map(weights, page, denoiser.model, what)
            return said_noise(denoiser.estimator, page, what)

        small = -1 if level == "map" else None
        noises = watched(f"noise of {name}", read, list(range(picture.pages)), small)
        if shared:
            noises = [_middle(noises)] * picture.pages

    def clean(index: int) -> Tensor:
        if index < 0:  # a corner, whose steps are counted
            return denoiser(picture.page(0)[..., :SMALL, :SMALL], 0.1)
        if level == "auto":
            return denoiser.without(picture.page(index), noises[index])
        return denoiser(picture.page(index), noises[index])

    return watched(f"denoising {name}", clean, list(range(picture.pages)), small=-1)


def _map_of_a_corner(picture: Picture) -> Tensor:
    """The map of a small part, on which the steps of a map are counted."""
    return GMDMNoiseEstimator(per_pixel=True)(picture.page(0)[..., :SMALL, :SMALL])


def _middle(noises: list[Any]) -> Any:
    """Give the median of maps, and of noises the one of the median level."""
    if isinstance(noises[0], Tensor):
        return torch.stack(noises).median(0).values
    return sorted(noises, key=lambda noise: float(noise.sigma[0]))[(len(noises) - 1) // 2]


def _white(options: Mapping[str, Any]) -> float:
    """Guess what a level above 1 was to be divided by."""
    given = parse_range(options.get("data_range"))
    return given[1] - given[0] if isinstance(given, tuple) else 255.0


def noise(words: str | Sequence[str], options: Mapping[str, Any]) -> None:
    """Print what the noise of picture files is like; the command `noise`.

    Args:
        words: the noisy pictures: files or patterns of them.
        options: if wanted `map` (`true`: the level of every pixel too, drawn beside the picture,
            with autocovariance and curve), `noise` (its kind, if it is known), `weights`, the
            drawing's `out` (else `NAME-noise.png` in the working directory), `data_range`, `axis`,
            `key`, `overwrite`.

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
    weights, kind = options.get("weights"), _kind(options)
    for source, target in zip(sources, targets, strict=True):
        picture = read_noisy(source, options)
        noun = "noise" if len(sources) == 1 else f"{source}: noise"
        work = partial(_described, picture, weights, kind, drawn, noun)
        pages = list(range(picture.pages))
        if not drawn:
            watched(f"noise of {source.name}", work, pages)
            continue
        if picture.pages > 1:
            raise ValueError(f"{source} has {picture.pages} pages; a map is drawn of one picture")
        with OutputFolder(target.parent) as folder:
            figure = watched(f"noise map of {source.name}", work, pages, small=-1)[0]
            save_picture(figure, folder.aside / target.name)
            folder.publish()
        print(f"written to {target}")


def _described(
    picture: Picture, weights: str | None, kind: str, drawn: bool, noun: str, index: int
) -> Tensor | None:
    """What is said of one page, and drawn; of page -1 the map of a corner."""
    if index < 0:
        return _map_of_a_corner(picture)
    what = noun if picture.pages == 1 else f"page {index + 1}: {noun}"
    return describe(picture.page(index), weights, kind, drawn, what)


def _kind(options: Mapping[str, Any]) -> str:
    """The kind of noise that was asked for."""
    kind = str(options.get("noise", "auto"))
    if kind not in KINDS:
        raise ValueError(unknown("noise", kind, KINDS))
    return kind
