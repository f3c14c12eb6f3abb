"""Inverse problems on pictures that nobody tuned on, beside rivals that were tuned on two others.

    python benchmarks/inverse_problems.py [networks=FOLDER] [epll=FILE] [methods=NAME,…]
        [cases=TEXT,…] [weights=gray] [sheet=false] [out=FOLDER] [kept=runs/inverse_problems]

Every problem of `lib/problems.py` on eight pictures of 128×128 pixels. `gmdm` is
`build_solver("hqs", prior, sigma=physics.noise_model.sigma)(y, physics)`; `gmdm tuned` has weight,
first and last level and steps climbed on two other pictures, as have all rivals: the weight and
the last level of plug-and-play with FFDNet (also the steps), FDnCNN and BM3D (eight steps, which
begin at FFDNet's settings), of EPLL (also four to sixteen steps), total variation and wavelets; the
weight and the scale of ridge regularisers (CRR, WCRR) and of total deep variation (TDV). All of
them begin at the first iterate of `gmdm`. `FFDNet as DPIR` has the settings of its authors.

`networks` is a folder of `FFDNet_gray.mat` (cszn/FFDNet), `FDnCNN_gray.mat` (cszn/DnCNN) and the
weights of `lib/ridge.py` and `lib/deep_variation.py`, of which the latter also needs a checkout of
johertrich/LearnedRegularizers there. `epll` is the mixture that `recipes/rivals.py denoising` fits
in five minutes. None of these is committed; rivals whose files are missing are left out.

Writes inverse_problems.csv (a row for each problem, picture and method), -settings.csv, .md and the
sheet .png to `out` (by default benchmarks/results). What is in the CSV files is not computed again:
PSNR in dB, SSIM, CPU seconds of one thread. Pictures of the sheet go to `kept`.
"""

import contextlib
import hashlib
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from deepinv.loss.metric import SSIM
from lib import inverse_report, restorers, table
from lib.figures import psnr
from lib.problems import CASES, Case, Task, pictures_of, tasks_of
from lib.rivals import MIXTURE
from lib.split import Method, Settings, settings_of, stored, tune
from lib.timing import timed
from lib.words import Options, command
from torch import Tensor
from tqdm import tqdm

NAME = "inverse_problems"
HEADS = ("problem", "picture", "method", "psnr", "ssim", "seconds")
SETTINGS = ("problem", "method", "strength", "first", "last", "steps", "psnr")
FEW = 2  # numbers that are tuned of slow problems
TUNING = 100  # index of the first tuning picture's noise


class Bench:
    """What was found so far, in two files."""

    def __init__(self, out: Path) -> None:
        self.results = table.Cache(out / f"{NAME}.csv", HEADS, 3)
        self.settings = table.Cache(out / f"{NAME}-settings.csv", SETTINGS, 5)

    def settings_for(self, case: Case, method: Method, tasks: list[Task]) -> Settings:
        """The settings of a method, tuned if they are not known."""
        key = (case.key, method.name)
        if not method.climbs:
            return method.start(tasks[0])
        if key not in self.settings:
            most = FEW if case.slow else None
            best, value = tune(method, tasks, self.seed(case, method), most)
            self.settings.add(key, (*stored(best), value))
        return settings_of(self.settings[key])

    def seed(self, case: Case, method: Method) -> Settings | None:
        """FFDNet's settings where a method begins at those."""
        key = (case.key, restorers.FFDNET)
        if method.climbs is not restorers.FROM_FFDNET or key not in self.settings:
            return None
        return settings_of(self.settings[key])

    def measure(self, case: Case, method: Method, task: Task, settings: Settings) -> None:
        """Restore one picture."""
        key = (case.key, task.picture, method.name)
        if key in self.results:
            return
        _ = task.plan  # the first iterate is given
        image, seconds = timed(lambda: task.seen(method.restore(task, settings)).clamp(0, 1))
        quality = float(SSIM()(image, task.truth))
        self.results.add(key, (psnr(image, task.truth), quality, seconds))

    def whole(self, case: Case, method: Method, names: list[str]) -> bool:
        """Whether all pictures are known."""
        return all((case.key, name, method.name) in self.results for name in names)


@torch.no_grad()
def run(options: Options) -> None:
    """Restore, write table and figure.

    Raises:
        ValueError: for an unknown method.
    """
    methods = restorers.methods(options.weights, options.networks, options.epll)
    for name in options.methods:
        if name not in methods:
            raise ValueError(f"methods={name}: use some of {', '.join(methods)}")
    bench = Bench(options.out)
    wanted = [m for name, m in methods.items() if not options.methods or name in options.methods]
    cases = [c for c in CASES if not options.cases or any(t in c.key for t in options.cases)]
    for case in tqdm(cases, disable=None):
        pictures, others = pictures_of(case)
        for method in wanted:
            if bench.whole(case, method, list(pictures)):
                continue
            with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
                warnings.simplefilter("ignore")
                settings = bench.settings_for(case, method, tasks_of(case, others, TUNING))
                for task in tasks_of(case, pictures):
                    bench.measure(case, method, task, settings)
    inverse_report.write(options.out / NAME, bench.results)
    if options.sheet:
        sheet(options, bench, methods)


def sheet(options: Options, bench: Bench, methods: dict[str, Method]) -> None:
    """Draw another picture of each problem by the methods that were run on it."""
    strips = {}
    for i, case in enumerate(CASES):
        pictures, others = pictures_of(case)
        task = tasks_of(case, pictures)[i % len(pictures)]
        panels = {}
        for name in inverse_report.SHOWN:
            if (case.key, task.picture, name) in bench.results and name in methods:
                settings = bench.settings_for(case, methods[name], tasks_of(case, others, TUNING))
                panels[name] = kept(options.kept, case, methods[name], task, settings)
        strips[case.key] = panels | {"truth": task.truth}
    inverse_report.draw(strips, options.out / f"{NAME}.png")


def kept(folder: Path, case: Case, method: Method, task: Task, settings: Settings) -> Tensor:
    """A restored picture, from a file where there is one."""
    words = f"{case.key} {task.picture} {method.name} {settings}"
    path = folder / f"{hashlib.sha256(words.encode()).hexdigest()[:16]}.npy"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        np.save(path, task.seen(method.restore(task, settings)).numpy())
    return torch.from_numpy(np.load(path))


main = command(
    run,
    networks=Path,
    epll=MIXTURE,
    methods=(),
    cases=(),
    weights="gray",
    sheet=True,
    out=table.RESULTS,
    kept=Path("runs/inverse_problems"),
)

if __name__ == "__main__":
    sys.exit(main())
