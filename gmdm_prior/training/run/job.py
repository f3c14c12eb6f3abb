"""One run of the command line: from its words to the files in its folder."""

from __future__ import annotations

import contextlib
import platform
import shlex
import warnings
from typing import Any, cast

import torch

from gmdm_prior.files import safetensors as storage
from gmdm_prior.pictures import report as plots
from gmdm_prior.training import processes
from gmdm_prior.training.data.images import expanded
from gmdm_prior.training.data.pool import ImagePool
from gmdm_prior.training.fit import StepRecord, fit, image_pool
from gmdm_prior.training.methods import KINDS, method_of
from gmdm_prior.training.run.config import TrainConfig, complete, read_request
from gmdm_prior.training.run.folder import RunFolder, named, split
from gmdm_prior.training.run.progress import follow


class Job(contextlib.ExitStack):
    """One run, which holds its folder until it is left.

    Args:
        words: `key=value` each.
        version: of this package, for the model's card.
    """

    def __init__(self, words: list[str], version: str) -> None:
        super().__init__()
        self._words, self._version = words, version
        self._folder: RunFolder | None = None

    def run(self) -> None:
        """Read the words, train, and write what came of it."""
        request = read_request(self._words)
        config = complete(request.config)
        what = f"method={config.method}, model={config.model}"
        processes.check(method_of(config).several, what)
        for key in request.without_effect(config):
            warnings.warn(f"{key} has no effect with {what}", stacklevel=1)
        self._folder = folder = RunFolder(expanded("out", config.out))
        processes.from_first(lambda: self.enter_context(folder.held()))
        found = processes.from_first(lambda: folder.resumed(config))
        init = None
        if "init" in method_of(config).uses and config.init and found is None:
            init = storage.load(config.init)
            config = request.adopted(config, init)
        training, held_out = split(config)
        counts = {"training_images": len(training), "held_out_images": len(held_out)}
        if processes.is_first():
            measures = KINDS[config.model].announced(bool(config.noise))
            print(f"{len(training)} training images, {len(held_out)} held out; {measures}")
        records = fit(
            training,
            held_out,
            config.fit_settings(),
            init=init,
            checkpoints=folder.checkpoints if processes.is_first() else None,
            resume=found,
        )
        names = list(training)
        training.clear()  # `fit` has its own copy
        pool = image_pool(held_out, config, training=False)
        with contextlib.closing(cast(Any, records)):
            if not processes.is_first():
                for _ in records:  # the first process says what became of them
                    pass
                return
            last = follow(records, folder, config, 0 if found is None else found.step)
        self._finish(config, last, pool, counts | folder.training_noise(config.noise, names))

    def _finish(
        self, config: TrainConfig, last: StepRecord, pool: ImagePool, facts: dict[str, Any]
    ) -> None:
        kind, folder = KINDS[config.model], self._folder
        held_out = method_of(config).draw(pool, config)
        figures = held_out.figures(last.model)
        storage.save(
            last.model,
            folder.model,
            data=config.data,
            method=config.method,
            steps=last.step,
            seed=config.seed,
            numbers=last.model.num_parameters,
            settings={k: v for k, v in vars(config).items() if k != "resume"},
            held_out=figures,
            held_out_measure=kind.on_card(bool(config.noise)),
            versions={
                "gmdm_prior": self._version,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            command=shlex.join(["python", "-m", "gmdm_prior.train", *self._words]),
            **facts,
        )
        shown, patches = kind.shown(last.model, held_out, pool, config)
        with named(folder.report):
            plots.report(shown, patches, folder.report, folder.curve())
        print(f"held out: {', '.join(f'{name} {value}' for name, value in figures.items())}")
        print(f"wrote {folder.model} ({last.model.num_parameters} numbers) and report.png")

    def how_to_go_on(self) -> str:
        """What the run leaves when it is cut short, and how to take it up again."""
        return self._folder.how_to_go_on() if self._folder else "no checkpoint has been written"
