"""`fit`: training as a sequence of step records, with checkpoints.

    for record in fit(images, held_out, FitSettings(method="em")):
        print(record.step, record.loss, record.psnr)
    gm.save(record.model, "mine.safetensors")

The loop draws nothing, prints nothing and keeps no global state. When it ends early, for whatever
reason (a KeyboardInterrupt, an error, a caller that closes the generator), the state after the last
completed step is written as a checkpoint on the way out.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.training.checkpoint import Checkpoint, Checkpoints, disagreement
from gmdm_prior.training.data.noise import image_sigmas
from gmdm_prior.training.data.pool import ImagePool, Images, usable
from gmdm_prior.training.measure import HeldOut
from gmdm_prior.training.methods import KINDS, method_of, of_init, resolved
from gmdm_prior.training.settings import FitSettings
from gmdm_prior.training.trainers import Trainer


@dataclass(frozen=True)
class StepRecord:
    """Holds what one step reports.

    Attributes:
        step: completed steps.
        steps: in all.
        stage: `"full"`, `"tied"` (EM), `"score"`, `"hqs"` or `"ipalm"`.
        loss: of the training data of this step: EM, minus the log-likelihood in nats per dimension;
            score matching of the image denoiser, minus a PSNR in dB; iPALM, Eq. 4 per patch.
        held_out_loss: the same on held-out images; None between measurements.
        psnr: of `PatchAveraging` on held-out crops at 25/255, in dB; None between measurements, and
            where the images are noisy.
        seconds: duration of the step.
        model: the model after this step, frozen; None between measurements. The last record has it.
    """

    step: int
    steps: int
    stage: str
    loss: float
    held_out_loss: float | None
    psnr: float | None
    seconds: float
    model: DensityModel | None


def fit(
    images: Images,
    held_out: Images,
    settings: FitSettings | None = None,
    *,
    init: DensityModel | None = None,
    checkpoints: Checkpoints | None = None,
    resume: Checkpoint | None = None,
) -> Iterator[StepRecord]:
    """Train a model; yields a record after every step.

    Args:
        images: training images (C, H, W) with values in [0, 1], as `read_images` returns them or in
            a sequence.
        held_out: images that are only measured on.
        settings: what to train; None is a mixture by EM.
        init: the `PatchMixture`, `PatchModel` or `OpponentModel` that method=score or hqs starts
            from; it decides model, patch_size, channels and, for a mixture, symmetries.
        checkpoints: where to write them; None writes none.
        resume: go on from here, as `checkpoints.latest()` gives it: to the same bits as a run that
            never stopped, on one machine with one number of threads.

    Yields:
        A `StepRecord` after every step; the last one has the model. A run that was complete yields
        one record.

    Raises:
        ValueError: settings that cannot be trained, images too small or of other channels, or a
            checkpoint of other settings or images (both values are named).
        FloatingPointError: a loss that is not finite; the last good state is a checkpoint.
        OSError: a checkpoint that cannot be written; the older ones stay.
    """
    settings = resolved(settings or FitSettings())
    if init is not None and "init" in method_of(settings).uses:
        settings = of_init(settings, init)
    method = method_of(settings)
    pool = image_pool(images, settings, training=True)
    trainer = method.make(pool, settings, init)
    if method.needs_init and init is None and resume is None:
        raise ValueError(f"method={settings.method} needs init, the model to start from")
    facts = dataclasses.asdict(settings) | {"images": pool.fingerprint}
    if resume is not None:
        differing = disagreement(resume.settings, facts)
        if differing:
            raise ValueError(f"the checkpoint is of another run: {differing}")
        trainer.restore(resume.state)
    measured = method.draw(image_pool(held_out, settings, training=False), settings)
    return _steps(trainer, measured, settings, facts, checkpoints, resume)


# Long: the loop and its way out, which must see one another's state.
def _steps(
    trainer: Trainer,
    held_out: HeldOut,
    settings: FitSettings,
    facts: dict[str, Any],
    checkpoints: Checkpoints | None,
    resume: Checkpoint | None,
) -> Iterator[StepRecord]:
    saved = 0 if resume is None else resume.step
    kept: tuple[int, dict[str, Any] | None] = (trainer.step, None)

    def save() -> None:
        nonlocal saved
        step, state = kept
        if checkpoints is None or state is None or step == saved:
            return
        try:
            checkpoints.save(Checkpoint(step, facts, state))
        except OSError:  # what the disk has not taken now it will not take on the way out
            saved = step
            raise
        saved = step

    try:
        if trainer.step >= trainer.steps:
            yield _record(trainer, held_out, float("nan"), 0.0, measured=True)
        while trainer.step < trainer.steps:
            begun = time.perf_counter()
            try:
                loss = trainer.advance()
            except FloatingPointError as error:
                raise FloatingPointError(f"step {trainer.step + 1}: {error}") from None
            kept = (trainer.step, trainer.state())
            last = trainer.step == trainer.steps
            seconds = time.perf_counter() - begun
            measured = last or trainer.step % settings.measure_every == 0
            yield _record(trainer, held_out, loss, seconds, measured)
            if last or trainer.step % settings.checkpoint_every == 0:
                save()
    finally:
        save()


def _record(
    trainer: Trainer,
    held_out: HeldOut,
    loss: float,
    seconds: float,
    measured: bool,
) -> StepRecord:
    model = trainer.model() if measured else None
    return StepRecord(
        step=trainer.step,
        steps=trainer.steps,
        stage=trainer.stage,
        loss=loss,
        held_out_loss=None if model is None else trainer.held_out_loss(held_out, model),
        psnr=None if model is None else held_out.psnr(model),
        seconds=seconds,
        model=model,
    )


def image_pool(images: Images, settings: FitSettings, training: bool) -> ImagePool:
    """The images that can be used, and the levels of their noise where `settings` asks for them.

    Raises:
        ValueError: images too small or of other channels, or a table of levels that cannot be used.
    """
    size, what = settings.patch_size, KINDS[settings.model].extent
    if training and method_of(settings).whole_crops:
        size, what = 2 * size - 1, "score matching"
    kept: dict[Any, Tensor] = usable(images, size, f"{what} with patch_size={settings.patch_size}")
    wrong = [tuple(i.shape) for i in kept.values() if i.ndim != 3 or len(i) != settings.channels]
    if wrong:
        raise ValueError(
            f"images must be (C, H, W) with C = channels = {settings.channels}; got {wrong[0]}"
        )
    return ImagePool.of(kept.values(), image_sigmas(kept, settings.noise))
