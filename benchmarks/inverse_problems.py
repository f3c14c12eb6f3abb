"""Every bundled config with every prior, in one table.

    python benchmarks/inverse_problems.py [CONFIG ...] [priors=gmdm,tv,wavelet,pnp,epll]
        [mixture=runs/table/epll-gmm.safetensors] [out=benchmarks]

Restores the same measurement with `gmdm`, total variation, wavelets and plug-and-play with BM3D,
each with the options that the config has for it (the rivals' weights: `tune_rivals.py`, on the very
picture). deepinv's own EPLL reconstruction takes a minute for 128×128 pixels, so it gets the middle
of the picture, of that size, and `gmdm` restores that too, in the column beside it. EPLL's mixture
is fitted by `rivals.py`. Its own continuation, beta = 1, 4, … 32 over the noise variance, is for
denoising; elsewhere beta starts at 1 / 0.2², in ten steps, as for `gmdm`. It is left out where it
cannot work: complex images (mri), and photons, which it does not weigh.

Writes inverse_problems.csv, where finished restorations are found again, and .md to `out`, and the
figure inverse_problems.png of what was restored in this run: measurement, total variation,
plug-and-play, gmdm and truth. PSNR in dB, SSIM, wall seconds on one thread.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from csv_cache import Cache
from deepinv.loss.metric import SSIM
from deepinv.optim import EPLL
from deepinv.optim.utils import GaussianMixtureModel
from deepinv_gmdm import schedule
from deepinv_gmdm.command.config import load_config, shipped
from deepinv_gmdm.command.restore import psnr, scene_of, solve, visible
from deepinv_gmdm.operators import as_picture
from deepinv_gmdm.physics import build_physics, physics_sigma
from matplotlib.figure import Figure
from rivals import BATCH, GRAY, MIXTURE, SIZE
from torch import Tensor
from tqdm import tqdm
from words import read, status

from gmdm_prior.files.pictures import read_picture

PRIORS = ("gmdm", "tv", "wavelet", "pnp")
NAMES = {"gmdm": "`gmdm`", "tv": "`tv`", "wavelet": "`wavelet`", "pnp": "`pnp`, BM3D"}
SMALL = 128  # side of what EPLL restores
BETAS, START, LAST = 10, 0.2, 32**0.5  # steps, levels 1 / sqrt(beta) from START to sigma / LAST
COLUMNS = ("config", "method", "psnr", "ssim", "seconds")


@dataclass(frozen=True)
class Problem:
    """A config's picture, what is measured of it, and the operator."""

    name: str
    truth: Tensor
    scene: Tensor
    physics: torch.nn.Module
    measured: Tensor

    @classmethod
    def of(cls, name: str, side: int | None = None) -> Problem:
        """The picture of a config, or the middle of it."""
        config = load_config(name)
        truth = read_picture(config.image)[0]
        if side is not None:
            top, left = ((n - side) // 2 for n in truth.shape[2:])
            truth = truth[..., top : top + side, left : left + side]
        scene = scene_of(config, truth)
        physics = build_physics(config.physics, tuple(scene.shape[1:]))
        return cls(name, truth, scene, physics, physics(scene))

    @property
    def seen(self) -> Tensor:
        """The measurement as a picture."""
        return visible(as_picture(self.physics, self.measured, self.scene), self.truth)

    def restored(self, prior: str) -> Tensor:
        """By a prior of the config."""
        config = load_config(self.name, [f"prior={prior}"])
        return visible(solve(config, self.physics, self.measured, self.scene), self.truth)


class Epll:
    """deepinv's EPLL with a mixture of `rivals.py`, around `GRAY`."""

    def __init__(self, path: Path) -> None:
        tensors = safetensors.torch.load_file(path)
        mixture = GaussianMixtureModel(*tensors["covariances"].shape[:2])
        mixture.set_cov(tensors["covariances"])
        mixture.set_weights(tensors["weights"])
        self.reconstruct = EPLL(mixture, pretrained=None, patch_size=SIZE)

    def __call__(self, problem: Problem) -> Tensor:
        """Restore."""
        physics, flat = problem.physics, torch.full_like(problem.scene, GRAY)
        y = problem.measured - physics.A(flat)
        start, sigma = as_picture(physics, y, problem.scene), physics_sigma(physics)
        # its own continuation begins at the noise, where no hole is filled and no blur undone
        levels = schedule(sigma, BETAS, START, sigma / LAST)
        first = levels if problem.name != "denoise" else [sigma / b**0.5 for b in (1, 4, 8, 16, 32)]
        betas = [1 / level**2 for level in first]
        return GRAY + self.reconstruct(
            y, physics, sigma=sigma, x_init=start, betas=betas, batch_size=BATCH
        )


def possible(name: str) -> bool:
    """Whether EPLL can take a config."""
    config = load_config(name)
    return config.physics.name != "mri" and config.physics.noise.name == "gaussian"


def measure(problem: Problem, method: str, restore, cache: Cache) -> Tensor | None:
    """One restoration, unless it is in the cache; the picture where it was made now."""
    key = (problem.name, method)
    if key in cache:
        return None
    begun = time.perf_counter()
    image = restore().clamp(0, 1)
    seconds = time.perf_counter() - begun
    cache.add(key, (psnr(image, problem.truth), float(SSIM()(image, problem.truth)), seconds))
    return image


def run(names: list[str], options: dict[str, str]) -> None:
    """Restore, write table and figure."""
    folder, priors = Path(options["out"]), options["priors"].split(",")
    cache = Cache(folder / "inverse_problems.csv", COLUMNS, 3)
    strips: dict[str, dict[str, Tensor]] = {}
    for name in tqdm(names):
        problem = Problem.of(name)
        measure(problem, "measurement", lambda p=problem: p.seen, cache)
        images = {"measurement": problem.seen}
        for prior in (p for p in PRIORS if p in priors):
            found = measure(problem, prior, lambda p=problem, q=prior: p.restored(q), cache)
            if found is not None:
                images[prior] = found
        strips[name] = images | {"truth": problem.truth}
        if "epll" in priors and possible(name):
            small = Problem.of(name, min(SMALL, *problem.truth.shape[2:]))
            epll = Epll(Path(options["mixture"]))
            measure(small, "epll 128", lambda p=small, e=epll: e(p), cache)
            measure(small, "gmdm 128", lambda p=small: p.restored("gmdm"), cache)
    names = sorted({config for config, _ in cache.lines})
    (folder / "inverse_problems.md").write_text(report(names, cache), encoding="utf-8")
    wanted = {"measurement", "tv", "pnp", "gmdm", "truth"}
    whole = {name: images for name, images in strips.items() if wanted <= set(images)}
    if whole:
        draw(whole, folder / "inverse_problems.png")


def report(names: list[str], cache: Cache) -> str:
    """The table."""
    methods = ["measurement", *PRIORS]
    lines = [
        "# Inverse problems",
        "",
        "`python benchmarks/inverse_problems.py`: PSNR in dB / SSIM / seconds on one thread of a "
        "shared machine; the best PSNR in bold.",
        "",
        f"| config | measurement | {' | '.join(NAMES[p] for p in PRIORS)} |",
        "|---" * (len(methods) + 1) + "|",
    ]
    first = 0
    for name in names:
        found = {p: cache[name, p] for p in PRIORS if (name, p) in cache}
        best = max(found, key=lambda p: round(found[p][0], 2))
        first += best == "gmdm"
        cells = [cell(found.get(p), bold=p == best) for p in PRIORS]
        lines.append(f"| `{name}` | {cache[name, 'measurement'][0]:.2f} | {' | '.join(cells)} |")
    lines += ["", f"`gmdm` is first in {first} of {len(names)}; less than 0.05 dB is a tie."]
    small = [name for name in names if (name, "epll 128") in cache]
    if small:
        lines += ["", f"The middle {SMALL}×{SMALL} pixels, beside deepinv's EPLL:", ""]
        lines += ["| config | `gmdm` | EPLL |", "|---|---|---|"]
        for name in small:
            ours, theirs = cache[name, "gmdm 128"], cache[name, "epll 128"]
            lines.append(
                f"| `{name}` | {cell(ours, ours > theirs)} | {cell(theirs, theirs > ours)} |"
            )
    return "\n".join(lines) + "\n"


def cell(values: tuple[float, ...] | None, bold: bool) -> str:
    """PSNR / SSIM / seconds."""
    if values is None:
        return ""
    value, quality, seconds = values
    shown = f"**{value:.2f}**" if bold else f"{value:.2f}"
    return f"{shown} / {quality:.3f} / {seconds:.1f}"


def draw(strips: dict[str, dict[str, Tensor]], path: Path) -> None:
    """One row of pictures for each config, with PSNR."""
    shown = ("measurement", "tv", "pnp", "gmdm", "truth")
    figure = Figure(figsize=(2.6 * len(shown), 2.75 * len(strips)), layout="constrained")
    axes = figure.subplots(len(strips), len(shown), squeeze=False)
    for row, (name, images) in zip(axes, strips.items(), strict=True):
        for place, kind in zip(row, shown, strict=True):
            image = images[kind].clamp(0, 1)
            place.imshow(image[0].permute(1, 2, 0).squeeze(-1), cmap="gray", vmin=0, vmax=1)
            value = "" if kind == "truth" else f", {psnr(image, images['truth']):.2f} dB"
            place.set_title(f"{name if kind == 'measurement' else kind}{value}", fontsize=8)
            place.set_axis_off()
    figure.savefig(path, dpi=100)


@torch.no_grad()
def main(words: list[str]) -> int:
    """Run; the exit status, 2 with a sentence for bad input."""
    names = [word for word in words if "=" not in word]
    names = names or sorted(file.stem for file in shipped("configs").glob("*.yaml"))
    defaults = {"priors": "gmdm,tv,wavelet,pnp,epll", "mixture": str(MIXTURE), "out": "benchmarks"}
    given = [word for word in words if "=" in word]
    return status(lambda w: run(names, read(w, defaults, {})), given)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
