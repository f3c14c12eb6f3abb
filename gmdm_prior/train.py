"""The command line `python -m gmdm_prior.train`: fit a prior to images.

Exit status: 0 done, 1 the training broke down (a loss that is not finite), 2 bad input or a file
that cannot be written (one sentence on standard error), 130 interrupted (Ctrl-C).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from gmdm_prior import __version__
from gmdm_prior.densities.base import DensityModel
from gmdm_prior.densities.convolutional.model import ConvolutionalModel
from gmdm_prior.densities.opponent import OpponentModel
from gmdm_prior.densities.wavelet.model import WaveletModel
from gmdm_prior.files import safetensors as storage
from gmdm_prior.messages import one_line
from gmdm_prior.pictures import report as plots
from gmdm_prior.training import processes
from gmdm_prior.training.checkpoint import Checkpoint, disagreement
from gmdm_prior.training.data.noise_report import training_noise
from gmdm_prior.training.data.pool import ImagePool, step_generator
from gmdm_prior.training.fit import StepRecord, fit, image_pool, of_init
from gmdm_prior.training.noisy_held_out import draw_held_out
from gmdm_prior.training.run.config import (
    Request,
    TrainConfig,
    describe_keys,
    read_request,
    read_yaml,
    to_yaml,
)
from gmdm_prior.training.run.data import split
from gmdm_prior.training.run.folder import RunFolder
from gmdm_prior.training.settings import FROM_INIT

USAGE = """\
usage: python -m gmdm_prior.train data=DIR [key=value ...]

Fit a Gaussian-mixture diffusion model to images. Writes model.safetensors, report.png, config.yaml,
metrics.csv and checkpoints/ to the folder `out`. Ctrl-C stops with a checkpoint; the same command
with resume=true goes on from it.

keys:
{keys}

examples:
  python -m gmdm_prior.train data=photos
  python -m gmdm_prior.train data=photos method=em+score out=runs/photos
  python -m gmdm_prior.train data=noisy noise=25/255
  python -m gmdm_prior.train data=noisy noise=auto
  python -m gmdm_prior.train data=bsds500:BSDS500 model=patch steps=20000
  python -m gmdm_prior.train data=photos model=wavelet
  python -m gmdm_prior.train data=photos model=opponent shrink=2
  python -m gmdm_prior.train out=runs/photos resume=true
  torchrun --nproc-per-node=2 -m gmdm_prior.train data=photos
