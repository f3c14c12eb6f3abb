"""Variants of clean photographs to train on: other sizes, other filters, other contrast.

    python benchmarks/recipes/vary.py data=FREE out=runs/varied [holdout=10] [variants=4]

Photographs that were all reduced in one way are of one kind; other people's are not. Each image of
`data` (gray, less every `holdout`-th of the sorted list) is written as it is and in `variants` more
ways, each: reduced to between 45 % and 100 % by one of four filters, with a gamma between 0.74 and
1.35. Seeded. The files, PNG, are in `original` and `variant-0`, `variant-1` … of `out`, an empty or
new folder. `gray-likelihood` is trained on them. No grain and no JPEG: a density that has learned
these as texture takes a camera's noise for it, too (docs/benchmarks/ablation.md).
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/

from lib.words import Needed, Options, command
from tqdm import tqdm

from gmdm_prior.training import find_images, split_held_out

LEAST, GAMMA = 0.45, 0.3
FILTERS = (
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
    Image.Resampling.BILINEAR,
    Image.Resampling.BOX,
)


def varied(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A gray image of 8 bits at another size and contrast."""
    scale = rng.uniform(LEAST, 1.0)
    size = int(image.width * scale), int(image.height * scale)
    small = image.resize(size, FILTERS[int(rng.integers(len(FILTERS)))])
    values = 255 * (np.asarray(small, np.float64) / 255) ** np.exp(rng.uniform(-GAMMA, GAMMA))
    return Image.fromarray(np.round(values).astype(np.uint8))


def write(options: Options) -> None:
    """All variants of all images."""
    files = find_images(options.data)
    training, _ = split_held_out(files, options.holdout)
    if options.out.exists() and any(options.out.iterdir()):
        raise ValueError(f"out={options.out} is not empty: name a new folder")
    rng = np.random.default_rng(1)
    names = ["original", *(f"variant-{k}" for k in range(options.variants))]
    for name in tqdm(names):
        folder = options.out / name
        folder.mkdir(parents=True, exist_ok=True)
        for path in training:
            with Image.open(path) as file:
                image = file.convert("L")
            if name != "original":
                image = varied(image, rng)
            image.save(folder / f"{files.index(path):02d}.png")


main = command(
    write,
    data=Needed("a folder of clean photographs"),
    out=Path("runs/varied"),
    holdout=10,
    variants=4,
)

if __name__ == "__main__":
    sys.exit(main())
