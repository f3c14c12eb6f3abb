"""Denoise a photograph in colour: each channel by itself, and as luminance and two differences.

Orthonormal opponents keep the noise white. Luminance holds nearly all of the detail, so what three
channels know of it is added up there, and differences of colours are smooth.
"""

import torch
from deepinv_gmdm import GMDMDenoiser
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.command.restore import psnr
from matplotlib.figure import Figure

from gmdm_prior.files.pictures import read_picture


@torch.no_grad()
def main(out: str = "demo_color.png", size: int = 256) -> float:
    """Add noise and remove it, save the figure; returns the PSNR in dB of opponents."""
    truth = read_picture(shipped("images") / "coffee_color.png")[0][..., :size, :size]
    sigma = 25 / 255
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    noisy = truth + sigma * noise

    panels = {"truth": truth, "noisy": noisy}
    panels["each channel"] = GMDMDenoiser("gray", channels="independent")(noisy, sigma)
    panels["luminance and differences"] = GMDMDenoiser("gray")(noisy, sigma)

    figure = Figure(figsize=(3 * len(panels), 3.9), layout="constrained")
    for axes, (title, image) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.imshow(image[0].clamp(0, 1).permute(1, 2, 0), interpolation="nearest")
        axes.set_title(title if image is truth else f"{title}\n{psnr(image, truth):.2f} dB")
        axes.set_axis_off()
    figure.savefig(out, dpi=110)
    print(", ".join(f"{t} {psnr(x, truth):.2f} dB" for t, x in list(panels.items())[1:]), out)
    return psnr(panels["luminance and differences"], truth)


if __name__ == "__main__":
    main()
