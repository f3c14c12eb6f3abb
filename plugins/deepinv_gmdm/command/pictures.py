"""The commands `denoise` and `noise`: pictures without their noise, and how much they have."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepinv_gmdm.command.asked import ESTIMATED, Asked
from deepinv_gmdm.command.files import save
from deepinv_gmdm.command.noise import describe, level_map, said_noise
from deepinv_gmdm.command.output_folder import OutputFolder
from deepinv_gmdm.command.progress import watched
from deepinv_gmdm.command.words import switch
from deepinv_gmdm.models import GMDMDenoiser
from deepinv_gmdm.noise_estimator import GMDMNoiseEstimator
from gmdm_prior.files.formats.picture import Picture
from gmdm_prior.files.pictures import save_picture

SMALL = 40  # side of a corner in pixels, on which the steps of a denoiser are counted


def denoise(asked: Asked) -> list[Path]:
    """Denoise picture files; the command `denoise`.

    Returns:
        Where the results were written: `out`, in that folder, else in the working directory as
        `NAME-denoised` with the suffix of the picture.

    Raises:
        ValueError: for bad input, in one sentence.
        OSError: where the result cannot be written.
    """
    weights = asked.options.get("weights") or "gray"
    method = asked.options.get("method")
    adapt = switch(asked.options, "adapt")
    denoiser = GMDMDenoiser(weights, method, sigma="estimate", noise=asked.kind, adapt=adapt)
    for index, (source, target) in enumerate(zip(asked.sources, asked.targets, strict=True)):
        with OutputFolder(target.parent) as folder, torch.no_grad():
            picture = asked.picture(index)
            pages = _denoised(picture, source.name, denoiser, weights, asked.level, asked.shared)
            save(picture, pages, source, folder.aside / target.name, target.name)
            folder.publish()
        print(f"written to {target}")
    return asked.targets


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


def noise(asked: Asked) -> None:
    """Print what the noise of picture files is like; the command `noise`.

    Raises:
        ValueError: for bad input, in one sentence.
        OSError: where the drawing cannot be written.
    """
    weights, drawn = asked.options.get("weights"), asked.drawn
    for index, source in enumerate(asked.sources):
        picture = asked.picture(index)
        noun = "noise" if len(asked.sources) == 1 else f"{source}: noise"
        work = partial(_described, picture, weights, asked.kind, drawn, noun)
        pages = list(range(picture.pages))
        if not drawn:
            watched(f"noise of {source.name}", work, pages)
            continue
        target = asked.targets[index]
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
