"""What the commands say of a picture's noise, and the drawing of it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import gmdm_prior as gm
from deepinv_gmdm.noise_estimator import DEFAULT_WEIGHTS, GMDMNoiseEstimator, noise_estimator_for
from gmdm_prior.noise.one_level import agreed_map, slope_and_offset

LAGS = 8  # pixels, drawn on each side


def said_noise(
    estimator: GMDMNoiseEstimator, noisy: Tensor, what: str = "estimated noise"
) -> gm.Noise:
    """The noise of a picture (1, C, H, W) in [0, 1], printed as `what`."""
    noise, notes = reading(estimator, noisy)
    say_level(noise, what)
    say_notes(notes)
    return noise


def level_map(
    weights: str, noisy: Tensor, model: nn.Module, what: str = "estimated noise"
) -> Tensor:
    """Levels of the pixels of a picture, (1, 1, H, W), printed as `what`.

    Args:
        weights: what the denoiser was made with.
        noisy: (1, C, H, W).
        model: the denoiser's.
        what: how the sentence begins.
    """
    levels, notes = reading(noise_estimator_for(weights, model, per_pixel=True), noisy)
    say_levels(levels, what)
    say_notes(notes)
    return levels


def describe(
    noisy: Tensor, weights: str | None, kind: str, with_map: bool, what: str = "noise"
) -> Tensor | None:
    """Print all that is read of a picture's noise; with a map, its drawing (1, 3, h, w)."""
    weights = weights or DEFAULT_WEIGHTS
    noise, notes = reading(GMDMNoiseEstimator(weights, kind=kind), noisy)
    say_level(noise, what)
    levels = None
    if with_map:
        levels, more = said_of(
            lambda: agreed_map(GMDMNoiseEstimator(weights, per_pixel=True), noisy, noise)
        )
        say_levels(levels, what)
        if not notes:  # they say more than what is said of levels of white noise
            notes = more
    for line in kind_of(noise):
        print(line)
    say_notes(notes)
    return None if levels is None else drawing(noisy, levels, noise)


def reading(estimator: GMDMNoiseEstimator, noisy: Tensor) -> tuple[Any, list[str]]:
    """The noise of a picture, or the map of its levels, and sentences about it."""
    found, notes = said_of(lambda: (estimator if estimator.per_pixel else estimator.noise)(noisy))
    notes += found.notes if isinstance(found, gm.Noise) else ()
    return found, list(dict.fromkeys(notes))


