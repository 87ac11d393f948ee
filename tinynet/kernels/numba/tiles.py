"""Register tiles: rows x columns Vectors as one value, small enough to stay in registers.

A tile of 4 outputs x 4 positions is 16 sums.  Each step of a convolution reads 4 Vectors and 4
scalars (or 8 Vectors) for 16 multiply-adds: more work than loads, which is what reaching the
processor's peak takes.  `columns` and `rows` arguments are tuples of flat offsets.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from tinynet.kernels.numba.simd import (
    LANES,
    element_pointer,
    fused_multiply_add,
    llvm_vector,
    load_vector,
    splat_scalar,
    store_vector,
    sum_lanes,
)


class Tile(types.Type):
    """rows x columns Vectors."""

    def __init__(self, scalar: types.Float, rows: int, columns: int):
        self.scalar, self.rows, self.columns = scalar, rows, columns
        super().__init__(name=f"Tile({scalar}, {rows}, {columns})")


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager, numba_type):
        count = numba_type.rows * numba_type.columns
        super().__init__(manager, numba_type, ir.ArrayType(llvm_vector(numba_type.scalar), count))


def _columns(builder, tuple_value, count: int):
    return [builder.extract_value(tuple_value, column) for column in range(count)]


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
        vector = llvm_vector(tile.scalar)
        value = ir.Constant(context.get_value_type(tile), ir.Undefined)
        for row in range(tile.rows):
            at = builder.add(arguments[1], context.get_constant(types.intp, row))
            scalar = builder.load(element_pointer(context, builder, signature.args[0], arguments[0], at))
            entry = splat_scalar(builder, vector, scalar)
            for column in range(tile.columns):
                value = builder.insert_value(value, entry, row * tile.columns + column)
        return value

    return tile(array, types.intp, rows, columns), generate


@intrinsic
def tile_add_weighted(typing, tile, weights, weight_index, x, index, columns):
    """tile[r, c] += weights[weight_index + r] * x[index + columns[c]], a scalar times a Vector."""

    def generate(context, builder, signature, arguments):
        value, weights, weight_index, x, index, columns = arguments
        vector = llvm_vector(tile.scalar)
        inputs = [
            load_vector(context, builder, signature.args[3], x, builder.add(index, column))
            for column in _columns(builder, columns, tile.columns)
        ]
        for row in range(tile.rows):
            at = builder.add(weight_index, context.get_constant(types.intp, row))
            scalar = builder.load(element_pointer(context, builder, signature.args[1], weights, at))
            weight = splat_scalar(builder, vector, scalar)
            for column in range(tile.columns):
                entry = row * tile.columns + column
                total = fused_multiply_add(
                    builder, weight, inputs[column], builder.extract_value(value, entry)
                )
                value = builder.insert_value(value, total, entry)
        return value

    return tile(tile, weights, types.intp, x, types.intp, columns), generate


@intrinsic
def tile_add_outer(typing, tile, dy, dy_index, rows, x, index, columns):
    """tile[r, c] += dy[dy_index + rows[r]] * x[index + columns[c]], Vector times Vector."""

    def generate(context, builder, signature, arguments):
        value, dy, dy_index, rows, x, index, columns = arguments
        inputs = [
            load_vector(context, builder, signature.args[4], x, builder.add(index, column))
            for column in _columns(builder, columns, tile.columns)
        ]
        for row, offset in enumerate(_columns(builder, rows, tile.rows)):
            cotangent = load_vector(context, builder, signature.args[1], dy, builder.add(dy_index, offset))
            for column in range(tile.columns):
                entry = row * tile.columns + column
                total = fused_multiply_add(
                    builder, cotangent, inputs[column], builder.extract_value(value, entry)
                )
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
                    store_vector(context, builder, signature.args[1], out, builder.add(index, offset), entry)
            index = builder.add(index, row_stride)
        return context.get_dummy_value()

    return types.void(tile, out, types.intp, types.intp, columns, types.intp), generate


@intrinsic
def tile_rectify(typing, tile):
    """max(tile, 0), entry by entry; NaN stays NaN."""

    def generate(context, builder, signature, arguments):
        value = arguments[0]
        nothing = ir.Constant(llvm_vector(tile.scalar), None)
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
        zero = ir.Constant(llvm_vector(tile.scalar), None)
        byte, bit = ir.VectorType(ir.IntType(8), LANES), ir.VectorType(ir.IntType(1), LANES)
        rectified = splat_scalar(builder, bit, builder.trunc(rectify, ir.IntType(1)))
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
                store_vector(context, builder, signature.args[1], y, index, best)
                pointer = element_pointer(context, builder, signature.args[2], code, index)
                builder.store(place, builder.bitcast(pointer, byte.as_pointer()), align=1)
            index = builder.add(index, row_stride)
        return context.get_dummy_value()

    return types.void(tile, y, code, types.intp, types.intp, types.intp, types.boolean), generate


@intrinsic
def tile_lane_sums(typing, tile, out, index):
    """out[index + r * columns + c] += the sum over lanes of tile[r, c]."""

    def generate(context, builder, signature, arguments):
        value, out, index = arguments
        for entry in range(tile.rows * tile.columns):
            at = builder.add(index, context.get_constant(types.intp, entry))
            pointer = element_pointer(context, builder, signature.args[1], out, at)
            total = sum_lanes(builder, builder.extract_value(value, entry))
            builder.store(builder.fadd(builder.load(pointer), total), pointer)
        return context.get_dummy_value()

    return types.void(tile, out, types.intp), generate
