"""Vectors of 16 lanes, and register tiles of them, as values that Numba code can hold.

Numba's own vectoriser reaches a third to a half of the machine on the lane layout
(blocks, channels, height, width, 16); naming the vectors reaches nearly all of it
(bench/convolution.py).  Two value types are added, each for float32 and float64:

    Vector   16 consecutive numbers: one number of each of 16 images
    Tile     rows x columns Vectors, small enough to stay in registers

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


class Tile(types.Type):
    """rows x columns Vectors."""

    def __init__(self, scalar: types.Float, rows: int, columns: int):
        self.scalar, self.rows, self.columns = scalar, rows, columns
        super().__init__(name=f"Tile({scalar}, {rows}, {columns})")


def _llvm_vector(scalar: types.Float) -> ir.VectorType:
    return ir.VectorType(ir.FloatType() if scalar.bitwidth == 32 else ir.DoubleType(), LANES)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, _llvm_vector(numba_type.scalar))


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager, numba_type):
        count = numba_type.rows * numba_type.columns
        super().__init__(manager, numba_type, ir.ArrayType(_llvm_vector(numba_type.scalar), count))


# Code generation shared by the intrinsics.


def _alignment(scalar: types.Float) -> int:
    return scalar.bitwidth // 8  # of one number: arrays need not start on a vector boundary


def _element(context, builder, array_type, array, index):
    if array_type.layout != "C":  # the flat index would be another number's
        raise TypingError(f"a kernel takes C-contiguous arrays (ravel() makes one), not {array_type}")
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index])


def _load(context, builder, array_type, array, index):
    pointer = _element(context, builder, array_type, array, index)
    pointer = builder.bitcast(pointer, _llvm_vector(array_type.dtype).as_pointer())
    return builder.load(pointer, align=_alignment(array_type.dtype))


def _store(context, builder, array_type, array, index, value):
    pointer = _element(context, builder, array_type, array, index)
    pointer = builder.bitcast(pointer, _llvm_vector(array_type.dtype).as_pointer())
    builder.store(value, pointer, align=_alignment(array_type.dtype))


def _splat(builder, vector_type: ir.VectorType, scalar):
    first = builder.insert_element(
        ir.Constant(vector_type, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0)
    )
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(vector_type, ir.Undefined), everywhere)


def _llvm_call(builder, name: str, result, arguments, fastmath=()):
    suffix = f"v{LANES}f{32 if isinstance(arguments[-1].type.element, ir.FloatType) else 64}"
    function_type = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.{name}.{suffix}")
    return builder.call(function, arguments, fastmath=fastmath)


def _multiply_add(builder, a, b, c):
    return _llvm_call(builder, "fmuladd", a.type, [a, b, c])


def _lane_sum(builder, value):
    zero = ir.Constant(value.type.element, 0.0)
    # In pairs, not one after another: a fixed order either way, and 4 steps instead of 16.
    return _llvm_call(builder, "vector.reduce.fadd", value.type.element, [zero, value], ("reassoc",))


def _columns(builder, tuple_value, count: int):
    return [builder.extract_value(tuple_value, column) for column in range(count)]


# Vectors.


@intrinsic
def load(typing, array, index):
    """The Vector at flat `index` of a C-contiguous array."""

    def generate(context, builder, signature, arguments):
        return _load(context, builder, signature.args[0], arguments[0], arguments[1])

    return Vector(array.dtype)(array, types.intp), generate


@intrinsic
def store(typing, array, index, value):
    """array[index : index + 16] = value, for a flat index."""

    def generate(context, builder, signature, arguments):
        _store(context, builder, signature.args[0], *arguments)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


@intrinsic
def splat(typing, scalar):
    """A Vector with the same number in every lane."""

    def generate(context, builder, signature, arguments):
        return _splat(builder, _llvm_vector(signature.args[0]), arguments[0])

    return Vector(scalar)(scalar), generate


@intrinsic
def lane_sum(typing, value):
    """The sum over the 16 lanes, a scalar."""

    def generate(context, builder, signature, arguments):
        return _lane_sum(builder, arguments[0])

    return value.scalar(value), generate


@intrinsic
def multiply_add(typing, a, b, c):
    """a * b + c, lane by lane."""

    def generate(context, builder, signature, arguments):
        return _multiply_add(builder, *arguments)

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
        return ir.Constant(_llvm_vector(array.dtype), None)

    return Vector(array.dtype)(array), generate


@intrinsic
def widen(typing, value):
    """A float64 Vector of the same numbers."""

    def generate(context, builder, signature, arguments):
        if value.scalar == types.float64:
            return arguments[0]
        return builder.fpext(arguments[0], _llvm_vector(types.float64))

    return Vector(types.float64)(value), generate


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
        not_above = builder.fcmp_ordered("<=", a, _splat(builder, a.type, limit))
        return builder.select(not_above, ir.Constant(x.type, None), x)

    return x(a, a.scalar, x), generate


@intrinsic
def at_most(typing, a, limit):
    """The smaller of a and the scalar `limit`; NaN stays NaN."""

    def generate(context, builder, signature, arguments):
        a, limit = arguments
        limit = _splat(builder, a.type, limit)
        return builder.select(builder.fcmp_ordered(">", a, limit), limit, a)

    return a(a, a.scalar), generate


@intrinsic
def where_kept(typing, keys, index, offset, limit, x):
    """x where hash(keys[index + lane] + offset) >= limit, else 0: the hash of numpy/dropout.py, uint32."""

    def generate(context, builder, signature, arguments):
        keys, index, offset, limit, x = arguments
        bits_type = ir.VectorType(ir.IntType(32), LANES)

        def everywhere(value):
            return _splat(builder, bits_type, value)

        def constant(value):
            return ir.Constant(bits_type, [value] * LANES)

        pointer = _element(context, builder, signature.args[0], keys, index)
        bits = builder.load(builder.bitcast(pointer, bits_type.as_pointer()), align=4)
        bits = builder.add(bits, everywhere(offset))
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, None)):
            bits = builder.xor(bits, builder.lshr(bits, constant(shift)))
            if factor is not None:
                bits = builder.mul(bits, constant(factor))
        kept = builder.icmp_unsigned(">=", bits, everywhere(limit))
        return builder.select(kept, x, ir.Constant(x.type, None))

    return x(keys, types.intp, types.uint32, types.uint32, x), generate


# Tiles.  `columns` arguments are tuples of flat offsets, one a column.


@intrinsic(prefer_literal=True)
def tile_zero(typing, array, rows, columns):
    """A Tile of zeros, of the array's dtype; rows and columns are literal integers."""
    tile = Tile(array.dtype, rows.literal_value, columns.literal_value)

    def generate(context, builder, signature, arguments):
        return ir.Constant(context.get_value_type(tile), None)

    return tile(array, rows, columns), generate


