"""Register tiles: rows x columns vectors of WIDTH lanes as one value, small enough to stay in registers.

A tile of 3 outputs x 4 positions is 12 sums.  Each step of a convolution reads 4 vectors and 3
scalars (or 7 vectors) for 12 multiply-adds: more work than loads, which is what reaching the
processor's peak takes.  The sums, the factors of all rows and one column's vector must fit the
registers: with 16 of 8 floats (AVX2) that is 12 + 3 + 1, exactly.  There the 16 lanes go through
the tile as two halves; with the 32 registers of 16 floats of AVX-512 whole, 4 x 4 at a time.  On AVX2
a tile of 4 x 4 x 16 lanes, which spills, reached 27 GFLOP/s where 3 x 4 x 8 reaches 80.

`columns` and `rows` arguments are tuples of flat offsets.
"""

from __future__ import annotations

import os

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic, models, register_model

from tinynet.errors import ArgumentError
from tinynet.kernels.numba.simd import (
    LANES,
    element_pointer,
    fused_multiply_add,
    llvm_vector,
    load_vector,
    splat_scalar,
    store_vector,
)

COLUMNS = 4  # of every tile: a pooling window, or neighbours
_SHAPES = {16: 4, 8: 3}  # rows of the tallest tile, for each width


def _width() -> int:
    """Lanes of a tile: TINYNET_TILE_WIDTH, else what suits the processor that Numba compiles for."""
    wanted = os.environ.get("TINYNET_TILE_WIDTH")
    if wanted:
        if wanted not in map(str, _SHAPES):
            raise ArgumentError(f"TINYNET_TILE_WIDTH: wanted 8 or 16, got {wanted!r}")
        return int(wanted)
    if config.CPU_NAME:  # another processor than this one
        return 8
    return 16 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 8


WIDTH = _width()
ROWS = _SHAPES[WIDTH]


class Tile(types.Type):
    """rows x columns vectors of WIDTH lanes."""

    def __init__(self, scalar: types.Float, rows: int, columns: int):
        self.scalar, self.rows, self.columns = scalar, rows, columns
        super().__init__(name=f"Tile({scalar}, {rows}, {columns}, {WIDTH})")


def tile_vector(scalar: types.Float) -> ir.VectorType:
    return llvm_vector(scalar, WIDTH)


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager, numba_type):
        count = numba_type.rows * numba_type.columns
        super().__init__(manager, numba_type, ir.ArrayType(tile_vector(numba_type.scalar), count))


def _columns(builder, tuple_value, count: int):
    return [builder.extract_value(tuple_value, column) for column in range(count)]


def load_scalar(context, builder, array_type, array, index, row: int):
    at = builder.add(index, context.get_constant(types.intp, row))
    return builder.load(element_pointer(context, builder, array_type, array, at))


def _add_products(builder, tile: Tile, value, factors, inputs):
    """value[r, c] += factors[r] * inputs[c](); the inputs are generated one at a time, to save registers."""
    for column, load in enumerate(inputs):
        vector = load()
        for row, factor in enumerate(factors):
            entry = row * tile.columns + column
            total = fused_multiply_add(builder, factor, vector, builder.extract_value(value, entry))
            value = builder.insert_value(value, total, entry)
    return value


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
        value = ir.Constant(context.get_value_type(tile), ir.Undefined)
        for row in range(tile.rows):
            scalar = load_scalar(context, builder, signature.args[0], arguments[0], arguments[1], row)
            entry = splat_scalar(builder, tile_vector(tile.scalar), scalar)
            for column in range(tile.columns):
                value = builder.insert_value(value, entry, row * tile.columns + column)
        return value

    return tile(array, types.intp, rows, columns), generate


@intrinsic
def tile_load(typing, tile, array, index):
    """The tile that tile_keep stored at flat `index`; the argument `tile` only tells its shape."""

    def generate(context, builder, signature, arguments):
        value, array, index = arguments
        for entry in range(tile.rows * tile.columns):
            at = builder.add(index, context.get_constant(types.intp, entry * WIDTH))
            vector = load_vector(context, builder, signature.args[1], array, at, WIDTH)
            value = builder.insert_value(value, vector, entry)
        return value

    return tile(tile, array, types.intp), generate


