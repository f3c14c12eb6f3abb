"""Make bundled weights and the card that says how, of training runs.

    python benchmarks/recipes/weights.py data=SOURCE name=NAME runs=RUN[,RUN…] [about=FILE.yaml]
        [first=…] [trained=…] [holdout=…] [out=FILE]

`runs` are folders of `python -m gmdm_prior.train`, each started from the one before it; the last
one gives the weights. Where the first one has an `init` that is not bundled, `first` is the command
that made it. Runs on variants of SOURCE (`vary.py`) need `first`, the command that made them, their
folder's name as `trained`, and the `holdout` of that command. What the card says of the data is in
`about`: free.yaml beside this file for the free photographs, bsds500.yaml for SOURCE =
bsds500:ROOT, which is the default. SOURCE may be any folder of images, with an `about` of its own.
Every figure is measured on the images of SOURCE that the last run has held out.

Writes FILE (by default gmdm_prior/weights/NAME.safetensors) and beside it the card, with the suffix
.md. `denoising_table.py` measures on test images.
"""

import hashlib
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/

from lib import table
from lib.card import Made, facts_of, model_card
from lib.figures import curve
from lib.words import Needed, Options, command

import gmdm_prior as gm
from gmdm_prior.training.methods import resolved
from gmdm_prior.training.run.config import TrainConfig

WEIGHTS = Path(__file__).resolve().parents[2] / "gmdm_prior" / "weights"
ABOUT = Path(__file__).with_name("bsds500.yaml")
UNNAMED = ("data", "out", "resume", "init", "checkpoint_every", "measure_every")


def of_runs(options: Options, source: str) -> Made:
    """The model of the last run."""
    runs = [Path(run) for run in options.runs]
    model = gm.load(runs[-1] / "model.safetensors")
    befores = [None, *(run.name for run in runs[:-1])]
    trained = options.trained or source
    commands = [run_command(run, b, trained) for run, b in zip(runs, befores, strict=True)]
    curves, seconds = zip(*(curve(run) for run in runs), strict=True)
    versions = gm.card(runs[-1] / "model.safetensors")["versions"]
    return Made(
        model,
        [line for line in (options.first, *commands) if line],
        sum(seconds) / 60,
        options.holdout or settings_of(runs[-1]).get("holdout", 40),
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
    runs = ",".join(f"runs/{Path(run).name}" for run in options.runs)
    words = [f"data={source}", f"name={options.name}", f"runs={runs}"]
    if options.about != ABOUT:
        words.append(f"about={options.about.name}")
    if options.trained:
        words += [f"first='{options.first}'", f"trained={options.trained}"]
    if options.holdout:
        words.append(f"holdout={options.holdout}")
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
        ValueError: a run without weights, or no runs.
    """
    if not options.runs:
        raise ValueError("runs=RUN[,RUN…] is needed: folders of python -m gmdm_prior.train")
    for run in options.runs:
        if not (Path(run) / "model.safetensors").is_file():
            raise ValueError(f"runs: {run} holds no model.safetensors; is the run finished?")


@torch.no_grad()
def make(options: Options) -> None:
    """Read the runs, measure, write."""
    check(options)
    about = read_about(options)
    made = of_runs(options, about["source"])
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
    trained="",
    holdout=0,
    about=ABOUT,
    out=Path,
)

if __name__ == "__main__":
    sys.exit(main())
