"""Kernels on vectors of float32: Python emits LLVM's language, llvmlite compiles it for this CPU.

A kernel is straight code on vectors of W lanes, in loops. What is known when it is made (sizes,
blocks) is unrolled in Python. `Code` is one function in the making, `Vector` a value in it, with
the operators of arithmetic, and `Memory` numbers that lie somewhere. llvmlite is needed, and
imported, when a kernel is made.
"""

from __future__ import annotations

import ctypes
import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any, TypeVar

OLDEST_LLVM = 17  # the first whose pointers have no type
NUMBER_BYTES = 4
MANTISSA_BITS = 23
ROUNDING = 1.5 * 2**MANTISSA_BITS  # adding it leaves the nearest integer in the lowest bits
EXP2_DEGREE = 6  # Taylor, for |x| <= 1/2: off by 1.2e-7 at most

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Host:
    """What a CPU can do: its features in LLVM's words, and how many float32 a register holds."""

    features: str
    lanes: int


def installed() -> bool:
    """Whether there is an llvmlite that can be used."""
    try:
        from llvmlite import binding as llvm
    except (ImportError, OSError):  # missing, or without its library
        return False
    return llvm.llvm_version_info[0] >= OLDEST_LLVM


def host() -> Host:
    """What the CPU of this process can do; the least of its architecture, if LLVM cannot tell.

    Its name is not asked for: a virtual machine may lack what a CPU of that name has.
    """
    from llvmlite import binding as llvm

    try:
        features = llvm.get_host_cpu_features()
    except RuntimeError:
        features = {}
    if not features:
        return Host("", 4)
    lanes = 16 if features.get("avx512f") else 8 if features.get("avx") else 4
    return Host(features.flatten(), lanes)


class Vector:
    """W numbers in a register."""

    def __init__(self, code: Code, value: Any) -> None:
        self.code, self.value = code, value

    def __add__(self, other: Vector) -> Vector:
        """Lane by lane."""
        return Vector(self.code, self.code.builder.fadd(self.value, other.value))

    def __sub__(self, other: Vector) -> Vector:
        """Lane by lane."""
        return Vector(self.code, self.code.builder.fsub(self.value, other.value))

    def __mul__(self, other: Vector) -> Vector:
        """Lane by lane."""
        return Vector(self.code, self.code.builder.fmul(self.value, other.value))

    def __truediv__(self, other: Vector) -> Vector:
        """Lane by lane."""
        return Vector(self.code, self.code.builder.fdiv(self.value, other.value))

    def if_above(self, other: Vector) -> Vector:
        """The larger of both; `other` where one of them is NaN."""
        above = self.code.builder.fcmp_ordered(">", self.value, other.value)
        return Vector(self.code, self.code.builder.select(above, self.value, other.value))

    def if_below(self, other: Vector) -> Vector:
        """The smaller of both; `other` where one of them is NaN."""
        below = self.code.builder.fcmp_ordered("<", self.value, other.value)
        return Vector(self.code, self.code.builder.select(below, self.value, other.value))

    def whole(self) -> Vector:
        """The whole part of numbers from 0 to 2^31, none of them NaN."""
        code = self.code
        bits = code.ir.VectorType(code.ir.IntType(32), code.width)
        number = code.builder.fptosi(self.value, bits)
        return Vector(code, code.builder.sitofp(number, code.vector))


