"""Learning from noisy images alone, beside the same model trained on clean ones and beside SURE.

    python benchmarks/noisy_training.py data=bsds500:ROOT [test=BSD68] [runs=runs/noisy_training]
                                        [rival_minutes=10] [out=benchmarks/noisy_training.csv]

Trains `PatchMixture`s of 14,656 numbers (3 bases, 40 classes, EM of 200,000 patches) on the 390
training images: clean; with noise of sigma = 25/255 that is known; with noise of sigma ~ U[10, 40]
/255 that is drawn for each image and not told (`noise=auto`). The rival is a convolutional network
of about as many numbers, trained with deepinv's SURE loss for `rival_minutes` of processor time on
the images of sigma = 25/255: it sees the noise level and no clean image either.

Measures PSNR in dB of 20,000 zero-mean 8×8 patches of the ten held-out images (exact posterior
means, noise of sigma/255) and, with `test`, the mean over a folder of clean images at sigma =
25/255 (one step of patch averaging, and HQS with stride 2; the network as it is). Writes a CSV file
and a Markdown table beside it. Models and rows that are in `runs` are not made again.
"""

from __future__ import annotations

import csv
import json
import math
import sys
import time
from pathlib import Path

import deepinv
import torch
from denoising import mean_psnr, read_gray
from torch import Tensor
from words import BSDS500, read, status

import gmdm_prior as gm
from gmdm_prior.training import (
    FitSettings,
    find_images,
    fit,
    read_images,
    sample_patches,
    split_held_out,
)

SIGMA, SPREAD = 25, (10, 40)  # of 255
PATCH_SIGMAS, PATCHES = (15, 25, 50), 20_000
CROP, BATCH, RATE = 48, 16, 2e-3  # of the rival
DEFAULTS = {
    "data": "",
    "test": "",
    "runs": "runs/noisy_training",
    "rival_minutes": "10",
    "out": "benchmarks/noisy_training.csv",
}
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


def with_noise(images: dict[Path, Tensor], sigmas: Tensor, seed: int) -> dict[Path, Tensor]:
    """Images (C, H, W) and Gaussian noise, not clipped."""
    noisy = {}
    for i, (file, image) in enumerate(images.items()):
        generator = torch.Generator().manual_seed(seed + i)
        noisy[file] = image + float(sigmas[i]) * torch.randn(image.shape, generator=generator)
    return noisy


def images_of(kind: str, data: str) -> list[tuple[dict[Path, Tensor], Tensor]]:
    """Training and held-out images as the training sees them, and their levels."""
    parts = []
    for seed, files in zip((1000, 0), split_held_out(find_images(data)), strict=True):
        images = read_images(files)
        sigmas = levels(kind, len(images), 77 + seed)
        parts.append((with_noise(images, sigmas, seed), sigmas))
    return parts


def train(kind: str, data: str, runs: Path) -> tuple[gm.PatchMixture, float]:
    """The model of a kind, and the minutes of processor time that it took."""
    path = runs / f"{kind}.safetensors"
    if not path.is_file():
        parts = images_of(kind, data)
        noise = "auto" if kind == "auto" else float(parts[0][1][0])
        begun = time.process_time()
        for record in fit(parts[0][0], parts[1][0], FitSettings(noise=noise, measure_every=50)):
            print(f"{kind}: {record.step}/{record.steps}, loss {record.loss:.4f}", flush=True)
        minutes = (time.process_time() - begun) / 60
        gm.save(record.model, path, minutes=round(minutes, 2), training_noise=KINDS[kind])
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
    images = list(images_of("known", data)[0][0].values())
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


def patch_psnr(model: gm.PatchMixture, patches: Tensor, sigma: float) -> float:
    """Of exact posterior means of zero-mean patches (N, 1, b, b)."""
    noise = torch.randn(patches.shape, generator=torch.Generator().manual_seed(3))
    noisy = patches + sigma * (noise - noise.mean((-2, -1), keepdim=True))
    parts = [model.denoise(part, sigma) for part in noisy.split(2000)]
    return -10 * math.log10(float((torch.cat(parts) - patches).square().mean()))


