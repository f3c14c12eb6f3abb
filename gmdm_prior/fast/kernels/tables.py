"""Reading the tables of experts at millions of responses, by one compiled loop.

    out[j, i] = lerp(table[j, c], table[j, c + 1], p - c),   p = z[j, i] scale[j] + offset[j],

with c the whole part of p. Both ends of a cell lie side by side, so a response costs one access to
memory; torch's `gather` needs two, and eight bytes for the cell of each response.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from gmdm_prior.fast.kernels.llvm import Code, Compiled, Host, Module, Vector, fma, made_for_host
from gmdm_prior.sigma import plain

KEPT = 8  # kernels, one for each range of cells


def read_table(
    table: Tensor, z: Tensor, scale: Tensor, offset: Tensor, cells: tuple[int, int]
) -> Tensor | None:
    """The interpolated values at responses, shaped like them; None where torch has to do it.

    Args:
        table: values (J, cells + 1) at the nodes.
        z: responses (J, N).
        scale: cells per unit of z, (J, 1).
        offset: the place of z = 0, in cells, (J, 1).
        cells: the first cell of this scale, and the one after the last; where a response lies in
            none of them, or is NaN, torch has to do all.
    """
    if not all(plain(t) and t.is_contiguous() for t in (table, z, scale, offset)):
        return None
    kernel = compiled(*cells)
    if kernel is None or not len(z) or z.shape[1] < kernel.lanes:
        return None
    out, beyond = z.new_empty(z.shape), z.new_empty(kernel.lanes)
    places = (t.data_ptr() for t in (table, z, scale, offset, out, beyond))
    kernel.run(*places, *z.shape, table.shape[1])
    return out if bool((beyond == 0).all()) else None


class Kernel:
    """The compiled loop for tables whose cells are these.

    Attributes:
        lanes: responses at a time.
        run: takes the addresses of float32 numbers: table (J, K), responses (J, N), scales and
            offsets (J,), result (J, N), and `lanes` numbers for how far places lay outside the
            cells, squared and in sum (NaN with any NaN); then J, N, at least `lanes`, and K.
    """

    def __init__(self, first: int, end: int, target: Host) -> None:
        module, entry = emit(first, end, target.lanes)
        self.lanes = target.lanes
        self._compiled = Compiled(module, entry, target)
        self.run = self._compiled.function


def emit(first: int, end: int, lanes: int) -> tuple[Module, Code]:
    """The module and its entry, for `Kernel.run`."""
    module = Module(lanes)
    code = Code(module, "read_table", places=6, integers=3)
    table, z, scale, offset, out, beyond = code.memory
    experts, count, nodes = code.integers
    lowest = code.constant(float(first))
    highest = code.constant(float(np.nextafter(np.float32(end), np.float32(0))))
    last = code.builder.sub(count, code.integer(lanes))

    def read_expert(j: Any, sums: list[Vector]) -> list[Vector]:
        ours, source, target = table.row(j, nodes), z.row(j, count), out.row(j, count)
        per_unit, zero = scale.row(j, 1).spread(0), offset.row(j, 1).spread(0)

        def read(i: Any, sums: list[Vector]) -> list[Vector]:
            some = code.smaller(i, last)  # the last few overlap those before
            place = fma(source.row(some, 1).load(), per_unit, zero)
            inside = place.if_above(lowest).if_below(highest)  # NaN is put inside, too
            cell = inside.whole()
            left, right = ours.pairs(cell)
            target.row(some, 1).store(0, fma(right - left, inside - cell, left))
            outside = place - inside
            return [fma(outside, outside, sums[0])]

        return code.loop(count, read, sums, step=lanes)

    sums = code.loop(experts, read_expert, [code.constant(0.0)])
    beyond.store(0, sums[0])
    return module, code.finish()


@made_for_host("tables are read", KEPT)
def compiled(first: int, end: int, target: Host) -> Kernel:
    """The kernel for these cells."""
    return Kernel(first, end, target)
