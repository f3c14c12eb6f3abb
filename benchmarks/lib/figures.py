"""Mean PSNR on a folder of clean images: `python benchmarks/denoising.py DATA [options]`.

Protocol: gray images in [0, 1], noise of standard deviation sigma/255 from a generator seeded with
the image's index, result clipped to [0, 1], mean of the PSNRs over the images.

    python benchmarks/denoising.py BSD68 --weights bsds-gray bsds-gray-small
    python benchmarks/denoising.py BSD68 --weights pogmdm-patch7.pth --sigmas 15 25 50 100
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import gmdm_prior as gm


def read_gray(path: Path) -> torch.Tensor:
    """(1, 1, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(Image.open(path).convert("L"))).float()[None, None] / 255


def psnr(restored: torch.Tensor, clean: torch.Tensor) -> float:
    """PSNR in dB of the result clipped to [0, 1]."""
    return -10 * math.log10((restored.clamp(0, 1) - clean).square().mean().item())


def noisy(clean: torch.Tensor, sigma: float, index: int) -> torch.Tensor:
    """The image of this index with its own noise."""
    generator = torch.Generator().manual_seed(index)
    return clean + sigma * torch.randn(clean.shape[-3:], generator=generator)


def mean_psnr(denoise, images: list[torch.Tensor], sigma: float) -> tuple[float, float]:
    """Mean PSNR and seconds an image of `denoise(noisy, sigma)`, sigma in units of the image."""
    values, start = [], time.perf_counter()
    for index, clean in enumerate(tqdm(images, leave=False, desc=f"sigma {sigma * 255:g}")):
        values.append(psnr(denoise(noisy(clean, sigma, index), sigma), clean))
    return float(np.mean(values)), (time.perf_counter() - start) / len(images)


def load(name: str) -> gm.PatchModel | gm.PatchMixture | gm.WaveletModel:
    """A bundled model, a safetensors file or a PoGMDM checkpoint."""
    return gm.import_pogmdm(name) if name.endswith(".pth") else gm.load(name)


def main(argv: list[str] | None = None) -> None:
    """Print one row for each model and method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of clean PNG images")
    parser.add_argument("--weights", nargs="+", default=["bsds-gray", "bsds-gray-small"])
    parser.add_argument("--methods", nargs="+", default=["average"], choices=["average", "hqs"])
    parser.add_argument("--stride", type=int, help="default: 1 for average, tuned for hqs")
    parser.add_argument("--sigmas", type=float, nargs="+", default=[15, 25, 50], help="of 255")
    parser.add_argument("--every", type=int, default=1, help="take every n-th image")
    options = parser.parse_args(argv)
    torch.set_grad_enabled(False)
    images = [read_gray(f) for f in sorted(options.data.glob("*.png"))[:: options.every]]
    if not images:
        parser.error(f"no PNG image in {options.data}")
    heads = [f"σ{s:g}" for s in options.sigmas]
    print(f"| weights | method | numbers | {' | '.join(heads)} | s/image |")
    print("|---|---|---|" + "---|" * (len(heads) + 1))
    for name in options.weights:
        model = load(name)
        for method in options.methods:
            if isinstance(model, gm.WaveletModel):
                method, denoise = "posterior", gm.WaveletDenoiser(model)
            elif method == "average":
                denoise = gm.PatchAveraging(model, options.stride or 1)
            else:
                denoise = gm.HalfQuadraticSplitting(model, options.stride)
            rows = [mean_psnr(denoise, images, s / 255) for s in options.sigmas]
            cells = " | ".join(f"{p:.2f}" for p, _ in rows)
            seconds = np.mean([s for _, s in rows])
            label = Path(name).stem
            print(f"| {label} | {method} | {model.num_parameters} | {cells} | {seconds:.2f} |")


if __name__ == "__main__":
    main()
