"""The paper's convolutional model: by how much it misses the heat equation, and its PSNR.

    python benchmarks/paper/convolutional.py residual [out=docs/figures/conv_heat_residual.png]
    python benchmarks/paper/convolutional.py denoising data=bsds500:ROOT weights=FILE [images=BSD68]

`residual` (Theorem 3, up to a constant) compares ∂_sigma score with sigma ∇(div score + ‖score‖²)
by `ConvolutionalModel.residual`, in the norm, relative to ∂_sigma score, at a noisy picture (96 x
96 pixels of scikit-image's camera). The models are band passes whose potentials are fitted to the
whole picture; L is the number of components, J that of the filters. Prints the table and draws it.

`denoising` prints PSNR beside a Wiener filter, on the ten held-out images or on a folder `images`.
The filter is the posterior mean of the Gaussian whose power spectrum is that of the training images
(3,200 windowed crops of 64 x 64 pixels): it knows the same second moments, and nothing else.
"""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/

from lib import table
from lib.data import held_out_images, png_files, read_gray, training_images
from lib.figures import psnr_cells
from lib.words import BSDS500, Needed, Options, choice, command
from matplotlib.figure import Figure
from skimage import data
from torch import Tensor

import gmdm_prior as gm
from gmdm_prior.training import FitSettings, sample_patches
from gmdm_prior.training.data.pool import ImagePool
from gmdm_prior.training.methods import resolved
from gmdm_prior.training.score.convolutional import band_pass_start

LEVELS = (2, 5, 10, 25, 50, 100, 200)  # of 255
COMPONENTS = (1, 9, 17, 33, 125)
BANKS = ((1, 1), (2, 1), (4, 1), (3, 2), (3, 4), (3, 8))  # octaves, orientations
USUAL = (4, 1)
LEAST = 1e-3  # of what is drawn
DENOISED = (15, 25, 50)  # of 255
GRID, CROPS = 64, 3200


def picture() -> Tensor:
    """The whole picture (1, 512, 512) in [0, 1]."""
    return torch.from_numpy(data.camera() / 255.0)[None].float()


def model(bank: tuple[int, int], components: int) -> gm.ConvolutionalModel:
    """A band-pass model in float64; of one component it has the second moments of the picture."""
    settings = resolved(FitSettings(model="conv", octaves=bank[0], orientations=bank[1]))
    fitted = band_pass_start(ImagePool.of([picture()]), settings, max(components, 3)).double()
    if components > 1:
        return fitted
    variance = (fitted.experts.weights * fitted.experts.means.square()).sum(1)
    variance = variance + fitted.experts.base_scale**2
    logits = torch.tensor([[-1e3, 0.0, -1e3]], dtype=torch.float64).expand(len(variance), 3)
    magnitude = fitted.magnitude / variance.sqrt()  # one component of three has width 1
    return gm.ConvolutionalModel(fitted.owner, fitted.phase, magnitude, logits)


@torch.no_grad()
def relative_residuals(density: gm.ConvolutionalModel) -> list[float]:
    """One number for each level."""
    clean = picture()[:, 200:296, 200:296].double()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).double()
    values = []
    for level in LEVELS:
        rate, missing = density.residual(clean + level / 255 * noise, level / 255)
        values.append((missing.norm() / rate.norm()).item())
    return values


def residual(options: Options) -> None:
    """Print the table and draw it."""
    by_components, by_filters = {}, {}

    def rows() -> Iterator[list[str]]:
        for components in COMPONENTS:
            by_components[components] = relative_residuals(model(USUAL, components))
            name = f"J = {math.prod(USUAL) + 1}, L = {components}"
            yield [name, *(f"{v:.2g}" for v in by_components[components])]
        for bank in BANKS:
            count = math.prod(bank) + 1
            by_filters[count] = relative_residuals(model(bank, 125))
            name = f"J = {count} ({bank[0]} octaves x {bank[1]}), L = 125"
            yield [name, *(f"{v:.2g}" for v in by_filters[count])]

    table.show(["", *(f"σ {s}" for s in LEVELS)], rows())
    draw(by_components, by_filters, options.out)


def draw(
    by_components: dict[int, list[float]], by_filters: dict[int, list[float]], path: Path
) -> None:
    """Both halves of the table as curves."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    count = math.prod(USUAL) + 1
    lines = 0
    for components, values in by_components.items():
        if max(values) < LEAST:
            text = f"L = {components}: below {10 ** math.ceil(math.log10(max(values))):.0e}"
            left.text(LEVELS[0], 1.3 * LEAST * 1.4**lines, text)
            lines += 1
            continue
        left.plot(LEVELS, values, "o-", label=f"L = {components}", markersize=3)
    for filters, values in by_filters.items():
        right.plot(LEVELS, values, "o-", label=f"J = {filters}", markersize=3)
    left.set_title(f"J = {count} filters, L components")
    right.set_title("L = 125 components, J filters")
    left.set_ylabel("residual of the heat equation, relative to ∂σ score")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", ylim=(LEAST, 3), xlabel="noise level σ · 255")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def power_spectrum(images: list[Tensor]) -> Tensor:
    """(64, 33) mean square of a Fourier coefficient, for a transform that keeps the norm."""
    window = torch.hann_window(GRID, periodic=False)
    window = window[:, None] * window
    total = torch.zeros(GRID, GRID // 2 + 1)
    for (crop,) in sample_patches(images, CROPS, GRID):
        total += torch.fft.rfft2((crop - crop.mean()) * window).abs().square()
    return total / CROPS / window.square().sum()


def wiener(noisy: Tensor, sigma: float, power: Tensor) -> Tensor:
    """The posterior mean of images (1, 1, H, W) under that spectrum; the mean is kept."""
    height, width = noisy.shape[-2:]
    row = (torch.fft.fftfreq(height) * GRID).round().long() % GRID
    column = (torch.arange(width // 2 + 1) / width * GRID).round().long()
    gain = power[row][:, column]
    gain = gain / (gain + sigma**2)
    gain[0, 0] = 1.0
    return torch.fft.irfft2(torch.fft.rfft2(noisy) * gain, (height, width))


@torch.no_grad()
def denoising(options: Options) -> None:
    """Print the table."""
    power = power_spectrum(training_images(options.data))
    if options.images:
        clean = [read_gray(file) for file in png_files(options.images)]
    else:
        clean = held_out_images(options.data)
    denoisers = {
        "Wiener filter": lambda y, sigma: wiener(y, sigma, power),
        options.weights: gm.load(options.weights).denoise,
    }
    print(f"{len(clean)} images")
    rows = ([name, *psnr_cells(each, clean, DENOISED)] for name, each in denoisers.items())
    table.show(["", *table.sigma_heads(DENOISED)], rows)


main = choice(
    residual=command(residual, out=Path("docs/figures/conv_heat_residual.png")),
    denoising=command(
        denoising,
        data=BSDS500,
        weights=Needed("FILE, the model.safetensors of a run with model=conv"),
        images="",
    ),
)

if __name__ == "__main__":
    sys.exit(main())
