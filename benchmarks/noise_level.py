"""Noise levels read from images, beside deepinv's and scikit-image's estimators.

    python benchmarks/noise_level.py BSD68 [weights=gray-likelihood] [every=1] [out=FOLDER]
    python benchmarks/noise_level.py skimage parts=2 sigmas=15,25,50 name=noise_level_skimage
    python benchmarks/noise_level.py calibrate data=bsds500:ROOT [weights=gray-likelihood]

The first two: gray images in [0, 1] of a folder, or those in scikit-image's wheel, each cut into
`parts` by `parts` images; noise of sigma/255 from a generator seeded with the image's index; error
relative to sigma, its mean absolute value and its mean; how many 95 % intervals cover the truth.
Writes NAME.csv, NAME.md and NAME.png into benchmarks/results. The last fits the misfit term of
`gmdm_prior.noise.level` and prints the bias, on the ten held-out training images.
"""

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lib import table
from lib.data import Picture, held_out_images, noisy, read_pictures
from lib.timing import timed
from lib.words import BSDS500, Needed, Options, choice, command
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

import gmdm_prior as gm
from gmdm_prior.noise.level import level_of_image, misfit

SIGMAS = (2.0, 5.0, 10.0, 15.0, 25.0, 50.0, 100.0)  # of 255
OURS, WEIGHTS = "gmdm-prior", "gray-likelihood"
HEADS = ("sigma", "estimator", "mean_abs_error", "bias", "coverage_95", "seconds")


@dataclass(frozen=True)
class Row:
    """One estimator at one noise level: `errors` are relative, of each image."""

    sigma: float
    estimator: str
    errors: np.ndarray
    seconds: float
    coverage: float | None = None

    @property
    def size(self) -> float:
        """Mean absolute relative error."""
        return float(np.abs(self.errors).mean())

    @property
    def bias(self) -> float:
        """Mean relative error."""
        return float(self.errors.mean())


def rivals() -> dict[str, Callable[[Tensor], float]]:
    """Estimators of others by name, of images (1, 1, H, W)."""
    import deepinv
    from skimage.restoration import estimate_sigma

    wavelet = deepinv.models.WaveletNoiseEstimator()
    covariance = deepinv.models.PatchCovarianceNoiseEstimator()
    return {
        "deepinv wavelet": lambda y: wavelet(y).item(),
        "deepinv patch covariance": lambda y: covariance(y).item(),
        "scikit-image": lambda y: float(estimate_sigma(y[0, 0].numpy())),
    }


def rows_at(sigma: float, model, pictures: list[Picture], others: dict) -> list[Row]:
    """Every estimator on the same noisy images."""
    found: dict[str, list[float]] = {name: [] for name in [OURS, *others]}
    seconds = dict.fromkeys(found, 0.0)
    covered = []
    for picture in tqdm(pictures, leave=False, desc=f"sigma {sigma:g}"):
        image, truth = picture.noisy(sigma / 255), sigma / 255
        level, taken = timed(lambda y=image: gm.noise_level(model, y))
        seconds[OURS] += taken
        found[OURS].append(level.sigma.item())
        low, high = level.interval()
        covered.append(low.item() <= truth <= high.item())
        for name, estimate in others.items():
            value, taken = timed(lambda y=image, e=estimate: e(y))
            found[name].append(value)
            seconds[name] += taken
    return [
        Row(
            sigma,
            name,
            np.array(values) * 255 / sigma - 1,
            seconds[name] / len(pictures),
            float(np.mean(covered)) if name == OURS else None,
        )
        for name, values in found.items()
    ]


def save(path: Path, rows: list[Row], note: str) -> None:
    """The rows so far as CSV and Markdown, beside `path`."""
    lines = []
    for r in rows:
        coverage = "" if r.coverage is None else f"{r.coverage:.4f}"
        numbers = f"{r.size:.5f}", f"{r.bias:.5f}", coverage, f"{r.seconds:.3f}"
        lines.append([r.sigma, r.estimator, *numbers])
    table.write_csv(path.with_suffix(".csv"), HEADS, lines)
    lines = []
    for name, own in by_estimator(rows).items():
        cells = [f"{100 * r.size:.2f} ({100 * r.bias:+.2f})" for r in own]
        lines.append([name, *cells, f"{np.mean([r.seconds for r in own]):.2f}"])
    covered = [f"{100 * r.coverage:.0f}" for r in rows if r.coverage is not None]
    lines.append([f"{OURS}: 95 % interval covers", *covered, ""])
    sigmas = table.sigma_heads(dict.fromkeys(r.sigma for r in rows))
    text = table.markdown(["estimator", *sigmas, "s/image"], lines)
    text += f"\n\nMean absolute relative error (bias) in %, {note}."
    table.write_text(path.with_suffix(".md"), text)


