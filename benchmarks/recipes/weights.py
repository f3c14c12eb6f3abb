"""Make bundled weights and the card that says how: by likelihood alone, or of training runs.

    python benchmarks/recipes/weights.py data=bsds500:ROOT name=bsds-gray-likelihood|bsds-gray-small
        [patches=200000] [seed=0] [out=FILE]
    python benchmarks/recipes/weights.py data=SOURCE name=NAME runs=RUN[,RUN…] [about=FILE.yaml]
        [first=…] [luminance=NAME] [out=FILE]

`ROOT` holds BSDS500. Of its 400 training and test images, every 40th is held out, and the other 390
are trained on. The first form fits a mixture by EM. In the second, `runs` are folders of `python -m
gmdm_prior.train`, each started from the one before it; the last one gives the weights. Where the
first one has an `init` that is not bundled, `first` is the command that made it. `luminance` gives
an `OpponentModel` another density of its first plane. What the card says of the data is in `about`,
by default bsds500.yaml beside this file; SOURCE may be any folder of images, with an `about` of its
own. Every figure is measured on the images of SOURCE that the last run has held out.

Writes FILE (by default gmdm_prior/weights/NAME.safetensors) and beside it the card, with the suffix
.md. `denoising_table.py` measures on test images.
"""

import hashlib
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/

from lib import table
from lib.card import SIZE, Made, facts_of, model_card
from lib.data import training_images
from lib.figures import curve
from lib.timing import timed
from lib.words import Needed, Options, command
from tqdm import tqdm

import gmdm_prior as gm
from gmdm_prior.training import fit_em, sample_patches
from gmdm_prior.training.methods import resolved
from gmdm_prior.training.run.config import TrainConfig

WEIGHTS = Path(__file__).resolve().parents[2] / "gmdm_prior" / "weights"
ABOUT = Path(__file__).with_name("bsds500.yaml")
OWN = {"about": ABOUT, "luminance": "", "patches": 200_000, "seed": 0}  # defaults of options
FIT = {
    "bsds-gray-likelihood": {"bases": 3, "classes": 40},
    "bsds-gray-small": {"bases": 1, "classes": 16},
}
COMMON = {"symmetries": "d4", "components": 200, "full_iterations": 12, "iterations": 12}
UNNAMED = ("data", "out", "resume", "init", "checkpoint_every", "measure_every", "channels")


def by_likelihood(options: Options) -> Made:
    """A mixture by EM; minutes of the processor for sampling and training."""
    images, seed = training_images(options.data), options.seed
    settings = FIT[options.name] | COMMON
    total = COMMON["full_iterations"] + COMMON["iterations"]

    def train() -> gm.PatchMixture:
        generator = torch.Generator().manual_seed(seed)
        patches = sample_patches(images, options.patches, SIZE, COMMON["symmetries"], generator)
        with tqdm(total=total, desc=options.name) as bar:

            def show(record) -> None:
                bar.update()
                bar.set_postfix_str(f"{record.stage}, {record.objective:.3f} nats per patch")

            return fit_em(patches, generator=generator, on_iteration=show, **settings)

    model, seconds = timed(train, time.process_time)
    facts = {"fit": settings, "patches": options.patches, "seed": seed}
    return Made(model, [], seconds / 60, facts=facts)


def of_runs(options: Options, source: str) -> Made:
    """The model of the last run."""
    runs = [Path(run) for run in options.runs]
    model = gm.load(runs[-1] / "model.safetensors")
    if options.luminance:
        planes = gm.load(options.luminance), *model.planes[1:]
        model = gm.OpponentModel(*planes, scales=model.scales)
    befores = [None, *(run.name for run in runs[:-1])]
    commands = [run_command(run, b, source) for run, b in zip(runs, befores, strict=True)]
    curves, seconds = zip(*(curve(run) for run in runs), strict=True)
    versions = gm.card(runs[-1] / "model.safetensors")["versions"]
    return Made(
        model,
        [line for line in (options.first, *commands) if line],
        sum(seconds) / 60,
        settings_of(runs[-1]).get("holdout", 40),
        dict(zip(commands, curves, strict=True)),
        {"seed": settings_of(runs[-1])["seed"], "versions": versions},
    )


def settings_of(run: Path) -> dict[str, Any]:
    """What a run was trained with."""
    return yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))


def run_command(run: Path, before: str | None, source: str) -> str:
    """The command line of a run, from its settings; `before` is the run that it started from."""
    stored = settings_of(run)
    kind = TrainConfig(model=stored["model"], method=stored["method"]).fit_settings()
    usual = vars(TrainConfig()) | vars(resolved(kind))
    given = {k: v for k, v in stored.items() if k not in UNNAMED and usual[k] != v}
    given = {"model": stored["model"], "method": stored["method"]} | given
    words = [f"{key}={value}" for key, value in given.items()]
    init = stored["init"] if before is None else f"runs/{before}/model.safetensors"
    start = [f"init={init}"] if init else []
    return " ".join(
        [f"python -m gmdm_prior.train data={source}", *words, *start, f"out=runs/{run.name}"]
    )


def own_command(options: Options, source: str) -> str:
    """The command line of this script."""
    words = [f"data={source}", f"name={options.name}"]
    if options.runs:
        words.append("runs=" + ",".join(f"runs/{Path(run).name}" for run in options.runs))
    given = {key: getattr(options, key) for key in OWN if getattr(options, key) != OWN[key]}
    words += [f"{k}={v.name if k == 'about' else v}" for k, v in given.items()]
    return f"python benchmarks/recipes/weights.py {' '.join(words)}"


def read_about(options: Options) -> dict[str, str]:
    """What the card says of the data.

    Raises:
        ValueError: the data are no BSDS500 and nothing tells what they are, or too little.
    """
    if options.about == ABOUT and not options.data.startswith("bsds500:"):
        raise ValueError("about=FILE.yaml is needed: its `source`, `data`, `terms` and `licence`")
    about = yaml.safe_load(options.about.read_text(encoding="utf-8"))
    if not isinstance(about, dict) or not {"source", "data"} <= set(about):
        raise ValueError(f"about={options.about} must have the keys `source` and `data`")
    return about


def check(options: Options) -> None:
    """Refuse what cannot be made.

    Raises:
        ValueError: a run without weights, or no runs and a name that EM alone does not make.
    """
    for run in options.runs:
        if not (Path(run) / "model.safetensors").is_file():
            raise ValueError(f"runs: {run} holds no model.safetensors; is the run finished?")
    if not options.runs and options.name not in FIT:
        names = ", ".join(FIT)
        raise ValueError(f"name={options.name} needs runs=RUN[,RUN…]; without are made {names}")


@torch.no_grad()
def make(options: Options) -> None:
    """Train or read the runs, measure, write."""
    check(options)
    about = read_about(options)
    made = of_runs(options, about["source"]) if options.runs else by_likelihood(options)
    facts = facts_of(made, options.name, options.data, about)
    facts["commands"] = [*made.commands, own_command(options, about["source"])]
    out = options.out or WEIGHTS / f"{options.name}.safetensors"
    gm.save(made.model, out, **facts)
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    card = model_card(facts, made, digest)
    table.write_text(out.with_suffix(".md"), card)
    print(card)


main = command(
    make,
    data=Needed("bsds500:ROOT, or a folder of images"),
    name=Needed("NAME"),
    runs=(),
    first="",
    out=Path,
    **OWN,
)

if __name__ == "__main__":
    sys.exit(main())