@intrinsic(prefer_literal=True)
def tile_rows(typing, array, index, rows, columns):
    """A Tile whose row r holds array[index + r] in every lane of every column: a bias."""
    tile = Tile(array.dtype, rows.literal_value, columns.literal_value)

    def generate(context, builder, signature, arguments):
        vector = _llvm_vector(tile.scalar)
        value = ir.Constant(context.get_value_type(tile), ir.Undefined)
        for row in range(tile.rows):
            at = builder.add(arguments[1], context.get_constant(types.intp, row))
            scalar = builder.load(_element(context, builder, signature.args[0], arguments[0], at))
            entry = _splat(builder, vector, scalar)
            for column in range(tile.columns):
                value = builder.insert_value(value, entry, row * tile.columns + column)
        return value

    return tile(array, types.intp, rows, columns), generate


@intrinsic
def tile_add_weighted(typing, tile, weights, weight_index, x, index, columns):
    """tile[r, c] += weights[weight_index + r] * x[index + columns[c]], a scalar times a Vector."""

    def generate(context, builder, signature, arguments):
        value, weights, weight_index, x, index, columns = arguments
        vector = _llvm_vector(tile.scalar)
        inputs = [
            _load(context, builder, signature.args[3], x, builder.add(index, column))
            for column in _columns(builder, columns, tile.columns)
        ]
        for row in range(tile.rows):
            at = builder.add(weight_index, context.get_constant(types.intp, row))
            scalar = builder.load(_element(context, builder, signature.args[1], weights, at))
            weight = _splat(builder, vector, scalar)
            for column in range(tile.columns):
                entry = row * tile.columns + column
                total = _multiply_add(builder, weight, inputs[column], builder.extract_value(value, entry))
                value = builder.insert_value(value, total, entry)
        return value

    return tile(tile, weights, types.intp, x, types.intp, columns), generate


@intrinsic
def tile_add_outer(typing, tile, dy, dy_index, rows, x, index, columns):
    """tile[r, c] += dy[dy_index + rows[r]] * x[index + columns[c]], Vector times Vector."""

    def generate(context, builder, signature, arguments):
        value, dy, dy_index, rows, x, index, columns = arguments
        inputs = [
            _load(context, builder, signature.args[4], x, builder.add(index, column))
            for column in _columns(builder, columns, tile.columns)
        ]
        for row, offset in enumerate(_columns(builder, rows, tile.rows)):
            cotangent = _load(context, builder, signature.args[1], dy, builder.add(dy_index, offset))
            for column in range(tile.columns):
                entry = row * tile.columns + column
                total = _multiply_add(builder, cotangent, inputs[column], builder.extract_value(value, entry))
                value = builder.insert_value(value, total, entry)
        return value

    return tile(tile, dy, types.intp, rows, x, types.intp, columns), generate


