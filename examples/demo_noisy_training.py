"""A prior learnt from noisy images alone, as a microscope gives them.

Forty pictures of cells are made up, each with noise of a level of its own that nobody writes down.
The training reads the noisy pictures only, estimates their levels, and fits a mixture (noise=auto).
The result removes the noise from pictures that it has not seen, beside a model of photographs.
"""

import math

import torch
from deepinv_gmdm.command.restore import psnr
from matplotlib.figure import Figure
from torch import Tensor

import gmdm_prior as gm
from gmdm_prior.training import FitSettings, fit


def cells(count: int, size: int, seed: int) -> Tensor:
    """Bright rims around textured discs on a dim, uneven ground, (count, 1, size, size)."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(*[torch.arange(size, dtype=torch.float32)] * 2, indexing="ij")
    images = []
    for _ in range(count):
        tilt = torch.rand(2, generator=g)
        image = 0.12 + 0.08 * (tilt[0] * x + tilt[1] * y) / size
        for _ in range(size * size // 900):
            cx, cy, radius, squeeze, angle, light = torch.rand(6, generator=g).tolist()
            radius, turn = 5 + 11 * radius, math.pi * angle
            u = (x - cx * size) * math.cos(turn) + (y - cy * size) * math.sin(turn)
            v = (y - cy * size) * math.cos(turn) - (x - cx * size) * math.sin(turn)
            distance = (u.square() + v.square() * (1 + squeeze)).sqrt() - radius
            ripple = torch.sin(0.9 * u + 6 * light) * torch.sin(0.9 * v)
            inside = torch.sigmoid(-2 * distance)
            body = 0.2 + 0.25 * light + 0.05 * ripple
            rim = (0.25 + 0.2 * light) * torch.exp(-distance.square() / 2)
            image = image * (1 - 0.8 * inside) + 0.8 * body * inside + rim
        images.append(image.clamp(0, 1))
    return torch.stack(images)[:, None]


def learn(noisy: list[Tensor], patches: int) -> gm.PatchMixture:
    """A mixture from noisy images (1, H, W) of unknown levels; every tenth is held out."""
    held_out = noisy[::10]
    training = [image for i, image in enumerate(noisy) if i % 10]
    sizes = {"bases": 2, "classes": 24, "components": 80, "patches": patches}
    settings = FitSettings(noise="auto", measure_every=50, **sizes)
    for record in fit(training, held_out, settings):
        if record.step % 6 == 0:
            print(f"step {record.step} of {record.steps}: loss {record.loss:.4f}")
    return record.model


def draw(panels: dict[str, Tensor], path: str) -> None:
    """Pictures side by side."""
    figure = Figure(figsize=(3 * len(panels), 3.7), layout="constrained")
    for axes, (title, image) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.imshow(image[0, 0].clamp(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(title)
        axes.set_axis_off()
    figure.savefig(path, dpi=110)


def main(
    out: str = "demo_noisy_training.png", count: int = 40, size: int = 160, patches: int = 40_000
) -> float:
    """Learn from noisy pictures, denoise others, save the figure; returns the PSNR in dB."""
    g = torch.Generator().manual_seed(1)
    clean = cells(count, size, seed=0)
    levels = 0.05 + 0.1 * torch.rand(count, 1, 1, 1, generator=g)
    model = learn(list(clean + levels * torch.randn(clean.shape, generator=g)), patches)

    sigma, truth = 0.1, cells(4, size, seed=100)
    noisy = truth + sigma * torch.randn(truth.shape, generator=g)
    with torch.no_grad():
        results = {"noisy": noisy}
        for name, each in {"photographs": gm.load("gray"), "noisy cells": model}.items():
            results[f"prior: {name}"] = gm.HalfQuadraticSplitting(each)(noisy, sigma)
    values = {name: psnr(image, truth) for name, image in results.items()}
    panels = {f"{name}\n{values[name]:.2f} dB": image for name, image in results.items()}
    draw({"truth": truth, **panels}, out)
    print(", ".join(f"{name} {value:.2f} dB" for name, value in values.items()) + f": {out}")
    return values["prior: noisy cells"]


if __name__ == "__main__":
    main()