"""
DEFAULT_INIT = {"mixture": "bsds-gray", "opponent": "bsds-gray"}
REPORT_PATCHES, REPORT_STREAM = 16_384, 8
MEASURES = "PSNR is that of one step of patch averaging on crops of held-out images at noise 25/255"
CONV_MEASURES = "PSNR is that of Tweedie's formula on crops of held-out images at noise 25/255"
WAVELET_MEASURES = "PSNR is that of the posterior mean of held-out images at noise 25/255"
NOISY_MEASURES = "held-out loss is minus the log-likelihood of noisy patches, nats per dimension"


def main(words: Sequence[str] | None = None) -> int:
    """Run; the exit status."""
    words = list(sys.argv[1:] if words is None else words)
    if any(word in ("-h", "--help", "help") for word in words):
        print(USAGE.format(keys=describe_keys()), end="")
        return 0
    run = _Run(words)
    try:
        with _warnings_in_one_line(), processes.joined():
            run.train()
    except KeyboardInterrupt:
        _say(f"interrupted; {run.how_to_go_on()}")
        return 130
    except (FloatingPointError, torch.linalg.LinAlgError) as error:
        _say(f"error: training broke down, {one_line(error)}; {run.how_to_go_on()}")
        return 1
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.strerror else str(error)
        _say(f"error: {one_line(reason)}; {run.how_to_go_on()}")
        return 2
    except (ValueError, TypeError) as error:
        _say(f"error: {one_line(error)}")
        return 2
    return 0


class _Run:
    """One run of the command line.

    Args:
        words: `key=value` each.
    """

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.folder: RunFolder | None = None

    def train(self) -> None:
        """From the words to the files."""
        request = read_request(self.words)
        config = _resolved(request.config)
        processes.check(config.method, config.model)
        for key in request.without_effect(config):
            run = f"method={config.method}, model={config.model}"
            warnings.warn(f"{key} has no effect with {run}", stacklevel=1)
        self.folder = folder = RunFolder(Path(config.out).expanduser())
        found = processes.from_first(lambda: _checkpoint(folder, config))
        init = None
        if config.method in FROM_INIT and config.init and found is None:
            init = storage.load(config.init)
            config = _adopt(request, config, init)
        training, held_out = split(config)
        counts = {"training_images": len(training), "held_out_images": len(held_out)}
        clean_measures = {"wavelet": WAVELET_MEASURES, "conv": CONV_MEASURES}
        measures = NOISY_MEASURES if config.noise else clean_measures.get(config.model, MEASURES)
        if processes.is_first():
            print(f"{len(training)} training images, {len(held_out)} held out; {measures}")
            folder.path.mkdir(parents=True, exist_ok=True)
        settings = config.fit_settings()
        records = fit(
            training,
            held_out,
            settings,
            init=init,
            checkpoints=folder.checkpoints if processes.is_first() else None,
            resume=found,
        )
        names = list(training)
        training.clear()  # `fit` has its own copy
        pool = image_pool(held_out, settings.resolved(), training=False)
        with contextlib.closing(records):
            if not processes.is_first():
                for _ in records:  # the first process says what became of them
                    pass
                return
            last = _follow(records, folder, config, 0 if found is None else found.step)
        noise = training_noise(config, folder, names)
        self._finish(config, last, pool, counts | noise)

    def _finish(
        self, config: TrainConfig, last: StepRecord, pool: ImagePool, facts: dict[str, Any]
    ) -> None:
        held_out = draw_held_out(pool, config.fit_settings().resolved())
        figures = held_out.figures(last.model)
        storage.save(
            last.model,
            self.folder.model,
            data=config.data,
            method=config.method,
            steps=last.step,
            seed=config.seed,
            numbers=last.model.num_parameters,
            settings={k: v for k, v in vars(config).items() if k != "resume"},
            held_out=figures,
            held_out_measure=_measure(config),
            versions={
                "gmdm_prior": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            command=shlex.join(["python", "-m", "gmdm_prior.train", *self.words]),
            **facts,
        )
        shown = last.model
        if isinstance(shown, WaveletModel):
            shown, patches = shown.experts, held_out.patches
        elif isinstance(shown, ConvolutionalModel):
            patches = held_out.patches
        else:
            generator = step_generator(config.seed, REPORT_STREAM)
            patches = pool.patches(REPORT_PATCHES, config.patch_size, "none", generator)
            if isinstance(shown, OpponentModel):
                shown, patches = shown.planes[0], shown.enter(patches)[:, :1]
        plots.report(shown, patches, self.folder.report, self.folder.curve())
        shown = ", ".join(f"{name} {value}" for name, value in figures.items())
        print(f"held out: {shown}")
        print(f"wrote {self.folder.model} ({last.model.num_parameters} numbers) and report.png")

    def how_to_go_on(self) -> str:
        """What an interrupted run leaves, and how to take it up again."""
        files = self.folder.checkpoints.files() if self.folder else []
        if not files:
            return "no checkpoint has been written"
        step = int(files[0].stem.removeprefix("step-"))
        return (
            f"the checkpoint of step {step} is kept: go on with "
            f"{shlex.join(['out=' + str(self.folder.path), 'resume=true'])}"
        )


def _measure(config: TrainConfig) -> str:
    """What the held-out figures of a model are."""
    if config.model == "conv":
        return "PSNR in dB of Tweedie's formula on crops, less a border"
    if config.model != "wavelet":
        return "nats per zero-mean dimension; PSNR in dB of PatchAveraging on crops"
    if config.noise:
        return "nats per pixel of noisy images"
    return "bits per 8-bit pixel and PSNR in dB of the posterior mean, on parts of whole images"


def _resolved(config: TrainConfig) -> TrainConfig:
    """Fill in what depends on other keys, and refuse what cannot be run."""
    if not config.data:
        raise ValueError("data is needed: a folder of images, as in data=photos (--help has more)")
    if config.holdout < 2:
        raise ValueError(f"holdout must be at least 2; got {config.holdout}")
    if config.shrink < 1:
        raise ValueError(f"shrink must be at least 1; got {config.shrink}")
    settings = config.fit_settings().resolved()
    out = config.out or f"runs/{settings.model}-{settings.method}"
    default = DEFAULT_INIT.get(settings.model) if settings.method in FROM_INIT else None
    init = config.init or default
    return dataclasses.replace(config, **vars(settings), out=out, init=init)


def _checkpoint(folder: RunFolder, config: TrainConfig) -> Checkpoint | None:
    """Where a run that is resumed stands; an occupied folder is refused otherwise."""
    if not config.resume:
        if folder.occupied():
            raise ValueError(
                f"out={config.out} is occupied; add resume=true to go on there, or name another"
            )
        return None
    found = folder.checkpoints.latest() if folder.occupied() else None
    if found is None:
        print(f"no checkpoint in {folder.path}: starting anew")
        return None
    stored = found.settings
    if folder.config.is_file():
        written = read_yaml(folder.config)
        stored = stored | {key: written[key] for key in ("holdout",) if key in written}
    now = vars(config.fit_settings()) | {"holdout": config.holdout}
    differing = disagreement({"holdout": config.holdout} | stored, now)
    if differing:
        raise ValueError(f"the checkpoint in out={config.out} is of another run: {differing}")
    print(f"resumed at step {found.step}")
    return found


def _adopt(request: Request, config: TrainConfig, init: DensityModel) -> TrainConfig:
    """What the start of score matching decides."""
    adopted = of_init(config, init)
    for key in ("model", "symmetries"):
        asked, has = request.given.get(key), getattr(adopted, key)
        if asked not in (None, has):
            raise ValueError(f"init={config.init} has {key}={has}; {key}={asked} was asked for")
    return adopted


def _follow(
    records: Iterator[StepRecord], folder: RunFolder, config: TrainConfig, start: int
) -> StepRecord:
    """Show and write down every step; returns the last one."""
    from tqdm import tqdm

    shown, record = {"held-out loss": "", "PSNR": ""}, None
    with tqdm(desc=config.method, unit="step", initial=start, dynamic_ncols=True) as bar:
        for record in records:
            if bar.total is None:
                folder.write_config(to_yaml(config))
                folder.start_metrics(start)
                bar.total = record.steps
            if record.step > start:
                folder.add(record)
            if record.held_out_loss is not None:
                shown["held-out loss"] = f"{record.held_out_loss:.4g}"
            if record.psnr is not None:
                shown["PSNR"] = f"{record.psnr:.2f} dB"
            parts = [f"{name} {value}" for name, value in shown.items() if value]
            bar.set_postfix_str(
                ", ".join([record.stage, f"loss {record.loss:.4g}", *parts]), refresh=False
            )
            bar.update(record.step - bar.n)
    return record


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: _say(f"warning: {one_line(message)}")
        yield


def _say(text: str) -> None:
    if int(os.environ.get("RANK", "0")) == 0:  # of several processes, all say the same
        print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
