"""Vectors of 16 lanes as values that Numba code can hold; tiles.py builds register tiles of them.

Numba's own vectoriser reaches a third to a half of the machine on the lane layout
(blocks, channels, height, width, 16); naming the vectors reaches nearly all of it
(bench/convolution.py).  A Vector is 16 consecutive float32 or float64 numbers: one of each of 16 images.

The intrinsics below emit LLVM instructions on them.  LLVM maps 16 lanes to whatever the
processor has: one 512-bit register, two of 256, four of 128.  Only multiply-add is fused,
by `llvm.fmuladd`, which a processor without the instruction executes as two; `llvm.fma`
would call a library function for every lane there.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic, models, register_model

LANES = 16


class Vector(types.Type):
    """16 lanes of float32 or float64."""

    def __init__(self, scalar: types.Float):
        self.scalar = scalar
        super().__init__(name=f"Vector({scalar})")


def llvm_vector(scalar: types.Float, lanes: int = LANES) -> ir.VectorType:
    return ir.VectorType(ir.FloatType() if scalar.bitwidth == 32 else ir.DoubleType(), lanes)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, llvm_vector(numba_type.scalar))


# Code generation shared by the intrinsics.


def _alignment(scalar: types.Float) -> int:
    return scalar.bitwidth // 8  # of one number: arrays need not start on a vector boundary


def element_pointer(context, builder, array_type, array, index):
    if isinstance(array_type, types.CPointer):
        return builder.gep(array, [index])
    if array_type.layout != "C":  # the flat index would be another number's
        raise TypingError(f"a kernel takes C-contiguous arrays (ravel() makes one), not {array_type}")
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index])


def load_vector(context, builder, array_type, array, index, lanes=LANES):
    pointer = element_pointer(context, builder, array_type, array, index)
    pointer = builder.bitcast(pointer, llvm_vector(array_type.dtype, lanes).as_pointer())
    return builder.load(pointer, align=_alignment(array_type.dtype))


def store_vector(context, builder, array_type, array, index, value):
    pointer = element_pointer(context, builder, array_type, array, index)
    pointer = builder.bitcast(pointer, value.type.as_pointer())
    builder.store(value, pointer, align=_alignment(array_type.dtype))


def splat_scalar(builder, vector_type: ir.VectorType, scalar):
    first = builder.insert_element(
        ir.Constant(vector_type, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0)
    )
    lanes = vector_type.count
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return builder.shuffle_vector(first, ir.Constant(vector_type, ir.Undefined), everywhere)


def _llvm_call(builder, name: str, result, arguments, fastmath=()):
    vector = arguments[-1].type
    suffix = f"v{vector.count}f{32 if isinstance(vector.element, ir.FloatType) else 64}"
    function_type = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.{name}.{suffix}")
    return builder.call(function, arguments, fastmath=fastmath)


def fused_multiply_add(builder, a, b, c):
    return _llvm_call(builder, "fmuladd", a.type, [a, b, c])


def sum_lanes(builder, value):
    zero = ir.Constant(value.type.element, 0.0)
    # In pairs, not one after another: a fixed order either way, and 4 steps instead of 16.
    return _llvm_call(builder, "vector.reduce.fadd", value.type.element, [zero, value], ("reassoc",))


@intrinsic
def pointer(typing, array):
    """Where a C-contiguous array's numbers begin: one machine word instead of seven to hand to a helper.

    Indexing it neither wraps a negative index around nor checks bounds; each took instructions in the
    innermost loops.
    """

    def generate(context, builder, signature, arguments):
        nothing = context.get_constant(types.intp, 0)
        return element_pointer(context, builder, signature.args[0], arguments[0], nothing)

    return types.CPointer(array.dtype)(array), generate


@intrinsic
def offset(typing, array, index):
    """The pointer to number `index` of a C-contiguous array, or of what a pointer points to."""

    def generate(context, builder, signature, arguments):
        return element_pointer(context, builder, signature.args[0], *arguments)

    return types.CPointer(array.dtype)(array, types.intp), generate


# Vectors.


@intrinsic
def load(typing, array, index):
    """The Vector at flat `index` of a C-contiguous array."""

    def generate(context, builder, signature, arguments):
        return load_vector(context, builder, signature.args[0], arguments[0], arguments[1])

    return Vector(array.dtype)(array, types.intp), generate


@intrinsic
def store(typing, array, index, value):
    """array[index : index + 16] = value, for a flat index."""

    def generate(context, builder, signature, arguments):
        store_vector(context, builder, signature.args[0], *arguments)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


@intrinsic
def splat(typing, scalar):
    """A Vector with the same number in every lane."""

    def generate(context, builder, signature, arguments):
        return splat_scalar(builder, llvm_vector(signature.args[0]), arguments[0])

    return Vector(scalar)(scalar), generate


@intrinsic
def lane_sum(typing, value):
    """The sum over the 16 lanes, a scalar."""

    def generate(context, builder, signature, arguments):
        return sum_lanes(builder, arguments[0])

    return value.scalar(value), generate


@intrinsic
def multiply_add(typing, a, b, c):
    """a * b + c, lane by lane."""

    def generate(context, builder, signature, arguments):
        return fused_multiply_add(builder, *arguments)

    return a(a, b, c), generate


@intrinsic
def negative(typing, a):
    """-a, lane by lane."""
    return a(a), lambda context, builder, signature, arguments: builder.fneg(*arguments)


@intrinsic
def multiply(typing, a, b):
    """a * b, lane by lane."""
    return a(a, b), lambda context, builder, signature, arguments: builder.fmul(*arguments)


@intrinsic
def add(typing, a, b):
    """a + b, lane by lane."""
    return a(a, b), lambda context, builder, signature, arguments: builder.fadd(*arguments)


@intrinsic
def zero(typing, array):
    """A Vector of zeros, of the array's dtype."""

    def generate(context, builder, signature, arguments):
        return ir.Constant(llvm_vector(array.dtype), None)

    return Vector(array.dtype)(array), generate


