"""Fill in a photograph of which half the pixels are missing."""

import deepinv
import torch
from deepinv_gmdm import GMDMPrior, build_solver
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.command.restore import compare, psnr

from gmdm_prior.files.pictures import read_picture


def main(out: str = "demo_inpainting.png", keep: float = 0.5, size: int = 256) -> float:
    """Drop pixels and fill them in, save the figure; returns the result's PSNR in dB."""
    truth = read_picture(shipped("images") / "camera.png")[0][..., :size, :size]
    seen = torch.rand(truth.shape, generator=torch.Generator().manual_seed(0)) < keep
    physics = deepinv.physics.Inpainting(truth.shape[1:], mask=seen.float())
    physics.noise_model = deepinv.physics.GaussianNoise(0.02, rng=torch.Generator().manual_seed(0))
    measured = physics(truth)

    # Holes need a high first level: whole regions must move before details do.
    solver = build_solver({"name": "hqs", "start": 0.5, "max_iter": 16}, GMDMPrior(), sigma=0.02)
    restored = solver(measured, physics)

    compare(truth, measured, restored, out)
    print(f"seen {psnr(measured, truth):.2f} dB, restored {psnr(restored, truth):.2f} dB: {out}")
    return psnr(restored, truth)


if __name__ == "__main__":
    main()
