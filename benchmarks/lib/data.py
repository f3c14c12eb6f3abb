"""The images that scripts look at: folders, scikit-image's wheel, training images, bundled ones."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import gmdm_prior as gm
from gmdm_prior.training import find_images, read_image, read_images, split_held_out

BUNDLED = Path(__file__).resolve().parents[2] / "examples" / "images"
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
        """The image with the noise of its place, whatever part of the set is looked at."""
        return noisy(self.clean, sigma, self.index)


def read_gray(path: Path) -> Tensor:
    """(1, 1, H, W) in [0, 1]."""
    return read_image(path)[None]


def noisy(clean: Tensor, sigma: float | Tensor, index: int) -> Tensor:
    """The image of this index with its own noise, of one level or of a map of levels."""
    generator = torch.Generator().manual_seed(index)
    return clean + sigma * torch.randn(clean.shape[-3:], generator=generator)


def png_files(folder: Path | str) -> list[Path]:
    """The PNG files of a folder, sorted.

    Raises:
        FileNotFoundError: there is none.
    """
    files = sorted(Path(folder).glob("*.png"))
    if not files:
        raise FileNotFoundError(f"no PNG image in {folder}: give a folder of them")
    return files


def read_pictures(source: str | Path) -> list[Picture]:
    """All images of a folder of PNG files, sorted, or of `skimage`.

    Scikit-image's are all the photographs (and micrographs) in its wheel, in gray; of large ones
    every 2×2 pixels become their mean, once or twice.

    Raises:
        FileNotFoundError: no such folder, or no PNG image in it, or a file of scikit-image's wheel
            is not there.
    """
    files = scikit_images(PHOTOGRAPHS) if str(source) == SCIKIT_IMAGE else png_files(source)
    images = {file.name: read_gray(file) for file in files}
    if str(source) == SCIKIT_IMAGE:
        images = {name: halved(image) for name, image in images.items()}
    return [Picture(name, i, x, digest(x)) for i, (name, x) in enumerate(images.items())]


def scikit_images(names: Sequence[str]) -> list[Path]:
    """Files of scikit-image's wheel."""
    import skimage.data

    return [Path(skimage.data.__file__).parent / name for name in names]


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


def middle(image: Tensor, side: int) -> Tensor:
    """The middle side × side pixels of images (…, H, W), or all there are."""
    top, left = (max(0, length - side) // 2 for length in image.shape[-2:])
    return image[..., top : top + side, left : left + side]


def training_images(data: str, channels: int = 1, every: int = 40) -> list[Tensor]:
    """The images (C, H, W) of a data source that models are trained on."""
    return list(read_images(split_held_out(find_images(data), every)[0], channels).values())


def held_out_images(data: str, channels: int = 1, every: int = 40) -> list[Tensor]:
    """Its held-out images (C, H, W), every `every`-th: of BSDS500 ten."""
    return list(read_images(split_held_out(find_images(data), every)[1], channels).values())


def load(name: str) -> gm.DensityModel:
    """A bundled model, a safetensors file or a PoGMDM checkpoint."""
    return gm.import_pogmdm(name) if name.endswith(".pth") else gm.load(name)
