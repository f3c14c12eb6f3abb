"""What `fit` is told: every setting with its default, unit and meaning.

A setting of `None` stands for a default that depends on model and method; `FitSettings.resolved`
fills it in and refuses what cannot be trained. The defaults of `model="patch"` are the paper's.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from gmdm_prior import symmetry
from gmdm_prior.densities.wavelet.transform import filter_bank
from gmdm_prior.training.data.noise import ESTIMATED, is_table

METHODS = {
    "mixture": ("em", "em+score", "score", "hqs"),
    "patch": ("ipalm", "score", "hqs"),
    "wavelet": ("em",),
    "conv": ("score",),
    "opponent": ("em", "em+score", "score", "hqs"),
}
FROM_INIT = ("score", "hqs")  # methods that go on from a model
STARTS = ("random", "likelihood")
PATCH_SIZE = {"mixture": 8, "patch": 7, "wavelet": 8, "conv": 64, "opponent": 8}
STEPS = {"em": 12, "em+score": 160, "score": 160, "hqs": 300, "ipalm": 100_000}
EM_ITERATIONS = 12  # of the tied mixture, where score matching follows
CHECKPOINT_EVERY = {"em": 1, "em+score": 10, "score": 10, "hqs": 10, "ipalm": 1000}
CONV_STEPS, CONV_MEASURE_EVERY = 1000, 100  # which are short
CONV_SIZE = 20  # the border of a crop is not scored
MEASURE_EVERY = {"em": 1, "em+score": 20, "score": 20, "hqs": 20, "ipalm": 500}
USED_BY = {  # settings that only some methods look at
    "bases": ("em", "em+score"),
    "classes": ("em", "em+score"),
    "components": ("em", "em+score"),
    "patches": ("em", "em+score"),
    "crops": ("em+score", "score", "hqs"),
    "batch_size": ("ipalm",),
    "start": ("ipalm",),
    "sigma_min": ("ipalm",),
    "sigma_max": ("ipalm",),
}


def setting(default: Any, meaning: str, shown: str | None = None) -> Any:
    """A dataclass field with its meaning, and how `--help` shows its default."""
    shown = str(default).lower() if isinstance(default, bool) else shown or str(default)
    return dataclasses.field(default=default, metadata={"meaning": meaning, "shown": shown})


@dataclass
class FitSettings:
    """Settings of `fit`; units and meanings are in the fields' metadata."""

    model: str = setting(
        "mixture",
        "mixture (PatchMixture), opponent (OpponentModel: one of luminance and two of differences "
        "of colours), patch (PatchModel, the paper's product of experts), wavelet "
        "(WaveletModel, a density of whole images: a mixture of wavelet trees) or conv "
        "(ConvolutionalModel, the paper's experts on cyclic filters)",
    )
    method: str | None = setting(
        None,
        "em (likelihood), em+score, score (score matching of the image denoiser from init) or hqs "
        "(the same through half-quadratic splitting) for model=mixture and opponent; ipalm (the "
        "paper's), score or hqs for model=patch; score (denoising score matching from a start of "
        "its own) for model=conv",
        "em, for model=patch ipalm, for model=conv score",
    )
    patch_size: int | None = setting(
        None,
        "side of a patch, pixels; for model=wavelet 2^levels, for model=conv that of the grid of "
        "frequencies and of the crops",
        "8, for model=patch 7, for model=conv 64, from init its own",
    )
    channels: int = setting(1, "1 (gray) or 3 (colour)", "1, for model=opponent 3")
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
    crops: int = setting(36, "image crops per score-matching step, a quarter at each noise level")
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

    def resolved(self) -> FitSettings:
        """A checked copy without `None`, but for `components`, which needs the number of patches.

        Raises:
            ValueError: for what cannot be trained, with the remedy.
        """
        _choice("model", self.model, tuple(METHODS))
        method = METHODS[self.model][0] if self.method is None else self.method
        every = tuple(dict.fromkeys(m for methods in METHODS.values() for m in methods))
        _choice("method", method, every)
        _choice("start", self.start, STARTS)
        if method not in METHODS[self.model]:
            raise ValueError(
                f"method={method} does not fit model={self.model}, whose methods are "
                f"{', '.join(METHODS[self.model])}"
            )
        defaults = {
            "method": method,
            "patch_size": PATCH_SIZE[self.model],
            "steps": CONV_STEPS if self.model == "conv" else STEPS[method],
            "checkpoint_every": 1000,
            "measure_every": CONV_MEASURE_EVERY if self.model == "conv" else MEASURE_EVERY[method],
        }
        missing = {k: v for k, v in defaults.items() if getattr(self, k) is None}
        settings = dataclasses.replace(self, **missing)
        if settings.model == "opponent":
            settings.channels = 3
        settings.checkpoint_every = _effective(settings)
        _check_numbers(settings)
        return settings

    @property
    def iterations(self) -> int:
        """EM iterations of the tied mixture."""
        return self.steps if self.method == "em" else EM_ITERATIONS