@intrinsic
def tile_keep(typing, tile, array, index):
    """Store every vector of the tile, one after another, from flat `index` on."""

    def generate(context, builder, signature, arguments):
        value, array, index = arguments
        for entry in range(tile.rows * tile.columns):
            at = builder.add(index, context.get_constant(types.intp, entry * WIDTH))
            vector = builder.extract_value(value, entry)
            store_vector(context, builder, signature.args[1], array, at, vector)
        return context.get_dummy_value()

    return types.void(tile, array, types.intp), generate


@intrinsic
def tile_add_weighted(typing, tile, weights, weight_index, x, index, columns):
    """tile[r, c] += weights[weight_index + r] * x[index + columns[c]], a scalar times a vector."""

    def generate(context, builder, signature, arguments):
        value, weights, weight_index, x, index, columns = arguments
        factors = [
            splat_scalar(
                builder,
                tile_vector(tile.scalar),
                load_scalar(context, builder, signature.args[1], weights, weight_index, row),
            )
            for row in range(tile.rows)
        ]

        def load(column):
            at = builder.add(index, column)
            return lambda: load_vector(context, builder, signature.args[3], x, at, WIDTH)

        inputs = [load(column) for column in _columns(builder, columns, tile.columns)]
        return _add_products(builder, tile, value, factors, inputs)

    return tile(tile, weights, types.intp, x, types.intp, columns), generate


@intrinsic
def tile_add_outer(typing, tile, dy, dy_index, rows, x, index, columns):
    """tile[r, c] += dy[dy_index + rows[r]] * x[index + columns[c]], vector times vector."""

    def generate(context, builder, signature, arguments):
        value, dy, dy_index, rows, x, index, columns = arguments
        factors = [
            load_vector(context, builder, signature.args[1], dy, builder.add(dy_index, offset), WIDTH)
            for offset in _columns(builder, rows, tile.rows)
        ]

        def load(column):
            at = builder.add(index, column)
            return lambda: load_vector(context, builder, signature.args[4], x, at, WIDTH)

        inputs = [load(column) for column in _columns(builder, columns, tile.columns)]
        return _add_products(builder, tile, value, factors, inputs)

    return tile(tile, dy, types.intp, rows, x, types.intp, columns), generate


@intrinsic
def tile_store(typing, tile, out, index, row_stride, columns):
    """out[index + r * row_stride + columns[c]] = tile[r, c]."""

    def generate(context, builder, signature, arguments):
        value, out, index, row_stride, columns = arguments
        columns = _columns(builder, columns, tile.columns)
        for row in range(tile.rows):
            for column, offset in enumerate(columns):
                entry = builder.extract_value(value, row * tile.columns + column)
                store_vector(context, builder, signature.args[1], out, builder.add(index, offset), entry)
            index = builder.add(index, row_stride)
        return context.get_dummy_value()

    return types.void(tile, out, types.intp, types.intp, columns), generate


@intrinsic
def tile_rectify(typing, tile):
    """max(tile, 0), entry by entry; NaN stays NaN."""

    def generate(context, builder, signature, arguments):
        value = arguments[0]
        nothing = ir.Constant(tile_vector(tile.scalar), None)
        for entry in range(tile.rows * tile.columns):
            number = builder.extract_value(value, entry)
            negative = builder.fcmp_ordered("<=", number, nothing)
            value = builder.insert_value(value, builder.select(negative, nothing, number), entry)
        return value

    return tile(tile), generate