@intrinsic
def tile_store(typing, tile, out, index, row_stride, columns, rows):
    """out[index + r * row_stride + columns[c]] = tile[r, c], for the first `rows` rows."""

    def generate(context, builder, signature, arguments):
        value, out, index, row_stride, columns, rows = arguments
        columns = _columns(builder, columns, tile.columns)
        for row in range(tile.rows):
            wanted = builder.icmp_signed("<", context.get_constant(types.intp, row), rows)
            with builder.if_then(wanted, likely=True):
                for column, offset in enumerate(columns):
                    entry = builder.extract_value(value, row * tile.columns + column)
                    _store(context, builder, signature.args[1], out, builder.add(index, offset), entry)
            index = builder.add(index, row_stride)
        return context.get_dummy_value()

    return types.void(tile, out, types.intp, types.intp, columns, types.intp), generate


@intrinsic
def tile_rectify(typing, tile):
    """max(tile, 0), entry by entry; NaN stays NaN."""

    def generate(context, builder, signature, arguments):
        value = arguments[0]
        nothing = ir.Constant(_llvm_vector(tile.scalar), None)
        for entry in range(tile.rows * tile.columns):
            number = builder.extract_value(value, entry)
            negative = builder.fcmp_ordered("<=", number, nothing)
            value = builder.insert_value(value, builder.select(negative, nothing, number), entry)
        return value

    return tile(tile), generate


@intrinsic
def tile_pool_store(typing, tile, y, code, index, row_stride, rows, rectify):
    """Store the maximum of each row's four columns, and its place, 0 to 3, as a byte; for `rows` rows.

    The first maximum counts, or the first NaN.  Where `rectify` is true, what is not above zero
    becomes zero with code 4.
    """

    def generate(context, builder, signature, arguments):
        value, y, code, index, row_stride, rows, rectify = arguments
        zero = ir.Constant(_llvm_vector(tile.scalar), None)
        byte, bit = ir.VectorType(ir.IntType(8), LANES), ir.VectorType(ir.IntType(1), LANES)
        rectified = _splat(builder, bit, builder.trunc(rectify, ir.IntType(1)))
        for row in range(tile.rows):
            wanted = builder.icmp_signed("<", context.get_constant(types.intp, row), rows)
            with builder.if_then(wanted, likely=True):
                best = builder.extract_value(value, row * tile.columns)
                place = ir.Constant(byte, [0] * LANES)
                for column in range(1, tile.columns):
                    other = builder.extract_value(value, row * tile.columns + column)
                    larger = builder.or_(
                        builder.fcmp_ordered(">", other, best),
                        builder.and_(
                            builder.fcmp_unordered("uno", other, other),
                            builder.fcmp_ordered("ord", best, best),
                        ),
                    )
                    best = builder.select(larger, other, best)
                    place = builder.select(larger, ir.Constant(byte, [column] * LANES), place)
                gone = builder.and_(builder.fcmp_ordered("<=", best, zero), rectified)
                best = builder.select(gone, zero, best)
                place = builder.select(gone, ir.Constant(byte, [tile.columns] * LANES), place)
                _store(context, builder, signature.args[1], y, index, best)
                pointer = _element(context, builder, signature.args[2], code, index)
                builder.store(place, builder.bitcast(pointer, byte.as_pointer()), align=1)
            index = builder.add(index, row_stride)
        return context.get_dummy_value()

    return types.void(tile, y, code, types.intp, types.intp, types.intp, types.boolean), generate


@intrinsic
def where_code(typing, code, index, place, x):
    """x where the byte code[index + lane] equals `place`, else 0."""

    def generate(context, builder, signature, arguments):
        code, index, place, x = arguments
        byte = ir.VectorType(ir.IntType(8), LANES)
        pointer = _element(context, builder, signature.args[0], code, index)
        codes = builder.load(builder.bitcast(pointer, byte.as_pointer()), align=1)
        same = builder.icmp_unsigned("==", codes, _splat(builder, byte, builder.trunc(place, ir.IntType(8))))
        return builder.select(same, x, ir.Constant(x.type, None))

    return x(code, types.intp, types.intp, x), generate


@intrinsic
def tile_lane_sums(typing, tile, out, index):
    """out[index + r * columns + c] += the sum over lanes of tile[r, c]."""

    def generate(context, builder, signature, arguments):
        value, out, index = arguments
        for entry in range(tile.rows * tile.columns):
            at = builder.add(index, context.get_constant(types.intp, entry))
            pointer = _element(context, builder, signature.args[1], out, at)
            total = _lane_sum(builder, builder.extract_value(value, entry))
            builder.store(builder.fadd(builder.load(pointer), total), pointer)
        return context.get_dummy_value()

    return types.void(tile, out, types.intp), generate
