"""Denoise where the noise varies and nobody says how much (Fig. 3 of the paper)."""

import matplotlib.figure
import torch
from deepinv_gmdm import GMDMDenoiser, GMDMNoiseEstimator
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.command.restore import psnr

from gmdm_prior.files.pictures import read_picture


def checkerboard(size: int, cell: int, levels: tuple[float, float] = (0.1, 0.2)) -> torch.Tensor:
    """(1, 1, size, size) noise levels."""
    place = torch.arange(size) // cell
    return torch.tensor(levels)[(place[:, None] + place) % 2][None, None]


def main(out: str = "demo_blind_heteroscedastic.png", size: int = 256, cell: int = 64) -> float:
    """Estimate the map, denoise with it and with the true one; returns the blind PSNR in dB."""
    truth = read_picture(shipped("images") / "cat.png")[0][..., :size, :size]
    sigma = checkerboard(size, cell)[..., : truth.shape[-2], : truth.shape[-1]]
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    noisy = truth + sigma * noise

    denoiser = GMDMDenoiser("gray")
    estimated = GMDMNoiseEstimator(per_pixel=True)(noisy)
    blind, informed = denoiser(noisy, estimated), denoiser(noisy, sigma)
    one = denoiser(noisy, GMDMNoiseEstimator()(noisy))

    panels = {
        f"noisy, {psnr(noisy, truth):.2f} dB": (noisy, 0, 1, "gray"),
        "true noise level": (sigma, 0, 0.25, "viridis"),
        "estimated noise level": (estimated, 0, 0.25, "viridis"),
        f"estimated map, {psnr(blind, truth):.2f} dB": (blind, 0, 1, "gray"),
        f"true map, {psnr(informed, truth):.2f} dB": (informed, 0, 1, "gray"),
        f"one estimated level, {psnr(one, truth):.2f} dB": (one, 0, 1, "gray"),
    }
    figure = matplotlib.figure.Figure(figsize=(10.5, 7.4), layout="constrained")
    for axes, (title, (image, low, high, colours)) in zip(
        figure.subplots(2, 3).flat, panels.items(), strict=True
    ):
        shown = axes.imshow(image[0, 0], cmap=colours, vmin=low, vmax=high, interpolation="nearest")
        axes.set_title(title)
        axes.set_axis_off()
        if colours != "gray":
            figure.colorbar(shown, ax=axes, shrink=0.8)
    figure.savefig(out, dpi=110)
    print(
        f"noisy {psnr(noisy, truth):.2f} dB, estimated map {psnr(blind, truth):.2f} dB, "
        f"true map {psnr(informed, truth):.2f} dB, one level {psnr(one, truth):.2f} dB: {out}"
    )
    return psnr(blind, truth)


if __name__ == "__main__":
    main()
