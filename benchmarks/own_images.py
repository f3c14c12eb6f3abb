"""A prior from thirty images of one's own: textures that ship with scikit-image.

    python benchmarks/own_images.py [out=runs/textures] [FIGURE]

Cuts thirty tiles of 128 x 128 pixels from the left parts of scikit-image's brick, grass and gravel,
trains on them with the command that a user would type (`python -m gmdm_prior.train data=TILES`)
and denoises nine tiles from the right parts with the result and with `gray-likelihood`. Prints
a table of PSNR at sigma = 15, 25, 50, writes the figure (by default docs/figures/own_images.png).
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import matplotlib.figure
import numpy as np
import torch
from lib import table
from lib.data import noisy
from lib.figures import panel, psnr, psnr_cells
from lib.timing import timed
from lib.words import Options, command
from PIL import Image
from skimage import data

import gmdm_prior as gm

SIZE, SIGMAS = 128, (15, 25, 50)
FIGURE = Path(__file__).resolve().parents[1] / "docs" / "figures" / "own_images.png"


def tiles() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Ten training and three test tiles (SIZE, SIZE) of each texture, apart from each other."""
    training, testing = [], []
    for name in ("brick", "grass", "gravel"):
        image = getattr(data, name)()
        parts = [
            image[top : top + SIZE, left : left + SIZE]
            for left in range(0, 3 * SIZE, SIZE)
            for top in range(0, 4 * SIZE, SIZE)
        ]
        training += parts[:10]
        testing += [image[top : top + SIZE, 3 * SIZE :] for top in range(0, 3 * SIZE, SIZE)]
    return training, testing


def train(images: list[np.ndarray], out: Path) -> tuple[gm.PatchMixture, float]:
    """Train on a folder of these images, as a user would; the model and the seconds it took."""
    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(images):
            Image.fromarray(image).save(Path(folder) / f"tile-{i:02}.png")
        words = [sys.executable, "-m", "gmdm_prior.train", f"data={folder}", f"out={out}"]
        done, seconds = timed(lambda: subprocess.run(words, check=False), time.perf_counter)
    if done.returncode:  # it has said why
        sys.exit(done.returncode)
    return gm.load(out / "model.safetensors"), seconds


def draw(clean: torch.Tensor, results: dict[str, torch.Tensor], path: Path) -> None:
    """One tile, side by side, with PSNR."""
    figure = matplotlib.figure.Figure(figsize=(3 * (len(results) + 1), 3.3), layout="constrained")
    panels = {"truth": clean, **results}
    for axes, (title, image) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        words = title if image is clean else f"{title}, {psnr(image, clean):.2f} dB"
        panel(axes, image, words, size=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


@torch.no_grad()
def run(options: Options) -> None:
    """Train, measure, draw."""
    training, testing = tiles()
    model, seconds = train(training, options.out)
    images = [torch.from_numpy(t.copy()).float()[None, None] / 255 for t in testing]
    models = {"trained on 30 tiles": model, "gray-likelihood": gm.load("gray-likelihood")}
    y = noisy(images[-1], 25 / 255, 8)
    results = {"noisy": y}

    def rows() -> Iterator[list[str]]:
        for name, each in models.items():
            denoise = gm.HalfQuadraticSplitting(each)
            yield [name, *psnr_cells(denoise, images, SIGMAS)]
            results[name] = denoise(y, 25 / 255)

    print(f"trained in {seconds:.0f} s")
    table.show(["HQS on nine held-out tiles", *table.sigma_heads(SIGMAS)], rows())
    draw(images[-1], results, options.figure)


main = command(run, place="figure", figure=FIGURE, out=Path("runs/textures"))

if __name__ == "__main__":
    sys.exit(main())
