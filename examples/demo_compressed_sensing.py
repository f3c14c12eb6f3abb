"""A third of random measurements, by plug-and-play with deepinv's own class of solver."""

import deepinv
import torch
from deepinv_gmdm import GMDMDenoiser, schedule
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.command.restore import compare, psnr
from deepinv_gmdm.operators import OperatorConfig, build_operator

from gmdm_prior.files.pictures import read_picture


def main(out: str = "demo_compressed_sensing.png", size: int = 256) -> float:
    """Measure and restore, save the figure; returns the result's PSNR in dB."""
    truth = read_picture(shipped("images") / "cat.png")[0][..., :size, :size]
    physics = build_operator(OperatorConfig(name="compressed_sensing", keep=0.33), truth.shape[1:])
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    y = physics.A(truth) + 0.02 * noise
    seen = physics.A_adjoint(y)

    levels = schedule(0.02, steps=24, start=0.25)
    solver = deepinv.optim.HQS(
        data_fidelity=deepinv.optim.L2(sigma=0.02),
        prior=deepinv.optim.PnP(GMDMDenoiser(method="average", stride=3)),
        params_algo={"g_param": levels, "stepsize": [s * s / 0.1 for s in levels]},
        max_iter=len(levels),
    )
    restored = solver(y, physics, init=seen)

    compare(truth, seen, restored, out)

    print(f"measured {psnr(seen, truth):.2f} dB, restored {psnr(restored, truth):.2f} dB: {out}")
    return psnr(restored, truth)


if __name__ == "__main__":
    main()