def _effective(settings: FitSettings) -> int:
    """Steps between checkpoints: EM's and score matching's are slow, so they have more of them."""
    asked = settings.checkpoint_every
    if settings.method == "ipalm" or asked < 1:
        return asked
    return min(asked, CHECKPOINT_EVERY[settings.method])


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def _check_numbers(settings: FitSettings) -> None:
    least = {"patch_size": 2, "bases": 1, "classes": 1, "patches": 1, "steps": 1, "batch_size": 1}
    least |= {"crops": 4, "checkpoint_every": 1, "measure_every": 1, "seed": 0}
    least |= {"octaves": 1, "orientations": 1}
    if settings.components is not None:
        least["components"] = 1
    for name, bound in least.items():
        if getattr(settings, name) < bound:
            raise ValueError(f"{name} must be at least {bound}; got {getattr(settings, name)}")
    if settings.channels not in (1, 3):
        raise ValueError(f"channels must be 1 (gray) or 3 (colour); got {settings.channels}")
    symmetry.group(settings.symmetries)
    if isinstance(settings.noise, str):
        if settings.noise not in ESTIMATED and not is_table(settings.noise):
            raise ValueError(
                f"noise must be a number, 'auto', 'map' or a table 'levels.csv'; got "
                f"{settings.noise!r}"
            )
    elif not 0 <= settings.noise < math.inf:
        raise ValueError(f"noise must be a standard deviation of at least 0; got {settings.noise}")
    if settings.noise and settings.method != "em":
        shown = settings.noise if isinstance(settings.noise, str) else f"{settings.noise:g}"
        raise ValueError(
            f"method={settings.method} needs clean images, so noise must be 0; got "
            f"{shown}: method=em learns from noisy ones"
        )
    if not 0 <= settings.sigma_min <= settings.sigma_max < math.inf or settings.sigma_max == 0:
        raise ValueError(
            "sigma_min and sigma_max must be noise levels with 0 <= sigma_min <= sigma_max, "
            f"sigma_max > 0; got {settings.sigma_min:g} and {settings.sigma_max:g}"
        )
    if settings.model == "opponent" and isinstance(settings.noise, str):
        raise ValueError(
            f"noise must be one known level with model=opponent; got {settings.noise}: levels that "
            "differ or are estimated can be learnt from by model=mixture"
        )
    if settings.model == "wavelet":
        _check_wavelet(settings)
    if settings.model == "conv":
        _check_conv(settings)
    if settings.method in ("em", "em+score"):
        _check_classes(settings)


def _check_wavelet(settings: FitSettings) -> None:
    if settings.channels != 1:
        raise ValueError(
            f"channels must be 1 with model=wavelet; got {settings.channels}. It takes channels "
            "one by one"
        )
    if settings.patch_size & (settings.patch_size - 1):
        raise ValueError(
            "patch_size must be 2^levels with model=wavelet (2, 4, 8, 16); got "
            f"{settings.patch_size}"
        )
    if isinstance(settings.noise, str):
        raise ValueError(
            f"noise must be one known level with model=wavelet; got {settings.noise}: levels that "
            "differ or are estimated can be learnt from by model=mixture"
        )
    filter_bank(settings.wavelet)


def _check_conv(settings: FitSettings) -> None:
    if settings.channels != 1:
        raise ValueError(
            f"channels must be 1 with model=conv; got {settings.channels}. It takes channels one "
            "by one"
        )
    if settings.patch_size % 2 or settings.patch_size < CONV_SIZE:
        raise ValueError(
            f"patch_size must be even and at least {CONV_SIZE} with model=conv, where it is the "
            f"side of the grid of frequencies; got {settings.patch_size}"
        )
    most = int(math.log2(settings.patch_size)) - 2
    if settings.octaves > most:
        raise ValueError(
            f"octaves must be at most {most} on a grid of patch_size={settings.patch_size}, or the "
            f"coarsest have no frequency; got {settings.octaves}"
        )


def _check_classes(settings: FitSettings) -> None:
    if settings.classes < settings.bases:
        raise ValueError(
            f"classes must be at least bases; got classes={settings.classes} and "
            f"bases={settings.bases}"
        )
    if settings.components is not None and settings.components < settings.classes:
        raise ValueError(
            f"components must be at least classes, which are merged from them; got "
            f"components={settings.components} and classes={settings.classes}"
        )
