"""The commands `denoise` and `noise`: a noisy picture without its noise, and how much it has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from deepinv_gmdm.command.noise import describe, level_map, said_noise
from deepinv_gmdm.command.output_folder import OutputFolder, expanded
from deepinv_gmdm.models import GMDMDenoiser
from gmdm_prior.files.pictures import check_suffix, read_picture, save_picture
from gmdm_prior.messages import unknown
from gmdm_prior.noise.estimate.estimate import KINDS
from gmdm_prior.sigma import parse

ESTIMATED = ("auto", "map")
SWITCH = {"true": True, "false": False}


def denoise(source: str, options: Mapping[str, Any]) -> Path:
    """Denoise a picture file; the command `denoise`.

    Args:
        source: the noisy picture.
        options: if wanted `sigma` (a level such as `25/255`; `auto`, the default, reads the noise
            off the picture, `map` a level for every pixel), `noise` (its kind with `sigma=auto`:
            `white`, `correlated`, `poisson` or `auto`), `weights` (default: `gray`), `method`,
            `out`.

    Returns:
        Where the result was written: `out`, else in the working directory as `NAME-denoised.png`.

    Raises:
        ValueError: for bad input, in one sentence.
        OSError: where the result cannot be written.
    """
    _check(options, ("sigma", "noise", "weights", "method", "out"))
    sigma, kind = options.get("sigma", "auto"), _kind(options)
    if kind != "auto" and sigma != "auto":
        raise ValueError(f"noise={kind} says which noise to look for; give it with sigma=auto")
    level = None if sigma in ESTIMATED else parse(sigma, "sigma")
    noisy, bits = read_picture(source)
    out = _target(options.get("out") or f"{Path(source).stem}-denoised.png")
    weights = options.get("weights") or "gray"
    denoiser = GMDMDenoiser(weights, method=options.get("method"), sigma="estimate", noise=kind)
    with OutputFolder(out.parent) as folder, torch.no_grad():
        if sigma == "auto":
            clean = denoiser.without(noisy, said_noise(denoiser.estimator, noisy))
        else:
            if level is None:
                level = level_map(weights, noisy, denoiser.model)
            clean = denoiser(noisy, level)
        save_picture(clean, folder.aside / out.name, bits)
        folder.publish()
    print(f"written to {out}")
    return out


def noise(source: str, options: Mapping[str, Any]) -> None:
    """Print what the noise of a picture file is like; the command `noise`.

    Args:
        source: the noisy picture.
        options: if wanted `map` (`true`: the level of every pixel too, drawn beside the picture,
            with autocovariance and curve), `noise` (its kind, if it is known), `weights`, and the
            drawing's `out` (else `NAME-noise.png` in the working directory).

    Raises:
        ValueError: for bad input, in one sentence.
        OSError: where the drawing cannot be written.
    """
    _check(options, ("map", "noise", "weights", "out"))
    word = str(options.get("map", "false")).lower()
    if word not in SWITCH:
        raise ValueError(f"map={word} is neither true nor false")
    if "out" in options and not SWITCH[word]:
        raise ValueError("out is where the map is drawn: give map=true with it")
    noisy, _ = read_picture(source)
    out = _target(options.get("out") or f"{Path(source).stem}-noise.png")
    weights, kind = options.get("weights"), _kind(options)
    if not SWITCH[word]:
        describe(noisy, weights, kind, with_map=False)
        return
    with OutputFolder(out.parent) as folder:
        save_picture(describe(noisy, weights, kind, with_map=True), folder.aside / out.name)
        folder.publish()
    print(f"written to {out}")


def _kind(options: Mapping[str, Any]) -> str:
    """The kind of noise that was asked for."""
    kind = str(options.get("noise", "auto"))
    if kind not in KINDS:
        raise ValueError(unknown("noise", kind, KINDS))
    return kind


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
