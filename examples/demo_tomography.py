"""CT of 60 projections, in Hounsfield units: `data_range` says what black and white are."""

import torch
from deepinv_gmdm import GMDMPrior, build_solver
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.command.restore import compare, psnr
from deepinv_gmdm.operators import OperatorConfig, build_operator

from gmdm_prior.files.pictures import read_picture


def main(out: str = "demo_tomography.png", size: int = 128) -> float:
    """Project and reconstruct, save the figure; returns the result's PSNR in dB."""
    truth = read_picture(shipped("images") / "ct.png")[0][..., :size, :size]
    slice_ = -1000 + 2000 * truth  # what the picture was made of
    physics = build_operator(OperatorConfig(name="tomography", angles=60), truth.shape[1:])
    clean = physics.A(slice_)
    y = clean + 10 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    back_projected = physics.fbp(y)

    prior = GMDMPrior(data_range=(-1000, 1000))  # exact: noise levels and gradients scale
    solver = build_solver({"name": "hqs", "max_iter": 12, "start": 0.1}, prior, sigma=10)
    reconstructed = solver(y, physics, init=back_projected)

    seen, restored = ((image + 1000) / 2000 for image in (back_projected, reconstructed))
    compare(truth, seen, restored, out)

    print(f"measured {psnr(seen, truth):.2f} dB, restored {psnr(restored, truth):.2f} dB: {out}")
    return psnr(restored, truth)


if __name__ == "__main__":
    main()
