"""Twice the resolution: bicubic downsampling undone."""

import deepinv
import torch
from deepinv_gmdm import GMDMPrior, build_solver
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.command.restore import compare, psnr

from gmdm_prior.files.pictures import read_picture


def main(out: str = "demo_super_resolution.png", size: int = 256) -> float:
    """Reduce and enlarge, save the figure; returns the result's PSNR in dB."""
    truth = read_picture(shipped("images") / "coffee.png")[0][..., :size, :size]
    physics = deepinv.physics.Downsampling(truth.shape[1:], filter="bicubic", factor=2)
    physics.noise_model = deepinv.physics.GaussianNoise(0.01, rng=torch.Generator().manual_seed(0))
    y = physics(truth)
    seen = torch.nn.functional.interpolate(y, truth.shape[2:], mode="bicubic")

    solver = build_solver({"name": "hqs", "max_iter": 16, "start": 0.14}, GMDMPrior(), sigma=0.01)
    restored = solver(y, physics, init=seen)

    compare(truth, seen, restored, out)

    print(f"measured {psnr(seen, truth):.2f} dB, restored {psnr(restored, truth):.2f} dB: {out}")
    return psnr(restored, truth)


if __name__ == "__main__":
    main()
