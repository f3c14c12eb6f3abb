"""Learning from noisy images alone, beside the same model trained on clean ones and beside SURE.

    python benchmarks/noisy_training.py data=bsds500:ROOT [test=BSD68] [runs=runs/noisy_training]
                                        [rival_minutes=10] [out=FILE.csv]

Trains `PatchMixture`s of 14,656 numbers (3 bases, 40 classes, EM of 200,000 patches) on the 390
training images: clean; with noise of sigma = 25/255 that is known; with noise of sigma ~ U[10, 40]
/255 that is drawn for each image and not told (`noise=auto`). The rival is a convolutional network
of about as many numbers, trained with deepinv's SURE loss for `rival_minutes` of processor time on
the images of sigma = 25/255: it sees the noise level and no clean image either.

Measures PSNR in dB of 20,000 zero-mean 8×8 patches of the ten held-out images (exact posterior
means, noise of sigma/255) and, with `test`, the mean over a folder of clean images at sigma =
25/255 (one step of patch averaging, and HQS with stride 2; the network as it is). Writes a CSV file
(benchmarks/results/noisy_training.csv) and a Markdown table beside it. Models and rows that are in
`runs` are not made again.
"""

import json
import math
import sys
import time
from pathlib import Path

import deepinv
import torch
from lib import table
from lib.data import held_out_images, png_files, read_gray, training_images
from lib.figures import held_out_patches, mean_psnr, patch_psnr
from lib.timing import timed
from lib.words import BSDS500, Options, command
from torch import Tensor

import gmdm_prior as gm
from gmdm_prior.training import FitSettings, fit

SIGMA, SPREAD = 25, (10, 40)  # of 255
PATCH_SIGMAS = (15, 25, 50)
CROP, BATCH, RATE = 48, 16, 2e-3  # of the rival
KINDS = {
    "clean": "clean images",
    "known": "σ = 25, known",
    "auto": "σ ~ U[10, 40], unknown (noise=auto)",
}
COLUMNS = ("training", "numbers", "minutes", "patch_15", "patch_25", "patch_50", "one_step", "hqs")


def levels(kind: str, count: int, seed: int) -> Tensor:
    """The noise level of each image, (count,), in units of the image."""
    if kind == "clean":
        return torch.zeros(count)
    if kind == "known":
        return torch.full((count,), SIGMA / 255)
    low, high = SPREAD
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(seed))
    return (low + (high - low) * uniform) / 255


def with_noise(images: list[Tensor], sigmas: Tensor, seed: int) -> list[Tensor]:
    """Images (C, H, W) and Gaussian noise, not clipped."""
    noisy = []
    for i, (image, sigma) in enumerate(zip(images, sigmas.tolist(), strict=True)):
        generator = torch.Generator().manual_seed(seed + i)
        noisy.append(image + sigma * torch.randn(image.shape, generator=generator))
    return noisy


def images_of(kind: str, data: str) -> list[list[Tensor]]:
    """Training and held-out images as the training sees them."""
    parts = []
    for seed, images in ((1000, training_images(data)), (0, held_out_images(data))):
        parts.append(with_noise(images, levels(kind, len(images), 77 + seed), seed))
    return parts


def train(kind: str, data: str, runs: Path) -> tuple[gm.PatchMixture, float]:
    """The model of a kind, and the minutes of processor time that it took."""
    path = runs / f"{kind}.safetensors"
    if not path.is_file():
        parts = images_of(kind, data)
        noise = "auto" if kind == "auto" else float(levels(kind, 1, 0))
        settings = FitSettings(noise=noise, measure_every=50)

        def work() -> gm.PatchMixture:
            for record in fit(*parts, settings):
                print(f"{kind}: {record.step}/{record.steps}, loss {record.loss:.4f}", flush=True)
            return record.model

        model, seconds = timed(work)
        gm.save(model, path, minutes=round(seconds / 60, 2), training_noise=KINDS[kind])
    return gm.load(path), gm.card(path)["minutes"]


def network() -> torch.nn.Module:
    """A DnCNN of 14,861 numbers."""
    torch.manual_seed(0)
    return deepinv.models.DnCNN(1, 1, depth=6, nf=20, pretrained=None)


