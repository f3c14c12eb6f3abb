"""Make a bundled model of a finished training run: the weights, and the card that says how.

    python benchmarks/bundle.py data=bsds500:ROOT name=NAME runs=RUN[,RUN…] [out=FILE] [first=…]
        [luminance=NAME]

`runs` are folders of `python -m gmdm_prior.train`, each started from the one before it; the last
one gives the weights. Where the first one has an `init` that is not bundled, `first` is the command
that made it. `luminance` gives an `OpponentModel` another density of its first plane. `ROOT` holds
BSDS500, on which the runs were trained: figures on the card are measured on the ten held-out
images. Writes FILE (by default gmdm_prior/weights/NAME.safetensors) and beside it the card, with
the suffix .md.
"""

from __future__ import annotations

import csv
import hashlib
import sys
from pathlib import Path

import torch
import yaml
from denoising import mean_psnr
from weights import DATA, TERMS, WEIGHTS
from words import BSDS500, read, status

import gmdm_prior as gm
from gmdm_prior.training import find_images, read_images, split_held_out
from gmdm_prior.training.methods import resolved
from gmdm_prior.training.run.config import TrainConfig

SIGMAS = (15, 25, 50, 100)
KEYS = ("data", "name", "runs", "out", "first", "luminance")
POINTS = 8  # of a curve
TITLES = {
    "one_step": "one step (`PatchAveraging`)",
    "hqs": "`HalfQuadraticSplitting`",
    "posterior": "posterior mean (`WaveletDenoiser`)",
    "tweedie": "Tweedie's formula (`denoise`)",
}
UNNAMED = ("data", "out", "resume", "init", "checkpoint_every", "measure_every", "channels")


def command(run: Path, before: str | None) -> str:
    """The command line of a run, from its settings; `before` is the run that it started from."""
    stored = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    kind = TrainConfig(model=stored["model"], method=stored["method"]).fit_settings()
    usual = vars(TrainConfig()) | vars(resolved(kind))
    given = {k: v for k, v in stored.items() if k not in UNNAMED and usual[k] != v}
    given = {"model": stored["model"], "method": stored["method"]} | given
    words = [f"{key}={value}" for key, value in given.items()]
    init = stored["init"] if before is None else f"runs/{before}/model.safetensors"
    start = [f"init={init}"] if init else []
    return " ".join(
        ["python -m gmdm_prior.train data=bsds500:ROOT", *words, *start, f"out=runs/{run.name}"]
    )


