"""Are predicted errors true? `python benchmarks/calibration.py BSD68 [options]`.

    [weights=gray,gray-likelihood,bsds-gray-7x7] [patches=100] [every=4] [crop=128]
    [out=benchmarks/results]

On noisy patches of the test images, `patches` of each: the mean of (x - m)² / v over pixels, m and
v posterior mean and variance, which is 1 if the model is true; and how often a clean response lies
between the exact 2.5 % and 97.5 % quantiles of its posterior, a Gaussian mixture. On the middle of
the images, one step of patch averaging: squared error over predicted variance
(`PatchAveraging.variance`), over that variance less the spread of the patches' means, and how often
a pixel lies within 1.96 standard deviations. Writes calibration.csv and calibration.md.
"""

import sys
from collections.abc import Sequence

import numpy as np
import torch
from lib import table
from lib.data import Picture, middle, read_pictures
from lib.words import Needed, Options, command
from torch import Tensor
from tqdm import tqdm

import gmdm_prior as gm
from gmdm_prior import symmetry
from gmdm_prior.images.patches import interior_average, pad
from gmdm_prior.training import sample_patches

LEVELS = (10, 25, 50)  # of 255
DIRECTIONS = 12  # filters, spread over a basis, whose responses are looked at
HEADS = ("model", "sigma", "patch_ratio", "patch_coverage")
HEADS += ("image_ratio", "image_ratio_less_spread", "image_coverage")


def response_cdf(
    model: gm.PatchModel | gm.PatchMixture, x: Tensor, y: Tensor, sigma: float, j: int
) -> Tensor:
    """P(response <= that of x | y), (N,): uniform in [0, 1] where the model is true.

    The response to filter j, of a mixture's first basis, given a noisy patch has a mixture of
    Gaussians for its law: of the expert's components, or of classes and symmetries.

    Args:
        model: of float64.
        x: clean patches (N, C, b, b).
        y: noisy patches.
        sigma: the level of their noise.
        j: which filter.
    """
    x, y, noise = x.flatten(1), y.flatten(1), sigma * sigma
    if isinstance(model, gm.PatchModel):
        filter_, experts = model.filters[j].flatten(), model.experts
        added = noise * filter_.square().sum()
        total = experts.base_scale**2 + added
        z, gain = (y @ filter_)[:, None], experts.base_scale**2 / total
        log = experts.weights[j].log() - 0.5 * (z - experts.means).square() / total
        means = experts.means + gain * (z - experts.means)
        return _mixture_cdf(x @ filter_, log, means, gain * added)
    d = model.filters[0, j]
    logs, means, variances = [], [], []
    for h in symmetry.group(model.symmetries):
        rows = model.filters[model.basis].flatten(2)  # (K, J, a)
        u = torch.einsum("kja,na->nkj", rows, _act(y, model, h))
        total = model.variances + noise
        logs.append(model.weights.log() - 0.5 * (u.square() / total + total.log()).sum(2))
        along = rows @ symmetry.act(d, h).flatten()  # (K, J)
        gain = model.variances / total
        means.append((u * gain * along).sum(2))
        variances.append((along.square() * gain * noise).sum(1))
    parts = torch.cat(logs, 1), torch.cat(means, 1), torch.cat(variances)
    return _mixture_cdf(x @ d.flatten(), *parts)


def _act(y: Tensor, model: gm.PatchMixture, h: int) -> Tensor:
    return symmetry.act(y.reshape(-1, *model.event_shape), h).flatten(1)


