"""Photons counted through a blur, as in a microscope: pixels are weighed by their own variance."""

import deepinv
import torch
from deepinv_gmdm import GMDMPrior, build_solver
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.command.restore import compare, psnr
from deepinv_gmdm.physics import data_term

from gmdm_prior.files.pictures import read_picture


def main(out: str = "demo_poisson.png", size: int = 256) -> float:
    """Count and restore, save the figure; returns the result's PSNR in dB."""
    truth = read_picture(shipped("images") / "camera.png")[0][..., :size, :size]
    kernel = deepinv.physics.functional.gaussian_blur(psf_size=(9, 9), sigma=(1.2, 1.2))
    physics = deepinv.physics.BlurFFT(truth.shape[1:], filter=kernel)
    photons = deepinv.physics.PoissonNoise(1 / 200, clip_positive=True, rng=torch.Generator())
    physics.noise_model = photons  # 200 of them where the picture is white
    seen = photons(physics.A(truth), seed=0)

    restored = None
    for _ in range(2):  # the first result says how many photons each pixel should have had
        weights = data_term(physics, seen, pilot=restored)
        spec = {"name": "hqs", "max_iter": 12, "start": 0.14}
        solver = build_solver(spec, GMDMPrior(), sigma=weights.level, data_fidelity=weights)
        restored = solver(seen, physics)

    compare(truth, seen, restored, out)

    print(f"measured {psnr(seen, truth):.2f} dB, restored {psnr(restored, truth):.2f} dB: {out}")
    return psnr(restored, truth)


if __name__ == "__main__":
    main()