@intrinsic
def tile_pool_store(typing, tile, y, code, index, row_stride):
    """Store the maximum of each row's four columns, rectified, and its place, 0 to 3, as a byte.

    The first maximum counts, or a NaN.  What is not above zero becomes zero with code 4.

    Rectified numbers are compared as integers, whose order is theirs, with NaN above infinity: so NaN
    comes through without a comparison of its own, which made this a third of a layer with 27 taps.
    """

    def generate(context, builder, signature, arguments):
        value, y, code, index, row_stride = arguments
        bits = tile.scalar.bitwidth
        number, byte = ir.VectorType(ir.IntType(bits), WIDTH), ir.VectorType(ir.IntType(8), WIDTH)
        zero = ir.Constant(tile_vector(tile.scalar), None)

        def constant(integer):
            return ir.Constant(number, [integer] * WIDTH)

        def rectified(vector):
            vector = builder.select(builder.fcmp_ordered(">", zero, vector), zero, vector)  # NaN stays
            without_sign = constant((1 << (bits - 1)) - 1)  # that of -0 and of NaN
            return builder.and_(builder.bitcast(vector, number), without_sign)

        def larger(a, b, place_a, place_b):
            """The larger of two and its place; the first where they are equal."""
            first = builder.icmp_unsigned(">=", a, b)
            return builder.select(first, a, b), builder.select(first, place_a, place_b)

        def as_they_are(places):
            """Keeps LLVM from narrowing each choice of a place to bytes on its own: once is enough."""
            floats = builder.bitcast(places, zero.type)
            function_type = ir.FunctionType(floats.type, [floats.type])
            name = f"llvm.arithmetic.fence.v{WIDTH}f{bits}"
            fence = cgutils.get_or_insert_function(builder.module, function_type, name)
            return builder.bitcast(builder.call(fence, [floats]), number)

        for row in range(tile.rows):
            a, b, c, d = (rectified(builder.extract_value(value, row * 4 + column)) for column in range(4))
            upper, lower = larger(a, b, constant(0), constant(1)), larger(c, d, constant(2), constant(3))
            best, place = larger(upper[0], lower[0], upper[1], lower[1])
            place = builder.select(builder.icmp_signed("==", best, constant(0)), constant(4), place)
            best = builder.bitcast(best, zero.type)
            store_vector(context, builder, signature.args[1], y, index, best)
            to = element_pointer(context, builder, signature.args[2], code, index)
            builder.store(
                builder.trunc(as_they_are(place), byte), builder.bitcast(to, byte.as_pointer()), align=1
            )
            index = builder.add(index, row_stride)
        return context.get_dummy_value()

    assert tile.columns == 4
    return types.void(tile, y, code, types.intp, types.intp), generate


@intrinsic
def tile_lane_sums(typing, tile, out, index, row_stride):
    """out[index + r * row_stride + c] += the sum over lanes of tile[r, c]; a tile has four columns.

    Four vectors are summed together, in pairs of neighbours: within each quarter of 4 lanes

        a, b  ->  (a0 + a1, a2 + a3, b0 + b1, b2 + b3)

    so that two rounds leave one number a column in every quarter, and the quarters are added last.
    """
    assert tile.columns == 4

    def generate(context, builder, signature, arguments):
        value, out, index, row_stride = arguments

        def shuffled(a, b, lanes):
            mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
            return builder.shuffle_vector(a, b, mask)

        def in_pairs(a, b):
            quarters = range(0, WIDTH, 4)
            even = [q + i for q in quarters for i in (0, 2, WIDTH, WIDTH + 2)]
            return builder.fadd(shuffled(a, b, even), shuffled(a, b, [lane + 1 for lane in even]))

        for row in range(tile.rows):
            a, b, c, d = (builder.extract_value(value, row * 4 + column) for column in range(4))
            sums = in_pairs(in_pairs(a, b), in_pairs(c, d))
            total = shuffled(sums, sums, [0, 1, 2, 3])
            for q in range(4, WIDTH, 4):
                total = builder.fadd(total, shuffled(sums, sums, [q, q + 1, q + 2, q + 3]))
            before = load_vector(context, builder, signature.args[1], out, index, 4)
            store_vector(context, builder, signature.args[1], out, index, builder.fadd(before, total))
            index = builder.add(index, row_stride)
        return context.get_dummy_value()

    return types.void(tile, out, types.intp, types.intp), generate


assert LANES % WIDTH == 0
