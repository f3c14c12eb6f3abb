"""Bits per dimension of 8-bit images: `python benchmarks/likelihood.py BSD68 data=bsds500:ROOT`.

    [patches=300] [every=1] [mixture=runs/table/epll-gmm.safetensors] [out=benchmarks/results]

Patches at random places of the gray test images, `patches` of each of every `every`-th image, the
same for all models of one patch size, with the same uniform points of their bins
(`bits_per_dim`). Patch models get a Gaussian density of the mean grey level, fitted to
training patches. Beside them the full-covariance Gaussian of those patches, the 200-component
mixture of EPLL (recipes/rivals.py fits it) and, on whole images, Laplace densities of wavelet
coefficients. Nothing is fitted to a test image. Writes likelihood.csv and likelihood.md.
"""

import functools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from lib import rivals, table
from lib.data import Picture, read_pictures, training_images
from lib.rivals import COMPONENTS, GRAY, PATCHES, SIZE
from lib.words import BSDS500, Needed, Options, command
from torch import Tensor
from tqdm import tqdm

import gmdm_prior as gm
from gmdm_prior.densities.bits import bits_per_dim
from gmdm_prior.training import sample_patches
from gmdm_prior.training.ipalm.start import likelihood_start

REFERENCE = f"Gaussian mixture, {COMPONENTS} full covariances"
PRODUCT = "product of experts, by likelihood"
START = 60_000  # training patches of that product
HEADS = ("model", "numbers", "patch", "bits_per_dim", "standard_error", "less_reference", "error")
Bits = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Entry:
    """A density of patches of b×b pixels, or of whole images (`size` 0)."""

    name: str
    numbers: int
    size: int
    bits: Bits


def patch_entry(name: str, model: gm.PatchModel | gm.PatchMixture, training: Tensor) -> Entry:
    """One of our models, with the mean grey level of training patches."""
    proper = model.double().with_mean(mean_variance(training))
    bits = functools.partial(_bits_of_model, proper)
    return Entry(name, model.num_parameters + 1, model.patch_size, bits)


def mean_variance(patches: Tensor) -> float:
    """Mean square of the patches' mean grey level around 1/2, what `with_mean` takes."""
    return (patches.double().mean((1, 2, 3)) - GRAY).square().mean().item()


def density_entry(name: str, numbers: int, size: int, log_density) -> Entry:
    """A rival."""

    def bits(images: Tensor, generator: torch.Generator) -> Tensor:
        return bits_per_dim(log_density, images, generator=generator)

    return Entry(name, numbers, size, bits)


def _bits_of_model(model, images: Tensor, generator: torch.Generator) -> Tensor:
    return model.bits_per_dim(images, generator=generator)


def entries(images: Sequence[Tensor], mixture: Path) -> list[Entry]:
    """All densities, the rivals fitted to training images (1, H, W)."""
    draw = functools.cache(functools.partial(sample_patches, images, PATCHES))
    models = {name: gm.load(name) for name in gm.bundled()}
    models = {name: model for name, model in models.items() if model.channels == 1}
    patched = {n: m for n, m in models.items() if isinstance(m, (gm.PatchModel, gm.PatchMixture))}
    found = [patch_entry(name, model, draw(model.patch_size)) for name, model in patched.items()]
    product = likelihood_start(draw(SIZE)[:START])
    found.append(patch_entry(PRODUCT, product, draw(SIZE)))
    for size in sorted({entry.size for entry in found}):
        real = rivals.dequantised(draw(size), torch.Generator().manual_seed(1))
        a = size * size
        numbers = a + a * (a + 1) // 2
        found.append(
            density_entry("Gaussian, full covariance", numbers, size, rivals.gaussian(real))
        )
    found.append(density_entry(REFERENCE, COMPONENTS * SIZE**4, SIZE, rivals.full_mixture(mixture)))
    generator = torch.Generator().manual_seed(2)
    whole = [rivals.dequantised(rivals.divisible(image), generator) for image in images]
    for family in rivals.FAMILIES:
        name = f"Laplace {family} wavelet, whole images"
        found.append(density_entry(name, 11, 0, rivals.laplace_wavelet(whole, family)))
    for name, model in models.items():
        if name not in patched and model.normalised:
            bits = functools.partial(_bits_of_model, model.double())
            found.append(Entry(f"{name}, whole images", model.num_parameters, 0, bits))
    return found


