"""How each kind of model is trained: a row of `KINDS` says it, and nothing else does.

To add a kind of density, write its trainer (`trainers.Trainer`) and give it a row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.densities.product import PatchModel
from gmdm_prior.training import measure
from gmdm_prior.training.data.pool import ImagePool, step_generator
from gmdm_prior.training.ipalm.product import ProductTrainer
from gmdm_prior.training.likelihood.trainer import LikelihoodTrainer, em_settings
from gmdm_prior.training.likelihood.wavelet import WaveletTrainer, check_wavelet, held_out_tiles
from gmdm_prior.training.measure import HeldOut
from gmdm_prior.training.score.convolutional import (
    ConvolutionalTrainer,
    check_convolutional,
    held_out_crops,
)
from gmdm_prior.training.score.image_denoiser import ScoreTrainer
from gmdm_prior.training.score.through_operators import MixTrainer
from gmdm_prior.training.settings import FitSettings, check_numbers, choice
from gmdm_prior.training.trainers import LikelihoodThenScore, Trainer

HQS_CROP = 128  # pixels: its steps reach far, and at the border of a crop they see reflections
SHOWN, SHOWN_STREAM = 16_384, 8  # patches in the report, and their stream of `step_generator`


def nothing(settings: FitSettings) -> None:
    """The check of what has no settings of its own."""


Shown = Callable[[DensityModel, HeldOut, ImagePool, FitSettings], tuple[DensityModel, Tensor]]


def sampled(held_out: HeldOut, pool: ImagePool, settings: FitSettings) -> Tensor:
    """Patches of held-out images for a report."""
    generator = step_generator(settings.seed, SHOWN_STREAM)
    return pool.patches(SHOWN, settings.patch_size, "none", generator)


def itself(model: DensityModel, *drawn) -> tuple[DensityModel, Tensor]:
    """A density and its patches, for a report."""
    return model, sampled(*drawn)


@dataclass(frozen=True)
class Method:
    """One way to train a kind of model.

    Attributes:
        make: makes the trainer, from the images, the settings and the model to start from.
        steps: how many, if nothing else is asked for.
        uses: settings that it looks at and other methods do not.
        check: refuses settings that it cannot take.
        noise: what it can learn from: `"none"` is clean images, `"one"` known level, or `"any"`.
        needs_init: whether it must be given a model to start from.
        whole_crops: whether training images must have crops with an interior, of 2 b - 1 pixels.
        several: whether several processes can share a step.
        measure_every: steps between measurements.
        checkpoint_every: at most so many steps between checkpoints; None takes any number.
        draw: what is measured on held-out images.
    """

    make: Callable[[ImagePool, FitSettings, Any], Trainer]
    steps: int
    uses: frozenset[str]
    check: Callable[[FitSettings], object] = nothing
    noise: str = "none"
    needs_init: bool = False
    whole_crops: bool = False
    several: bool = True
    measure_every: int = 20
    checkpoint_every: int | None = 10
    draw: Callable[[ImagePool, FitSettings], HeldOut] = measure.draw


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        methods: by name; the first is taken if no other is asked for.
        patch_size: side of a patch, if no other is asked for.
        start: the class of the models that its score matching can start from.
        init: weights that score matching starts from on the command line.
        check: refuses settings that it cannot take.
        extent: what must fit into an image.
        psnr: what the PSNR is that of, as a run says when it begins.
        card: what the figures on a model's card are.
        noisy_card: the same where the images are noisy; None for no difference.
        shown: the model and the patches (N, C, b, b) in the report.
    """

    methods: dict[str, Method]
    patch_size: int
    start: type[DensityModel] | None = None
    init: str | None = None
    check: Callable[[FitSettings], None] = nothing
    extent: str = "a patch"
    psnr: str = "one step of patch averaging on crops of held-out images"
    card: str = "nats per zero-mean dimension; PSNR in dB of PatchAveraging on crops"
    noisy_card: str | None = None
    shown: Shown = itself

    def announced(self, noisy: bool) -> str:
        """What the numbers of a run are, as it says when it begins."""
        if noisy:
            return "held-out loss is minus the log-likelihood of noisy patches, nats per dimension"
        return f"PSNR is that of {self.psnr} at noise 25/255"

    def on_card(self, noisy: bool) -> str:
        """What the figures on the card are."""
        return self.noisy_card or self.card if noisy else self.card


EM_USES = frozenset({"bases", "classes", "components", "patches"})
EM = Method(
    lambda pool, settings, init: LikelihoodTrainer(pool, settings, settings.steps),
    steps=12,
    uses=EM_USES,
    check=em_settings,
    noise="any",
    measure_every=1,
    checkpoint_every=1,
)
EM_AND_SCORE = Method(
    lambda pool, settings, init: LikelihoodThenScore(pool, settings),
    steps=160,
    uses=EM_USES | {"crops"},
    check=em_settings,
    whole_crops=True,
)
SCORE = Method(ScoreTrainer, steps=160, uses=frozenset({"crops", "init"}), whole_crops=True)
HQS = dataclasses.replace(
    SCORE,
    make=partial(ScoreTrainer, stage="hqs"),
    steps=300,
    draw=partial(measure.draw, crop=HQS_CROP),
)


def hqs_of_mixture(
    pool: ImagePool, settings: FitSettings, init: PatchMixture | None
) -> ScoreTrainer:
    """Training through half-quadratic splitting that denoises, or that solves inverse problems."""
    trainer = MixTrainer if settings.physics == "mix" else ScoreTrainer
    return trainer(pool, settings, init, stage="hqs")


