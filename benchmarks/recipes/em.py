"""Train and measure weights by likelihood alone: bundled ones, and where score matching starts.

    python benchmarks/weights.py data=bsds500:ROOT [name=bsds-gray-likelihood|bsds-gray-small]
                                 [out=FILE] [patches=200000] [seed=0]

`ROOT` holds BSDS500. Of its 400 training and test images, every 40th is held out, and the other 390
give the patches. Writes FILE (by default gmdm_prior/weights/NAME.safetensors) and beside it the
model card, FILE with the suffix .md. Every figure on the card is measured on the ten held-out
images; `python benchmarks/denoising.py` measures on test images.
"""

from __future__ import annotations

import hashlib
import math
import sys
import time
from pathlib import Path

import torch
from denoising import mean_psnr
from torch import Tensor
from tqdm import tqdm
from words import BSDS500, read, status

import gmdm_prior as gm
from gmdm_prior.training import find_images, fit_em, read_images, sample_patches, split_held_out

WEIGHTS = Path(__file__).resolve().parent.parent / "gmdm_prior" / "weights"
SIZE = 8
SIGMAS = (15, 25, 50)
LIKELIHOOD_SIGMA = 5
HELD_OUT_PATCHES = 20_000
FIT = {
    "bsds-gray-likelihood": {"bases": 3, "classes": 40},
    "bsds-gray-small": {"bases": 1, "classes": 16},
}
COMMON = {"symmetries": "d4", "components": 200, "full_iterations": 12, "iterations": 12}
DEFAULTS = {"name": "bsds-gray-likelihood", "patches": "200000", "seed": "0"}
EMPTY = {"data": "", "out": ""}
DATA = (
    "The 400 training and test images of BSDS500 (Arbeláez, Maire, Fowlkes and Malik, 2011) as "
    "gray images, less every 40th, which is held out: 390 images"
)
TERMS = (
    "The Berkeley Segmentation Data Set is offered for non-commercial research and education. The "
    "weights are statistics of its images and hold none of them; whoever uses them commercially "
    "should look at those terms first"
)