def train_rival(data: str, runs: Path, minutes: float) -> torch.nn.Module:
    """The network after SURE at one level."""
    path, model = runs / "sure.pt", network()
    if path.is_file():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    images = images_of("known", data)[0]
    generator = torch.Generator().manual_seed(0)
    loss_of = deepinv.loss.SureGaussianLoss(SIGMA / 255, rng=torch.Generator().manual_seed(1))
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(SIGMA / 255))
    optimiser = torch.optim.Adam(model.parameters(), RATE)
    begun, step, share = time.process_time(), 0, 0.0
    while share < 1:
        crops = []
        for m in torch.randint(len(images), (BATCH,), generator=generator).tolist():
            top, left = (
                int(torch.randint(n - CROP + 1, (1,), generator=generator))
                for n in images[m].shape[1:]
            )
            crops.append(images[m][:, top : top + CROP, left : left + CROP])
        y = torch.stack(crops)
        for group in optimiser.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * share)) + 1e-6
        optimiser.zero_grad()
        loss = loss_of(y=y, x_net=model(y), physics=physics, model=lambda z, p: model(z)).mean()
        loss.backward()
        optimiser.step()
        step, share = step + 1, (time.process_time() - begun) / 60 / minutes
        if step % 500 == 0:
            print(f"SURE: step {step}, {100 * share:.0f} %", flush=True)
    torch.save(model.state_dict(), path)
    return model.eval()


def write(path: Path, rows: list[dict[str, object]], words: str) -> None:
    """CSV, and Markdown beside it; `words` are those of the command besides the data."""
    lines = [[row.get(name, "") for name in COLUMNS] for row in rows]
    table.write_csv(path, COLUMNS, lines)
    heads = ("trained on", "numbers", "minutes", "patches σ15", "σ25", "σ50", "one step", "HQS")
    text = (
        "# Learning from noisy images alone\n\nPSNR in dB; figures of one run of:\n\n"
        f"    python benchmarks/noisy_training.py data=bsds500:ROOT{words}\n\n"
        "Patches: 20,000 zero-mean 8×8 patches of the ten held-out training images, exact "
        "posterior means. One step and HQS (stride 2): BSD68 at σ = 25. Minutes are of one core's "
        "processor time; the network's are all that it was given, on a processor.\n\n"
    )
    table.write_text(path.with_suffix(".md"), text + table.markdown(heads, lines))


@torch.no_grad()
def measure(name: str, model: torch.nn.Module, patches: Tensor, images: list[Tensor]) -> dict:
    """A row of the table."""
    row: dict[str, object] = {"training": name}
    ours = isinstance(model, gm.PatchMixture)
    row["numbers"] = model.num_parameters if ours else sum(p.numel() for p in model.parameters())
    if ours:
        for s in PATCH_SIGMAS:
            generator = torch.Generator().manual_seed(3)
            row[f"patch_{s}"] = f"{patch_psnr(model, patches, s / 255, generator):.2f}"
    if images:
        one = gm.PatchAveraging(model) if ours else lambda y, sigma: model(y)
        row["one_step"] = f"{mean_psnr(one, images, SIGMA / 255):.2f}"
        if ours:
            hqs = gm.HalfQuadraticSplitting(model, stride=2)
            row["hqs"] = f"{mean_psnr(hqs, images, SIGMA / 255):.2f}"
    return row


def kept(path: Path, name: str, minutes: float, *measured: object) -> dict:
    """The row of a model, as an earlier run wrote it to `path`, or measured and written there."""
    if not path.is_file():
        row = measure(name, *measured) | {"minutes": f"{minutes:.1f}"}
        path.write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    row = json.loads(path.read_text(encoding="utf-8"))
    print(row, flush=True)
    return row


def run(options: Options) -> None:
    """Train what is missing, measure all, write."""
    runs, minutes = options.runs, options.rival_minutes
    runs.mkdir(parents=True, exist_ok=True)
    images = [read_gray(file) for file in png_files(options.test)] if options.test else []
    generator = torch.Generator().manual_seed(1)
    patches = held_out_patches(held_out_images(options.data), 8, generator)
    rows = []
    for kind, name in KINDS.items():
        model, taken = train(kind, options.data, runs)
        rows.append(kept(runs / f"{kind}.json", name, taken, model, patches, images))
    rival = train_rival(options.data, runs, minutes)
    name = "σ = 25, known; a DnCNN with deepinv's SURE"
    rows.append(kept(runs / "sure.json", name, minutes, rival, patches, images))
    words = f"{' test=BSD68' if images else ''} rival_minutes={minutes:g}"
    write(options.out, rows, words)


main = command(
    run,
    data=BSDS500,
    test="",
    runs=Path("runs/noisy_training"),
    rival_minutes=10.0,
    out=table.RESULTS / "noisy_training.csv",
)

if __name__ == "__main__":
    sys.exit(main())