def _mixture_cdf(z: Tensor, log_weights: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    places = (z[:, None] - means) / variances.sqrt()
    return (torch.softmax(log_weights, 1) * torch.special.ndtr(places)).sum(1)


def of_patches(model, patches: Tensor, sigma: float) -> tuple[float, float]:
    """Mean of (x - m)² / v over pixels, and coverage of 95 % intervals of responses."""
    generator = torch.Generator().manual_seed(0)
    y = patches + sigma * torch.randn(patches.shape, generator=generator, dtype=patches.dtype)
    mean, variance = model.posterior(y, sigma)
    ratio = ((patches - mean).square() / variance).mean().item()
    count = model.filters.shape[-4]
    chosen = np.linspace(0, count - 1, min(DIRECTIONS, count)).astype(int)
    inside = []
    for j in chosen:
        for x_part, y_part in zip(patches.split(500), y.split(500), strict=True):
            below = response_cdf(model, x_part, y_part, sigma, int(j))
            inside.append((below - 0.5).abs() <= 0.475)
    return ratio, torch.cat(inside).double().mean().item()


def of_images(model, pictures: Sequence[Picture], crop: int, sigma: float) -> tuple[float, ...]:
    """Squared error over variance, over variance less the means' spread, and coverage."""
    denoiser, errors, variances, spreads, inside = gm.PatchAveraging(model), 0.0, 0.0, 0.0, []
    for picture in pictures:
        noisy, clean = (middle(image, crop) for image in (picture.noisy(sigma), picture.clean))
        mean, variance = denoiser(noisy, sigma), denoiser.variance(noisy, sigma)
        square = (mean - clean).square()
        errors, variances = errors + square.sum(), variances + variance.sum()
        spreads = spreads + (mean_square(model, noisy, sigma) - mean.square()).sum()
        inside.append((square <= 1.96**2 * variance).flatten())
    ratios = (errors / variances).item(), (errors / (variances - spreads)).item()
    return *ratios, torch.cat(inside).double().mean().item()


def mean_square(model, noisy: Tensor, sigma: float) -> Tensor:
    """Mean over the patches of (posterior mean)², like the image."""
    level, border = model.at(torch.tensor(sigma * sigma)), model.patch_size - 1
    padded = pad(noisy[0], border, border, "reflect")

    def squares(patches: Tensor) -> Tensor:
        return torch.cat([level.posterior_mean(part).square() for part in patches.split(1000)])

    return interior_average((padded,), model.patch_size, squares)[None]


def report(rows: Sequence[tuple], pictures: int, count: int, crop: int) -> str:
    """The table in Markdown."""
    note = (
        f"{pictures} test images; {count} noisy patches of each, and one step of patch averaging "
        f"of their middle {crop}×{crop} pixels. A true model has ratios of 1 and coverages of "
        "95 %. `variance` is an upper bound of the error of the average if the patches' "
        "posteriors are true; less the spread of the patches' means it is its expectation."
    )
    heads = ["model", "255 σ", "patches: mean (x − m)² / v", "responses in their 95 % interval"]
    heads += ["images: error / `variance`", "error / (`variance` − spread of means)"]
    heads += ["pixels within 1.96 sd"]
    lines = []
    for name, level, ratio, coverage, image, corrected, pixels in rows:
        cells = f"{ratio:.2f}", f"{100 * coverage:.1f} %", f"{image:.2f}", f"{corrected:.2f}"
        lines.append([name, level, *cells, f"{100 * pixels:.1f} %"])
    return f"{note}\n\n{table.markdown(heads, lines)}\n"


@torch.no_grad()
def run(options: Options) -> None:
    """Measure, write."""
    pictures = read_pictures(options.test)[:: options.every]
    images = [picture.clean[0] for picture in pictures]
    rows = []
    for name, level in tqdm([(name, level) for name in options.weights for level in LEVELS]):
        model, sigma = gm.load(name), level / 255
        total = options.patches * len(images)
        patches = sample_patches(images, total, model.patch_size, "none").double()
        exact = gm.load(name, dtype=torch.float64)
        found = of_images(model, pictures, options.crop, sigma)
        rows.append((name, level, *of_patches(exact, patches, sigma), *found))
    lines = ([*row[:2], *(f"{value:.4f}" for value in row[2:])] for row in rows)
    table.write_csv(options.out / "calibration.csv", HEADS, lines)
    text = report(rows, len(pictures), options.patches, options.crop)
    table.write_text(options.out / "calibration.md", text)
    print(text, end="")


main = command(
    run,
    place="test",
    test=Needed("the folder of clean test images"),
    weights=("gray", "gray-likelihood", "bsds-gray-7x7"),
    patches=100,
    every=4,
    crop=128,
    out=table.RESULTS,
)

if __name__ == "__main__":
    sys.exit(main())
