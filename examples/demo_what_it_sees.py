"""What the prior takes a noisy photograph for: a class and an orientation for every patch.

A class of the mixture says what a patch is, from flat to a strong edge, on one of three bases; the
symmetry it is seen in says which way it runs. Both are read off the noisy picture.
"""

import math

import numpy as np
import torch
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.command.restore import psnr
from matplotlib.colors import hsv_to_rgb, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

import gmdm_prior as gm
from gmdm_prior import symmetry
from gmdm_prior.files.pictures import read_picture
from gmdm_prior.pictures.class_maps import class_maps
from gmdm_prior.pictures.report import tile

HUES = ("tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:red", "tab:brown")
LISTED, EXAMPLES, STEP = 12, 4, 3  # classes in the legend, patches of each, pixels between patches
COLUMNS = 3.5, 3.9 + EXAMPLES  # of the legend, in patches


def seeded(seed: int = 0) -> torch.Generator:
    """The same noise at every run."""
    return torch.Generator().manual_seed(seed)


def class_colours(model: gm.PatchMixture) -> np.ndarray:
    """(K, 3): the hue says which basis, the depth how strong the contrast is among all classes."""
    rank = model.variances.sum(1).argsort().argsort()
    base = torch.tensor([to_rgb(HUES[g % len(HUES)]) for g in model.basis.tolist()])
    depth = 0.1 + 0.9 * rank[:, None] / max(1, len(rank) - 1)
    return torch.lerp(torch.full_like(base, 0.97), base, depth).numpy()


def most_used(model: gm.PatchMixture, classes: torch.Tensor) -> list[tuple[int, float]]:
    """The most used classes of each basis with their share of the picture, by contrast."""
    used = torch.bincount(classes.flatten(), minlength=len(model.weights)) / classes.numel()
    chosen, contrast = [], model.variances.sum(1)
    for g in range(len(model.filters)):
        mine = (model.basis == g).nonzero().flatten()
        mine = mine[used[mine].argsort(descending=True)[: LISTED // len(model.filters)]]
        chosen += mine[contrast[mine].argsort()].tolist()
    return [(k, float(used[k])) for k in chosen]


def drawn(model: gm.PatchMixture, k: int, count: int) -> torch.Tensor:
    """Samples (count, 1, b, b) of one class, as its basis lies."""
    responses = torch.randn(count, *model.variances[k].shape, generator=seeded(k))
    return torch.einsum(
        "nj,jcxy->ncxy", responses * model.variances[k].sqrt(), model.filters[model.basis[k]]
    )


def found(model: gm.PatchMixture, k: int, seen: torch.Tensor, patches: torch.Tensor):
    """The patches that a class claims most, less their means, turned as it sees them."""
    best = seen[..., k].sum(1).topk(min(EXAMPLES, len(seen))).indices.tolist()
    turns = [symmetry.group(model.symmetries)[int(seen[i, :, k].argmax())] for i in best]
    turned = [symmetry.act(patches[i], h) for i, h in zip(best, turns, strict=True)]
    return torch.stack([x - x.mean() for x in turned])


def legend(axes, model: gm.PatchMixture, classes, noisy, denoised, sigma: float) -> None:
    """Classes with colour, share, contrast, samples, and what they claim in this picture."""
    size, colours = model.patch_size, class_colours(model)
    at = [x[0, 0].unfold(0, size, STEP).unfold(1, size, STEP) for x in (noisy, denoised)]
    given, shown = (patches.flatten(0, 1)[:, None] for patches in at)
    seen = model.responsibilities(given, sigma)
    contrast = 255 * (model.variances.sum(1) / size**2).sqrt()
    row, basis = 0.0, 0
    for k, share in most_used(model, classes):
        row += 0.3 * (int(model.basis[k]) != basis)
        basis = int(model.basis[k])
        box = (0, row + 0.05), 0.9, 0.9
        axes.add_patch(Rectangle(*box, facecolor=colours[k], edgecolor="0.6", linewidth=0.5))
        axes.text(1.1, row + 0.5, f"{share:.0%}", va="center", fontsize=9)
        axes.text(2.1, row + 0.5, f"±{contrast[k]:.2g}", va="center", fontsize=9)
        for left, images in zip(
            COLUMNS, (drawn(model, k, EXAMPLES), found(model, k, seen, shown)), strict=True
        ):
            area = (left, left + len(images), row + 0.95, row + 0.05)
            axes.imshow(tile(images, len(images)), cmap="gray", vmin=-1, vmax=1, extent=area)
        row += 1
    heads = ("area", "contrast", "drawn from the class", "found in the picture")
    for x, text in zip((1.0, 2.0, *COLUMNS), heads, strict=True):
        axes.text(x, -0.15, text, fontsize=9, va="bottom")
    axes.set(xlim=(0, COLUMNS[1] + EXAMPLES), ylim=(row, -0.5), aspect="equal")
    axes.set_axis_off()


def orientation_colours(angle: torch.Tensor, confidence: torch.Tensor) -> np.ndarray:
    """(H, W, 3): the hue says which way edges run, white that nothing does."""
    value = 1 - 0.15 * confidence
    return hsv_to_rgb(torch.stack([angle / math.pi % 1, confidence, value], -1).numpy())


def compass(axes) -> None:
    """The colours of the orientation map, as short edges that run that way."""
    for angle in torch.linspace(0, math.pi, 13, dtype=torch.float64)[:-1]:
        x, y = 0.5 * math.cos(angle), 0.5 * math.sin(angle)
        colour = orientation_colours(angle[None, None], torch.ones(1, 1))[0, 0]
        for side in (-1, 1):
            axes.plot([side * x, 2 * side * x], [side * y, 2 * side * y], color=colour, lw=4)
    axes.add_patch(Circle((0, 0), 1.15, facecolor="white", edgecolor="0.6", zorder=0))
    axes.set(aspect="equal")
    axes.set_axis_off()


def main(out: str = "demo_what_it_sees.png", weights: str = "gray", size: int = 256) -> float:
    """Draw the maps of a noisy photograph; returns the PSNR of the denoised one in dB."""
    sigma, model = 15 / 255, gm.load(weights)
    truth = read_picture(shipped("images") / "coffee.png")[0][..., :size, :size]
    noisy = truth + sigma * torch.randn(truth.shape, generator=seeded())
    with torch.no_grad():
        denoised = gm.HalfQuadraticSplitting(model, stride=2)(noisy, sigma)
        maps = class_maps(model, noisy[0], sigma)
        figure = Figure(figsize=(13.5, 7.9), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(1.35, 1))
        panels = {
            f"what it is given: noise σ = 15, {psnr(noisy, truth):.1f} dB": noisy[0, 0],
            f"what it makes of it: {psnr(denoised, truth):.1f} dB": denoised[0, 0],
            "what it takes each patch for": class_colours(model)[maps.classes],
            "which way it runs, white: no way": orientation_colours(maps.angle, maps.confidence),
        }
        for axes, (title, image) in zip(left.subplots(2, 2).flat, panels.items(), strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(title, fontsize=10)
            axes.set_axis_off()
        compass(axes.inset_axes((0.79, 0.01, 0.2, 0.2)))
        listing = right.subplots()
        legend(listing, model, maps.classes, noisy, denoised, sigma)
        listing.set_title(
            "the classes it uses most, of each basis (contrast in gray levels)", fontsize=10
        )
    figure.savefig(out, dpi=110)
    print(f"noisy {psnr(noisy, truth):.2f} dB, denoised {psnr(denoised, truth):.2f} dB: {out}")
    return psnr(denoised, truth)


if __name__ == "__main__":
    main()
