"""A prior from thirty images of one's own: textures that ship with scikit-image.

    python benchmarks/own_images.py [out=runs/textures] [FIGURE]

Cuts thirty tiles of 128 x 128 pixels from the left parts of scikit-image's brick, grass and gravel,
trains on them with the command that a user would type (`python -m gmdm_prior.train data=TILES`)
and denoises nine tiles from the right parts with the result and with `bsds-gray-likelihood`. Prints
a table of PSNR at sigma = 15, 25, 50, writes the figure (by default docs/figures/own_images.png).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.figure
import numpy as np
import torch
from denoising import mean_psnr, noisy, psnr
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
        begun = time.perf_counter()
        done = subprocess.run(words, check=False)
    if done.returncode:  # it has said why
        sys.exit(done.returncode)
    return gm.load(out / "model.safetensors"), time.perf_counter() - begun


def draw(clean: torch.Tensor, results: dict[str, torch.Tensor], path: Path) -> None:
    """One tile, side by side, with PSNR."""
    figure = matplotlib.figure.Figure(figsize=(3 * (len(results) + 1), 3.3), layout="constrained")
    panels = {"truth": clean, **results}
    for axes, (title, image) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.imshow(image[0, 0].clamp(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(title if image is clean else f"{title}, {psnr(image, clean):.2f} dB")
        axes.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(words: list[str]) -> None:
    """Train, measure, draw."""
    out = next((Path(w[4:]) for w in words if w.startswith("out=")), Path("runs/textures"))
    figure = next((Path(w) for w in words if not w.startswith("out=")), FIGURE)
    training, testing = tiles()
    model, seconds = train(training, out)
    images = [torch.from_numpy(t.copy()).float()[None, None] / 255 for t in testing]
    models = {"trained on 30 tiles": model, "bsds-gray-likelihood": gm.load("bsds-gray-likelihood")}
    print(f"trained in {seconds:.0f} s")
    print("| HQS on nine held-out tiles | " + " | ".join(f"σ{s}" for s in SIGMAS) + " |")
    print("|---|" + "---|" * len(SIGMAS))
    torch.set_grad_enabled(False)
    y = noisy(images[-1], 25 / 255, 8)
    results = {"noisy": y}
    for name, each in models.items():
        denoise = gm.HalfQuadraticSplitting(each)
        values = [mean_psnr(denoise, images, s / 255)[0] for s in SIGMAS]
        print(f"| {name} | " + " | ".join(f"{v:.2f}" for v in values) + " |")
        results[name] = denoise(y, 25 / 255)
    draw(images[-1], results, figure)


if __name__ == "__main__":
    main(sys.argv[1:])
