"""What `fit` is told: every setting with its default, unit and meaning.

A setting of `None` stands for a default that depends on model and method; `methods.resolved` fills
it in and refuses what cannot be trained. The defaults of `model="patch"` are the paper's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gmdm_prior import symmetry
from gmdm_prior.training.data.noise import ESTIMATED, is_table

STARTS = ("random", "likelihood")
PHYSICS = ("none", "mix")
LEAST = {"patch_size": 2, "patches": 1, "steps": 1, "batch_size": 1, "crops": 4, "seed": 0}
LEAST |= {"checkpoint_every": 1, "measure_every": 1, "octaves": 1, "orientations": 1}


def setting(default: Any, meaning: str, shown: str | None = None) -> Any:
    """A dataclass field with its meaning, and how `--help` shows its default."""
    shown = str(default).lower() if isinstance(default, bool) else shown or str(default)
    return dataclasses.field(default=default, metadata={"meaning": meaning, "shown": shown})


@dataclass
class FitSettings:
    """Settings of `fit`; units and meanings are in the fields' metadata."""

    model: str = setting(
        "mixture",
        "mixture (PatchMixture), patch (PatchModel, the paper's product of experts), wavelet "
        "(WaveletModel, a density of whole images: a mixture of wavelet trees) or conv "
        "(ConvolutionalModel, the paper's experts on cyclic filters)",
    )
    method: str | None = setting(
        None,
        "em (likelihood), em+score, score (score matching of the image denoiser from init) or hqs "
        "(the same through half-quadratic splitting) for model=mixture; ipalm (the paper's), score "
        "or hqs for model=patch; score (denoising score matching from a start of its own) for "
        "model=conv",
        "em, for model=patch ipalm, for model=conv score",
    )
    patch_size: int | None = setting(
        None,
        "side of a patch, pixels; for model=wavelet 2^levels, for model=conv that of the grid of "
        "frequencies and of the crops",
        "8, for model=patch 7, for model=conv 64, from init its own",
    )
    channels: int = setting(1, "1 (gray) or 3 (colour)")
    bases: int = setting(3, "orthonormal bases of the mixture")
    classes: int = setting(40, "classes of the mixture")
    components: int | None = setting(
        None,
        "Gaussians of the full-covariance mixture that the bases come from",
        "200, fewer for under 20000 patches",
    )
    symmetries: str = setting(
        "d4", "d4, flips (left-right) or none: of the model, and of the training patches"
    )
    wavelet: str = setting(
        "sym4", "orthogonal wavelet of model=wavelet, a name in PyWavelets: haar, db4, sym4, …"
    )
    octaves: int = setting(4, "bands of model=conv from fine to coarse, with one for the rest")
    orientations: int = setting(1, "filters of each octave of model=conv")
    noise: float | str = setting(
        0.0,
        "standard deviation of the noise in the images, [0, 1] units, e.g. 25/255; auto estimates "
        "one of each image, map one of each pixel; levels.csv has columns file and sigma; "
        "method=em only",
    )
    patches: int = setting(200_000, "training patches of EM; fewer if the images have fewer")
    steps: int | None = setting(
        None,
        "iPALM or score-matching steps; for em iterations of the mixture, which follow 12 of the "
        "full-covariance one",
        "em 12, score 160, hqs 300, ipalm 100000; for model=conv 1000",
    )
    start: str = setting(
        "random",
        "first iPALM iterate: random (the paper's) or likelihood (principal axes of the patches, "
        "weights by EM)",
    )
    batch_size: int = setting(3200, "patches per iPALM step")
    crops: int = setting(
        36,
        "image crops per score-matching step, a quarter at each noise level; with physics=mix a "
        "quarter denoised, blurred, masked, down-sampled",
    )
    physics: str = setting(
        "none",
        "none, or mix: method=hqs trains a mixture through solving inverse problems with random "
        "blurs, masks and down-samplings",
    )
    sigma_min: float = setting(0.0, "least noise level of iPALM, [0, 1] units")
    sigma_max: float = setting(
        0.4, "largest noise level of iPALM, [0, 1] units; each patch's is uniform in between"
    )
    checkpoint_every: int | None = setting(
        None,
        "steps between checkpoints; em writes one after each, score matching at least every 10",
        "1000",
    )
    measure_every: int | None = setting(
        None,
        "steps between held-out measurements",
        "em 1, score and hqs 20, ipalm 500; em+score every 20, model=conv 100",
    )
    seed: int = setting(0, "of everything random")


def choice(name: str, value: Any, allowed: Iterable[str]) -> None:
    """Refuse a value that is none of a few."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def check_numbers(settings: FitSettings) -> None:
    """Refuse settings without `None` that no method can be trained with.

    Raises:
        ValueError: a setting out of its range.
    """
    choice("start", settings.start, STARTS)
    choice("physics", settings.physics, PHYSICS)
    for name, bound in LEAST.items():
        if getattr(settings, name) < bound:
            raise ValueError(f"{name} must be at least {bound}; got {getattr(settings, name)}")
    if settings.channels not in (1, 3):
        raise ValueError(f"channels must be 1 (gray) or 3 (colour); got {settings.channels}")
    symmetry.group(settings.symmetries)
    noise = settings.noise
    if isinstance(noise, str) and noise not in ESTIMATED and not is_table(noise):
        raise ValueError(
            f"noise must be a number, 'auto', 'map' or a table 'levels.csv'; got {noise!r}"
        )
    if not 0 <= settings.sigma_min <= settings.sigma_max < math.inf or settings.sigma_max == 0:
        raise ValueError(
            "sigma_min and sigma_max must be noise levels with 0 <= sigma_min <= sigma_max, "
            f"sigma_max > 0; got {settings.sigma_min:g} and {settings.sigma_max:g}"
        )