def psnr(estimate: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, peak 1."""
    return -10 * math.log10((estimate - truth).square().mean().item())


def train(name: str, images: dict, count: int, seed: int) -> tuple[gm.PatchMixture, float]:
    """Fit one of the bundled models; also the CPU seconds that sampling and training took."""
    generator = torch.Generator().manual_seed(seed)
    begun = time.process_time()
    patches = sample_patches(images, count, SIZE, COMMON["symmetries"], generator)
    with tqdm(total=COMMON["full_iterations"] + COMMON["iterations"], desc=name) as bar:

        def show(record) -> None:
            bar.update()
            bar.set_postfix_str(f"{record.stage}, objective {record.objective:.3f} nats per patch")

        model = fit_em(patches, generator=generator, on_iteration=show, **FIT[name], **COMMON)
    return model, time.process_time() - begun


def patch_figures(model: gm.PatchMixture, images: dict) -> dict:
    """Denoising of single zero-mean held-out patches, and their likelihood."""
    generator = torch.Generator().manual_seed(1)
    clean = sample_patches(images, HELD_OUT_PATCHES, SIZE, "none", generator)
    clean = clean - clean.mean((-2, -1), keepdim=True)
    dimension = model.filters.shape[1]
    figures = {}
    for level in (LIKELIHOOD_SIGMA, *SIGMAS):
        sigma = level / 255
        noise = torch.randn(clean.shape, generator=generator)
        noisy = clean + sigma * (noise - noise.mean((-2, -1), keepdim=True))
        chunks = noisy.split(4096)
        if level == LIKELIHOOD_SIGMA:
            total = sum(model.log_prob(y, sigma).double().sum().item() for y in chunks)
            figures["log_likelihood_per_dimension"] = round(total / len(clean) / dimension, 4)
        else:
            denoised = torch.cat([model.denoise(y, sigma) for y in chunks])
            figures[f"patch_psnr_{level}"] = round(psnr(denoised, clean), 2)
    return figures


def image_figures(model: gm.PatchMixture, images: dict) -> dict:
    """One step and HQS on whole images."""
    clean = [image[None] for image in images.values()]
    denoisers = {"one_step": gm.PatchAveraging(model), "hqs": gm.HalfQuadraticSplitting(model)}
    return {
        f"{kind}_psnr_{level}": round(mean_psnr(denoiser, clean, level / 255)[0], 2)
        for kind, denoiser in denoisers.items()
        for level in SIGMAS
    }


def model_card(facts: dict, seconds: float, digest: str) -> str:
    """The Markdown card."""
    fit, held_out = facts["fit"], facts["held_out"]
    bases = "1 basis" if fit["bases"] == 1 else f"{fit['bases']} bases"

    def row(kind: str) -> str:
        return " | ".join(f"{held_out[f'{kind}_psnr_{level}']:.2f}" for level in SIGMAS)

    lines = [
        f"# {facts['name']}",
        "",
        f"A mixture of products of Gaussian experts on gray {SIZE}×{SIZE} patches,",
        "a `PatchMixture`, fitted by maximum likelihood alone (`gmdm_prior.training.fit_em`):",
        f"{bases} of {SIZE * SIZE - 1} filters, seen in the eight symmetries of the square,",
        f"{fit['classes']} classes, {facts['numbers']:,} numbers.",
        "",
        f"- **Data**: {DATA}; {facts['patches']:,} random patches.",
        f"- **Terms**: {TERMS}.",
        f"- **Made by**: `{facts['command']}`",
        f"- **Settings**: {', '.join(f'{k}={v}' for k, v in fit.items())}",
        f"- **Seed**: {facts['seed']}",
        f"- **Duration**: {seconds / 60:.1f} min of one CPU core",
        f"- **sha256**: `{digest}`",
        "",
        "Measured on the ten held-out images, none of them used in training; noise of σ/255.",
        "",
        f"| PSNR in dB at σ | {' | '.join(map(str, SIGMAS))} |",
        "|---|---|---|---|",
        f"| {HELD_OUT_PATCHES:,} single zero-mean patches, posterior mean | {row('patch')} |",
        f"| whole images, one step (`PatchAveraging`) | {row('one_step')} |",
        f"| whole images, `HalfQuadraticSplitting` | {row('hqs')} |",
        "",
        f"Held-out log-likelihood at σ = {LIKELIHOOD_SIGMA}:",
        f"{held_out['log_likelihood_per_dimension']} nats per zero-mean dimension of a patch.",
    ]
    return "\n".join(lines) + "\n"


def make(options: dict[str, str]) -> None:
    """Train, measure, write."""
    name, count, seed = options["name"], int(options["patches"]), int(options["seed"])
    out = Path(options["out"] or WEIGHTS / f"{name}.safetensors")
    training, held_out = split_held_out(find_images(options["data"]))
    model, seconds = train(name, read_images(training), count, seed)
    held_out_images = read_images(held_out)
    facts = {
        "name": name,
        "data": DATA,
        "terms": TERMS,
        "numbers": model.num_parameters,
        "patches": count,
        "seed": seed,
        "fit": FIT[name] | COMMON,
        "command": f"python benchmarks/weights.py data=bsds500:ROOT name={name}"
        + "".join(f" {k}={options[k]}" for k in ("patches", "seed") if options[k] != DEFAULTS[k]),
        "held_out": patch_figures(model, held_out_images) | image_figures(model, held_out_images),
    }
    gm.save(model, out, **facts)
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    card = model_card(facts, seconds, digest)
    out.with_suffix(".md").write_text(card, encoding="utf-8")
    print(card)


def parse(words: list[str]) -> dict[str, str]:
    """Options; ValueError in one sentence for what makes no sense."""
    options = read(words, DEFAULTS | EMPTY, BSDS500)
    if options["name"] not in FIT:
        raise ValueError(f"name={options['name']} is not one of {', '.join(FIT)}")
    for key in ("patches", "seed"):
        if not options[key].isdecimal():
            raise ValueError(f"{key} must be a whole number; got {options[key]!r}")
    return options


@torch.no_grad()
def main(words: list[str]) -> int:
    """Run; the exit status."""
    return status(lambda given: make(parse(given)), words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
