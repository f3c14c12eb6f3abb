"""How far off is each pixel? The error of a denoised photograph beside what the model predicts."""

import matplotlib.figure
import torch
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.command.restore import psnr
from matplotlib.ticker import FixedLocator, NullLocator

import gmdm_prior as gm
from gmdm_prior.files.pictures import read_picture

LEVELS = (10 / 255, 25 / 255, 50 / 255)
SHOWN = 25 / 255
BINS = 12  # of equally many pixels each, by predicted standard deviation


def calibration(error: torch.Tensor, deviation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Predicted and real root mean square error in bins of pixels that are predicted alike."""
    order = deviation.flatten().argsort()
    pairs = (values.flatten()[order].square().tensor_split(BINS) for values in (deviation, error))
    predicted, real = (torch.stack([v.mean().sqrt() for v in parts]) for parts in pairs)
    return predicted, real


def main(out: str = "demo_uncertainty.png", weights: str = "gray", size: int = 192) -> float:
    """Draw error and prediction; returns predicted over real root mean square error at σ = 25."""
    truth = read_picture(shipped("images") / "camera.png")[0][..., 16 : 16 + size, 40 : 40 + size]
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    denoiser = gm.PatchAveraging(gm.load(weights))

    figure = matplotlib.figure.Figure(figsize=(14, 3.9), layout="constrained")
    pictures, plot = figure.subfigures(1, 2, width_ratios=(2.9, 1))
    axes = plot.subplots()
    for colour, sigma in enumerate(LEVELS):
        with torch.no_grad():
            restored = denoiser(truth + sigma * noise, sigma)
            deviation = denoiser.variance(truth + sigma * noise, sigma).sqrt()
        error = restored - truth
        predicted, real = calibration(255 * error, 255 * deviation)
        axes.loglog(predicted, real, "o-", color=f"C{colour}", label=f"σ = {255 * sigma:.0f}")
        ratio = (deviation.square().mean() / error.square().mean()).sqrt().item()
        print(f"sigma {255 * sigma:.0f}: predicted error {ratio:.2f} times the real one")
        if sigma == SHOWN:
            returned = ratio
            panels = {
                f"restored from σ = {255 * sigma:.0f}, {psnr(restored, truth):.1f} dB": restored,
                "error |restored - truth|": 255 * error.abs(),
                "predicted standard deviation": 255 * deviation,
            }
    top = 3 * panels["predicted standard deviation"].square().mean().sqrt().item()
    for panel, (title, image) in zip(pictures.subplots(1, 3), panels.items(), strict=True):
        gray = title.startswith("restored")
        limits = {"cmap": "gray", "vmin": 0, "vmax": 1} if gray else {"vmin": 0, "vmax": top}
        drawn = panel.imshow(image[0, 0], interpolation="nearest", **limits)
        panel.set_title(title, fontsize=10)
        panel.set_axis_off()
    pictures.colorbar(drawn, ax=panel, label="gray levels of 255", fraction=0.046)
    ends = axes.get_xlim()
    axes.loglog(ends, ends, "k--", linewidth=1, label="as predicted")
    axes.set(xlabel="predicted standard deviation, of 255", ylabel="root mean square error")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator([1, 2, 5, 10, 20]))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:g}")
    axes.set_title(f"pixels in {BINS} bins by prediction", fontsize=10)
    axes.legend()
    figure.savefig(out, dpi=110)
    return returned


if __name__ == "__main__":
    main()
