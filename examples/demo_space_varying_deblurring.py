"""A blur that grows from left to right, as of a tilted focal plane: product and convolution."""

import torch
from deepinv_gmdm import GMDMPrior, build_solver
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.command.restore import compare, psnr
from deepinv_gmdm.operators import OperatorConfig, build_operator

from gmdm_prior.files.pictures import read_picture


def main(out: str = "demo_space_varying_deblurring.png", size: int = 256) -> float:
    """Blur and restore, save the figure; returns the result's PSNR in dB."""
    truth = read_picture(shipped("images") / "camera.png")[0][..., :size, :size]
    blur = OperatorConfig(name="space_varying_blur", width=1.0, growth=3.0)
    physics = build_operator(blur, truth.shape[1:])  # a deepinv.physics.SpaceVaryingBlur
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    seen = physics.A(truth) + 0.01 * noise

    # The operator is diagonal in no basis: the data step is solved by conjugate gradients.
    solver = build_solver({"name": "hqs", "max_iter": 16, "start": 0.14}, GMDMPrior(), sigma=0.01)
    restored = solver(seen, physics)

    compare(truth, seen, restored, out)

    print(f"measured {psnr(seen, truth):.2f} dB, restored {psnr(restored, truth):.2f} dB: {out}")
    return psnr(restored, truth)


if __name__ == "__main__":
    main()