def said_of(work: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What comes of some work, and the warnings that it gave."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = work()
    return found, list(dict.fromkeys(str(warning.message) for warning in caught))


def say_level(noise: gm.Noise, what: str) -> None:
    """Print the level with its interval, in gray levels of 255 and in [0, 1]."""
    values = [float(v) for v in (noise.sigma[0], *(end[0] for end in noise.interval()))]
    gray = "{}/255 (95 %: {} to {})".format(*(f"{255 * v:.2f}" for v in values))
    plain = "{} (95 %: {} to {})".format(*(f"{v:.4f}" for v in values))
    print(f"{what} level {gray}; in [0, 1]: {plain}", flush=True)


def say_levels(levels: Tensor, what: str) -> None:
    """Print the range of a map."""
    values = [float(v) for v in (levels.min(), levels.median(), levels.max())]
    gray = "{0}/255 to {2}/255, median {1}/255".format(*(f"{255 * v:.2f}" for v in values))
    plain = "{0} to {2}, median {1}".format(*(f"{v:.4f}" for v in values))
    if values[0] == values[2]:
        gray, plain = f"uniform, {255 * values[0]:.2f}/255", f"{values[0]:.4f}"
    print(f"{what} levels {gray}; in [0, 1]: {plain}", flush=True)


def say_notes(notes: list[str]) -> None:
    """Print sentences on standard error."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def kind_of(noise: gm.Noise) -> list[str]:
    """Sentences about the kind of the noise of one picture."""
    line = slope_and_offset(noise)
    if line is not None:
        gain, offset = line
        return [
            f"it grows with brightness: sigma² = gain · brightness + offset in [0, 1], gain "
            f"{gain:.4g}, offset {offset:.4g}"
        ]
    if bool(noise.white[0]):
        return ["white: pixels are independent, and bright ones as noisy as dark ones"]
    planes = ["luminance", "red - blue", "green"] if noise.opponent else [None] * noise.channels
    return [
        f"correlated{'' if name is None else f', {name}'}: neighbours by {down:.2f} vertically "
        f"and {right:.2f} horizontally (lag 1)"
        for name, (down, right) in zip(planes, noise.lag1[0].tolist(), strict=True)
    ]


def drawing(noisy: Tensor, levels: Tensor, noise: gm.Noise) -> Tensor:
    """A figure in [0, 1], (1, 3, h, w): picture, map of levels, autocovariance and curve.

    Args:
        noisy: (1, C, H, W).
        levels: (1, 1, H, W).
        noise: of the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # late: it is slow to import
    from matplotlib.figure import Figure

    height, width = noisy.shape[-2:]
    figure = Figure(figsize=(9, 4 * height / width + 3.6), dpi=110, layout="constrained")
    rows = figure.subplots(2, 2, height_ratios=(4 * height / width, 3.2))
    (left, right), (lags, curve) = rows
    pixels = noisy[0].clamp(0, 1).permute(1, 2, 0).squeeze(-1).numpy()
    left.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    left.set_title("picture")
    top = max(255 * levels.max().item(), 1e-3)
    shown = right.imshow(255 * levels[0, 0].numpy(), vmin=0, vmax=top, interpolation="nearest")
    right.set_title("noise level · 255")
    figure.colorbar(shown, ax=right, shrink=0.85)
    for axes in (left, right):
        axes.set_axis_off()
    shown = _draw_lags(lags, noise)
    figure.colorbar(shown, ax=lags, shrink=0.85)
    _draw_curve(curve, noisy, noise)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = torch.tensor(np.asarray(canvas.buffer_rgba()))[..., :3]
    return drawn.movedim(-1, 0)[None] / 255


def _draw_lags(axes: Any, noise: gm.Noise) -> Any:
    """The correlation of pixels up to `LAGS` apart, in the first plane."""
    r = torch.zeros(2 * LAGS + 1, 2 * LAGS + 1, dtype=torch.float64)
    r[LAGS, LAGS] = 1.0
    if noise.autocovariance is not None:
        own, m = noise.autocovariance[0, 0], noise.reach
        n = min(m, LAGS)
        near = own[m - n : m + n + 1, m - n : m + n + 1] / own[m, m]
        r[LAGS - n : LAGS + n + 1, LAGS - n : LAGS + n + 1] = near
    ends = (-LAGS - 0.5, LAGS + 0.5, LAGS + 0.5, -LAGS - 0.5)
    plane = " of luminance" if noise.opponent else ""
    axes.set_title(f"correlation of the noise{plane}")
    axes.set_xlabel("pixels apart, horizontally")
    axes.set_ylabel("vertically")
    return axes.imshow(r.numpy(), cmap="RdBu_r", vmin=-1, vmax=1, extent=ends)


def _draw_curve(axes: Any, noisy: Tensor, noise: gm.Noise) -> None:
    """Level against brightness, with the level of the whole picture and its interval."""
    ends = [255 * float(v) for v in (noisy.min(), noisy.max())]
    ends[1] = max(ends[1], ends[0] + 1)
    low, high = (255 * float(end[0]) for end in noise.interval())
    axes.fill_between(ends, low, high, color="0.85", label="interval of the level")
    axes.plot(ends, [255 * float(noise.sigma[0])] * 2, "--", color="0.4", label="level")
    top = high
    if slope_and_offset(noise) is not None:
        curve = noise.curve[0]
        axes.plot(255 * curve.brightness.numpy(), 255 * curve.level.numpy(), label="curve")
        top = max(top, 255 * float(curve.level.max()))
    axes.set_ylim(0, max(1.15 * top, 1e-3))
    axes.set_xlim(*ends)
    axes.set_xlabel("brightness · 255")
    axes.set_title("noise level · 255")
    axes.legend(fontsize="small")
