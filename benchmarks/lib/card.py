"""The card of bundled weights: what they are, how they were made, figures on held-out images."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import gmdm_prior as gm
from lib import table
from lib.data import held_out_images
from lib.figures import mean_psnr

SIGMAS = (15, 25, 50, 100)
TITLES = {
    "one_step": "one step (`PatchAveraging`)",
    "hqs": "`HalfQuadraticSplitting`",
    "posterior": "posterior mean (`WaveletDenoiser`)",
    "tweedie": "Tweedie's formula (`denoise`)",
}


@dataclass(frozen=True)
class Made:
    """A model and how it was made.

    Attributes:
        model: the density.
        commands: that made it, one after another.
        minutes: that they took.
        holdout: one image in this many was held out.
        curves: points of `figures.curve` by the command of the run.
        facts: what else the card holds.
    """

    model: gm.DensityModel
    commands: list[str]
    minutes: float
    holdout: int = 40
    curves: dict[str, list] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def held_out_figures(model: gm.DensityModel, images: list[Tensor]) -> dict[str, list[float]]:
    """PSNR on the held-out images at SIGMAS; see TITLES."""
    denoisers: dict[str, Any]
    if isinstance(model, gm.WaveletModel):
        denoisers = {"posterior": gm.WaveletDenoiser(model)}
    elif isinstance(model, gm.ConvolutionalModel):
        denoisers = {"tweedie": model.denoise}
    else:
        denoisers = {"one_step": gm.PatchAveraging(model), "hqs": gm.HalfQuadraticSplitting(model)}
    return {
        name: [round(mean_psnr(denoiser, images, level / 255), 2) for level in SIGMAS]
        for name, denoiser in denoisers.items()
    }


def held_out_bits(model: gm.WaveletModel, images: list[Tensor]) -> float:
    """Bits per pixel of the held-out images, mean over them; each cut to what the model takes."""
    generator, bits = torch.Generator().manual_seed(0), []
    for image in images:
        height, width = (n // model.patch_size * model.patch_size for n in image.shape[1:])
        bits.append(float(model.bits_per_dim(image[:, :height, :width], generator=generator)))
    return round(sum(bits) / len(bits), 3)


def describe(model: gm.DensityModel) -> str:
    """What the numbers are."""
    if isinstance(model, gm.WaveletModel):
        trees = model.experts
        return (
            f"A density of whole gray images, a `WaveletModel`: {model.levels} levels of the "
            f"wavelet {model.wavelet}, in each tree of coefficients a mixture of "
            f"{len(trees.weights)} classes on {len(trees.filters)} bases of "
            f"{trees.filters.shape[1]} rows, symmetries: {trees.symmetries}"
        )
    if isinstance(model, gm.ConvolutionalModel):
        return (
            "The paper's convolutional model, a `ConvolutionalModel`, unnormalised, and "
            f"approximate as a statement about noisy images (docs/theory): {len(model.magnitude)} "
            f"cyclic filters with disjoint spectra on a grid of {len(model.owner)}×"
            f"{len(model.owner)} frequencies, each with a mixture of {len(model.experts.means)} "
            "equidistant Gaussians"
        )
    size = f"{model.patch_size}×{model.patch_size}"
    if isinstance(model, gm.PatchModel):
        return (
            f"The paper's patch model, a `PatchModel`: {len(model.filters)} orthogonal zero-mean "
            f"filters of {size} pixels, each with a mixture of {len(model.experts.means)} "
            "equidistant Gaussians"
        )
    return (
        f"A mixture of products of Gaussian experts on gray {size} patches, a `PatchMixture`: "
        f"bases: {len(model.filters)} of {model.filters.shape[1]} filters, symmetries: "
        f"{model.symmetries}, classes: {len(model.weights)}"
    )


def facts_of(made: Made, name: str, data: str, about: dict[str, str]) -> dict[str, Any]:
    """What is stored with the weights, measured on the held-out images."""
    model, channels = made.model, getattr(made.model, "channels", 1)
    usual = {"gray": "as gray images", "colour": "in colour"} | about
    seen = usual["gray" if channels == 1 else "colour"]
    images = held_out_images(data, channels, made.holdout)
    facts: dict[str, Any] = {
        "name": name,
        "data": about["data"].format(seen=seen),
        **{key: about[key] for key in ("licence", "terms") if key in about},
        "numbers": model.num_parameters,
        "minutes": round(made.minutes, 1),
        "held_out_sigmas": list(SIGMAS),
        "held_out_images": len(images),
        **made.facts,
    }
    facts["held_out"] = held_out_figures(model, images)
    if isinstance(model, gm.WaveletModel):
        facts["held_out_bits_per_pixel"] = held_out_bits(model, images)
    return facts


def model_card(facts: dict[str, Any], made: Made, digest: str) -> str:
    """The Markdown card."""
    lines = [f"# {facts['name']}", "", f"{describe(made.model)}; {facts['numbers']:,} numbers.", ""]
    lines.append(f"- **Data**: {facts['data']}.")
    lines += [f"- **{k.title()}**: {facts[k]}." for k in ("licence", "terms") if k in facts]
    lines += ["- **Made by**, one after another:", *(f"  - `{line}`" for line in facts["commands"])]
    lines += [
        f"- **Seed**: {facts['seed']}",
        f"- **Duration**: {facts['minutes']:.1f} min of one core shared with other work",
        f"- **sha256**: `{digest}`",
    ]
    for line, points in made.curves.items():
        steps, losses, psnrs = zip(*points, strict=True)
        rows = [["loss", *losses], ["PSNR in dB, σ = 25, parts of images", *psnrs]]
        lines += ["", f"Held out while `{line.rsplit(' ', 1)[1]}` was trained:", ""]
        lines.append(table.markdown(["step", *(f"{step:,}" for step in steps)], rows))
    rows = [[TITLES[k], *(f"{v:.2f}" for v in row)] for k, row in facts["held_out"].items()]
    images = f"{facts['held_out_images']} held-out images"
    lines += ["", f"PSNR in dB on the {images}, noise of σ/255:", ""]
    lines.append(table.markdown(["σ", *map(str, SIGMAS)], rows))
    if "held_out_bits_per_pixel" in facts:
        lines += ["", f"Bits per pixel of these images: {facts['held_out_bits_per_pixel']:.3f}."]
    return "\n".join(lines) + "\n"
