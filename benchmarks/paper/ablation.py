"""One row for each trained variant: `benchmarks/results/ablation.md`.

    python benchmarks/paper/ablation.py data=bsds500:ROOT runs=FIRST[,SECOND…][;FIRST[,SECOND…]…]

Variants are separated by ";"; each is its training runs, one started from the other, of which the
last gives the weights. Everything is measured on the ten held-out training images: log-likelihood
per zero-mean dimension of patches with noise of 5/255 in nats, PSNR of 20,000 single zero-mean
patches at sigma = 25/255, PSNR of whole images by one step and by HQS (stride 2), and the CPU
seconds of default HQS on one of them. Rows of variants that the file has already are kept.
"""

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/

from lib import table
from lib.data import held_out_images, noisy
from lib.figures import curve, held_out_patches, patch_log_likelihood, patch_psnr, psnr_cells
from lib.timing import medians
from lib.words import BSDS500, Needed, Options, command
from torch import Tensor

import gmdm_prior as gm

OUT = table.RESULTS / "ablation.md"
SIGMAS = (15, 25, 50, 100)
PATCH_SIGMA, LIKELIHOOD_SIGMA = 25 / 255, 5 / 255
HEADS = ["runs", "patch", "bases", "classes", "numbers", "log-likelihood", "patches σ25"]
HEADS += [f"{way} {sigma}" for way in ("one step", "HQS") for sigma in table.sigma_heads(SIGMAS)]
HEADS += ["s / image", "training, min"]


def name_of(runs: str) -> str:
    """The names of training runs, one started from the other."""
    return " → ".join(Path(run).name for run in runs.split(","))


def row(runs: str, images: list[Tensor]) -> str:
    """The line of a variant."""
    folders = [Path(run) for run in runs.split(",")]
    model = gm.load(folders[-1] / "model.safetensors")
    minutes = sum(curve(folder)[1] for folder in folders) / 60
    hqs, y = gm.HalfQuadraticSplitting(model), noisy(images[0][None], PATCH_SIGMA, 0)
    (seconds,) = medians(lambda turn: hqs(y, PATCH_SIGMA), turns=1, clock=time.process_time)
    generator = torch.Generator().manual_seed(1)
    patches = held_out_patches(images, model.patch_size, generator)
    likelihood = patch_log_likelihood(model, patches, LIKELIHOOD_SIGMA, generator)
    found = patch_psnr(model, patches, PATCH_SIGMA, generator)
    ways = gm.PatchAveraging(model), gm.HalfQuadraticSplitting(model, 2)
    b, bases, classes = model.patch_size, len(model.filters), len(model.weights)
    cells = [name_of(runs), f"{b}×{b}", bases, classes, f"{model.num_parameters:,}"]
    cells += [f"{likelihood:.3f}", f"{found:.2f}"]
    cells += [cell for denoise in ways for cell in psnr_cells(denoise, images, SIGMAS)]
    return table.line([*cells, f"{seconds:.2f}", f"{minutes:.0f}"])


@torch.no_grad()
def run(options: Options) -> None:
    """Measure what is new, and write the table."""
    known = OUT.read_text(encoding="utf-8").splitlines()[2:] if OUT.is_file() else []
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in known if line[:1] == "|"}
    images = held_out_images(options.data)
    for runs in options.runs.split(";"):
        if name_of(runs) not in rows:
            rows[name_of(runs)] = row(runs, images)
            print(rows[name_of(runs)], flush=True)
            table.write_text(OUT, "\n".join([table.head(HEADS), *rows.values()]))


main = command(run, data=BSDS500, runs=Needed("RUN[,RUN…][;…]"))

if __name__ == "__main__":
    sys.exit(main())
