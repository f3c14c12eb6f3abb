"""PSNR of the convolutional model beside a Wiener filter, measured as `denoising.py` does.

    python benchmarks/conv_denoising.py data=bsds500:ROOT weights=FILE [images=BSD68]

On the ten held-out images, or on a folder `images`. The Wiener filter is the posterior mean of the
Gaussian whose power spectrum is that of the training images (3,200 windowed crops of 64 x 64
pixels): it knows the same second moments, and nothing else. The model is read from tables (to 1e-3
of sigma, `training/score/convolutional.py`), which changes no PSNR by 0.01 dB.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from denoising import mean_psnr, read_gray
from words import BSDS500, read, status

import gmdm_prior as gm
from gmdm_prior.training import find_images, read_images, split_held_out
from gmdm_prior.training.data.pool import ImagePool, step_generator
from gmdm_prior.training.score.convolutional import denoise

SIGMAS = (15, 25, 50)
GRID, CROPS = 64, 3200
NEEDED = BSDS500 | {"weights": "FILE is needed: the model.safetensors of a run with model=conv"}


def power_spectrum(images: list[torch.Tensor]) -> torch.Tensor:
    """(64, 33) mean square of a Fourier coefficient, for a transform that keeps the norm."""
    generator = step_generator(0, 0)
    pool = ImagePool.of(images)
    window = torch.hann_window(GRID, periodic=False)
    window = window[:, None] * window
    total = torch.zeros(GRID, GRID // 2 + 1)
    for _ in range(CROPS):
        crop = pool.crop(GRID, "d4", generator)[0]
        total += torch.fft.rfft2((crop - crop.mean()) * window).abs().square()
    return total / CROPS / window.square().sum()


def wiener(noisy: torch.Tensor, sigma: float, power: torch.Tensor) -> torch.Tensor:
    """The posterior mean of images (1, 1, H, W) under that spectrum; the mean is kept."""
    height, width = noisy.shape[-2:]
    row = (torch.fft.fftfreq(height) * GRID).round().long() % GRID
    column = (torch.arange(width // 2 + 1) / width * GRID).round().long()
    gain = power[row][:, column]
    gain = gain / (gain + sigma**2)
    gain[0, 0] = 1.0
    return torch.fft.irfft2(torch.fft.rfft2(noisy) * gain, (height, width))


def run(options: dict[str, str]) -> None:
    """Print the table."""
    torch.set_grad_enabled(False)
    training, held_out = split_held_out(find_images(options["data"]))
    power = power_spectrum(list(read_images(training).values()))
    if options["images"]:
        clean = [read_gray(f) for f in sorted(Path(options["images"]).glob("*.png"))]
    else:
        clean = [image[None] for image in read_images(held_out).values()]
    if not clean:
        raise ValueError(f"images={options['images']} holds no PNG image")
    model = gm.load(options["weights"])
    denoisers = {
        "Wiener filter": lambda y, sigma: wiener(y, sigma, power),
        options["weights"]: lambda y, sigma: denoise(model, y[:, 0], sigma)[:, None],
    }
    print(f"{len(clean)} images\n| | " + " | ".join(f"σ{s}" for s in SIGMAS) + " |")
    print("|---" * (len(SIGMAS) + 1) + "|")
    for name, denoiser in denoisers.items():
        values = [mean_psnr(denoiser, clean, sigma / 255)[0] for sigma in SIGMAS]
        print(f"| {name} | " + " | ".join(f"{v:.2f}" for v in values) + " |", flush=True)


def main(words: list[str]) -> None:
    """Read the words and run."""
    run(read(words, {"data": "", "images": "", "weights": ""}, NEEDED))


if __name__ == "__main__":
    sys.exit(status(main, sys.argv[1:]))
