"""Pictures with noise that is not white: real ones, and clean ones with correlated noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import gmdm_prior as gm
from gmdm_prior.files.pictures import read_picture
from lib.data import Picture, middle, png_files

BINOMIAL = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 2, 1])).double() / 16
POINT = F.pad(torch.ones(1, 1, dtype=torch.float64), (1, 1, 1, 1))
KERNELS = {
    "binomial": BINOMIAL,
    "row of 7": torch.ones(1, 7, dtype=torch.float64),
    "high-pass": POINT - BINOMIAL,
}


@dataclass(frozen=True)
class Case:
    """A noisy image (1, C, H, W), its truth, and the noise if it is known."""

    group: str
    name: str
    noisy: Tensor
    clean: Tensor
    noise: gm.Noise | None = None

    @property
    def level(self) -> float:
        """Root mean square of the noise."""
        return float((self.noisy - self.clean).square().mean().sqrt())


def real_cases(folder: Path) -> list[Case]:
    """The pairs of a folder of real pictures."""
    cases = []
    for path in png_files(folder):
        if not path.stem.endswith("-noisy"):
            continue
        name = path.stem.removesuffix("-noisy")
        kind, source, *rest = name.split("-")
        group = f"{kind}-{source}"
        if kind == "microscope":
            group = "microscope, wide field" if "WideField" in name else "microscope, Poisson-like"
        truth = path.with_name(f"{name}-truth.png")
        noisy, clean = (read_picture(p)[0] for p in (path, truth))
        cases.append(Case(group, "-".join(rest), noisy, clean))
    return cases


def synthetic_cases(pictures: Sequence[Picture], sigmas: Sequence[float], crop: int) -> list[Case]:
    """The middle of clean images with correlated noise of every kernel and level."""
    cases = []
    for kernel_name, kernel in KERNELS.items():
        m = max(kernel.shape) - 1
        power = torch.fft.fft2(kernel, s=(2 * m + 1,) * 2).abs().square()
        lags = torch.fft.fftshift(torch.fft.ifft2(power).real)
        for sigma in sigmas:
            noise = gm.Noise(autocovariance=lags / lags[m, m] * (sigma / 255) ** 2)
            for picture in pictures:
                clean = middle(picture.clean, crop)
                g = torch.Generator().manual_seed(picture.index)
                noisy = clean + noise.sample(clean.shape, generator=g).float()
                group = f"{kernel_name}, σ = {sigma:g}"
                cases.append(Case(group, picture.name, noisy, clean, noise))
    return cases
