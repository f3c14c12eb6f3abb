"""Undo camera shake: deepinv's random trajectory as a kernel, HQS with the prior."""

import deepinv
import torch
from deepinv_gmdm import GMDMPrior, build_solver
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.command.restore import compare, psnr

from gmdm_prior.files.pictures import read_picture


def main(out: str = "demo_motion_deblurring.png", size: int = 256) -> float:
    """Shake and restore, save the figure; returns the result's PSNR in dB."""
    truth = read_picture(shipped("images") / "coffee.png")[0][..., :size, :size]
    shake = deepinv.physics.generator.MotionBlurGenerator((21, 21), rng=torch.Generator())
    kernel = shake.step(seed=3)["filter"]
    physics = deepinv.physics.BlurFFT(truth.shape[1:], filter=kernel)
    physics.noise_model = deepinv.physics.GaussianNoise(0.02, rng=torch.Generator().manual_seed(0))
    seen = physics(truth)

    solver = build_solver({"name": "hqs", "max_iter": 16}, GMDMPrior(), sigma=0.02)
    restored = solver(seen, physics)

    compare(truth, seen, restored, out)

    print(f"measured {psnr(seen, truth):.2f} dB, restored {psnr(restored, truth):.2f} dB: {out}")
    return psnr(restored, truth)


if __name__ == "__main__":
    main()