def held_out_patches(data: str) -> Tensor:
    """20,000 zero-mean patches of the ten clean held-out images."""
    images = read_images(split_held_out(find_images(data))[1])
    generator = torch.Generator().manual_seed(1)
    patches = sample_patches(images, PATCHES, 8, "none", generator)
    return patches - patches.mean((-2, -1), keepdim=True)


def write(path: Path, rows: list[dict[str, object]], words: str) -> None:
    """CSV, and Markdown beside it; `words` are those of the command besides the data."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    heads = ("trained on", "numbers", "minutes", "patches σ15", "σ25", "σ50", "one step", "HQS")
    lines = ["# Learning from noisy images alone", "", "PSNR in dB; figures of one run of:", ""]
    command = "python benchmarks/noisy_training.py data=bsds500:ROOT"
    lines += [f"    {command}{words}", ""]
    lines += [
        "Patches: 20,000 zero-mean 8×8 patches of the ten held-out training images, exact "
        "posterior means. One step and HQS (stride 2): BSD68 at σ = 25. Minutes are of one core's "
        "processor time; the network's are all that it was given, on a processor.",
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    lines += [f"| {' | '.join(str(row.get(name, '')) for name in COLUMNS)} |" for row in rows]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


@torch.no_grad()
def measure(name: str, model: torch.nn.Module, patches: Tensor, images: list[Tensor]) -> dict:
    """A row of the table."""
    row: dict[str, object] = {"training": name}
    ours = isinstance(model, gm.PatchMixture)
    row["numbers"] = model.num_parameters if ours else sum(p.numel() for p in model.parameters())
    if ours:
        for s in PATCH_SIGMAS:
            row[f"patch_{s}"] = f"{patch_psnr(model, patches, s / 255):.2f}"
    if images:
        one = gm.PatchAveraging(model) if ours else lambda y, sigma: model(y)
        row["one_step"] = f"{mean_psnr(one, images, SIGMA / 255)[0]:.2f}"
        if ours:
            hqs = gm.HalfQuadraticSplitting(model, stride=2)
            row["hqs"] = f"{mean_psnr(hqs, images, SIGMA / 255)[0]:.2f}"
    return row


def kept(
    path: Path,
    name: str,
    minutes: float,
    model: torch.nn.Module,
    patches: Tensor,
    images: list[Tensor],
) -> dict:
    """The row of a model, as an earlier run wrote it to `path`, or measured and written there."""
    if not path.is_file():
        row = measure(name, model, patches, images) | {"minutes": f"{minutes:.1f}"}
        path.write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    row = json.loads(path.read_text(encoding="utf-8"))
    print(row, flush=True)
    return row


def run(options: dict[str, str]) -> None:
    """Train what is missing, measure all, write."""
    runs, minutes = Path(options["runs"]), float(options["rival_minutes"])
    runs.mkdir(parents=True, exist_ok=True)
    files = sorted(Path(options["test"]).glob("*.png")) if options["test"] else []
    if options["test"] and not files:
        raise ValueError(f"test={options['test']} holds no PNG image")
    images, patches = [read_gray(file) for file in files], held_out_patches(options["data"])
    rows = []
    for kind, name in KINDS.items():
        model, taken = train(kind, options["data"], runs)
        rows.append(kept(runs / f"{kind}.json", name, taken, model, patches, images))
    rival = train_rival(options["data"], runs, minutes)
    name = "σ = 25, known; a DnCNN with deepinv's SURE"
    rows.append(kept(runs / "sure.json", name, minutes, rival, patches, images))
    words = f"{' test=BSD68' if files else ''} rival_minutes={minutes:g}"
    write(Path(options["out"]), rows, words)


def main(words: list[str]) -> int:
    """The exit status."""
    return status(lambda given: run(read(given, DEFAULTS, BSDS500)), words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
