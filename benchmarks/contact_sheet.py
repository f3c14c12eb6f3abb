"""Crops side by side: noisy, one step, HQS, EPLL, BM3D and the truth, with PSNR under each.

    python benchmarks/contact_sheet.py                   # bundled pictures -> docs/figures
    python benchmarks/contact_sheet.py BSD68 [weights=NAME] [epll=FILE] [out=FILE.png]

Noise is that of the protocol of lib/figures.py, at sigma = 25 and 50. Every method sees the crop
and 48 pixels around it; the crop is shown pixel for pixel, doubled, with its PSNR, the best of a
row in bold. HQS is at stride 2. BSD68 is research data: its sheet goes to runs/contact_sheet.png,
not into the repository. EPLL's mixture is that of recipes/rivals.py (epll=FILE); where it is not
fitted yet, the sheet says so and leaves the column out. The rivals take minutes once: their results
are kept in runs/contact_sheet, so that a sheet of other weights takes seconds.
"""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lib import rivals
from lib.data import BUNDLED, load, noisy, png_files, read_gray
from lib.figures import psnr
from lib.words import Options, command
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

import gmdm_prior as gm

FIGURE = Path(__file__).resolve().parents[1] / "docs" / "figures" / "contact_sheet.png"
SIGMAS = (25, 50)
SIDE, AROUND, SCALE = 96, 48, 2  # of a crop and around it, in pixels; screen pixels for each
CACHE = Path("runs/contact_sheet")
GAP, CAPTION, MARGIN, DPI = 6, 20, 96, 100  # screen pixels


@dataclass(frozen=True)
class Crop:
    """SIDE x SIDE pixels of an image that show something."""

    file: str
    title: str
    left: int
    top: int


CROPS = (
    Crop("camera", "face and sky", 64, 32),
    Crop("cat", "eye", 56, 56),
    Crop("cat", "fur", 110, 8),
    Crop("coffee", "highlights", 92, 118),
    Crop("test003", "fine structure", 112, 120),
    Crop("test010", "fur", 232, 84),
    Crop("test051", "stripes\nand grass", 60, 150),
    Crop("test062", "face", 104, 110),
    Crop("test066", "sky", 330, 120),
)


@dataclass(frozen=True)
class Strip:
    """One row of the sheet: crops (SIDE, SIDE) by method, and their PSNR."""

    title: str
    crops: dict[str, Tensor]
    psnr: dict[str, float]


def denoisers(weights: str, mixture: Path) -> dict[str, rivals.Denoise]:
    """The columns between the noisy crop and the truth."""
    model = load(weights)
    found = {
        f"{weights}, one step": gm.PatchAveraging(model),
        f"{weights}, HQS": gm.HalfQuadraticSplitting(model, stride=2),
    }
    try:
        found["EPLL"] = remembered(rivals.epll_denoiser(mixture), b"EPLL" + digest(mixture))
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
    return {**found, "BM3D": remembered(rivals.bm3d_denoiser(threads=1), b"BM3D")}


def digest(file: Path) -> bytes:
    """What changes with the content of a file."""
    return hashlib.sha256(file.read_bytes()).digest()


def remembered(denoise: rivals.Denoise, version: bytes) -> rivals.Denoise:
    """The denoiser, with its results kept on disk by what they depend on."""

    def run(y: Tensor, sigma: float) -> Tensor:
        known = version + str(sigma).encode() + y.contiguous().numpy().tobytes()
        file = CACHE / f"{hashlib.sha256(known).hexdigest()[:16]}.npy"
        if not file.is_file():
            result = denoise(y, sigma).numpy()
            CACHE.mkdir(parents=True, exist_ok=True)
            np.save(file, result)
        return torch.from_numpy(np.load(file))

    return run


def strip(
    file: Path, index: int, crop: Crop, sigma: int, methods: dict[str, rivals.Denoise]
) -> Strip:
    """Denoise a crop with its surroundings."""
    clean = read_gray(file)
    y = noisy(clean, sigma / 255, index)
    top, left = max(0, crop.top - AROUND), max(0, crop.left - AROUND)
    wide = (..., slice(top, crop.top + SIDE + AROUND), slice(left, crop.left + SIDE + AROUND))
    inside = (..., slice(crop.top - top, None), slice(crop.left - left, None))
    images = {"noisy": y[wide]}
    for name, denoise in tqdm(methods.items(), desc=f"{file.stem} σ{sigma}", leave=False):
        images[name] = denoise(y[wide], sigma / 255)
    images["truth"] = clean[wide]
    crops = {name: x[inside][..., :SIDE, :SIDE] for name, x in images.items()}
    values = {name: psnr(x, crops["truth"]) for name, x in crops.items() if name != "truth"}
    shown = {name: x[0, 0].clamp(0, 1) for name, x in crops.items()}
    return Strip(f"{crop.title}\nσ = {sigma}", shown, values)


def draw(strips: list[Strip], path: Path) -> None:
    """The sheet, every pixel of a crop as a square of pixels."""
    heads = list(strips[0].crops)
    cell = SIDE * SCALE
    width = MARGIN + len(heads) * (cell + GAP)
    height = CAPTION + len(strips) * (cell + CAPTION + GAP)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)

    def text(x: float, y: float, words: str, **style: object) -> None:
        figure.text(x / width, 1 - y / height, words, va="center", **{"ha": "center", **style})

    for column, name in enumerate(heads):
        text(MARGIN + column * (cell + GAP) + cell / 2, CAPTION / 2, name, size=9)
    for row, each in enumerate(strips):
        top = CAPTION + row * (cell + CAPTION + GAP)
        text(MARGIN - 8, top + cell / 2, each.title, size=9, ha="right")
        best = max(each.psnr, key=each.psnr.get)
        for column, (name, crop) in enumerate(each.crops.items()):
            left = MARGIN + column * (cell + GAP)
            pixels = crop.repeat_interleave(SCALE, 0).repeat_interleave(SCALE, 1).numpy()
            figure.figimage(pixels, left, height - top - cell, cmap="gray", vmin=0, vmax=1)
            if name in each.psnr:
                weight = "bold" if name == best else "normal"
                below = top + cell + CAPTION / 2
                text(left + cell / 2, below, f"{each.psnr[name]:.2f} dB", size=9, weight=weight)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)


@torch.no_grad()
def make(options: Options) -> None:
    """Denoise and draw.

    Raises:
        FileNotFoundError: where the folder holds none of the images that have a crop.
    """
    out = FIGURE if options.images == BUNDLED else Path("runs/contact_sheet.png")
    out = options.out or out
    files = png_files(options.images)  # the noise goes by the place in the whole set
    index = {file.stem: i for i, file in enumerate(files)}
    chosen = [crop for crop in CROPS if crop.file in index]
    if not chosen:
        names = ", ".join(crop.file for crop in CROPS)
        raise FileNotFoundError(f"{options.images} holds none of {names}")
    methods = denoisers(options.weights, options.epll)
    strips = [
        strip(files[index[crop.file]], index[crop.file], crop, sigma, methods)
        for crop in chosen
        for sigma in SIGMAS
    ]
    for each in strips:
        values = ", ".join(f"{name} {value:.2f}" for name, value in each.psnr.items())
        print(f"{' '.join(each.title.split())}: {values} dB")
    draw(strips, out)
    print(f"written to {out}")


main = command(make, place="images", images=BUNDLED, weights="gray", epll=rivals.MIXTURE, out=Path)

if __name__ == "__main__":
    sys.exit(main())
