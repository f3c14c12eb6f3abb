"""The rivals of benchmarks/table.py, each as `denoise(noisy, sigma)`, and what they are tuned on.

    python benchmarks/rivals.py data=bsds500:ROOT [out=runs/table/epll-gmm.safetensors]

fits EPLL's mixture to the 390 training images and prints the best weights of total variation and
wavelets on crops of the ten held-out ones: what `WEIGHTS` holds. Nothing here sees a test image.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from deepinv.models import TVDenoiser, WaveletDictDenoiser
from deepinv.optim import EPLL
from deepinv.optim.utils import GaussianMixtureModel
from deepinv.physics import Denoising, GaussianNoise
from denoising import noisy, psnr
from torch import Tensor
from tqdm import tqdm
from words import BSDS500, read, status

from gmdm_prior.constraints import zero_mean_basis
from gmdm_prior.training import find_images, read_images, sample_patches, split_held_out
from gmdm_prior.training.likelihood.coordinates import to_coordinates
from gmdm_prior.training.likelihood.full_mixture import expect, initial_mixture, maximise
from gmdm_prior.training.likelihood.statistics import Penalty

Denoise = Callable[[Tensor, float], Tensor]

MIXTURE = Path("runs/table/epll-gmm.safetensors")
COMPONENTS, SIZE, PATCHES, ITERATIONS = 200, 8, 200_000, 25
PENALTY = Penalty(least=2e-6)
BATCH = 250  # patches that EPLL takes at a time: its fastest
GRAY = 0.5  # what EPLL's mixture is centred on
CROP = 128  # side of the held-out crops that weights are tuned on
LEVELS = (15, 25, 50, 100)  # of 255, that weights are tuned at
WEIGHTS = {
    "TV": (0.626, 0.701, 0.878, 0.983),
    "wavelets, soft": (1.07, 1.23, 1.43, 1.65),
    "wavelets, hard": (2.51, 2.51, 2.71, 3.15),
}
RANGES = {"TV": (0.5, 1.1), "wavelets, soft": (0.8, 2.2), "wavelets, hard": (2.0, 3.4)}
TRIED = 8  # weights of a range
DAUBECHIES = [f"db{order}" for order in range(1, 9)]


def fit_mixture(images: list[Tensor], path: Path) -> None:
    """EPLL's mixture: zero-mean Gaussians with full covariances, as Zoran and Weiss have it.

    The direction of the mean, which our EM leaves out, gets its second moment around `GRAY` in
    every component, so that it neither tells components apart nor is shrunk to speak of.
    """
    patches = sample_patches(images, PATCHES, SIZE)
    x = to_coordinates(patches)
    mixture = initial_mixture(x, COMPONENTS, PENALTY, torch.Generator().manual_seed(0))
    for _ in tqdm(range(ITERATIONS), desc="EM"):
        mixture = maximise(expect(x, mixture), PENALTY)
    basis = zero_mean_basis(1, SIZE).double()
    moment = (patches.mean((1, 2, 3)).double() - GRAY).square().mean()
    covariances = basis.T @ mixture.covariances @ basis + moment  # SIZE² moment on a unit vector
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"covariances": covariances.float(), "weights": mixture.weights.float()}
    safetensors.torch.save_file(tensors, path)


def epll_denoiser(path: Path) -> Denoise:
    """Deepinv's EPLL with a mixture of `fit_mixture`, around `GRAY`.

    Around zero, its inverse covariances in float32 cost 0.1 dB at a sigma of 15.

    Raises:
        FileNotFoundError: the mixture is not fitted yet.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"EPLL's mixture {path} does not exist: fit it with "
            f"`python benchmarks/rivals.py data=bsds500:ROOT out={path}`, or leave EPLL out"
        )
    tensors = safetensors.torch.load_file(path)
    mixture = GaussianMixtureModel(*tensors["covariances"].shape[:2])
    mixture.set_cov(tensors["covariances"])
    mixture.set_weights(tensors["weights"])
    epll = EPLL(mixture, pretrained=None, patch_size=SIZE)

    def denoise(y: Tensor, sigma: float) -> Tensor:
        physics = Denoising(GaussianNoise(sigma))
        return GRAY + epll(y - GRAY, physics, sigma=sigma, batch_size=BATCH)

    return denoise


def tv(y: Tensor, weight: float) -> Tensor:
    """Deepinv's total variation; a new object each time, for it starts where it last ended."""
    return TVDenoiser()(y, weight)


def wavelets(y: Tensor, weight: float, kind: str) -> Tensor:
    """Deepinv's shrinkage in eight wavelet bases at once; its usual two do worse."""
    return WaveletDictDenoiser(list_wv=DAUBECHIES, non_linearity=kind, mode="reflect")(y, weight)


TUNED: dict[str, Denoise] = {
    "TV": tv,
    "wavelets, soft": functools.partial(wavelets, kind="soft"),
    "wavelets, hard": functools.partial(wavelets, kind="hard"),
}


def tuned_denoiser(name: str) -> Denoise:
    """One of `TUNED` with its weight, a multiple of sigma that is interpolated over sigma."""

    def denoise(y: Tensor, sigma: float) -> Tensor:
        factor = float(np.interp(255 * sigma, LEVELS, WEIGHTS[name]))
        return TUNED[name](y, factor * sigma)

    return denoise


def tune(images: list[Tensor]) -> None:
    """Print the best weight, as a multiple of sigma, of each of `TUNED` at each level."""
    crops = [centre(image)[None] for image in images]
    for name, rival in TUNED.items():
        for level in LEVELS:
            sigma = level / 255
            pairs = [(noisy(x, sigma, i), x) for i, x in enumerate(crops)]
            found = {
                factor: float(np.mean([psnr(rival(y, factor * sigma), x) for y, x in pairs]))
                for factor in tqdm(np.geomspace(*RANGES[name], TRIED), leave=False)
            }
            best = max(found, key=found.get)
            print(f"{name}, sigma {level}: {best:.3g} sigma, {found[best]:.2f} dB", flush=True)


def centre(image: Tensor) -> Tensor:
    """The middle (C, CROP, CROP) of an image (C, H, W)."""
    top, left = ((side - CROP) // 2 for side in image.shape[1:])
    return image[:, top : top + CROP, left : left + CROP]


def make(options: dict[str, str]) -> None:
    """Fit and tune."""
    training, held_out = split_held_out(find_images(options["data"]))
    fit_mixture(list(read_images(training).values()), Path(options["out"]))
    tune(list(read_images(held_out).values()))


def main(words: list[str]) -> int:
    """Read the words and work; the exit status, 2 with a sentence for bad input."""
    defaults = {"data": "", "out": str(MIXTURE)}
    torch.set_grad_enabled(False)
    return status(lambda w: make(read(w, defaults, BSDS500)), words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
