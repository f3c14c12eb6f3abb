"""Denoise a photograph with a Gaussian-mixture diffusion model."""

import torch
from deepinv_gmdm import GMDMDenoiser
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.command.restore import compare, psnr

from gmdm_prior.files.pictures import read_picture


def main(out: str = "demo_denoising.png", sigma: float = 25 / 255, size: int = 256) -> float:
    """Add noise of level `sigma`, remove it, save the figure; returns the result's PSNR in dB."""
    truth = read_picture(shipped("images") / "cat.png")[0][..., :size, :size]
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    noisy = truth + sigma * noise

    denoiser = GMDMDenoiser("gray")  # one model for every noise level
    restored = denoiser(noisy, sigma)

    compare(truth, noisy, restored, out)
    print(f"noisy {psnr(noisy, truth):.2f} dB, restored {psnr(restored, truth):.2f} dB: {out}")
    return psnr(restored, truth)


if __name__ == "__main__":
    main()
