"""What the scripts of the paper's figures share: pictures, and how well potentials match them."""

from pathlib import Path
from typing import cast

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

import gmdm_prior as gm
from gmdm_prior.pictures.report import product
from gmdm_prior.training import Checkpoints, FitSettings, fit, sample_patches
from lib.data import BUNDLED, PHOTOGRAPHS, halved, held_out_images, read_gray, scikit_images
from lib.data import training_images as training_images_of
from lib.figures import zero_mean

FIGURES = Path(__file__).resolve().parents[2] / "docs" / "figures"
NAMES = ("camera.png", "cat.png", "coffee.png")
SAME = ("camera.png", "chelsea.png", "coffee.png")  # what the bundled pictures are parts of
SIGMAS = (0.025, 0.1, 0.2)  # noise levels of Figs. 1, 5 and 7
BINS = 100
TAIL = 0.01  # share of the responses left out on either side


def pictures(data: str = "") -> list[Tensor]:
    """Held-out images (C, H, W) of a data source, or the three bundled photographs in gray."""
    if data:
        return held_out_images(data)
    return [read_gray(BUNDLED / name)[0] for name in NAMES]


def training_pictures(data: str = "") -> list[Tensor]:
    """Training images (C, H, W) of a data source, or scikit-image's that are not bundled."""
    if data:
        return training_images_of(data)
    files = scikit_images([name for name in PHOTOGRAPHS if name not in SAME])
    return [halved(read_gray(file))[0] for file in files]


def patches_of(images: list[Tensor], size: int, count: int) -> Tensor:
    """Zero-mean patches (N, 1, b, b) in random symmetries of the square."""
    drawn = sample_patches(images, count, size, "d4", torch.Generator().manual_seed(0))
    return zero_mean(drawn)


def train(
    images: tuple[list[Tensor], list[Tensor]],
    settings: FitSettings,
    store: Checkpoints | None = None,
) -> gm.PatchModel:
    """The model of a run on training and held-out images, which goes on from its checkpoints."""
    resume = store.latest() if store else None
    records = fit(*images, settings, checkpoints=store, resume=resume)
    done = resume.step if resume else 0
    with tqdm(total=settings.steps, initial=done, desc=f"sigma up to {settings.sigma_max}") as bar:
        for record in records:
            bar.update(record.step - bar.n)
            bar.set_postfix_str(f"loss {record.loss:.4g}", refresh=False)
    return cast(gm.PatchModel, record.model)


@torch.no_grad()
def mismatch(model: gm.PatchModel, patches: Tensor, sigma: float) -> Tensor:
    """(J,) nats by which each potential misses the marginal of noisy responses.

    This is the Kullback-Leibler divergence of the expert from a histogram of the responses, in the
    interval that holds all but `TAIL` of them on either side.
    """
    filters = model.filters.double().flatten(1)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(patches.shape, generator=generator, dtype=torch.float64)
    z = (patches.double() + sigma * noise).flatten(1) @ filters.T
    experts = model.experts.diffuse(sigma**2 * filters.square().sum(1))
    ends = z.quantile(torch.tensor([TAIL, 1 - TAIL]).double(), 0)
    width = (ends[1] - ends[0]) / BINS
    learned = experts.log_prob(ends[0] + width * (torch.arange(BINS)[:, None] + 0.5)).exp()
    counts = [torch.histc(c, BINS, *e) for c, e in zip(z.T, ends.T.tolist(), strict=True)]
    seen, learned = (p / p.sum(0) for p in (torch.stack(counts, 1), learned))
    return torch.special.xlogy(seen, seen / learned).sum(0)


def draw(model: gm.PatchModel, patches: Tensor, path: Path) -> None:
    """Filters by norm, and potentials beside the marginals, as in Figs. 1, 5 and 7."""
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    product(figure, model, patches, potentials=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def say(model: gm.PatchModel, patches: Tensor) -> None:
    """Print the mismatch over the filters at each noise level."""
    for sigma in SIGMAS:
        found = mismatch(model, patches, sigma)
        print(
            f"sigma {sigma:<5} potentials miss the marginals by {found.median():.4f} nats "
            f"(median), {found.max():.4f} at most"
        )
