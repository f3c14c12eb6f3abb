"""Poisson–Gaussian noise, as in low light: its two numbers read off the picture, then removed.

The variance of the noise is gain · x + sigma². One global level is too much for the shadows and too
little for the highlights; a map of levels from estimated gain and sigma does nearly as well as one
from the true picture.
"""

import deepinv
import torch
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.command.restore import psnr
from matplotlib.figure import Figure

import gmdm_prior as gm
from gmdm_prior.files.pictures import read_picture
from gmdm_prior.noise.poisson_gaussian import (
    estimate_poisson_gaussian,
    local_mean,
    poisson_gaussian_map,
)


def draw(panels: dict[str, torch.Tensor], truth: torch.Tensor, path: str) -> None:
    """Pictures side by side, with PSNR."""
    figure = Figure(figsize=(3 * len(panels), 3.7), layout="constrained")
    for axes, (title, image) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.imshow(image[0, 0].clamp(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(title if image is truth else f"{title}\n{psnr(image, truth):.2f} dB")
        axes.set_axis_off()
    figure.savefig(path, dpi=110)


@torch.no_grad()
def main(out: str = "demo_poisson_gaussian.png", size: int = 256) -> float:
    """Add noise, read off gain and sigma, denoise, save the figure; returns the PSNR in dB."""
    gain, sigma = 0.03, 0.02
    truth = read_picture(shipped("images") / "camera.png")[0][..., :size, :size]
    noise = deepinv.physics.PoissonGaussianNoise(gain, sigma, rng=torch.Generator().manual_seed(0))
    noisy = noise(truth)

    denoiser = gm.HalfQuadraticSplitting(gm.load("gray"))
    found = estimate_poisson_gaussian(noisy)
    pilot = denoiser(noisy, poisson_gaussian_map(local_mean(noisy), *found))
    restored = denoiser(noisy, poisson_gaussian_map(pilot, *found))

    true_map = poisson_gaussian_map(truth, gain, sigma)
    one_level = denoiser(noisy, true_map.square().mean().sqrt())
    panels = {"truth": truth, "noisy": noisy, "one global level": one_level}
    panels |= {"estimated map": restored, "true map": denoiser(noisy, true_map)}
    draw(panels, truth, out)
    print(
        f"gain {found[0].item():.4f} (true {gain}), sigma {found[1].item():.4f} (true {sigma}); "
        + ", ".join(
            f"{name} {psnr(image, truth):.2f} dB" for name, image in list(panels.items())[1:]
        )
        + f": {out}"
    )
    return psnr(restored, truth)


if __name__ == "__main__":
    main()
