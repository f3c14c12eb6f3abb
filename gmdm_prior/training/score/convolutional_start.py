"""Where a `ConvolutionalModel` starts: octaves of zero phase, potentials fitted to their responses.

For a Gaussian band the potential of Eq. 11 is not the marginal of the response but wider by the
ratio n / r of the pixels to the frequencies of the band: each of the n pixels has its say about r
unknowns. So the weights are fitted, by EM (`product_start.fit_weights`), to responses times
sqrt(n / r), and xi is as large as the experts can hold: the outer quantile of these lies just
inside the outermost mean.
"""

from __future__ import annotations

import torch

from gmdm_prior.densities.convolutional.model import ConvolutionalModel
from gmdm_prior.densities.convolutional.spectra import polar_bands, sample_bands
from gmdm_prior.training.data.pool import ImagePool, step_generator
from gmdm_prior.training.ipalm.start import INSIDE, OUTER, fit_weights
from gmdm_prior.training.settings import FitSettings

CROPS = 200
COMPONENTS, BOUND = 125, 1.0
QUANTILE_STRIDE = 7  # every seventh response is enough for the outer quantile


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
