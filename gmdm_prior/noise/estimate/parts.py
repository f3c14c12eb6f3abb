"""Whether the parts of an image have different noise levels, and sentences that say so.

Two halves are compared, and the middle with the corners: levels that grow from the middle are alike
in halves. Parts differ if their levels do by more than texture makes them differ, and by more than
their standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from gmdm_prior.noise.estimate.ladder import Ladder
from gmdm_prior.noise.patches import Patches

FEWEST = 64  # patches of a part
SEVERAL, SURE = 1.3, 5.0  # one level over the other, and by how many standard errors
HALVES = ("upper half", "left half")  # of rows, of columns
MIDDLE, CORNERS = 0.2, 0.4  # squared distance from the middle, over that of the corners


@dataclass(frozen=True)
class Apart:
    """Two parts of an image whose levels differ.

    Attributes:
        name: of the first part.
        one: its level.
        other: the level of the other part.
    """

    name: str
    one: float
    other: float

    @property
    def middle(self) -> float:
        """The level between the two."""
        return math.sqrt(self.one * self.other)

    def louder_half(self, height: int, width: int) -> tuple[slice, slice] | None:
        """Rows and columns of the half with more noise; None if the parts are no halves."""
        if self.name not in HALVES:
            return None
        ends = [slice(0, height), slice(0, width)]
        axis = HALVES.index(self.name)
        middle, end = ends[axis].stop // 2, ends[axis].stop
        ends[axis] = slice(0, middle) if self.one > self.other else slice(middle, end)
        return ends[0], ends[1]

    def said(self, scale: float) -> str:
        """The sentence that says so, of levels times a scale."""
        one, other = self.one * scale, self.other * scale
        return (
            f"several levels in one image: {one:.3g} in the {self.name} and {other:.3g} in the "
            "other; a map (estimate_sigma_map) suits it better"
        )


def different_parts(ladder: Ladder, patches: Patches, shape: Sequence[int]) -> Iterator[Apart]:
    """Parts of an image (H, W) of this shape whose levels differ, read with a ladder of patches."""
    down, right = patches.rows / shape[0], patches.columns / shape[1]
    away = 2 * ((down - 0.5).square() + (right - 0.5).square())
    parts = {
        HALVES[0]: (down < 0.5, down >= 0.5),
        HALVES[1]: (right < 0.5, right >= 0.5),
        "middle": (away < MIDDLE, away > CORNERS),
    }
    for name, (first, second) in parts.items():
        if min(int(first.sum()), int(second.sum())) < FEWEST:
            continue
        one, other = ladder.read(first), ladder.read(second)
        apart = abs(math.log(one.sigma / other.sigma))
        error = math.hypot(min(one.error, 9.0), min(other.error, 9.0))
        if apart > math.log(SEVERAL) and apart > SURE * error:
            yield Apart(name, one.sigma, other.sigma)


def slowly(levels: Tensor) -> str:
    """The sentence that levels (H, W) grow slowly across the image."""
    ends = []
    for place in (int(levels.argmin()), int(levels.argmax())):
        row, column = divmod(place, levels.shape[1])
        down = ("top ", "", "bottom ")[3 * row // levels.shape[0]]
        right = ("left", "", "right")[3 * column // levels.shape[1]]
        where = f"at the {down}{right}".rstrip() if down or right else "in the middle"
        ends.append(f"{float(levels.flatten()[place]):.3g} {where}")
    return (
        f"the noise grows slowly across the image, from {ends[0]} to {ends[1]}; a map "
        "(estimate_sigma_map) suits it better"
    )
