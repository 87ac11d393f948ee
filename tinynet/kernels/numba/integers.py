"""Vectors of 16 int32 as values with Python's operators; simd.py has those of floating-point numbers.

Where x and y are Integers, `x + y`, `x - y`, `x * y`, `x & y`, `x | y`, `x << y` and `x >> y` work lane by
lane; either may be a Python integer, which then stands in every lane.  Numbers wrap around as int32.
Words are uint32 that are read and written at any place of an array of bytes.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from tinynet.kernels.numba.simd import LANES, element_pointer, splat_scalar

_WORD, _LONG = ir.IntType(32), ir.IntType(64)
_LLVM = ir.VectorType(_WORD, LANES)


class Integers(types.Type):
    """16 lanes of int32."""

    def __init__(self) -> None:
        super().__init__(name="Integers")


integers = Integers()


@register_model(Integers)
class _IntegersModel(models.PrimitiveModel):
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, _LLVM)


def _wide(context, builder, numba_type, value):
    """Integers as they are, a number in every lane."""
    if isinstance(numba_type, Integers):
        return value
    return splat_scalar(builder, _LLVM, context.cast(builder, value, numba_type, types.int32))


def _wide_all(context, builder, sig, arguments):
    return [_wide(context, builder, *pair) for pair in zip(sig.args, arguments, strict=True)]


def _define(operation: Any, instruction: str) -> None:
    """Make `operation` of Integers, and of Integers and a number, one LLVM instruction."""

    @infer_global(operation)
    class Template(AbstractTemplate):
        def generic(self, arguments, keywords):
            kinds = [isinstance(argument, Integers) for argument in arguments]
            if any(kinds) and all(
                kind or isinstance(argument, types.Integer)
                for kind, argument in zip(kinds, arguments, strict=True)
            ):
                return signature(integers, *arguments)
            return None

    def generate(context, builder, sig, arguments):
        return getattr(builder, instruction)(*_wide_all(context, builder, sig, arguments))

    for kinds in ((Integers, Integers), (Integers, types.Integer), (types.Integer, Integers)):
        lower_builtin(operation, *kinds)(generate)


for _operation, _instruction in (
    (operator.add, "add"),
    (operator.sub, "sub"),
    (operator.mul, "mul"),
    (operator.and_, "and_"),
    (operator.or_, "or_"),
    (operator.lshift, "shl"),
    (operator.rshift, "ashr"),
):
    _define(_operation, _instruction)


@intrinsic
def ramp(typing, start, step):
    """Integers start, start + step, ..., start + 15 step."""

    def generate(context, builder, sig, arguments):
        start, step = _wide_all(context, builder, sig, arguments)
        return builder.add(start, builder.mul(step, ir.Constant(_LLVM, list(range(LANES)))))

    return integers(start, step), generate


@intrinsic
def clamp(typing, value, lowest, highest):
    """Each lane, but at least `lowest` and at most `highest`."""

    def generate(context, builder, sig, arguments):
        value, lowest, highest = _wide_all(context, builder, sig, arguments)
        value = builder.select(builder.icmp_signed("<", value, lowest), lowest, value)
        return builder.select(builder.icmp_signed(">", value, highest), highest, value)

    return integers(value, lowest, highest), generate


@intrinsic
def squares(typing, words, at, stride):
    """words[at], words[at + 1], words[at + stride] and words[at + stride + 1], each 16 lanes; at >= 0.

    Neighbours are loaded together.  Processors with an instruction that gathers are no faster with it.
    """

    def generate(context, builder, sig, arguments):
        words, at, stride = arguments
        rows = [ir.Constant(ir.VectorType(_LONG, LANES), ir.Undefined)] * 2
        for lane in range(LANES):
            lane_constant = ir.Constant(_WORD, lane)
            index = builder.zext(builder.extract_element(at, lane_constant), _LONG)
            for row in range(2):
                pointer = element_pointer(context, builder, sig.args[0], words, index)
                pair = builder.load(builder.bitcast(pointer, _LONG.as_pointer()), align=4)
                rows[row] = builder.insert_element(rows[row], pair, lane_constant)
                index = builder.add(index, stride)
        corners = []
        for row in rows:
            flat = builder.bitcast(row, ir.VectorType(_WORD, 2 * LANES))
            for side in range(2):
                chosen = ir.Constant(_LLVM, list(range(side, 2 * LANES, 2)))
                corners.append(builder.shuffle_vector(flat, ir.Constant(flat.type, ir.Undefined), chosen))
        return context.make_tuple(builder, sig.return_type, corners)

    return types.UniTuple(integers, 4)(words, at, types.intp), generate


@intrinsic
def store_integers(typing, array, index, value):
    """array[index : index + 16] = value, of 32-bit numbers, for a flat index."""

    def generate(context, builder, sig, arguments):
        pointer = element_pointer(context, builder, sig.args[0], arguments[0], arguments[1])
        builder.store(arguments[2], builder.bitcast(pointer, _LLVM.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


@intrinsic
def load_word(typing, array, index):
    """The four bytes at flat `index` of an array of bytes, the first one lowest."""

    def generate(context, builder, sig, arguments):
        pointer = element_pointer(context, builder, sig.args[0], *arguments)
        return builder.load(builder.bitcast(pointer, _WORD.as_pointer()), align=1)

    return types.uint32(array, types.intp), generate


@intrinsic
def store_word(typing, array, index, word):
    """Four bytes at flat `index` of an array of bytes, the lowest one first."""

    def generate(context, builder, sig, arguments):
        pointer = element_pointer(context, builder, sig.args[0], arguments[0], arguments[1])
        builder.store(arguments[2], builder.bitcast(pointer, _WORD.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.uint32), generate