class Memory:
    """Numbers from some place on."""

    def __init__(self, code: Code, pointer: Any) -> None:
        self.code, self.pointer = code, pointer

    def row(self, index: Any, length: Any) -> Memory:
        """The numbers from number index * length on."""
        code = self.code
        if isinstance(index, int) and isinstance(length, int):
            place = code.integer(index * length)
        else:
            place = code.builder.mul(code.integer(index), code.integer(length))
        return Memory(code, code.builder.gep(self.pointer, [place], source_etype=code.number))

    def load(self, index: int = 0) -> Vector:
        """The index-th W numbers."""
        place = self.row(index, self.code.width).pointer
        value = self.code.builder.load(place, align=NUMBER_BYTES, typ=self.code.vector)
        return Vector(self.code, value)

    def store(self, index: int, vector: Vector) -> None:
        """Write the index-th W numbers."""
        place = self.row(index, self.code.width).pointer
        self.code.builder.store(vector.value, place, align=NUMBER_BYTES)

    def pairs(self, places: Vector) -> tuple[Vector, Vector]:
        """The number at each lane's place, a whole one, and the number after it."""
        code, ir, builder = self.code, self.code.ir, self.code.builder
        small = ir.IntType(32)
        index = builder.fptosi(places.value, ir.VectorType(small, code.width))
        two = ir.VectorType(code.number, 2)
        pairs = []
        for lane in range(code.width):
            place = builder.sext(builder.extract_element(index, small(lane)), code.whole)
            pointer = self.row(place, 1).pointer
            pairs.append(builder.load(pointer, align=NUMBER_BYTES, typ=two))
        length = 2
        while len(pairs) > 1:  # neighbours joined, up to one vector of all pairs
            length *= 2
            order = ir.Constant(ir.VectorType(small, length), list(range(length)))
            joined = zip(pairs[::2], pairs[1::2], strict=True)
            pairs = [builder.shuffle_vector(a, b, order) for a, b in joined]
        nothing = ir.Constant(ir.VectorType(code.number, length), ir.Undefined)

        def every_other(start: int) -> Vector:
            lanes = [start + 2 * lane for lane in range(code.width)]
            order = ir.Constant(ir.VectorType(small, code.width), lanes)
            return Vector(code, builder.shuffle_vector(pairs[0], nothing, order))

        return every_other(0), every_other(1)

    def spread(self, index: int) -> Vector:
        """The index-th number in all lanes."""
        code, ir = self.code, self.code.ir
        number = code.builder.load(self.row(index, 1).pointer, align=NUMBER_BYTES, typ=code.number)
        nothing, first = ir.Constant(code.vector, ir.Undefined), ir.Constant(ir.IntType(32), 0)
        lane = code.builder.insert_element(nothing, number, first)
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), code.width), [0] * code.width)
        return Vector(code, code.builder.shuffle_vector(lane, nothing, lanes))


class Module:
    """The functions of one kernel, on vectors of `width` lanes."""

    def __init__(self, width: int) -> None:
        from llvmlite import ir

        self.ir, self.width, self.functions = ir, width, ir.Module()
        vector = ir.VectorType(ir.FloatType(), width)
        kind = ir.FunctionType(vector, [vector] * 3)
        self.fma = ir.Function(self.functions, kind, f"llvm.fmuladd.v{width}f32")


class Code:
    """One function in the making: of places in memory that do not overlap, and of integers."""

    def __init__(self, module: Module, name: str, places: int, integers: int = 0) -> None:
        ir = self.ir = module.ir
        self.module, self.width = module, module.width
        self.number, self.whole = ir.FloatType(), ir.IntType(64)
        self.vector = ir.VectorType(self.number, self.width)
        kind = ir.FunctionType(ir.VoidType(), [ir.PointerType()] * places + [self.whole] * integers)
        self.function = ir.Function(module.functions, kind, name)
        self.builder = ir.IRBuilder(self.function.append_basic_block())
        for place in self.function.args[:places]:
            place.add_attribute("noalias")
        self.memory = [Memory(self, place) for place in self.function.args[:places]]
        self.integers = list(self.function.args[places:])

    def integer(self, value: Any) -> Any:
        """An integer of the kernel; those of Python become constants."""
        return self.ir.Constant(self.whole, value) if isinstance(value, int) else value

    def smaller(self, a: Any, b: Any) -> Any:
        """The smaller of two integers."""
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)

    def constant(self, value: float) -> Vector:
        """A number in all lanes."""
        return Vector(self, self.ir.Constant(self.vector, [value] * self.width))

    def loop(self, count: Any, body: Callable, carried: Sequence[Vector] = (), step: int = 1):
        """Run `carried = body(i, carried)` for i = 0, step, … below count, at least once."""
        builder, before = self.builder, self.builder.block
        head = self.function.append_basic_block()
        builder.branch(head)
        builder.position_at_end(head)
        i = builder.phi(self.whole)
        i.add_incoming(self.integer(0), before)
        merged = [builder.phi(self.vector) for _ in carried]
        for phi, vector in zip(merged, carried, strict=True):
            phi.add_incoming(vector.value, before)
        results = body(i, [Vector(self, phi) for phi in merged]) or []
        following = builder.add(i, self.integer(step))
        again = builder.icmp_signed("<", following, self.integer(count))
        i.add_incoming(following, builder.block)
        for phi, vector in zip(merged, results, strict=True):
            phi.add_incoming(vector.value, builder.block)
        after = self.function.append_basic_block()
        builder.cbranch(again, head, after)
        builder.position_at_end(after)
        return results

    def call(self, other: Code, memory: Sequence[Memory], integers: Sequence[Any] = ()) -> None:
        """Call another function of the module."""
        numbers = [self.integer(i) for i in integers]
        self.builder.call(other.function, [m.pointer for m in memory] + numbers)

    def finish(self) -> Code:
        """End the function, which can now be called."""
        self.builder.ret_void()
        return self


