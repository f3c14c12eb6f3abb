"""FFDNet and DnCNN with their authors' weights, files of MATLAB 7.3 that are never committed.

FFDNet (Zhang, Zuo, Zhang, 2018) is one network for all noise levels, `FFDNet_gray.mat` of its
authors' repository cszn/FFDNet; DnCNN-S (Zhang et al., 2017) one for each level, `sigma=15.mat` and
so on of cszn/DnCNN, where `FDnCNN_gray.mat` is one for all levels. All were trained for white noise
on other images than BSD68.
"""

from pathlib import Path

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.rivals import Denoise

FFDNET = "FFDNet_gray.mat"
FLEXIBLE = "FDnCNN_gray.mat"
ROWS_FIRST = [0, 2, 1, 3]  # MATLAB counts the pixels of a 2x2 block down, PyTorch across
Layers = list[tuple[Tensor, Tensor]]


def read_layers(path: Path) -> Layers:
    """Kernels (out, in, 3, 3) and biases (out,) of the convolutions of a network."""
    with h5py.File(path) as file:
        layers = [file[reference] for reference in file["net/layers"][:].flatten()]
        found = []
        for layer in layers:
            if bytes(layer["type"][:].flatten().astype(np.uint8)) != b"conv":
                continue
            pair = [np.array(file[r], np.float32) for r in layer["weights"][:].flatten()]
            kernel = torch.from_numpy(pair[0])  # HDF5 has the axes of MATLAB the other way round
            kernel = kernel if kernel.ndim == 4 else kernel[None]
            found.append((kernel.mT.contiguous(), torch.from_numpy(pair[1].flatten())))
    return found


def numbers(layers: Layers) -> int:
    """How many numbers a network holds."""
    return sum(kernel.numel() + bias.numel() for kernel, bias in layers)


def ffdnet(folder: Path) -> tuple[Denoise, int]:
    """FFDNet as a denoiser, and how many numbers it holds."""
    layers = read_layers(folder / FFDNET)

    def denoise(y: Tensor, sigma: float) -> Tensor:
        height, width = y.shape[2:]
        even = F.pad(y, (0, width % 2, 0, height % 2), mode="replicate")
        x = F.pixel_unshuffle(even, 2)[:, ROWS_FIRST]
        x = torch.cat([x, torch.full_like(x[:, :1], sigma)], 1)
        out = F.pixel_shuffle(_run(layers, x)[:, ROWS_FIRST], 2)
        return out[..., :height, :width]

    return denoise, numbers(layers)


def flexible_dncnn(folder: Path) -> tuple[Denoise, int]:
    """FDnCNN, one network for all levels, as a denoiser, and how many numbers it holds."""
    layers = read_layers(folder / FLEXIBLE)

    def denoise(y: Tensor, sigma: float) -> Tensor:
        return _run(layers, torch.cat([y, torch.full_like(y, sigma)], 1))

    return denoise, numbers(layers)


def of_levels(folder: Path) -> dict[int, Path]:
    """The networks of DnCNN-S in a folder, by their level in 255."""
    return {int(p.stem.partition("=")[2]): p for p in sorted(folder.glob("sigma=*.mat"))}


def dncnn(folder: Path) -> tuple[Denoise, int]:
    """DnCNN-S as a denoiser at the levels that the folder has networks of, and its numbers."""
    layers = {level: read_layers(path) for level, path in of_levels(folder).items()}

    def denoise(y: Tensor, sigma: float) -> Tensor:
        return y - _run(layers[round(255 * sigma)], y)

    return denoise, numbers(next(iter(layers.values())))


def _run(layers: Layers, x: Tensor) -> Tensor:
    for i, (kernel, bias) in enumerate(layers):
        x = F.conv2d(x, kernel, bias, padding=1)
        x = x.relu() if i < len(layers) - 1 else x
    return x
