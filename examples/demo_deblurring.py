"""Deblur a photograph: deepinv's physics, the prior by name, half-quadratic splitting."""

import deepinv
import torch
from deepinv.physics.functional import gaussian_blur
from deepinv_gmdm import build_prior, build_solver
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.command.restore import compare, psnr

from gmdm_prior.files.pictures import read_picture


def main(out: str = "demo_deblurring.png", prior: str = "gmdm", size: int = 256) -> float:
    """Blur and restore, save the figure; returns the result's PSNR in dB."""
    truth = read_picture(shipped("images") / "camera.png")[0][..., :size, :size]
    kernel = gaussian_blur(psf_size=(11, 11), sigma=(1.6, 1.6))
    physics = deepinv.physics.BlurFFT(truth.shape[1:], filter=kernel)
    physics.noise_model = deepinv.physics.GaussianNoise(0.01, rng=torch.Generator().manual_seed(0))
    blurred = physics(truth)

    solver = build_solver("hqs", build_prior(prior), sigma=0.01)
    restored = solver(blurred, physics)

    compare(truth, blurred, restored, out)
    print(f"blurred {psnr(blurred, truth):.2f} dB, restored {psnr(restored, truth):.2f} dB: {out}")
    return psnr(restored, truth)


if __name__ == "__main__":
    main()