def curve(run: Path) -> tuple[list[tuple[int, str, str]], float]:
    """Some (step, held-out loss, held-out PSNR) of a run, evenly spaced, and its seconds."""
    with open(run / "metrics.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    measured = [row for row in rows if row["held_out_loss"]]
    places = sorted({round(i * (len(measured) - 1) / (POINTS - 1)) for i in range(POINTS)})
    points = [
        (int(m["step"]), f"{float(m['held_out_loss']):.4g}", f"{float(m['psnr']):.2f}")
        for m in (measured[i] for i in places)
    ]
    return points, sum(float(row["seconds"]) for row in rows)


def held_out_figures(model: torch.nn.Module, data: str) -> dict[str, list[float]]:
    """PSNR on the held-out images at SIGMAS, of one step and of HQS; see TITLES."""
    files = split_held_out(find_images(data))[1]
    images = [image[None] for image in read_images(files, getattr(model, "channels", 1)).values()]
    if isinstance(model, gm.WaveletModel):
        denoisers = {"posterior": gm.WaveletDenoiser(model)}
    elif isinstance(model, gm.ConvolutionalModel):
        denoisers = {"tweedie": model.denoise}
    else:
        denoisers = {"one_step": gm.PatchAveraging(model), "hqs": gm.HalfQuadraticSplitting(model)}
    return {
        name: [round(mean_psnr(denoiser, images, level / 255)[0], 2) for level in SIGMAS]
        for name, denoiser in denoisers.items()
    }


def held_out_bits(model: gm.WaveletModel, data: str) -> float:
    """Bits per pixel of the held-out images, mean over them; each cut to what the model takes."""
    generator, bits = torch.Generator().manual_seed(0), []
    for image in read_images(split_held_out(find_images(data))[1]).values():
        height, width = (n // model.patch_size * model.patch_size for n in image.shape[1:])
        bits.append(float(model.bits_per_dim(image[:, :height, :width], generator=generator)))
    return round(sum(bits) / len(bits), 3)


def data_of(model: torch.nn.Module) -> str:
    """What it was trained on."""
    if isinstance(model, gm.OpponentModel):
        return DATA.replace("as gray images", "in colour, at half the size")
    return DATA


def describe(model: torch.nn.Module) -> str:
    """What the numbers are."""
    if isinstance(model, gm.WaveletModel):
        trees = model.experts
        return (
            f"A density of whole gray images, a `WaveletModel`: {model.levels} levels of the "
            f"wavelet {model.wavelet}, in each tree of coefficients a mixture of "
            f"{len(trees.weights)} classes on {len(trees.filters)} bases of "
            f"{trees.filters.shape[1]} rows, symmetries: {trees.symmetries}; "
            f"{model.num_parameters:,} numbers."
        )
    if isinstance(model, gm.OpponentModel):
        luminance, size = model.planes[0], model.patch_size
        return (
            f"A density of colour {size}×{size} patches, an `OpponentModel`: of luminance and of "
            f"two differences of colours a mixture each, of {len(luminance.weights)} classes on "
            f"{len(luminance.filters)} bases; {model.num_parameters:,} numbers."
        )
    if isinstance(model, gm.ConvolutionalModel):
        grid = len(model.owner)
        return (
            f"The paper's convolutional model, a `ConvolutionalModel`: {len(model.magnitude)} "
            f"cyclic filters with disjoint spectra on a grid of {grid}×{grid} frequencies, each "
            f"with a mixture of {len(model.experts.means)} equidistant Gaussians; "
            f"{model.num_parameters:,} numbers. Unnormalised, and approximate as a statement about "
            "noisy images (docs/math.md)."
        )
    size, count = model.patch_size, f"{model.num_parameters:,} numbers"
    if isinstance(model, gm.PatchModel):
        j, components = model.experts.logits.shape
        return (
            f"The paper's patch model, a `PatchModel`: {j} orthogonal zero-mean filters of "
            f"{size}×{size} pixels, each with a mixture of {components} equidistant Gaussians; "
            f"{count}."
        )
    groups, rows = model.filters.shape[:2]
    return (
        f"A mixture of products of Gaussian experts on gray {size}×{size} patches, a "
        f"`PatchMixture`: bases: {groups} of {rows} filters, symmetries: {model.symmetries}, "
        f"classes: {len(model.weights)}; {count}."
    )


def model_card(facts: dict, model: torch.nn.Module, curves: list, digest: str) -> str:
    """The Markdown card."""
    lines = [f"# {facts['name']}", "", describe(model), ""]
    lines += [
        f"- **Data**: {facts['data']}.",
        f"- **Terms**: {TERMS}.",
        "- **Made by**, one after another:",
    ]
    lines += [f"  - `{line}`" for line in (facts["first"], *facts["commands"]) if line]
    lines += [f"  - `{facts['bundled_by']}`", "- **Seed**: 0"]
    lines += [
        f"- **Duration**: {facts['minutes']:.0f} min of one core shared with other work",
        f"- **sha256**: `{digest}`",
    ]
    for line, points in zip(facts["commands"], curves, strict=True):
        steps, losses, psnrs = zip(*points, strict=True)
        shown = [f"{step:,}" for step in steps]
        lines += ["", f"Held out while `{line.rsplit(' ', 1)[1]}` was trained:", ""]
        lines += [
            f"| step | {' | '.join(shown)} |",
            "|---" * (len(points) + 1) + "|",
            f"| loss | {' | '.join(losses)} |",
            f"| PSNR in dB, σ = 25, parts of images | {' | '.join(psnrs)} |",
        ]
    lines += ["", "PSNR in dB on the ten held-out images, noise of σ/255:", ""]
    lines += [f"| σ | {' | '.join(map(str, SIGMAS))} |", "|---" * (len(SIGMAS) + 1) + "|"]
    for key, values in facts["held_out"].items():
        row = " | ".join(f"{value:.2f}" for value in values)
        lines.append(f"| {TITLES[key]} | {row} |")
    if "held_out_bits_per_pixel" in facts:
        lines += ["", f"Bits per pixel of these images: {facts['held_out_bits_per_pixel']:.3f}."]
    return "\n".join(lines) + "\n"


def make(options: dict[str, str]) -> None:
    """Read the runs, measure, write."""
    runs, name = [Path(run) for run in options["runs"].split(",")], options["name"]
    out = Path(options["out"] or WEIGHTS / f"{name}.safetensors")
    model = gm.load(runs[-1] / "model.safetensors")
    if options["luminance"]:
        planes = gm.load(options["luminance"]), *model.planes[1:]
        model = gm.OpponentModel(*planes, scales=model.scales)
    curves, seconds = zip(*(curve(run) for run in runs), strict=True)
    befores = [None, *(run.name for run in runs[:-1])]
    listed = ",".join(f"runs/{run.name}" for run in runs)
    facts = {
        "name": name,
        "data": data_of(model),
        "terms": TERMS,
        "numbers": model.num_parameters,
        "first": options["first"],
        "commands": [command(run, before) for run, before in zip(runs, befores, strict=True)],
        "bundled_by": f"python benchmarks/bundle.py data=bsds500:ROOT name={name} runs={listed}"
        + (f" luminance={options['luminance']}" if options["luminance"] else ""),
        "minutes": round(sum(seconds) / 60, 1),
        "held_out": held_out_figures(model, options["data"]),
        "held_out_sigmas": list(SIGMAS),
        "versions": gm.card(runs[-1] / "model.safetensors")["versions"],
    }
    if isinstance(model, gm.WaveletModel):
        facts["held_out_bits_per_pixel"] = held_out_bits(model, options["data"])
    gm.save(model, out, **facts)
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    card = model_card(facts, model, curves, digest)
    out.with_suffix(".md").write_text(card, encoding="utf-8")
    print(card)


def parse(words: list[str]) -> dict[str, str]:
    """Options; ValueError in one sentence for what makes no sense."""
    needed = BSDS500 | {"name": "NAME is needed", "runs": "RUN[,RUN…] is needed"}
    options = read(words, dict.fromkeys(KEYS, ""), needed)
    for run in options["runs"].split(","):
        if not (Path(run) / "model.safetensors").is_file():
            raise ValueError(f"runs: {run} holds no model.safetensors; is the run finished?")
    return options


@torch.no_grad()
def main(words: list[str]) -> int:
    """Run; the exit status."""
    return status(lambda given: make(parse(given)), words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
