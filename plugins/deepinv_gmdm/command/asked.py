"""What `denoise` and `noise` are asked for, checked before anything slow is imported.

Nothing here imports torch: bad options, files and pictures are refused at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepinv_gmdm.command.files import plan, read_noisy, shared_pages
from deepinv_gmdm.command.words import DENOISE, KINDS, NOISE, check_options, existing, switch
from gmdm_prior.files.formats import choose
from gmdm_prior.files.formats.picture import Picture, parse_range
from gmdm_prior.messages import unknown
from gmdm_prior.sigma_text import parse

ESTIMATED = ("auto", "map")


@dataclass
class Asked:
    """A checked command.

    Attributes:
        sources: the noisy pictures.
        targets: the file that is written for each; of `noise` without a map none is.
        options: as they were given.
        kind: of the noise that is looked for.
        level: of `denoise`, a number, `"auto"` or `"map"`.
        shared: all pages of a file have one level.
        drawn: of `noise`, whether a map is drawn.
        first: the first picture, which has been read.
    """

    sources: list[Path]
    targets: list[Path]
    options: Mapping[str, Any]
    kind: str
    level: Any = "auto"
    shared: bool = False
    drawn: bool = False
    first: Picture | None = None

    def picture(self, index: int) -> Picture:
        """One of the pictures; the first is given away once, so that its memory can be freed."""
        picture, self.first = (self.first, None) if index == 0 else (None, self.first)
        if picture is None:
            picture = read_noisy(self.sources[index], self.options)
        self._check(picture, index)
        return picture

    def read_first(self) -> Asked:
        """Read the first picture, or refuse it."""
        self.first = read_noisy(self.sources[0], self.options)
        self._check(self.first, 0)
        return self

    def _check(self, picture: Picture, index: int) -> None:
        if self.drawn and picture.pages > 1:
            raise ValueError(
                f"{self.sources[index]} has {picture.pages} pages; a map is drawn of one picture"
            )
        if self.targets and not self.drawn:
            choose.check_place(picture, self.targets[index])


def denoising(words: Sequence[str], options: Mapping[str, Any]) -> Asked:
    """What `denoise` is asked for.

    Args:
        words: the noisy pictures: files or patterns of them.
        options: if wanted `sigma` (a level such as `25/255` in units of the data range; `auto`, the
            default, reads the noise off the picture, `map` a level for every pixel), `noise` (its
            kind with `sigma=auto`: `white`, `correlated`, `poisson` or `auto`), `weights` (default:
            `gray`), `method`, `adapt` (`true`: learn from each picture too), `out`, `data_range`,
            `pages`, `axis`, `key`, `overwrite`.

    Raises:
        ValueError: for bad input, in one sentence.
    """
    check_options(options, DENOISE)
    sigma, kind = options.get("sigma", "auto"), _kind(options)
    if kind != "auto" and sigma != "auto":
        raise ValueError(f"noise={kind} says which noise to look for; give it with sigma=auto")
    level = sigma if sigma in ESTIMATED else parse(sigma, "sigma", _white(options))
    if switch(options, "adapt") and sigma == "map":
        raise ValueError("adapt=true wants one level of white noise; give it without sigma=map")
    sources = existing(words)
    targets = plan(sources, options.get("out"), "-denoised", switch(options, "overwrite"))
    shared = shared_pages(options)
    return Asked(sources, targets, options, kind, level, shared).read_first()


def noise_of(words: Sequence[str], options: Mapping[str, Any]) -> Asked:
    """What `noise` is asked for.

    Args:
        words: the noisy pictures: files or patterns of them.
        options: if wanted `map` (`true`: the level of every pixel too, drawn beside the picture,
            with autocovariance and curve), `noise` (its kind, if it is known), `weights`, the
            drawing's `out` (else `NAME-noise.png` in the working directory), `data_range`, `axis`,
            `key`, `overwrite`.

    Raises:
        ValueError: for bad input, in one sentence.
    """
    check_options(options, NOISE)
    drawn = switch(options, "map")
    if "out" in options and not drawn:
        raise ValueError("out is where the map is drawn: give map=true with it")
    sources = existing(words)
    overwrite = switch(options, "overwrite")
    targets = plan(sources, options.get("out"), "-noise", overwrite, ".png") if drawn else []
    return Asked(sources, targets, options, _kind(options), drawn=drawn).read_first()


def _kind(options: Mapping[str, Any]) -> str:
    """The kind of noise that was asked for."""
    kind = str(options.get("noise", "auto"))
    if kind not in KINDS:
        raise ValueError(unknown("noise", kind, KINDS))
    return kind


def _white(options: Mapping[str, Any]) -> float:
    """Guess what a level above 1 was to be divided by."""
    given = parse_range(options.get("data_range"))
    return given[1] - given[0] if isinstance(given, tuple) else 255.0