def fma(a: Vector, b: Vector, c: Vector) -> Vector:
    """The sum a b + c, rounded once where the CPU can."""
    code = a.code
    return Vector(code, code.builder.call(code.module.fma, [a.value, b.value, c.value]))


def exp2(x: Vector) -> Vector:
    """The power 2^x for -126 <= x <= 0, to 2e-7; NaN stays NaN.

    The nearest integer goes to the bits of the exponent, a polynomial takes the rest.
    """
    code = x.code
    ir, builder = code.ir, code.builder
    shifted = x + code.constant(ROUNDING)
    rest = x - (shifted - code.constant(ROUNDING))
    power = code.constant(0.0)
    for i in range(EXP2_DEGREE, -1, -1):
        power = fma(power, rest, code.constant(math.log(2) ** i / math.factorial(i)))
    bits = ir.VectorType(ir.IntType(32), code.width)
    lift = ir.Constant(bits, [MANTISSA_BITS] * code.width)
    one = builder.bitcast(code.constant(1.0).value, bits)
    scale = builder.add(builder.shl(builder.bitcast(shifted.value, bits), lift), one)
    return power * Vector(code, builder.bitcast(scale, code.vector))


class Compiled:
    """A module in machine code: `function` takes addresses, then integers, and leaves the GIL."""

    def __init__(self, module: Module, entry: Code, target: Host) -> None:
        from llvmlite import binding as llvm

        machine, parsed = _parsed(module, target)
        self._engine = llvm.create_mcjit_compiler(parsed, machine)  # keeps the code in memory
        self._engine.finalize_object()
        kinds = [ctypes.c_void_p] * len(entry.memory) + [ctypes.c_int64] * len(entry.integers)
        address = self._engine.get_function_address(entry.function.name)
        self.function = ctypes.CFUNCTYPE(None, *kinds)(address)


def made_for_host(
    fallback: str, kept: int
) -> Callable[[Callable[..., T]], Callable[..., T | None]]:
    """Decorate what makes a kernel, from its arguments and the CPU, `make(*arguments, target)`.

    The result takes the arguments, makes each kernel once, and gives None without llvmlite or where
    that fails, which is logged.

    Args:
        fallback: what the log then says is done without it.
        kept: so many kernels.
    """

    def decorate(make: Callable[..., T]) -> Callable[..., T | None]:
        making = threading.Lock()

        @lru_cache(maxsize=kept)
        def made(*arguments: Any) -> T | None:
            if not installed():
                return None
            try:
                return make(*arguments, host())
            except Exception:  # whatever another version or platform may raise: torch can do it all
                log.warning("%s without the kernel: llvmlite failed", fallback, exc_info=True)
                return None

        @wraps(make)
        def once(*arguments: Any) -> T | None:
            with making:
                return made(*arguments)

        once.cache_clear = made.cache_clear  # type: ignore[attr-defined]
        return once

    return decorate


def _parsed(module: Module, target: Host) -> tuple[Any, Any]:
    from llvmlite import binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    triple = llvm.get_process_triple()
    machine = llvm.Target.from_triple(triple).create_target_machine(features=target.features, opt=3)
    module.functions.triple = triple
    module.functions.data_layout = str(machine.target_data)
    parsed = llvm.parse_assembly(str(module.functions))
    parsed.verify()
    return machine, parsed