def by_estimator(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of each estimator."""
    names = dict.fromkeys(r.estimator for r in rows)
    return {name: [r for r in rows if r.estimator == name] for name in names}


def draw(path: Path, rows: list[Row]) -> None:
    """Mean absolute errors over sigma, and ours image by image."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    found = by_estimator(rows)
    for name, own in found.items():
        left.plot([r.sigma for r in own], [100 * r.size for r in own], "o-", label=name)
    left.set(yscale="log", ylabel="mean |error| in % of σ")
    left.grid(alpha=0.3)
    left.legend(fontsize=8)
    own = found[OURS]
    spread = np.random.default_rng(0).uniform(0.94, 1.06, len(own[0].errors))
    for r in own:
        right.plot(r.sigma * spread, 100 * r.errors, ".", color="C0", alpha=0.5, markersize=4)
    right.set(ylabel="error in % of σ", ylim=(-15, 35))
    right.set_title(f"{OURS}, each image", fontsize=10)
    right.axhline(0, color="0.6", linewidth=0.8)
    for axes in (left, right):
        show_sigmas(axes, [r.sigma for r in own])
    figure.savefig(path, dpi=120)


def show_sigmas(axes: Axes, sigmas: list[float]) -> None:
    """A logarithmic axis of noise levels."""
    axes.set(xscale="log", xlabel="σ · 255")
    axes.set_xticks(sigmas, [f"{sigma:g}" for sigma in sigmas])
    axes.minorticks_off()


@torch.no_grad()
def compare(options: Options) -> None:
    """All estimators at all noise levels on a folder of clean images."""
    pictures = read_pictures(options.images)[:: options.every]
    pictures = [part for picture in pictures for part in cut(picture, options.parts)]
    path, model = options.out / options.name, gm.load(options.weights)
    others, rows = rivals(), []
    note = f"{len(pictures)} images, `{options.weights}`; seconds of one thread"
    for sigma in options.sigmas:
        rows += rows_at(sigma, model, pictures, others)
        save(path, rows, note)
    draw(path.with_suffix(".png"), rows)
    print(path.with_suffix(".md").read_text(encoding="utf-8"), end="")


def cut(picture: Picture, parts: int) -> list[Picture]:
    """A picture in `parts` by `parts` pieces, each with noise of its own."""
    rows = picture.clean.tensor_split(parts, 2)
    pieces = [piece for row in rows for piece in row.tensor_split(parts, 3)]
    first = picture.index * parts**2
    return [replace(picture, index=first + i, clean=x) for i, x in enumerate(pieces)]


@torch.no_grad()
def calibrate(options: Options) -> None:
    """Fit a, b and c of the misfit term by maximum likelihood, and print the bias."""
    images = [image[None] for image in held_out_images(options.data)]
    model = gm.load(options.weights)
    readings, truth, error = [], [], []
    for sigma in tqdm(SIGMAS):
        found = [level_of_image(model, noisy(x, sigma / 255, i)[0]) for i, x in enumerate(images)]
        off = np.array([reading.sigma for reading in found]) * 255 / sigma - 1
        print(f"sigma {sigma:3g}: bias {off.mean():+.4f}, mean |error| {np.abs(off).mean():.4f}")
        readings += found
        truth += [sigma / 255] * len(images)
        error += list(np.log1p(off))
    squares, own = np.square(error), np.array([reading.own_variance for reading in readings])

    def misfits(constants: tuple[float, float]) -> np.ndarray:
        values = [misfit(s, r.share, *constants) for s, r in zip(truth, readings, strict=True)]
        return np.array(values)

    def cost(constants: tuple[float, float]) -> float:
        total = misfits(constants) ** 2 + own
        return float((np.log(total) + squares / total).sum())

    grids = np.arange(0.001, 0.01, 0.0001), np.arange(0.005, 0.1, 0.001) / 255
    likeliest = min(itertools.product(*grids), key=cost)
    needed = np.sqrt(np.maximum(squares / 1.96**2 - own, 0)) / misfits(likeliest)
    a, b = (max(1.0, needed.max()) * constant for constant in likeliest)
    print(f"misfit: a = {a:.5f}, b = {255 * b:.4f} / 255 (likeliest, times {needed.max():.2f})")


main = choice(
    command(
        compare,
        place="images",
        images=Needed("the folder of clean images, skimage, or calibrate"),
        weights=WEIGHTS,
        every=1,
        parts=1,
        sigmas=SIGMAS,
        name="noise_level",
        out=table.RESULTS,
    ),
    calibrate=command(calibrate, data=BSDS500, weights=WEIGHTS),
)

if __name__ == "__main__":
    sys.exit(main())
