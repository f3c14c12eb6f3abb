"""Score matching of a `ConvolutionalModel` (Eq. 4) at all noise levels, on crops of images.

    loss = 1/4 sum_i 10 log10 E ‖denoise(x + sigma n, sigma) − x‖²,

with log sigma uniform in each quarter of [log 5/255, log 100/255]. By Tweedie's formula the squared
error is Eq. 4; its logarithm weighs the levels alike, and the loss is minus a mean PSNR in dB.
Crops wrap around where images do not: a border is not scored. Adam, with rates that fall to zero as
a half cosine over the steps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from gmdm_prior.densities.convolutional.model import ConvolutionalModel
from gmdm_prior.files import safetensors as storage
from gmdm_prior.training.data.pool import ImagePool, step_generator
from gmdm_prior.training.score.adam import descend, load_moved, moved_state
from gmdm_prior.training.score.convolutional_start import band_pass_start
from gmdm_prior.training.score.moving_convolution import MovingConvolution
from gmdm_prior.training.settings import FitSettings

if TYPE_CHECKING:
    from gmdm_prior.training.convolutional_held_out import ConvolutionalHeldOut

LOWEST, HIGHEST, STRATA = 5 / 255, 100 / 255, 4
BORDER = 8  # pixels of a crop that are not scored
SPECTRUM_RATE, LOGIT_RATE = 2.5e-2, 1e-1
BETAS = (0.9, 0.98)
STREAM = 4  # of `step_generator`


class ConvolutionalTrainer:
    """Score matching, step by step; the loss is minus a PSNR in dB.

    Args:
        pool: training images of one channel.
        settings: `patch_size` is the side of the grid and of the crops; `octaves`, `orientations`,
            `crops`, `steps`, `seed`.
    """

    def __init__(self, pool: ImagePool, settings: FitSettings) -> None:
        self.steps, self.step, self.stage = settings.steps, 0, "score"
        self._pool, self._settings = pool, settings
        self._start: ConvolutionalModel | None = None

    def _begin(self, start: ConvolutionalModel) -> None:
        self._start, self._moving = start, MovingConvolution(start)
        spectrum = [self._moving.phase, self._moving.log_magnitude]
        self._optimiser = torch.optim.Adam(
            [
                {"params": spectrum, "rate": SPECTRUM_RATE},
                {"params": [self._moving.logits], "rate": LOGIT_RATE},
            ],
            betas=BETAS,
        )

    def advance(self) -> float:
        """One Adam step on fresh crops at four noise levels."""
        if self._start is None:
            self._begin(band_pass_start(self._pool, self._settings))
        generator = step_generator(self._settings.seed, STREAM, self.step)
        self._optimiser.zero_grad()
        total = 0.0
        for stratum in range(STRATA):
            place = (stratum + float(torch.rand((), generator=generator))) / STRATA
            loss = self._loss(LOWEST * (HIGHEST / LOWEST) ** place, generator) / STRATA
            loss.backward()
            total += float(loss.detach())
        if not math.isfinite(total):
            raise FloatingPointError(f"the loss is {total}")
        descend(self._optimiser, self._moving, self.step, self.steps)
        self.step += 1
        return total

    def _loss(self, sigma: float, generator: torch.Generator) -> torch.Tensor:
        side, symmetries = self._settings.patch_size, self._settings.symmetries
        count = max(1, self._settings.crops // STRATA)
        clean = torch.cat([self._pool.crop(side, symmetries, generator) for _ in range(count)])
        noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
        error = self._moving.denoise(noisy, sigma) - clean
        inner = slice(BORDER, -BORDER)
        return 10 * error[:, inner, inner].square().mean().log10()

    def state(self) -> dict[str, Any]:
        """The start, how far it has moved, and Adam's moments."""
        return moved_state(self.step, self._start, self._moving, self._optimiser)

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state, which brings its own start."""
        self._begin(storage.unpack(*state["start"]))
        self.step = state["step"]
        load_moved(state, self._moving, self._optimiser)

    def model(self) -> ConvolutionalModel | None:
        """The present model, float32; None before the first step."""
        return None if self._start is None else self._moving.snapshot()

    def held_out_loss(self, held_out: ConvolutionalHeldOut, model: ConvolutionalModel) -> float:
        """Minus the mean PSNR over a few levels, on held-out crops."""
        return held_out.loss(model)
