"""What the likelihood says about the noise level (Fig. 4 of the paper)."""

import matplotlib.figure
import numpy as np
import torch
from deepinv_gmdm import GMDMNoiseEstimator
from deepinv_gmdm.command.config import shipped
from matplotlib.ticker import FixedLocator, NullLocator

import gmdm_prior as gm
from gmdm_prior.files.pictures import read_picture

TRUE_LEVELS = (10 / 255, 25 / 255, 50 / 255)


def negative_log_density(model, patches, sigmas) -> np.ndarray:
    """Mean -log f(., sigma) of patches over sigma, with its least value moved to zero."""
    values = np.array([-model.log_prob(patches, float(s)).mean().item() for s in sigmas])
    return values - values.min()


def main(out: str = "demo_noise_level.png", size: int = 256, steps: int = 30) -> float:
    """Draw the likelihood over the level; returns the largest relative error of the estimates."""
    truth = read_picture(shipped("images") / "cat.png")[0][..., :size, :size]
    model = gm.load("gray-likelihood")
    estimator = GMDMNoiseEstimator(model)
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    windows = truth[0].unfold(1, 8, 7).unfold(2, 8, 7).flatten(1, 2).transpose(0, 1)
    normal = torch.randn(windows.shape, generator=torch.Generator().manual_seed(1))
    sigmas = np.geomspace(0.02, 0.4, steps)

    figure = matplotlib.figure.Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    errors = []
    for colour, true in enumerate(TRUE_LEVELS):
        found = estimator.with_error(truth + true * noise)
        errors.append(abs(found.sigma.item() / true - 1))
        low, high = (end.item() * 255 for end in found.interval())
        curve = negative_log_density(model, windows + true * normal, sigmas)
        label = f"true {255 * true:.0f}, estimated {255 * found.sigma.item():.2f}"
        left.plot(255 * sigmas, curve, color=f"C{colour}", label=label)
        left.axvline(255 * true, color=f"C{colour}", linestyle=":")
        left.axvspan(low, high, color=f"C{colour}", alpha=0.25)
        print(f"true {255 * true:5.2f}/255, estimated {255 * found.sigma.item():5.2f}/255")
    left.set(xscale="log", ylim=(0, 40), xlabel="255 σ of the model", ylabel="nats per patch")
    left.xaxis.set_major_locator(FixedLocator([5, 10, 25, 50, 100]))
    left.xaxis.set_minor_locator(NullLocator())
    left.xaxis.set_major_formatter("{x:g}")
    left.set_title("negative log-density of one image (bands: 95 % of the estimate)", fontsize=10)
    left.legend()

    surface = [negative_log_density(model, windows + float(s) * normal, sigmas) for s in sigmas]
    image = right.contourf(
        sigmas, sigmas, np.array(surface).T, np.linspace(0, 20, 21), extend="max"
    )
    right.plot(sigmas, sigmas, "w--", label="σ of the model = σ")
    right.plot(sigmas, sigmas[np.argmin(surface, 1)], "r.", label="least")
    right.set(xscale="log", yscale="log", xlabel="σ of the noise", ylabel="σ of the model")
    for axis in (right.xaxis, right.yaxis):
        axis.set_major_locator(FixedLocator([0.02, 0.05, 0.1, 0.2, 0.4]))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:g}")
    right.set_title("expected negative log-density, least value 0", fontsize=10)
    right.legend()
    figure.colorbar(image, ax=right, label="nats per patch")
    figure.savefig(out, dpi=110)
    return max(errors)


if __name__ == "__main__":
    main()
