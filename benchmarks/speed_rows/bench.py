"""What the rows of benchmarks/speed.py share: the images, the measurements, and turns over images.

After a warm-up every turn runs rival, ours, rival, ours, …, so that other load hits them alike; a
ratio is one of medians over the turns.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from lib.data import BUNDLED, noisy, read_gray
from lib.figures import psnr
from lib.timing import Run, medians
from torch import Tensor

HEIGHT, WIDTH, SIGMA = 321, 481, 25 / 255


@dataclass(frozen=True)
class Measurement:
    """One line of the table.

    `ratio` is the quotient `of`, which should be at least `least` and at most `most`; seconds are
    medians, None where nothing was timed.
    """

    row: str
    ours: str
    rival: str
    ours_s: float | None
    rival_s: float | None
    ratio: float
    of: str
    threads: str
    least: float | None = None
    most: float | None = None
    note: str = ""

    @property
    def target(self) -> str:
        """The bounds in words."""
        words = {"≥": self.least, "≤": self.most}
        return " and ".join(f"{sign} {v:g}" for sign, v in words.items() if v is not None)

    @property
    def met(self) -> str:
        """`yes`, `no`, or nothing where there is no target."""
        if not self.target:
            return ""
        above = self.least is None or self.ratio >= self.least
        return "yes" if above and (self.most is None or self.ratio <= self.most) else "no"


@dataclass(frozen=True)
class Bench:
    """What the rows work on: test images, training images, and how long.

    `repeats` None leaves it to each row.
    """

    images: list[Tensor]
    training: list[Tensor]
    repeats: int | None
    threads: int
    side: int

    def turns(self, default: int) -> int:
        """How often a row of this default is repeated."""
        return self.repeats or default

    def timed(
        self, row: str, ours: str, rival: str, times: Sequence[float], faster: bool = False, **more
    ) -> Measurement:
        """From the times (rival, ours): `faster` for rival / ours, otherwise ours / rival."""
        rival_s, ours_s = times
        ratio = rival_s / ours_s if faster else ours_s / rival_s
        of = "rival / ours" if faster else "ours / rival"
        more = {"threads": str(self.threads)} | more
        return Measurement(row, ours, rival, ours_s, rival_s, ratio, of, **more)


def mosaic() -> Tensor:
    """(1, 1, 512, 512): the three bundled pictures, one of them twice and turned."""
    camera, cat, coffee = (read_gray(BUNDLED / f"{n}.png") for n in ("camera", "cat", "coffee"))
    return torch.cat([torch.cat([camera, cat], 3), torch.cat([coffee, camera.mT], 3)], 2)


def large(side: int) -> Tensor:
    """A noisy image (1, 1, side, side): the mosaic, mirrored as often as it takes."""
    more = [(0, 0)] * 2 + [(0, max(0, side - 512))] * 2
    image = torch.from_numpy(np.pad(mosaic().numpy(), more, "reflect"))[..., :side, :side]
    image = image.contiguous()
    generator = torch.Generator().manual_seed(0)
    for rows in image[0, 0].split(64):  # not at once: the peak of the memory row is the call's
        rows += SIGMA * torch.randn(rows.shape, generator=generator)
    return image


def over_images(
    denoisers: dict[str, Callable], bench: Bench, turns: int
) -> tuple[dict[str, float], dict[str, list[Tensor]]]:
    """Median seconds and results, a turn an image, every image at least once."""
    pairs = [noisy(x, SIGMA, i) for i, x in enumerate(bench.images)]
    results: dict[str, dict[int, Tensor]] = {name: {} for name in denoisers}

    def at(name: str) -> Run:
        def run(turn: int) -> None:
            i = turn % len(pairs)
            results[name][i] = denoisers[name](pairs[i], SIGMA)

        return run

    times = medians(*map(at, denoisers), turns=max(turns, len(pairs)))
    in_order = {name: [found[i] for i in range(len(pairs))] for name, found in results.items()}
    return dict(zip(denoisers, times, strict=True)), in_order


def mean_psnr(results: list[Tensor], bench: Bench) -> float:
    """Mean PSNR in dB."""
    return statistics.fmean(map(psnr, results, bench.images))
