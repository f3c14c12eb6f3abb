"""Denoise a photograph of a simulated camera, without a word about its noise.

The camera counts photons, reads them out with noise of its own, sees one colour at each pixel,
interpolates the others and writes a JPEG file. So the noise grows with the light, neighbours share
it, and it differs between colours. `BlindDenoiser` reads all of this off the picture.
"""

import io

import numpy as np
import torch
import torch.nn.functional as F
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.command.restore import psnr
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import gmdm_prior as gm
from gmdm_prior.files.pictures import read_picture

SEEN = {0: (0, 0), 1: None, 2: (1, 1)}  # the corner of a 2x2 block where red and blue are seen


def photograph(scene: Tensor, photons: float, read_noise: float, quality: int) -> Tensor:
    """What the camera writes of a `scene` (1, 3, H, W) in [0, 1], the same shape."""
    generator = torch.Generator().manual_seed(0)
    counted = torch.poisson(photons * scene, generator=generator) / photons
    raw = counted + read_noise * torch.randn(scene.shape, generator=generator)
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])[None, None]
    channels = []
    for colour, corner in SEEN.items():
        mask = torch.zeros_like(raw[:, :1])
        if corner is None:  # green: the two other corners
            mask[..., 0::2, 1::2] = mask[..., 1::2, 0::2] = 1
        else:
            mask[..., corner[0] :: 2, corner[1] :: 2] = 1
        seen = F.conv2d(raw[:, colour : colour + 1] * mask, kernel, padding=1)
        channels.append(seen / F.conv2d(mask, kernel, padding=1))
    levels = (255 * torch.cat(channels, 1)[0].clamp(0, 1)).round().to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(levels.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.asarray(Image.open(file), np.float32) / 255).permute(2, 0, 1)[None]


@torch.no_grad()
def main(out: str = "demo_camera.png", size: int = 256) -> float:
    """Take the photograph, denoise it, save the figure; returns the result's PSNR in dB."""
    truth = read_picture(shipped("images") / "coffee_color.png")[0][..., :size, :size]
    noisy = photograph(truth, photons=60, read_noise=0.03, quality=92)
    restored = gm.BlindDenoiser(gm.load("gray"))(noisy)

    panels = {"photograph": noisy, "restored, nothing told": restored}
    figure = Figure(figsize=(3.6 * len(panels), 3.9), layout="constrained")
    for axes, (title, image) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.imshow(image[0].clamp(0, 1).permute(1, 2, 0), interpolation="nearest")
        axes.set_title(title)
        axes.set_axis_off()
    figure.savefig(out, dpi=110)
    print(f"photograph {psnr(noisy, truth):.2f} dB, restored {psnr(restored, truth):.2f} dB: {out}")
    return psnr(restored, truth)


if __name__ == "__main__":
    main()