@intrinsic
def widen(typing, value):
    """A float64 Vector of the same numbers."""

    def generate(context, builder, signature, arguments):
        if value.scalar == types.float64:
            return arguments[0]
        return builder.fpext(arguments[0], llvm_vector(types.float64))

    return Vector(types.float64)(value), generate


def transpose_rows(context, builder, signature, arguments, count):
    """transposed[count k + l] = array[start + l * stride + k] of bytes; k below 16, l below count (8 or 16).

    Each round of interleaving row i with row i + count / 2 turns the bits of the index round by one.
    """
    array, start, stride, transposed = arguments
    row_type, index_type = (ir.VectorType(ir.IntType(bits), 16) for bits in (8, 32))
    rows = []
    for _ in range(count):
        pointer = element_pointer(context, builder, signature.args[0], array, start)
        rows.append(builder.load(builder.bitcast(pointer, row_type.as_pointer()), align=1))
        start = builder.add(start, stride)
    low = ir.Constant(index_type, [i // 2 + 16 * (i % 2) for i in range(16)])
    high = ir.Constant(index_type, [8 + i // 2 + 16 * (i % 2) for i in range(16)])
    for _ in range(count.bit_length() - 1):
        pairs = zip(rows[: count // 2], rows[count // 2 :], strict=True)
        rows = [builder.shuffle_vector(a, b, side) for a, b in pairs for side in (low, high)]
    for number, row in enumerate(rows):
        at = context.get_constant(types.intp, number * 16)
        pointer = element_pointer(context, builder, signature.args[3], transposed, at)
        builder.store(row, builder.bitcast(pointer, row_type.as_pointer()), align=1)
    return context.get_dummy_value()


@intrinsic
def transpose_bytes(typing, array, start, stride, transposed):
    """transposed[16 k + l] = array[start + l * stride + k] for k and l from 0 to 15, of bytes."""

    def generate(context, builder, signature, arguments):
        return transpose_rows(context, builder, signature, arguments, LANES)

    return types.void(array, types.intp, types.intp, transposed), generate


@intrinsic
def widen_bytes(typing, array, index):
    """The 16 bytes at flat `index` as a float32 Vector."""

    def generate(context, builder, signature, arguments):
        row_type = ir.VectorType(ir.IntType(8), LANES)
        pointer = element_pointer(context, builder, signature.args[0], *arguments)
        row = builder.load(builder.bitcast(pointer, row_type.as_pointer()), align=1)
        return builder.uitofp(row, llvm_vector(types.float32))

    return Vector(types.float32)(array, types.intp), generate


@intrinsic
def where_greater(typing, a, b, x, y):
    """x where a > b, or where a is NaN and b is not; else y.  A NaN comes through a running maximum."""

    def generate(context, builder, signature, arguments):
        a, b, x, y = arguments
        larger = builder.fcmp_ordered(">", a, b)
        first_nan = builder.and_(builder.fcmp_unordered("uno", a, a), builder.fcmp_ordered("ord", b, b))
        return builder.select(builder.or_(larger, first_nan), x, y)

    return x(a, b, x, y), generate


@intrinsic
def where_equal(typing, a, b, x):
    """x where a == b, else 0."""

    def generate(context, builder, signature, arguments):
        a, b, x = arguments
        return builder.select(builder.fcmp_ordered("==", a, b), x, ir.Constant(x.type, None))

    return x(a, b, x), generate


@intrinsic
def where_above(typing, a, limit, x):
    """x where a > limit or a is NaN, else 0; `limit` is a scalar.  What a rectifier and its gradient do."""

    def generate(context, builder, signature, arguments):
        a, limit, x = arguments
        not_above = builder.fcmp_ordered("<=", a, splat_scalar(builder, a.type, limit))
        return builder.select(not_above, ir.Constant(x.type, None), x)

    return x(a, a.scalar, x), generate


@intrinsic
def at_most(typing, a, limit):
    """The smaller of a and the scalar `limit`; NaN stays NaN."""

    def generate(context, builder, signature, arguments):
        a, limit = arguments
        limit = splat_scalar(builder, a.type, limit)
        return builder.select(builder.fcmp_ordered(">", a, limit), limit, a)

    return a(a, a.scalar), generate


@intrinsic
def where_kept(typing, keys, index, offset, limit, x):
    """x where hash(keys[index + lane] + offset) >= limit, else 0: the hash of numpy/dropout.py, uint32."""

    def generate(context, builder, signature, arguments):
        keys, index, offset, limit, x = arguments
        bits_type = ir.VectorType(ir.IntType(32), LANES)

        def everywhere(value):
            return splat_scalar(builder, bits_type, value)

        def constant(value):
            return ir.Constant(bits_type, [value] * LANES)

        pointer = element_pointer(context, builder, signature.args[0], keys, index)
        bits = builder.load(builder.bitcast(pointer, bits_type.as_pointer()), align=4)
        bits = builder.add(bits, everywhere(offset))
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, None)):
            bits = builder.xor(bits, builder.lshr(bits, constant(shift)))
            if factor is not None:
                bits = builder.mul(bits, constant(factor))
        kept = builder.icmp_unsigned(">=", bits, everywhere(limit))
        return builder.select(kept, x, ir.Constant(x.type, None))

    return x(keys, types.intp, types.uint32, types.uint32, x), generate


@intrinsic
def load_places(typing, code, index, like):
    """The 16 bytes at flat `index`, each as wide as a number of the array `like`: for where_place."""

    def generate(context, builder, signature, arguments):
        byte = ir.VectorType(ir.IntType(8), LANES)
        pointer = element_pointer(context, builder, signature.args[0], arguments[0], arguments[1])
        codes = builder.load(builder.bitcast(pointer, byte.as_pointer()), align=1)
        vector = llvm_vector(like.dtype)
        wide = builder.zext(codes, ir.VectorType(ir.IntType(like.dtype.bitwidth), LANES))
        return builder.bitcast(wide, vector)  # a Vector holds them, though they are no floating-point numbers

    return Vector(like.dtype)(code, types.intp, like), generate


def _chosen_by_place(typing, places, place, x, equal: bool):
    def generate(context, builder, signature, arguments):
        places, _, x = arguments
        wide = ir.VectorType(ir.IntType(signature.args[0].scalar.bitwidth), LANES)
        wanted = ir.Constant(wide, [signature.args[1].literal_value] * LANES)
        same = builder.icmp_unsigned("==" if equal else "!=", builder.bitcast(places, wide), wanted)
        return builder.select(same, x, ir.Constant(x.type, None))

    return x(places, place, x), generate


@intrinsic(prefer_literal=True)
def where_place(typing, places, place, x):
    """x where places == place (a literal integer), else 0."""
    return _chosen_by_place(typing, places, place, x, equal=True)


@intrinsic(prefer_literal=True)
def where_not_place(typing, places, place, x):
    """x where places != place (a literal integer), else 0."""
    return _chosen_by_place(typing, places, place, x, equal=False)
