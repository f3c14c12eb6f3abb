"""One row for each trained variant: `benchmarks/ablation.md`.

    python benchmarks/ablation.py data=bsds500:ROOT runs=FIRST[,SECOND…][;FIRST[,SECOND…]…]

Variants are separated by ";"; each is its training runs, one started from the other, of which the
last gives the weights. Everything is measured on the ten held-out training images: log-likelihood
per zero-mean dimension of patches with noise of 5/255 in nats, PSNR of 20,000 single zero-mean
patches at sigma = 25/255, PSNR of whole images by one step and by HQS (stride 2), and the CPU
seconds of default HQS on one of them. Rows of variants that the file has already are kept.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from bundle import curve
from denoising import mean_psnr, noisy
from torch import Tensor
from weights import HELD_OUT_PATCHES, LIKELIHOOD_SIGMA, psnr
from words import BSDS500, read, status

import gmdm_prior as gm
from gmdm_prior.training import find_images, read_images, sample_patches, split_held_out

OUT = Path(__file__).with_suffix(".md")
SIGMAS = (15, 25, 50, 100)
PATCH_SIGMA = 25 / 255
HEAD = (
    "| runs | patch | bases | classes | numbers | log-likelihood | patches σ25 | "
    + " | ".join(f"one step σ{s}" for s in SIGMAS)
    + " | "
    + " | ".join(f"HQS σ{s}" for s in SIGMAS)
    + " | s / image | training, min |"
)


def patch_figures(model: gm.PatchMixture, images: dict[str, Tensor]) -> tuple[float, float]:
    """Log-likelihood per dimension, and PSNR of single patches."""
    generator = torch.Generator().manual_seed(1)
    clean = sample_patches(images, HELD_OUT_PATCHES, model.patch_size, "none", generator)
    clean = clean - clean.mean((-2, -1), keepdim=True)
    noise = torch.randn(clean.shape, generator=generator)
    noise = noise - noise.mean((-2, -1), keepdim=True)
    sigma = LIKELIHOOD_SIGMA / 255
    parts = (clean + sigma * noise).split(4096)
    total = sum(model.log_prob(y, sigma).double().sum().item() for y in parts)
    parts = (clean + PATCH_SIGMA * noise).split(4096)
    denoised = torch.cat([model.denoise(y, PATCH_SIGMA) for y in parts])
    return total / len(clean) / model.filters.shape[1], psnr(denoised, clean)


def row(runs: str, images: dict[str, Tensor]) -> str:
    """The line of a variant."""
    folders = [Path(run) for run in runs.split(",")]
    model = gm.load(folders[-1] / "model.safetensors")
    minutes = sum(curve(folder)[1] for folder in folders) / 60
    whole = [image[None] for image in images.values()]
    hqs = gm.HalfQuadraticSplitting(model)
    y = noisy(whole[0], PATCH_SIGMA, 0)
    hqs(y, PATCH_SIGMA)
    begun = time.process_time()
    hqs(y, PATCH_SIGMA)
    seconds = time.process_time() - begun
    likelihood, patches = patch_figures(model, images)
    psnrs = [
        f"{mean_psnr(denoise, whole, s / 255)[0]:.2f}"
        for denoise in (gm.PatchAveraging(model), gm.HalfQuadraticSplitting(model, 2))
        for s in SIGMAS
    ]
    b, bases, classes = model.patch_size, len(model.filters), len(model.weights)
    cells = [" → ".join(f.name for f in folders), f"{b}×{b}", bases, classes]
    cells += [f"{model.num_parameters:,}", f"{likelihood:.3f}", f"{patches:.2f}", *psnrs]
    cells += [f"{seconds:.2f}", f"{minutes:.0f}"]
    return "| " + " | ".join(map(str, cells)) + " |"


def run(options: dict[str, str]) -> None:
    """Measure what is new, and write the table."""
    known = OUT.read_text(encoding="utf-8").splitlines()[2:] if OUT.is_file() else []
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in known if line[:1] == "|"}
    _, held_out = split_held_out(find_images(options["data"]))
    images = read_images(held_out)
    torch.set_grad_enabled(False)
    for runs in options["runs"].split(";"):
        name = " → ".join(Path(r).name for r in runs.split(","))
        if name not in rows:
            rows[name] = row(runs, images)
            print(rows[name], flush=True)
            lines = [HEAD, "|---" * (HEAD.count("|") - 1) + "|", *rows.values()]
            OUT.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(words: list[str]) -> int:
    """The exit status."""
    needed = BSDS500 | {"runs": "RUN[,RUN…][;…] is needed"}
    return status(lambda given: run(read(given, {"data": "", "runs": ""}, needed)), words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
