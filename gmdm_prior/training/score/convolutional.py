"""Score matching of a `ConvolutionalModel` (Eq. 4) at all noise levels, on crops of images.

    loss = 1/4 sum_i 10 log10 E ‖denoise(x + sigma n, sigma) − x‖²,

with log sigma uniform in each quarter of [log 5/255, log 100/255]. By Tweedie's formula the squared
error is Eq. 4; its logarithm weighs the levels alike, and the loss is minus a mean PSNR in dB.
Crops wrap around where images do not: a border is not scored. Adam, with rates that fall to zero as
a half cosine over the steps.

For the experts a posterior mean is worked out at the nodes of a table that covers the responses at
hand, and read from it linearly: gradients go through the table, one exponential for each node and
component instead of each response and component.

**The start** has octaves of zero phase, and potentials fitted to their responses. For a Gaussian
band the potential of Eq. 11 is not the marginal of the response but wider by the ratio n / r of the
pixels to the frequencies of the band: each of the n pixels has its say about r unknowns. So the
weights are fitted, by EM (`likelihood.marginals`), to responses times sqrt(n / r), and xi is as
large as the experts can hold: the outer quantile of these lies just inside the outermost mean.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gmdm_prior.densities.convolutional.model import ConvolutionalModel
from gmdm_prior.densities.convolutional.spectra import polar_bands, sample_bands
from gmdm_prior.densities.convolutional.trainable import TrainableConvolution
from gmdm_prior.training.data.pool import ImagePool, step_generator
from gmdm_prior.training.likelihood.marginals import INSIDE, OUTER, fit_weights
from gmdm_prior.training.measure import STREAM as HELD_OUT_STREAM
from gmdm_prior.training.measure import HeldOut, own_denoiser
from gmdm_prior.training.score.adam import Descent, start_of
from gmdm_prior.training.settings import FitSettings

LOWEST, HIGHEST, STRATA = 5 / 255, 100 / 255, 4
BORDER = 8  # pixels of a crop that are not scored
SPECTRUM_RATE, LOGIT_RATE = 2.5e-2, 1e-1
STREAM = 4  # of `step_generator`
CELLS = 1024  # of a table, over the range of the responses of a batch
CROPS = 200  # that the start is fitted to
COMPONENTS, BOUND = 125, 1.0
QUANTILE_STRIDE = 7  # every seventh response is enough for the outer quantile
HELD_OUT, HELD_OUT_SIZE = 12, 128  # crops; pixels
SHOWN = 200  # patches in the report
LEAST_SIZE = 20  # of the grid: the border of a crop is not scored


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
        self._descent: Descent[ConvolutionalModel, TrainableConvolution] | None = None

    def _begin(self, start: ConvolutionalModel) -> None:
        rates = {"experts.logits": LOGIT_RATE}
        self._descent = Descent(start, TrainableConvolution, rates, SPECTRUM_RATE)

    def advance(self) -> float:
        """One Adam step on fresh crops at four noise levels."""
        if self._descent is None:
            self._begin(band_pass_start(self._pool, self._settings))
        generator = step_generator(self._settings.seed, STREAM, self.step)
        total = 0.0
        for stratum in range(STRATA):
            place = (stratum + float(torch.rand((), generator=generator))) / STRATA
            loss = self._loss(LOWEST * (HIGHEST / LOWEST) ** place, generator) / STRATA
            loss.backward()
            total += float(loss.detach())
        if not math.isfinite(total):
            raise FloatingPointError(f"the loss is {total}")
        self._descent.step(self.step, self.steps)
        self.step += 1
        return total

    def _loss(self, sigma: float, generator: torch.Generator) -> Tensor:
        side, symmetries = self._settings.patch_size, self._settings.symmetries
        count = max(1, self._settings.crops // STRATA)
        clean = torch.cat([self._pool.crop(side, symmetries, generator) for _ in range(count)])
        noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
        error = denoise(self._descent.model, noisy, sigma) - clean
        inner = slice(BORDER, -BORDER)
        return 10 * error[:, inner, inner].square().mean().log10()

    def state(self) -> dict[str, Any]:
        """The start, the free parameters, and Adam's moments."""
        return {"step": self.step, **self._descent.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state, which brings its own start."""
        self._begin(start_of(state))
        self.step = state["step"]
        self._descent.load(state)

    def model(self) -> ConvolutionalModel | None:
        """The present model, float32; None before the first step."""
        return None if self._descent is None else self._descent.snapshot()

    def held_out_loss(self, held_out: HeldOut, model: ConvolutionalModel) -> float:
        """Minus the mean PSNR over a few levels, on held-out crops."""
        return -held_out.mean_psnr(model)


def denoise(model: ConvolutionalModel, y: Tensor, sigma: float) -> Tensor:
    """`ConvolutionalModel.denoise` of planes (N, H, W) in float32, from tables, differentiable."""
    bands = sample_bands(model.owner, model.phase.float(), (y.shape[-2], y.shape[-1]))
    magnitude = model.magnitude.float()
    log_weights = torch.log_softmax(model.experts.logits, 1).float()
    means, base = model.experts.means.float(), model.experts.base_scale**2
    spectrum = torch.fft.rfft2(y)
    turned, total = spectrum * bands.phasor, spectrum * bands.mask(-1)
    for j, xi in enumerate(magnitude):
        mask = bands.mask(j)
        z = torch.fft.irfft2(turned * (xi * mask), bands.size)
        noise = xi.square() * (sigma * sigma)
        mean = _posterior_mean(z, log_weights[j], means, base, noise)
        total = total + torch.fft.rfft2(mean) * (mask * bands.phasor.conj()) / xi
    return torch.fft.irfft2(total, bands.size)


def _posterior_mean(
    z: Tensor, log_weights: Tensor, means: Tensor, base: float, noise: Tensor
) -> Tensor:
    """Posterior mean of clean responses, by a table over [-reach, reach]."""
    reach = float(z.detach().abs().max()) * (1 + 1e-5) + 1e-6
    nodes = torch.linspace(-reach, reach, CELLS + 1, dtype=z.dtype, device=z.device)
    s = base + noise
    weights = torch.softmax(log_weights - 0.5 * (nodes[:, None] - means).square() / s, 1)
    table = (base * nodes + noise * (weights @ means)) / s
    place = (z + reach) * (CELLS / (2 * reach))
    cell = place.detach().floor().clamp(0, CELLS - 1).long()
    return torch.lerp(table[cell], table[cell + 1], place - cell)


def band_pass_start(
    pool: ImagePool, settings: FitSettings, components: int = COMPONENTS
) -> ConvolutionalModel:
    """A float32 model on a grid of `patch_size`, with `octaves` and `orientations`.

    Raises:
        ValueError: the images have no contrast in some band.
    """
    grid = settings.patch_size
    owner = polar_bands(grid, settings.octaves, settings.orientations)
    phase = torch.zeros(owner.shape)
    bands = sample_bands(owner, phase, (grid, grid))
    generator = step_generator(settings.seed, 1)
    crops = [pool.crop(grid, settings.symmetries, generator)[0] for _ in range(CROPS)]
    spectra = torch.fft.rfft2(torch.stack(crops))
    responses = [
        torch.fft.irfft2(spectra * bands.mask(j), (grid, grid)).flatten() / bands.share(j).sqrt()
        for j in range(int(owner.max()) + 1)
    ]
    outer = torch.stack([z[::QUANTILE_STRIDE].abs().quantile(OUTER) for z in responses])
    if not bool((outer > 0).all()):
        raise ValueError("images must have contrast at every frequency; some have none at all")
    magnitude = INSIDE * BOUND / outer
    weights = [
        fit_weights((z * xi)[:, None], components, BOUND)
        for z, xi in zip(responses, magnitude, strict=True)
    ]
    logits = torch.cat(weights).log().float()
    return ConvolutionalModel(owner, phase, magnitude, logits, BOUND)


def held_out_crops(pool: ImagePool, settings: FitSettings) -> HeldOut:
    """Crops of the held-out images, which must be as large as the grid; they wrap around."""
    g = step_generator(settings.seed, HELD_OUT_STREAM)
    crops = [pool.crop(HELD_OUT_SIZE, "none", g) for _ in range(HELD_OUT)]
    return HeldOut(
        crops=crops,
        noise=[torch.randn(crop.shape, generator=g) for crop in crops],
        patches=pool.patches(SHOWN, settings.patch_size, "none", g),
        density=lambda held_out, model: {},  # it is not normalised
        denoiser=own_denoiser,
        border=BORDER,
    )


def check_convolutional(settings: FitSettings) -> None:
    """Refuse what a `ConvolutionalModel` cannot be trained with.

    Raises:
        ValueError: channels, sides or bands that it does not take.
    """
    if settings.channels != 1:
        raise ValueError(
            f"channels must be 1 with model=conv; got {settings.channels}. It takes channels one "
            "by one"
        )
    if settings.patch_size % 2 or settings.patch_size < LEAST_SIZE:
        raise ValueError(
            f"patch_size must be even and at least {LEAST_SIZE} with model=conv, where it is the "
            f"side of the grid of frequencies; got {settings.patch_size}"
        )
    most = int(math.log2(settings.patch_size)) - 2
    if settings.octaves > most:
        raise ValueError(
            f"octaves must be at most {most} on a grid of patch_size={settings.patch_size}, or the "
            f"coarsest have no frequency; got {settings.octaves}"
        )