HQS_OF_MIXTURE = dataclasses.replace(
    HQS, make=hqs_of_mixture, uses=HQS.uses | {"physics"}, needs_init=True
)
IPALM = Method(
    lambda pool, settings, init: ProductTrainer(pool, settings),
    steps=100_000,
    uses=frozenset({"batch_size", "start", "sigma_min", "sigma_max"}),
    several=False,
    measure_every=500,
    checkpoint_every=None,
)
WAVELET_EM = dataclasses.replace(
    EM,
    make=lambda pool, settings, init: WaveletTrainer(pool, settings),
    uses=EM_USES | {"wavelet"},
    noise="one",
    draw=held_out_tiles,
)
CONVOLUTIONAL_SCORE = Method(
    lambda pool, settings, init: ConvolutionalTrainer(pool, settings),
    steps=1000,
    uses=frozenset({"crops", "octaves", "orientations", "init"}),
    several=False,
    measure_every=100,
    draw=held_out_crops,
)


def started(method: Method) -> Method:
    """The method, where nothing but a model that is given can be the start."""
    return dataclasses.replace(method, needs_init=True)


KINDS = {
    "mixture": Kind(
        {"em": EM, "em+score": EM_AND_SCORE, "score": started(SCORE), "hqs": HQS_OF_MIXTURE},
        patch_size=8,
        start=PatchMixture,
        init="gray",
    ),
    "patch": Kind({"ipalm": IPALM, "score": SCORE, "hqs": HQS}, patch_size=7, start=PatchModel),
    "wavelet": Kind(
        {"em": WAVELET_EM},
        patch_size=8,
        check=check_wavelet,
        psnr="the posterior mean of held-out images",
        card="bits per 8-bit pixel and PSNR in dB of the posterior mean, on parts of whole images",
        noisy_card="nats per pixel of noisy images",
        shown=lambda model, held_out, *_: (model.experts, held_out.patches),
    ),
    "conv": Kind(
        {"score": CONVOLUTIONAL_SCORE},
        patch_size=64,
        check=check_convolutional,
        extent="the grid",
        psnr="Tweedie's formula on crops of held-out images",
        card="PSNR in dB of Tweedie's formula on crops, less a border",
        shown=lambda model, held_out, *_: (model, held_out.patches),
    ),
}


def method_of(settings: FitSettings) -> Method:
    """The row of a resolved model and method."""
    return KINDS[settings.model].methods[settings.method]


def every_method() -> list[Method]:
    """The methods of all kinds."""
    return [method for kind in KINDS.values() for method in kind.methods.values()]


def resolved(settings: FitSettings) -> FitSettings:
    """A checked copy without `None`, but for `components`, which needs the number of patches.

    Raises:
        ValueError: for what cannot be trained, with the remedy.
    """
    choice("model", settings.model, KINDS)
    kind = KINDS[settings.model]
    name = next(iter(kind.methods)) if settings.method is None else settings.method
    choice("method", name, dict.fromkeys(m for k in KINDS.values() for m in k.methods))
    if name not in kind.methods:
        raise ValueError(
            f"method={name} does not fit model={settings.model}, whose methods are "
            f"{', '.join(kind.methods)}"
        )
    method = kind.methods[name]
    defaults: dict[str, Any] = {
        "method": name,
        "patch_size": kind.patch_size,
        "steps": method.steps,
        "checkpoint_every": 1000,
        "measure_every": method.measure_every,
    }
    missing = {k: v for k, v in defaults.items() if getattr(settings, k) is None}
    settings = dataclasses.replace(settings, **missing)
    most = method.checkpoint_every or settings.checkpoint_every
    settings.checkpoint_every = min(settings.checkpoint_every, most)
    check_numbers(settings)
    _check_noise(settings, method)
    _check_physics(settings)
    kind.check(settings)
    method.check(settings)
    return settings


def _check_noise(settings: FitSettings, method: Method) -> None:
    noise = settings.noise
    if noise and method.noise == "none":
        shown = noise if isinstance(noise, str) else f"{noise:g}"
        raise ValueError(
            f"method={settings.method} needs clean images, so noise must be 0; got {shown}: "
            "method=em learns from noisy ones"
        )
    if isinstance(noise, str) and method.noise == "one":
        raise ValueError(
            f"noise must be one known level with model={settings.model}; got {noise}: levels that "
            "differ or are estimated can be learnt from by model=mixture"
        )


def _check_physics(settings: FitSettings) -> None:
    if settings.physics != "none" and "physics" not in method_of(settings).uses:
        raise ValueError(
            f"physics={settings.physics} needs method=hqs and model=mixture; got "
            f"method={settings.method} and model={settings.model}: leave physics out, or start "
            "from a mixture"
        )


def of_init(settings: FitSettings, init: DensityModel) -> FitSettings:
    """The settings with what the start of score matching decides.

    Raises:
        ValueError: the model is none that anything starts from.
    """
    name = next((n for n, k in KINDS.items() if k.start and isinstance(init, k.start)), None)
    if name is None or KINDS[settings.model].start is None:
        raise ValueError(
            "init must be a PatchMixture or a PatchModel, and model the same; "
            f"got a {type(init).__name__} and model={settings.model}. Other models begin by "
            "themselves"
        )
    changes: dict[str, Any] = {"patch_size": init.event_shape[-1], "channels": init.event_shape[0]}
    if isinstance(init, PatchMixture):
        changes["symmetries"] = init.symmetries
    settings = dataclasses.replace(settings, model=name, **changes)
    _check_physics(settings)
    return settings
