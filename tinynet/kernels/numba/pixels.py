"""Vectors of neighbouring pixels of a row, for the one image that has no batch to fill a vector with.

A Pixels value is LANES consecutive float32: as many as one register holds, 16 with AVX-512 and 8
elsewhere.  (simd.py's vectors always have 16 lanes, one for each of 16 images: there the number of lanes is
part of how activations are stored.  Here it is not, and a register of its own for every vector leaves
room for larger tiles.)  An index is flat and counts numbers from an array's first.
"""

from __future__ import annotations

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic, models, register_model


def lanes_of(features: str) -> int:
    """How many float32 a vector register holds, by the processor's features ("+avx2,-avx512f,...")."""
    return 16 if "+avx512f" in features.split(",") else 8


# As Numba decides what to compile for: NUMBA_CPU_FEATURES, else the processor's own.
FEATURES = config.CPU_FEATURES
LANES = lanes_of(binding.get_host_cpu_features().flatten() if FEATURES is None else FEATURES)

_FLOAT, _INDEX = ir.FloatType(), ir.IntType(32)
_VECTOR = ir.VectorType(_FLOAT, LANES)


class Pixels(types.Type):
    """LANES numbers of type float32."""

    def __init__(self):
        super().__init__(name=f"Pixels({LANES})")


pixels = Pixels()


@register_model(Pixels)
class _PixelsModel(models.PrimitiveModel):
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, _VECTOR)


# Code generation shared by the intrinsics.


def _load(builder, pointer, index):
    place = builder.bitcast(builder.gep(pointer, [index]), _VECTOR.as_pointer())
    return builder.load(place, align=4)  # of one number: rows begin anywhere


def _splat(builder, scalar):
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_INDEX, 0))
    return builder.shuffle_vector(first, undefined, _lanes([0] * LANES))


def _lanes(numbers):
    numbers = list(numbers)
    return ir.Constant(ir.VectorType(_INDEX, len(numbers)), numbers)


# Memory.  Functions get pointers: an array would be seven values to pass, count and check at each.


@intrinsic
def pointer_to(typing, array):
    """A pointer to the first number of a C-contiguous array."""

    def generate(context, builder, signature, arguments):
        return context.make_array(signature.args[0])(context, builder, arguments[0]).data

    return types.CPointer(array.dtype)(array), generate


@intrinsic
def pointer_at(typing, address):
    """A pointer to int32 at this address."""
    pointer = types.CPointer(types.int32)

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(pointer))

    return pointer(types.intp), generate


@intrinsic
def load(typing, pointer, index):
    """The vector at `index`."""

    def generate(context, builder, signature, arguments):
        return _load(builder, *arguments)

    return pixels(pointer, types.intp), generate


@intrinsic
def store(typing, pointer, index, value):
    """The vector, from `index` on."""

    def generate(context, builder, signature, arguments):
        pointer, index, value = arguments
        place = builder.bitcast(builder.gep(pointer, [index]), _VECTOR.as_pointer())
        builder.store(value, place, align=4)
        return context.get_dummy_value()

    return types.void(pointer, types.intp, pixels), generate


@intrinsic
def repeat(typing, pointer, index):
    """The number at `index` in every lane."""

    def generate(context, builder, signature, arguments):
        return _splat(builder, builder.load(builder.gep(arguments[0], [arguments[1]])))

    return pixels(pointer, types.intp), generate


@intrinsic
def three_channels(typing, pointer, index):
    """LANES RGB pixels of 3 bytes from `index` on: their reds, greens and blues, as float32."""

    def generate(context, builder, signature, arguments):
        row = ir.VectorType(ir.IntType(8), 3 * LANES)
        place = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), row.as_pointer())
        codes = builder.load(place, align=1)
        undefined = ir.Constant(row, ir.Undefined)
        channels = [
            builder.uitofp(builder.shuffle_vector(codes, undefined, _lanes(range(c, 3 * LANES, 3))), _VECTOR)
            for c in range(3)
        ]
        return context.make_tuple(builder, signature.return_type, channels)

    return types.UniTuple(pixels, 3)(pointer, types.intp), generate


