"""Adapting the model to the picture at hand: what is gained, what is lost, what it costs.

    python benchmarks/adapt.py skimage [BSD68] [every=8] [crop=256] [sigmas=15,25,50] [out=FOLDER]

Half-quadratic splitting with `gray` as it is, and adapted to each picture (`AdaptiveSplitting`), on
the middle `crop`² pixels of every picture of `skimage` (the photographs in scikit-image's wheel, in
gray, at full size) and of every `every`-th of a folder. BSD68 had no part in settling how; of
scikit-image's, brick, grass and page did for `DOUBT` and `CAUTION`. Told the noise level, and blind
(`BlindDenoiser` of white noise, with and without `adapt=True`). Times are of the processor, in
turns, of one thread. Writes adapt.csv and adapt.md into benchmarks/results.
"""

import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from lib import table
from lib.data import PHOTOGRAPHS, SCIKIT_IMAGE, middle, noisy, png_files, read_gray, scikit_images
from lib.figures import psnr
from lib.timing import medians, on_threads
from lib.words import Options, command
from torch import Tensor
from tqdm import tqdm

import gmdm_prior as gm

TURNS = 3
HEADS = ("set", "picture", "sigma", "psnr", "gain", "blind_psnr", "blind_gain", "times")


def pictures(source: str, every: int, crop: int) -> list[tuple[str, Tensor]]:
    """Names and crops."""
    files = scikit_images(PHOTOGRAPHS) if source == SCIKIT_IMAGE else png_files(source)[::every]
    return [(file.stem, middle(read_gray(file), crop)) for file in files]


class Pair:
    """A denoiser as it is and adapted."""

    def __init__(self) -> None:
        model, reader = gm.load("gray"), gm.load("gray-likelihood")
        self.told = gm.HalfQuadraticSplitting(model), gm.AdaptiveSplitting(model)
        self.blind = tuple(
            gm.BlindDenoiser(model, reader, kind="white", adapt=adapt) for adapt in (False, True)
        )

    def measure(self, clean: Tensor, index: int, sigma: float) -> list[float]:
        """PSNR and gain, told the level and blind."""
        image = noisy(clean, sigma, index)
        before, after = (psnr(denoise(image, sigma), clean) for denoise in self.told)
        blind, adapted = (psnr(denoise(image), clean) for denoise in self.blind)
        return [before, after - before, blind, adapted - blind]

    def times(self, clean: Tensor, index: int, sigma: float) -> float:
        """How many times as long the adapted one takes."""
        image = noisy(clean, sigma, index)
        calls = [lambda _, d=denoise: d(image, sigma) for denoise in self.told]
        plain, adapted = medians(*calls, turns=TURNS, clock=time.process_time)
        return adapted / plain


@torch.no_grad()
def run(options: Options) -> None:
    """Measure sets of pictures."""
    pair, found = Pair(), []

    def rows() -> Iterator[list[str]]:
        for source in options.sources:
            name = source if source == SCIKIT_IMAGE else source.rstrip("/").split("/")[-1]
            cases = pictures(source, options.every, options.crop)
            for index, (picture, clean) in enumerate(tqdm(cases, desc=name)):
                for level in options.sigmas:
                    values = pair.measure(clean, index, level / 255)
                    values.append(pair.times(clean, index, level / 255))
                    found.append((name, picture, level, *values))
                    yield [name, picture, f"{level:g}", *(f"{value:.4f}" for value in values)]

    with on_threads(1):
        table.write_csv(options.out / "adapt.csv", HEADS, rows())
    text = report(found, options)
    table.write_text(options.out / "adapt.md", text)
    print(text)


def report(found: list[tuple], options: Options) -> str:
    """Tables of the sets, and of single pictures of the first one."""
    sums, single = [], []
    for name in dict.fromkeys(row[0] for row in found):
        for level in options.sigmas:
            own = np.array([row[3:] for row in found if row[0] == name and row[2] == level])
            psnr_, gain, blind, blind_gain, times = own.T
            gains = [f"{value:+.3f}" for value in (gain.mean(), gain.min(), gain.max())]
            blind_gains = [f"{value:+.3f}" for value in (blind_gain.mean(), blind_gain.min())]
            told = [name, f"{level:g}", len(own), f"{psnr_.mean():.2f}", *gains]
            sums.append([*told, f"{blind.mean():.2f}", *blind_gains, *_times(times)])
    first = found[0][0]
    for picture in dict.fromkeys(row[1] for row in found if row[0] == first):
        own = {row[2]: row for row in found if row[:2] == (first, picture)}
        gains = [f"{own[level][3]:.2f} {own[level][4]:+.2f}" for level in options.sigmas]
        single.append([picture, *gains])
    heads = ["pictures", "σ", "count", "PSNR, dB", "gain", "least", "most", "blind PSNR"]
    heads += ["gain", "least", "times as long", "at most"]
    return "\n\n".join(
        [
            f"`gray`, half-quadratic splitting, {options.crop}² pixels; gains in dB; "
            "`python benchmarks/adapt.py`, whose head says how.",
            table.markdown(heads, sums),
            f"PSNR without and gain of each picture of {first}:",
            table.markdown(["picture", *table.sigma_heads(options.sigmas)], single),
        ]
    )


def _times(times: np.ndarray) -> list[str]:
    return [f"{times.mean():.1f}", f"{times.max():.1f}"]


main = command(
    run,
    place="sources",
    sources=(SCIKIT_IMAGE,),
    every=8,
    crop=256,
    sigmas=(15.0, 25.0, 50.0),
    out=table.RESULTS,
)

if __name__ == "__main__":
    sys.exit(main())
