"""The posterior mean of patches under a D4 mixture as one compiled kernel: the maths and the code.

Eight responses <a_j, h y>, h in D4, of a basis element a_j to a patch y would cost eight scalar
products. In coordinates adapted to the symmetry they cost one (and a quarter). Let n = b / 2. The
patches of b x b pixels are the sum of six spaces, which D4 leaves alone or, the last two, mixes:

    even, odd             even, or odd, in both mirrors, symmetric under transposition  n (n+1) / 2
    even_skew, odd_skew   the same, antisymmetric under transposition                   n (n-1) / 2
    first, second         odd in one mirror only: swapped by transposition              n²

On the first four each h is a sign, on (first, second) a signed permutation. So <a_j, h y> is a
signed sum of eight partial products <a_j, y> within these spaces (`turned`), and what comes back,
sum_h v_h h^-1 a_j, has as coordinates those of a_j times eight signed sums of the v_h (`gathered`,
its transpose). Coordinates are sums and differences of pixels, without scale; the rows of a basis
carry it (`coordinate_matrix`).

A tile of W patches, one per lane, goes through five stages for each basis g, and its memory (that
of the third for all bases) stays in the cache:

    responses      u_jh = <a_j, h y>, and their squares
    log_joint      l_kh = c_k - 1/2 sum_j u_jh² / (v_kj + s), in units of log 2, and their maximum
    weigh          r_kh = 2^(l_kh - max), for all bases at once, and their sum
    shrink         sum_k r_kh v_kj / (v_kj + s) u_jh, gathered over h
    synthesise     coordinates of the zero-mean part, added up over j

Each holds a block of results in registers while it runs over the rows or classes.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .vector_code import Code, Compiled, Host, Memory, Module, Vector, exp2, fma, host, installed

TURNS = 8  # elements of D4
KEPT = 8  # kernels, one for each patch size and class counts
FAINTEST = -60.0  # log2 of the least weight: nothing beside 1, and its products are no denormals

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Blocking:
    """How many results are in registers at a time, for each of them a vector or several.

    Attributes:
        rows: rows of a basis, of eight responses each.
        classes: of four logarithms each.
        sums: coordinates that are added up.
    """

    rows: int
    classes: int
    sums: int


BLOCKING = {  # by lanes
    16: Blocking(rows=3, classes=5, sums=20),  # AVX-512: 32 registers
    8: Blocking(rows=1, classes=2, sums=10),  # AVX: 16
    4: Blocking(rows=1, classes=2, sums=10),  # SSE2: 16, NEON: 32
}


# --- coordinates adapted to the symmetry --------------------------------------------------------


@dataclass(frozen=True)
class Spaces:
    """Which of the b² coordinates lie in which space."""

    even: range
    odd: range
    even_skew: range
    odd_skew: range
    first: range
    second: range


def spaces(size: int) -> Spaces:
    """The spaces of patches of a size."""
    n = size // 2
    dimensions = [n * (n + 1) // 2] * 2 + [n * (n - 1) // 2] * 2 + [n * n] * 2
    ends = list(itertools.accumulate(dimensions))
    return Spaces(*(range(end - d, end) for d, end in zip(dimensions, ends, strict=True)))


def mirrored(p: Any, q: Any, r: Any, s: Any) -> tuple[Any, Any, Any, Any]:
    """Sums that are even or odd in the mirrors, from a pixel and its three mirror images.

    The order is pixel, left–right, upside-down, both; and even, odd in columns, odd in rows, odd in
    both. The same formulas lead back, up to a factor 4.
    """
    upper, lower, upper_odd, lower_odd = p + q, r + s, p - q, r - s
    return upper + lower, upper_odd + lower_odd, upper - lower, upper_odd - lower_odd


def _orbits(size: int) -> list[tuple[int, int]]:
    """Row and column of one pixel of each orbit: the upper triangle of the first quadrant."""
    return list(itertools.combinations_with_replacement(range(size // 2), 2))


def _corners(size: int, row: int, column: int) -> tuple[int, int, int, int]:
    """A pixel and its mirror images."""
    low, right = size - 1 - row, size - 1 - column
    return row * size + column, row * size + right, low * size + column, low * size + right


def to_coordinates(size: int, pixel: Callable[[int], Any], put: Callable[[int, Any], None]) -> None:
    """Coordinates `put(i, value)` from pixels `pixel(p)`: one orbit after the other."""
    at, n, skew = spaces(size), size // 2, 0
    for i, (r, c) in enumerate(_orbits(size)):
        even, first, second, odd = mirrored(*map(pixel, _corners(size, r, c)))
        put(at.first[r * n + c], first)
        put(at.second[c * n + r], second)
        if r < c:
            even_t, first, second, odd_t = mirrored(*map(pixel, _corners(size, c, r)))
            put(at.first[c * n + r], first)
            put(at.second[r * n + c], second)
            put(at.even_skew[skew], even - even_t)
            put(at.odd_skew[skew], odd - odd_t)
            even, odd, skew = even + even_t, odd + odd_t, skew + 1
        put(at.even[i], even)
        put(at.odd[i], odd)


def to_pixels(
    size: int, coordinate: Callable[[int], Any], put: Callable[[int, Any], None]
) -> None:
    """The transpose: pixels `put(p, value)` from coordinates."""
    at, n, skew = spaces(size), size // 2, 0
    for i, (r, c) in enumerate(_orbits(size)):
        even, odd = coordinate(at.even[i]), coordinate(at.odd[i])
        if r < c:
            even_skew, odd_skew = coordinate(at.even_skew[skew]), coordinate(at.odd_skew[skew])
            first, second = coordinate(at.first[c * n + r]), coordinate(at.second[r * n + c])
            values = mirrored(even - even_skew, first, second, odd - odd_skew)
            for p, value in zip(_corners(size, c, r), values, strict=True):
                put(p, value)
            even, odd, skew = even + even_skew, odd + odd_skew, skew + 1
        first, second = coordinate(at.first[r * n + c]), coordinate(at.second[c * n + r])
        values = mirrored(even, first, second, odd)
        for p, value in zip(_corners(size, r, c), values, strict=True):
            put(p, value)


def coordinate_matrix(size: int) -> np.ndarray:
    """The (b², b²) matrix T of `to_coordinates`; its rows are orthogonal.

    A row a has <a, y> = sum_i c_i (T y)_i and a = Tᵀ c with c = T a / (squared norms of T's rows).
    """
    pixels = np.eye(size * size)
    matrix = np.empty_like(pixels)
    to_coordinates(size, pixels.__getitem__, matrix.__setitem__)
    return matrix


def turned(products: Sequence[Any]) -> list[Any]:
    """The eight <a, h y> from the partial products of a and y.

    Those of even, odd, even_skew and odd_skew, then <a_first, y_first>, <a_first, y_second>,
    <a_second, y_first>, <a_second, y_second>. The first four results are of the elements that do
    not transpose: identity and half turn, both mirrors.
    """
    even, odd, even_skew, odd_skew, ff, fs, sf, ss = products
    straight, across = even + even_skew, even - even_skew
    straight_odd, across_odd = odd + odd_skew, odd - odd_skew
    pairs = (
        (straight + straight_odd, ff + ss),
        (straight - straight_odd, ff - ss),
        (across + across_odd, fs + sf),
        (across - across_odd, fs - sf),
    )
    return [value for a, b in pairs for value in (a + b, a - b)]


def gathered(values: Sequence[Any]) -> list[Any]:
    """The transpose of `turned`: eight signed sums of values v_h, in the order of its argument."""
    sums = [a + b for a, b in zip(values[::2], values[1::2], strict=True)]
    ff_ss, ff_less_ss, fs_sf, fs_less_sf = (
        a - b for a, b in zip(values[::2], values[1::2], strict=True)
    )
    straight, straight_odd = sums[0] + sums[1], sums[0] - sums[1]
    across, across_odd = sums[2] + sums[3], sums[2] - sums[3]
    ones = [straight + across, straight_odd + across_odd]
    ones += [straight - across, straight_odd - across_odd]
    return [*ones, ff_ss + ff_less_ss, fs_sf + fs_less_sf, fs_sf - fs_less_sf, ff_ss - ff_less_ss]


# --- the stages ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """Sizes that a kernel is made for.

    Attributes:
        size: side b of a patch.
        counts: classes of each basis.
        blocking: what registers hold.
        width: lanes W.
    """

    size: int
    counts: tuple[int, ...]
    blocking: Blocking
    width: int

    @property
    def pixels(self) -> int:
        """Pixels b² of a patch."""
        return self.size**2

    @property
    def rows(self) -> int:
        """Rows J = b² - 1 of a basis."""
        return self.pixels - 1

    @property
    def padded_rows(self) -> int:
        """Rows with those of zeros that fill the last block."""
        return self.rows + -self.rows % self.blocking.rows


def _responses(module: Module, layout: Layout) -> Code:
    """Responses u (rows, 8) and squares (2, rows, 4) of a tile: half the turns after the other."""
    code = Code(module, "responses", places=4)
    tile, basis, u, squares = code.memory
    at, block, width = spaces(layout.size), layout.blocking.rows, layout.width
    ones = (at.even, at.odd, at.even_skew, at.odd_skew)

    def body(j: Any, _: list[Vector]) -> None:
        rows = [basis.row(j, layout.pixels).row(q, layout.pixels) for q in range(block)]
        sums = [[code.constant(0.0)] * TURNS for _ in rows]
        for i in range(len(at.even)):
            for kind, space in enumerate(ones):
                if i < len(space):
                    y = tile.load(space[i])
                    for row, s in zip(rows, sums, strict=True):
                        s[kind] = fma(row.spread(space[i]), y, s[kind])
        for i, k in zip(at.first, at.second, strict=True):
            first, second = tile.load(i), tile.load(k)
            for row, s in zip(rows, sums, strict=True):
                a, b = row.spread(i), row.spread(k)
                s[4:] = [
                    fma(a, first, s[4]),
                    fma(a, second, s[5]),
                    fma(b, first, s[6]),
                    fma(b, second, s[7]),
                ]
        half = layout.padded_rows * TURNS // 2 * width
        for q, s in enumerate(sums):
            for h, value in enumerate(turned(s)):
                u.row(j, TURNS * width).store(q * TURNS + h, value)
                part = squares.row(h // 4, half).row(j, 4 * width)
                part.store(q * 4 + h % 4, value * value)

    code.loop(layout.padded_rows, body, step=block)
    return code.finish()


def _log_joint(module: Module, layout: Layout, block: int, classes: int) -> Code:
    """Logarithms (block, 8) of some of a basis's classes, and the maximum with those before."""
    code = Code(module, f"log_joint_{block}_of_{classes}", places=5)
    squares, half_precisions, constants, logs, largest = code.memory
    width = layout.width

    def half(part: Any, _: list[Vector]) -> None:
        ours = squares.row(part, layout.padded_rows * 4 * width)

        def body(j: Any, sums: list[Vector]) -> list[Vector]:
            row, precision = ours.row(j, 4 * width), half_precisions.row(j, classes)
            square = [row.load(h) for h in range(4)]
            out = []
            for k in range(block):
                p = precision.spread(k)
                out += [fma(p, square[h], sums[4 * k + h]) for h in range(4)]
            return out

        start = [constants.spread(k) for k in range(block) for _ in range(4)]
        sums = code.loop(layout.rows, body, start)
        top, target = largest.load(), logs.row(part, 4 * width)
        for i, value in enumerate(sums):
            target.store(i // 4 * TURNS + i % 4, value)
            top = value.if_above(top)
        largest.store(0, top)

    code.loop(2, half)
    return code.finish()


def _weigh(module: Module, layout: Layout) -> Code:
    """Logarithms become weights 2^(log - maximum), in place; and their sum."""
    code = Code(module, "weigh", places=3, integers=1)
    logs, largest, total = code.memory
    top, faintest = largest.load(), code.constant(FAINTEST)

    def body(i: Any, sums: list[Vector]) -> list[Vector]:
        place = logs.row(i, layout.width)
        weight = exp2(faintest.if_above(place.load() - top))  # keeps NaN
        place.store(0, weight)
        return [sums[0] + weight]

    sums = code.loop(code.integers[0], body, [code.constant(0.0)])
    total.store(0, sums[0])
    return code.finish()


def _shrink(module: Module, layout: Layout) -> Code:
    """Shrunken responses, gathered over the turns: (rows, 8)."""
    code = Code(module, "shrink", places=4, integers=1)
    weights, gains, u, shrunken = code.memory
    block, step = layout.blocking.rows, TURNS * layout.width

    def body(j: Any, _: list[Vector]) -> None:
        ours = gains.row(j, 1)

        def add_class(k: Any, sums: list[Vector]) -> list[Vector]:
            gain, weight = ours.row(k, layout.padded_rows), weights.row(k, step)
            factors, out = [gain.spread(q) for q in range(block)], list(sums)
            for h in range(TURNS):
                w = weight.load(h)
                for q in range(block):
                    out[TURNS * q + h] = fma(factors[q], w, sums[TURNS * q + h])
            return out

        zeros = [code.constant(0.0)] * (TURNS * block)
        means = code.loop(code.integers[0], add_class, zeros)
        response, target = u.row(j, step), shrunken.row(j, step)
        for q in range(block):
            place = range(TURNS * q, TURNS * (q + 1))
            for i, value in zip(place, gathered([means[i] * response.load(i) for i in place])):
                target.store(i, value)

    code.loop(layout.padded_rows, body, step=block)
    return code.finish()


def _synthesise(module: Module, layout: Layout) -> Code:
    """Add a basis's part to the coordinates of the result."""
    code = Code(module, "synthesise", places=3)
    shrunken, basis, result = code.memory
    at, limit = spaces(layout.size), layout.blocking.sums

    def rows_of(j: Any) -> tuple[Memory, Memory]:
        return shrunken.row(j, TURNS * layout.width), basis.row(j, layout.pixels)

    def accumulate(places: list[int], body: Callable) -> None:
        sums = code.loop(layout.rows, body, [result.load(i) for i in places])
        for i, value in zip(places, sums, strict=True):
            result.store(i, value)

    for kind, space in enumerate((at.even, at.odd, at.even_skew, at.odd_skew)):
        for part in _blocks(space, limit):

            def add_row(j: Any, sums: list[Vector], kind=kind, part=part) -> list[Vector]:
                values, row = rows_of(j)
                value = values.load(kind)
                return [fma(row.spread(i), value, s) for i, s in zip(part, sums, strict=True)]

            accumulate(list(part), add_row)
    for part in _blocks(range(len(at.first)), limit // 2):

        def add_pairs(j: Any, sums: list[Vector], part=part) -> list[Vector]:
            values, row = rows_of(j)
            ff, fs, sf, ss = (values.load(4 + i) for i in range(4))
            out = []
            for i, first, second in zip(part, sums[::2], sums[1::2], strict=True):
                a, b = row.spread(at.first[i]), row.spread(at.second[i])
                out += [fma(b, sf, fma(a, ff, first)), fma(b, ss, fma(a, fs, second))]
            return out

        accumulate([i for p in part for i in (at.first[p], at.second[p])], add_pairs)
    return code.finish()


def _blocks(places: range, limit: int) -> list[range]:
    """Parts of a range of about the same length, at most `limit`."""
    count = -(-len(places) // limit)
    ends = [len(places) * i // count for i in range(count + 1)]
    return [places[start:end] for start, end in itertools.pairwise(ends)]


# --- the kernel ---------------------------------------------------------------------------------


def _pieces(layout: Layout) -> dict[str, int]:
    """What a tile needs in memory, in vectors."""
    rows = layout.padded_rows * TURNS
    return {
        "tile": layout.pixels,
        "result": layout.pixels,
        "largest": 1,
        "total": 1,
        "squares": rows,
        "shrunken": rows,
        "logs": sum(layout.counts) * TURNS,
        "u": rows * len(layout.counts),
    }


def emit(layout: Layout) -> tuple[Module, Code]:
    """The module and its entry.

    The entry takes patches and result (b², N) with W patches at a time, `pitch` numbers from row to
    row; a workspace; then what a level gives (`Kernel`); the number of tiles; and the pitch.
    """
    module = Module(layout.width)
    stages = _Stages(module, layout)
    code = Code(module, "posterior_mean", places=7, integers=2)
    source, target, workspace, bases, half_precisions, constants, gains = code.memory
    tiles, pitch = code.integers
    place, own = 0, {}
    for name, count in _pieces(layout).items():
        own[name] = workspace.row(place, layout.width)
        place += count

    def body(t: Any, _: list[Vector]) -> None:
        patches, means = source.row(t, layout.width), target.row(t, layout.width)
        to_coordinates(layout.size, lambda p: patches.row(p, pitch).load(), own["tile"].store)
        stages.run(code, own, (bases, half_precisions, constants, gains))
        norm = code.constant(1.0) / own["total"].load()
        to_pixels(
            layout.size,
            lambda i: own["result"].load(i) * norm,
            lambda p, value: means.row(p, pitch).store(0, value),
        )

    code.loop(tiles, body)
    return module, code.finish()


class _Stages:
    """The functions of the stages, and their calls for one tile."""

    def __init__(self, module: Module, layout: Layout) -> None:
        self.module, self.layout = module, layout
        self.responses = _responses(module, layout)
        self.log_joint = lru_cache(None)(
            lambda block, classes: _log_joint(module, layout, block, classes)
        )
        self.weigh, self.shrink = _weigh(module, layout), _shrink(module, layout)
        self.synthesise = _synthesise(module, layout)

    def run(self, code: Code, own: dict[str, Memory], given: tuple[Memory, ...]) -> None:
        """From the tile's coordinates to those of the zero-mean part, times the total weight."""
        layout = self.layout
        bases, half_precisions, constants, gains = given
        per_class, rows = TURNS * layout.width, layout.padded_rows
        for i in range(layout.pixels):
            own["result"].store(i, code.constant(0.0))
        own["largest"].store(0, code.constant(-math.inf))
        before = list(itertools.accumulate(layout.counts, initial=0))
        for g, classes in enumerate(layout.counts):
            basis, u = bases.row(g, rows * layout.pixels), own["u"].row(g, rows * per_class)
            code.call(self.responses, [own["tile"], basis, u, own["squares"]])
            for block in _blocks(range(classes), layout.blocking.classes):
                first = before[g] + block.start
                precisions = half_precisions.row(before[g], layout.rows).row(block.start, 1)
                logs = own["logs"].row(first, per_class)
                arguments = [own["squares"], precisions, constants.row(first, 1), logs]
                stage = self.log_joint(len(block), classes)
                code.call(stage, [*arguments, own["largest"]])
        arguments = [own["logs"], own["largest"], own["total"]]
        code.call(self.weigh, arguments, [before[-1] * TURNS])
        for g, classes in enumerate(layout.counts):
            basis, u = bases.row(g, rows * layout.pixels), own["u"].row(g, rows * per_class)
            weights = own["logs"].row(before[g], per_class)
            arguments = [weights, gains.row(before[g], rows), u, own["shrunken"]]
            code.call(self.shrink, arguments, [classes])
            code.call(self.synthesise, [own["shrunken"], basis, own["result"]])
