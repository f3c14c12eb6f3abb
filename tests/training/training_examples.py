"""Images, patches and models that several tests of training share."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gmdm_prior import DensityModel, PatchMixture, symmetry
from gmdm_prior.constraints import zero_mean_basis

SMALL = {"bases": 2, "classes": 5, "components": 12, "full_iterations": 4, "iterations": 4}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_basis(dimension: int, generator: torch.Generator) -> Tensor:
    square = torch.randn(dimension, dimension, dtype=torch.float64, generator=generator)
    return torch.linalg.qr(square)[0]


def random_covariances(count: int, dimension: int, generator: torch.Generator) -> Tensor:
    factor = torch.randn(count, dimension, 2 * dimension, dtype=torch.float64, generator=generator)
    return factor @ factor.mT / (2 * dimension)


def known_mixture(symmetries: str = "d4", size: int = 3, seed: int = 1) -> PatchMixture:
    """Two bases, two classes each, with variances that tell all directions apart."""
    generator = seeded(seed)
    rows = zero_mean_basis(1, size)
    dimension = len(rows)
    bases = torch.stack([random_basis(dimension, generator) for _ in range(2)])
    variances = torch.empty(4, dimension, dtype=torch.float64)
    for k in range(4):
        spread = torch.logspace(-4, -0.5, dimension, dtype=torch.float64)
        variances[k] = spread[torch.randperm(dimension, generator=generator)]
    weights = torch.tensor([0.3, 0.2, 0.3, 0.2], dtype=torch.float64)
    filters = (bases @ rows).unflatten(-1, (1, size, size))
    return PatchMixture(filters, variances, weights, torch.tensor([0, 0, 1, 1]), symmetries)


def natural_patches(count: int = 600, size: int = 4, channels: int = 1, seed: int = 3) -> Tensor:
    """Edges, flat patches, exact copies and a little texture, in float64."""
    generator = seeded(seed)
    position = torch.linspace(-1, 1, size, dtype=torch.float64)
    angle, offset, contrast = (
        torch.rand(3, count, 1, 1, 1, dtype=torch.float64, generator=generator) - 0.5
    )
    across = position[:, None] * torch.sin(7 * angle) + position * torch.cos(7 * angle)
    patches = contrast * torch.sigmoid(8 * (across - offset))
    patches = patches.expand(count, channels, size, size).clone()
    texture = torch.randn(patches.shape, dtype=torch.float64, generator=generator)
    patches += 0.02 * texture * torch.rand(count, 1, 1, 1, generator=generator)
    patches[::10] = 0.5
    patches[1::10] = patches[1]
    return patches


def same(one: DensityModel, other: DensityModel) -> bool:
    """Whether two densities are of one kind and have the same numbers, to the bit, and options."""
    (kind, a, options), (other_kind, b, others) = one.pack(), other.pack()
    equal = a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    return (kind, options) == (other_kind, others) and equal


def mismatch(found: PatchMixture, truth: PatchMixture) -> float:
    """Largest angle (radians) of a true filter to a found one, up to sign, order and symmetry."""
    worst = 0.0
    rows = found.filters.detach().double().flatten(2)
    for basis in truth.filters.detach():
        angles = []
        for q in symmetry.group(truth.symmetries):
            cosine = (rows @ symmetry.act(basis, q).flatten(1).T).abs().amax(1)
            angles.append(cosine.clamp(max=1).acos().amax(-1))
        worst = max(worst, torch.stack(angles).min().item())
    return worst


def pictures(count=4, seed=0, shape=(1, 24, 20)):
    """Smooth images (C, H, W) in [0, 1]."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, *shape, generator=g)
    kernel = torch.ones(shape[0], 1, 3, 3) / 9
    return list(torch.nn.functional.conv2d(coarse, kernel, padding=1, groups=shape[0]).clamp(0, 1))


def write_images(folder, count=4, shape=(24, 20), seed=0):
    """Blocky pictures with a little noise, as PNG files in a folder, which is made."""
    folder.mkdir(exist_ok=True)
    g = np.random.default_rng(seed)
    for i in range(count):
        coarse = np.kron(
            g.integers(0, 256, (shape[0] // 4 + 1, shape[1] // 4 + 1)), np.ones((4, 4))
        )
        pixels = coarse[: shape[0], : shape[1]] + g.normal(0, 6, shape)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:02}.png")
    return folder