def windows(picture: Picture, size: int, count: int) -> Tensor:
    """The patches of a test image (N, 1, b, b), or the image itself, `divisible`."""
    if not size:
        return rivals.divisible(picture.clean).double()
    generator = torch.Generator().manual_seed(picture.index)
    return sample_patches([picture.clean[0]], count, size, "none", generator).double()


def measure(found: Sequence[Entry], pictures: Sequence[Picture], count: int) -> Tensor:
    """Bits per dimension (densities, images)."""
    bits = torch.empty(len(found), len(pictures), dtype=torch.float64)
    for i, entry in enumerate(bar := tqdm(found)):
        bar.set_description(entry.name)
        for j, picture in enumerate(pictures):
            generator = torch.Generator().manual_seed(1000 + picture.index)
            bits[i, j] = entry.bits(windows(picture, entry.size, count), generator).mean()
    return bits


def rows(found: Sequence[Entry], bits: Tensor) -> list[tuple]:
    """Lines of `HEADS`, best first among each patch size, `SIZE` before the others."""
    reference = bits[[entry.name for entry in found].index(REFERENCE)]

    def error(values: Tensor) -> float:
        return values.std().item() / math.sqrt(len(values))

    lines = []
    for entry, own in zip(found, bits, strict=True):
        beside = ("", "")
        if entry.size == SIZE and entry.name != REFERENCE:
            less = own - reference
            beside = f"{less.mean():+.4f}", f"{error(less):.4f}"
        patch = f"{entry.size}×{entry.size}" if entry.size else "image"
        mean = own.mean().item()
        line = (entry.name, entry.numbers, patch, f"{mean:.4f}", f"{error(own):.4f}", *beside)
        lines.append((entry.size != SIZE, entry.size == 0, entry.size, mean, line))
    return [line for *_, line in sorted(lines)]


def report(lines: Sequence[tuple], images: int, count: int) -> str:
    """The table in Markdown."""
    note = (
        f"Bits per dimension of 8-bit gray images, {images} of them, {count} patches of each, mean "
        "± standard error over images; last column: paired difference from the mixture of "
        f"{COMPONENTS} full covariances, on the same patches. Less is better. Larger patches see "
        "more context: compare within one size."
    )
    rows = []
    for name, numbers, patch, mean, error, less, less_error in lines:
        beside = f"{less} ± {less_error}" if less else ""
        rows.append([name, f"{numbers:,}", patch, f"{mean} ± {error}", beside])
    heads = ["density", "numbers", "patch", "bits per dimension", "beside the full mixture"]
    return f"{note}\n\n{table.markdown(heads, rows)}\n"


@torch.no_grad()
def run(options: Options) -> None:
    """Fit, measure, write."""
    rivals.read_mixture(options.mixture)
    pictures = read_pictures(options.test)[:: options.every]
    found = entries(training_images(options.data), options.mixture)
    lines = rows(found, measure(found, pictures, options.patches))
    table.write_csv(options.out / "likelihood.csv", HEADS, lines)
    text = report(lines, len(pictures), options.patches)
    table.write_text(options.out / "likelihood.md", text)
    print(text, end="")


main = command(
    run,
    place="test",
    test=Needed("the folder of clean test images"),
    data=BSDS500,
    patches=300,
    every=1,
    mixture=rivals.MIXTURE,
    out=table.RESULTS,
)

if __name__ == "__main__":
    sys.exit(main())
