"""Posterior means of patches under a D4 mixture, the zero-mean part, as one compiled kernel.

With them come the maximum of a patch's logarithms and the sum of its weights, which give its
log-density.

In `square_coordinates` the eight responses u_jh = <a_j, h y> of a row a_j cost little more than
one. A tile of W patches, one per lane, is turned into coordinates and goes through five stages,
with all it needs in the cache:

    responses      u_jh and u_jh², for each basis
    log_joint      l_kh = c_k - 1/2 sum_j u_jh² / (v_kj + s), for its classes k, and the maximum
    weigh          r_kh = 2^(l_kh - maximum), for all bases at once, and their sum
    shrink         sum_k r_kh v_kj / (v_kj + s) u_jh, gathered over h, for each basis again
    synthesise     coordinates of the zero-mean part, added up over j

and back to pixels. Each stage holds a block of results in registers while it runs over the rows or
the classes. Logarithms are in units of log 2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gmdm_prior.fast.kernels.llvm import (
    Code,
    Compiled,
    Host,
    Memory,
    Module,
    Vector,
    exp2,
    fma,
    made_for_host,
)
from gmdm_prior.fast.kernels.mixture_layout import BLOCKING, Layout
from gmdm_prior.fast.kernels.square_coordinates import (
    TURNS,
    gathered,
    spaces,
    to_coordinates,
    to_pixels,
    turned,
)

KEPT = 8  # kernels, one for each patch size and class counts
FAINTEST = -60.0  # logarithm of the least weight: nothing beside 1, and no product is a denormal


def _responses(module: Module, layout: Layout) -> Code:
    """Responses and their squares, each (rows, 8), from the coordinates of a tile."""
    code = Code(module, "responses", places=4)
    tile, basis, responses, squares = code.memory
    at, block = spaces(layout.size), layout.blocking.rows

    def body(j: Any, _: list[Vector]) -> None:
        rows = [basis.row(j, layout.pixels).row(q, layout.pixels) for q in range(block)]
        products = [[code.constant(0.0)] * TURNS for _ in rows]
        for i in range(len(at.even)):
            for kind, space in enumerate(at.signs):
                if i < len(space):
                    y = tile.load(space[i])
                    for row, p in zip(rows, products, strict=True):
                        p[kind] = fma(row.spread(space[i]), y, p[kind])
        for f, s in zip(at.first, at.second, strict=True):
            first, second = tile.load(f), tile.load(s)
            for row, p in zip(rows, products, strict=True):
                a, b = row.spread(f), row.spread(s)
                p[4:6] = fma(a, first, p[4]), fma(a, second, p[5])
                p[6:8] = fma(b, first, p[6]), fma(b, second, p[7])
        ours, ours_squared = responses.row(j, layout.eight), squares.row(j, layout.eight)
        for i, u in enumerate(u for p in products for u in turned(p)):
            ours.store(i, u)
            ours_squared.store(i, u * u)

    code.loop(layout.padded_rows, body, step=block)
    return code.finish()


def _log_joint(module: Module, layout: Layout, block: int, classes: int) -> Code:
    """Logarithms (block, 8) of a few of a basis's classes, and the maximum with those before."""
    code = Code(module, f"log_joint_{block}_of_{classes}", places=5)
    squares, half_precisions, constants, logs, largest = code.memory

    def body(j: Any, sums: list[Vector]) -> list[Vector]:
        row, precisions = squares.row(j, layout.eight), half_precisions.row(j, classes)
        square = [row.load(h) for h in range(TURNS)]
        out = []
        for k in range(block):
            precision, ours = precisions.spread(k), sums[TURNS * k : TURNS * (k + 1)]
            out += [fma(precision, u, s) for u, s in zip(square, ours, strict=True)]
        return out

    sums = code.loop(layout.rows, body, [code.constant(0.0)] * (TURNS * block))
    top = largest.load()
    for i, quadratic in enumerate(sums):
        value = quadratic + constants.spread(i // TURNS)
        logs.store(i, value)
        top = value.if_above(top)
    largest.store(0, top)
    return code.finish()


def _weigh(module: Module, layout: Layout) -> Code:
    """Logarithms become weights 2^(log - maximum), in place; and their sum."""
    code = Code(module, "weigh", places=3, integers=1)
    logs, largest, total = code.memory
    top, faintest = largest.load(), code.constant(FAINTEST)

    def body(i: Any, sums: list[Vector]) -> list[Vector]:
        place = logs.row(i, layout.width)
        weight = exp2(faintest.if_above(place.load() - top))  # NaN stays NaN
        place.store(0, weight)
        return [sums[0] + weight]

    sums = code.loop(code.integers[0], body, [code.constant(0.0)])
    total.store(0, sums[0])
    return code.finish()


def _shrink(module: Module, layout: Layout) -> Code:
    """Shrunken responses (rows, 8), gathered over the turns."""
    code = Code(module, "shrink", places=4, integers=1)
    weights, gains, responses, shrunken = code.memory
    block = layout.blocking.rows

    def body(j: Any, _: list[Vector]) -> None:
        ours = gains.row(j, 1)

        def add_class(k: Any, sums: list[Vector]) -> list[Vector]:
            gain, weight = ours.row(k, layout.padded_rows), weights.row(k, layout.eight)
            factors, out = [gain.spread(q) for q in range(block)], list(sums)
            for h in range(TURNS):
                r = weight.load(h)
                for q, factor in enumerate(factors):
                    out[TURNS * q + h] = fma(factor, r, sums[TURNS * q + h])
            return out

        gain = code.loop(code.integers[0], add_class, [code.constant(0.0)] * (TURNS * block))
        u, target = responses.row(j, layout.eight), shrunken.row(j, layout.eight)
        for q in range(block):
            values = [gain[i] * u.load(i) for i in range(TURNS * q, TURNS * (q + 1))]
            for i, value in enumerate(gathered(values)):
                target.store(TURNS * q + i, value)

    code.loop(layout.padded_rows, body, step=block)
    return code.finish()


def _synthesise(module: Module, layout: Layout) -> Code:
    """Add the part of a basis to the coordinates of the result."""
    code = Code(module, "synthesise", places=3)
    shrunken, basis, result = code.memory
    at, limit = spaces(layout.size), layout.blocking.sums

    def accumulate(places: list[int], add_row: Callable) -> None:
        def body(j: Any, sums: list[Vector]) -> list[Vector]:
            return add_row(shrunken.row(j, layout.eight), basis.row(j, layout.pixels), sums)

        sums = code.loop(layout.rows, body, [result.load(i) for i in places])
        for i, value in zip(places, sums, strict=True):
            result.store(i, value)

    def add_signs(kind: int, places: range) -> None:
        def add_row(values: Memory, row: Memory, sums: list[Vector]) -> list[Vector]:
            value = values.load(kind)
            return [fma(row.spread(i), value, s) for i, s in zip(places, sums, strict=True)]

        accumulate(list(places), add_row)

    def add_pairs(pairs: list[tuple[int, int]]) -> None:
        def add_row(values: Memory, row: Memory, sums: list[Vector]) -> list[Vector]:
            ff, fs, sf, ss = (values.load(i) for i in range(4, 8))
            out = []
            for (f, s), first, second in zip(pairs, sums[::2], sums[1::2], strict=True):
                a, b = row.spread(f), row.spread(s)
                out += [fma(b, sf, fma(a, ff, first)), fma(b, ss, fma(a, fs, second))]
            return out

        accumulate([i for pair in pairs for i in pair], add_row)

    for kind, space in enumerate(at.signs):
        for places in _blocks(space, limit):
            add_signs(kind, places)
    for places in _blocks(range(len(at.first)), limit // 2):
        add_pairs([(at.first[i], at.second[i]) for i in places])
    return code.finish()


def _blocks(places: range, limit: int) -> list[range]:
    """Parts of a range, of about the same length and at most `limit`."""
    count = -(-len(places) // limit)
    ends = [len(places) * i // count for i in range(count + 1)]
    return [places[start:end] for start, end in itertools.pairwise(ends)]


# --- the kernel -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Basis:
    """Where the numbers of one basis lie: what a level gives, and what is found for a tile."""

    classes: int
    rows: Memory
    half_precisions: Memory
    constants: Memory
    gains: Memory
    responses: Memory
    logs: Memory


def _bases(layout: Layout, given: Sequence[Memory], own: dict[str, Memory]) -> list[_Basis]:
    rows, half_precisions, constants, gains = given
    padded, before = layout.padded_rows, itertools.accumulate(layout.counts, initial=0)
    return [
        _Basis(
            classes=classes,
            rows=rows.row(g, padded * layout.pixels),
            half_precisions=half_precisions.row(first, layout.rows),
            constants=constants.row(first, 1),
            gains=gains.row(first, padded),
            responses=own["responses"].row(g, padded * layout.eight),
            logs=own["logs"].row(first, layout.eight),
        )
        for g, (classes, first) in enumerate(zip(layout.counts, before, strict=False))
    ]


def _stages(module: Module, layout: Layout) -> Callable[[Code, dict, list[_Basis]], None]:
    """The functions of the stages, and what calls them for one tile.

    They leave in `own["result"]` the coordinates of the zero-mean part, times `own["total"]`.
    """
    responses, weigh = _responses(module, layout), _weigh(module, layout)
    shrink, synthesise = _shrink(module, layout), _synthesise(module, layout)
    blocks = {c: _blocks(range(c), layout.blocking.classes) for c in sorted(set(layout.counts))}
    pairs = sorted({(len(block), c) for c in blocks for block in blocks[c]})
    log_joint = {pair: _log_joint(module, layout, *pair) for pair in pairs}

    def run(code: Code, own: dict[str, Memory], bases: list[_Basis]) -> None:
        for i in range(layout.pixels):
            own["result"].store(i, code.constant(0.0))
        own["largest"].store(0, code.constant(-math.inf))
        for b in bases:
            code.call(responses, [own["tile"], b.rows, b.responses, own["squares"]])
            for block in blocks[b.classes]:
                k = block.start
                ours = [b.half_precisions.row(k, 1), b.constants.row(k, 1)]
                ours += [b.logs.row(k, layout.eight), own["largest"]]
                code.call(log_joint[len(block), b.classes], [own["squares"], *ours])
        logs = sum(layout.counts) * TURNS
        code.call(weigh, [own["logs"], own["largest"], own["total"]], [logs])
        for b in bases:
            code.call(shrink, [b.logs, b.gains, b.responses, own["shrunken"]], [b.classes])
            code.call(synthesise, [own["shrunken"], b.rows, own["result"]])

    return run


def emit(layout: Layout) -> tuple[Module, Code]:
    """The module and its entry; the arguments of the entry: `Kernel.run`."""
    module = Module(layout.width)
    run_stages = _stages(module, layout)
    code = Code(module, "posterior_mean", places=8, integers=2)
    source, target, evidence, workspace, *given = code.memory
    tiles, count = code.integers
    starts = itertools.accumulate(layout.pieces.values(), initial=0)
    own = {n: workspace.row(s, 1) for n, s in zip(layout.pieces, starts, strict=False)}
    bases = _bases(layout, given, own)

    def body(t: Any, _: list[Vector]) -> None:
        patches, means = source.row(t, layout.width), target.row(t, layout.width)
        to_coordinates(layout.size, lambda p: patches.row(p, count).load(), own["tile"].store)
        run_stages(code, own, bases)
        seen, total = evidence.row(t, layout.width), own["total"].load()
        seen.store(0, own["largest"].load())
        seen.row(count, 1).store(0, total)
        share = code.constant(1.0) / total
        to_pixels(
            layout.size,
            lambda i: own["result"].load(i) * share,
            lambda p, value: means.row(p, count).store(0, value),
        )

    code.loop(tiles, body)
    return module, code.finish()


class Kernel:
    """The compiled kernel of a layout, on a CPU that has the target's features.

    Attributes:
        layout: what it was made for.
        workspace: numbers of memory that a call needs for itself.
        run: the kernel. Its arguments are the addresses of float32 numbers: patches (b², N) and
            result (b², N); the maximum of the logarithms and the sum of weights (2, N); a
            workspace; bases (G, padded rows, b²), in coordinates (`coordinate_matrix`); for each
            basis -1 / 2 (v + s) over log 2, (J, K_g);
            constants c over log 2, (K,); gains v / (v + s), (K, padded rows). Then the number of
            tiles of W patches to do, and N.
    """

    def __init__(self, layout: Layout, target: Host) -> None:
        module, entry = emit(layout)
        self.layout, self.workspace = layout, sum(layout.pieces.values())
        self._compiled = Compiled(module, entry, target)
        self.run = self._compiled.function


@made_for_host("mixtures run", KEPT)
def compiled(size: int, counts: tuple[int, ...], target: Host) -> Kernel:
    """The kernel for patches of an even side and so many classes of each basis."""
    return Kernel(Layout(size, counts, target.lanes, BLOCKING[target.lanes]), target)
