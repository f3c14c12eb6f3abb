"""Test images of benchmarks/table.py: a folder, or what scikit-image ships with its wheel."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from denoising import noisy, read_gray
from torch import Tensor

SCIKIT_IMAGE = "skimage"
PHOTOGRAPHS = (
    *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png"),
    *("coffee.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png"),
    *("moon.png", "motorcycle_left.png", "page.png", "retina.jpg", "rocket.jpg", "text.png"),
)
LARGE = 400  # scikit-image's are halved down to a shorter side of less


@dataclass(frozen=True)
class Picture:
    """A clean gray image (1, 1, H, W) in [0, 1], and its place in the whole set."""

    name: str
    index: int
    clean: Tensor
    digest: str

    def noisy(self, sigma: float) -> Tensor:
        """With the noise of its place, whatever part of the set is looked at."""
        return noisy(self.clean, sigma, self.index)


def read_pictures(source: str) -> list[Picture]:
    """All images of a folder of PNG files, sorted, or of `skimage`.

    Scikit-image's are all the photographs (and micrographs) in its wheel, in gray; of large ones
    every 2×2 pixels become their mean, once or twice.

    Raises:
        FileNotFoundError: no such folder, or no PNG image in it, or a file of scikit-image's wheel
            is not there.
    """
    if source == SCIKIT_IMAGE:
        import skimage.data

        folder = Path(skimage.data.__file__).parent
        images = {name: halved(read_gray(folder / name)) for name in PHOTOGRAPHS}
    else:
        images = {file.name: read_gray(file) for file in sorted(Path(source).glob("*.png"))}
    if not images:
        raise FileNotFoundError(f"no PNG image in {source}: give a folder of them, or skimage")
    return [Picture(name, i, x, digest(x)) for i, (name, x) in enumerate(images.items())]


def halved(image: Tensor) -> Tensor:
    """Means of 2×2 pixels, until the shorter side is less than `LARGE`."""
    while min(image.shape[2:]) >= LARGE:
        image = F.avg_pool2d(image, 2)
    return image


def digest(image: Tensor) -> str:
    """Eight digits that say which pixels these are."""
    return hashlib.sha256(image.numpy().tobytes()).hexdigest()[:8]


def spaced(pictures: Sequence[Picture], count: int) -> list[Picture]:
    """Every n-th of them, at most `count` and at least half of that: of 68 and 9 every eighth."""
    return list(pictures[:: -(-len(pictures) // count)])
