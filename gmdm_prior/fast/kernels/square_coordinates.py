"""Coordinates of patches in which the eight elements of D4 are signs: eight responses for one.

Eight responses <a, h y>, h in D4, of a filter a to a patch y would cost eight scalar products. In
coordinates adapted to the symmetry they cost little more than one. Let n = b / 2. Patches of b x b
pixels are the sum of six spaces, which D4 leaves alone or, the last two, swaps:

    even, odd             even, or odd, in both mirrors; symmetric under transposition  n (n+1) / 2
    even_skew, odd_skew   the same, antisymmetric under transposition                   n (n-1) / 2
    first, second         odd in one mirror only: transposition swaps them              n²

On the first four an element of D4 is a sign, on (first, second) a signed permutation. So <a, h y>
is a signed sum of eight partial products of a and y within these spaces (`turned`). What comes
back, sum_h v_h h^-1 a, has as coordinates those of a times eight signed sums of the v_h
(`gathered`, the transpose). Coordinates are sums and differences of pixels, without a scale: the
filters carry it (`coordinate_matrix`).

All of it is plus and minus, on anything that has them: numpy's numbers or a kernel's registers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

TURNS = 8  # elements of D4


@dataclass(frozen=True)
class Spaces:
    """Which of the b² coordinates belong to which space."""

    even: range
    odd: range
    even_skew: range
    odd_skew: range
    first: range
    second: range

    @property
    def signs(self) -> tuple[range, range, range, range]:
        """The spaces on which elements of D4 are signs."""
        return self.even, self.odd, self.even_skew, self.odd_skew


def spaces(size: int) -> Spaces:
    """The spaces of patches of an even size b."""
    n = size // 2
    dimensions = [n * (n + 1) // 2] * 2 + [n * (n - 1) // 2] * 2 + [n * n] * 2
    ends = list(itertools.accumulate(dimensions))
    return Spaces(*(range(end - d, end) for d, end in zip(dimensions, ends, strict=True)))


def to_coordinates(size: int, pixel: Callable[[int], Any], put: Callable[[int, Any], None]) -> None:
    """Coordinates `put(i, value)` from pixels `pixel(p)`, one orbit of pixels after the other."""
    at, n, skew = spaces(size), size // 2, 0
    for i, (r, c) in enumerate(_orbits(size)):
        even, first, second, odd = _mirrored(*map(pixel, _corners(size, r, c)))
        put(at.first[r * n + c], first)
        put(at.second[c * n + r], second)
        if r < c:
            even_t, first, second, odd_t = _mirrored(*map(pixel, _corners(size, c, r)))
            put(at.first[c * n + r], first)
            put(at.second[r * n + c], second)
            put(at.even_skew[skew], even - even_t)
            put(at.odd_skew[skew], odd - odd_t)
            even, odd, skew = even + even_t, odd + odd_t, skew + 1
        put(at.even[i], even)
        put(at.odd[i], odd)


def to_pixels(size: int, coordinate: Callable[[int], Any], put: Callable[[int, Any], None]) -> None:
    """The transpose: pixels `put(p, value)` from coordinates `coordinate(i)`."""
    at, n, skew = spaces(size), size // 2, 0
    for i, (r, c) in enumerate(_orbits(size)):
        even, odd = coordinate(at.even[i]), coordinate(at.odd[i])
        if r < c:
            even_skew, odd_skew = coordinate(at.even_skew[skew]), coordinate(at.odd_skew[skew])
            first, second = coordinate(at.first[c * n + r]), coordinate(at.second[r * n + c])
            values = _mirrored(even - even_skew, first, second, odd - odd_skew)
            for p, value in zip(_corners(size, c, r), values, strict=True):
                put(p, value)
            even, odd, skew = even + even_skew, odd + odd_skew, skew + 1
        first, second = coordinate(at.first[r * n + c]), coordinate(at.second[c * n + r])
        values = _mirrored(even, first, second, odd)
        for p, value in zip(_corners(size, r, c), values, strict=True):
            put(p, value)


def coordinate_matrix(size: int) -> np.ndarray:
    """The (b², b²) matrix T of `to_coordinates`; its rows are orthogonal.

    With c = T a / (squared norms of the rows of T), <a, y> = <c, T y> and a = Tᵀ c.
    """
    pixels = np.eye(size * size)
    matrix = np.empty_like(pixels)
    to_coordinates(size, pixels.__getitem__, matrix.__setitem__)
    return matrix


def turned(products: Sequence[Any]) -> list[Any]:
    """The eight <a, h y> from the eight partial products of a and y.

    Products: those in even, odd, even_skew, odd_skew, then <a_first, y_first>,
    <a_first, y_second>, <a_second, y_first>, <a_second, y_second>. Results: the four elements that
    do not transpose (identity, half turn, the mirrors), then the four that do.
    """
    even, odd, even_skew, odd_skew, ff, fs, sf, ss = products
    straight, straight_odd = even + even_skew, odd + odd_skew
    across, across_odd = even - even_skew, odd - odd_skew
    pairs = (
        (straight + straight_odd, ff + ss),
        (straight - straight_odd, ff - ss),
        (across + across_odd, fs + sf),
        (across - across_odd, fs - sf),
    )
    return [value for p, q in pairs for value in (p + q, p - q)]


def gathered(values: Sequence[Any]) -> list[Any]:
    """The transpose of `turned`: from eight values, eight sums in the order of its products."""
    pairs = list(zip(values[::2], values[1::2], strict=True))
    s0, s1, s2, s3 = (p + q for p, q in pairs)
    d0, d1, d2, d3 = (p - q for p, q in pairs)
    straight, straight_odd, across, across_odd = s0 + s1, s0 - s1, s2 + s3, s2 - s3
    signs = [straight + across, straight_odd + across_odd]
    signs += [straight - across, straight_odd - across_odd]
    return [*signs, d0 + d1, d2 + d3, d2 - d3, d0 - d1]


def _mirrored(p: Any, q: Any, r: Any, s: Any) -> tuple[Any, Any, Any, Any]:
    """Signed sums of a pixel and its mirror images (left–right, upside-down, both).

    They are odd in no mirror, left–right only, upside-down only, both. The matrix of signs is
    symmetric, so the same formulas are the transpose.
    """
    upper, lower, upper_odd, lower_odd = p + q, r + s, p - q, r - s
    return upper + lower, upper_odd + lower_odd, upper - lower, upper_odd - lower_odd


def _orbits(size: int) -> list[tuple[int, int]]:
    """Row and column of one pixel of each orbit: the upper triangle of the first quadrant."""
    return list(itertools.combinations_with_replacement(range(size // 2), 2))


def _corners(size: int, row: int, column: int) -> tuple[int, int, int, int]:
    """A pixel and its mirror images: left–right, upside-down, both."""
    low, right = size - 1 - row, size - 1 - column
    return row * size + column, row * size + right, low * size + column, low * size + right