# From one order of lanes to another.


@intrinsic
def even_lanes(typing, a, b):
    """a[0], a[2], ..., b[0], b[2], ..."""

    def generate(context, builder, signature, arguments):
        return builder.shuffle_vector(*arguments, _lanes(range(0, 2 * LANES, 2)))

    return pixels(pixels, pixels), generate


@intrinsic
def odd_lanes(typing, a, b):
    """a[1], a[3], ..., b[1], b[3], ..."""

    def generate(context, builder, signature, arguments):
        return builder.shuffle_vector(*arguments, _lanes(range(1, 2 * LANES, 2)))

    return pixels(pixels, pixels), generate


@intrinsic
def alternating(typing, a, b):
    """a[0], b[0], a[1], b[1], ...: two vectors."""

    def generate(context, builder, signature, arguments):
        order = [i // 2 + LANES * (i % 2) for i in range(2 * LANES)]
        halves = [builder.shuffle_vector(*arguments, _lanes(half)) for half in (order[:LANES], order[LANES:])]
        return context.make_tuple(builder, signature.return_type, halves)

    return types.UniTuple(pixels, 2)(pixels, pixels), generate


# Arithmetic, lane by lane.


@intrinsic
def splat(typing, scalar):
    """The float32 in every lane."""
    return pixels(types.float32), lambda context, builder, signature, arguments: _splat(builder, arguments[0])


@intrinsic
def zero(typing):
    """Zeros."""
    return pixels(), lambda context, builder, signature, arguments: ir.Constant(_VECTOR, None)


@intrinsic
def multiply_add(typing, a, b, c):
    """a * b + c, fused where the processor can."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
        return builder.call(function, arguments)

    return pixels(pixels, pixels, pixels), generate


@intrinsic
def add(typing, a, b):
    """a + b."""
    return pixels(pixels, pixels), lambda context, builder, signature, arguments: builder.fadd(*arguments)


@intrinsic
def subtract(typing, a, b):
    """a - b."""
    return pixels(pixels, pixels), lambda context, builder, signature, arguments: builder.fsub(*arguments)


@intrinsic
def larger(typing, a, b):
    """The larger; NaN where either is."""

    def generate(context, builder, signature, arguments):
        a, b = arguments
        words = ir.VectorType(_INDEX, LANES)
        chosen = builder.select(builder.fcmp_ordered(">", a, b), a, b)
        # All bits set are a NaN, and a comparison gives them at no cost.
        nan = builder.sext(builder.fcmp_unordered("uno", a, b), words)
        return builder.bitcast(builder.or_(builder.bitcast(chosen, words), nan), _VECTOR)

    return pixels(pixels, pixels), generate


@intrinsic
def limited(typing, value, low, high):
    """value, but at least `low` and at most `high`; NaN stays NaN."""

    def generate(context, builder, signature, arguments):
        value, low, high = arguments
        # Written so that each is the processor's own minimum or maximum, with NaN on the side that stays.
        value = builder.select(builder.fcmp_ordered(">", low, value), low, value)
        return builder.select(builder.fcmp_ordered("<", high, value), high, value)

    return pixels(pixels, pixels, pixels), generate


@intrinsic
def first_lanes(typing, value, count):
    """The first `count` lanes as they are, zero in the others."""

    def generate(context, builder, signature, arguments):
        value, count = arguments
        count = builder.trunc(count, _INDEX)
        undefined = ir.Constant(ir.VectorType(_INDEX, LANES), ir.Undefined)
        first = builder.insert_element(undefined, count, ir.Constant(_INDEX, 0))
        counts = builder.shuffle_vector(first, undefined, _lanes([0] * LANES))
        inside = builder.icmp_signed("<", _lanes(range(LANES)), counts)
        return builder.select(inside, value, ir.Constant(_VECTOR, None))

    return pixels(pixels, types.intp), generate
