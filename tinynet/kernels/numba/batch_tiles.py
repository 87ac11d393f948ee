"""What an inference does with a register tile once its sums are complete, in as few instructions as it takes.

Nobody asks which of four pixels was the largest, as training does: leaving that out, and 8 lanes side by side
instead of 16, took a convolution with 27 taps from 55 to 87 GFLOP/s where the peak is 97 to 102.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tinynet.kernels.numba.simd import (
    element_pointer,
    fused_multiply_add,
    llvm_vector,
    splat_scalar,
    transpose_rows,
)
from tinynet.kernels.numba.tiles import WIDTH, Tile, load_scalar, tile_vector


def _larger(builder, a, b):
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@intrinsic
def tile_window_maximum(typing, tile):
    """The Tile (rows, 1) of the largest of each row's four columns; NaN where one of them is."""
    assert tile.columns == 4
    result = Tile(tile.scalar, tile.rows, 1)

    def generate(context, builder, signature, arguments):
        value = ir.Constant(context.get_value_type(result), ir.Undefined)
        for row in range(tile.rows):
            a, b, c, d = (builder.extract_value(arguments[0], row * 4 + column) for column in range(4))
            largest = _larger(builder, _larger(builder, a, b), _larger(builder, c, d))
            upper, lower = builder.fcmp_unordered("uno", a, b), builder.fcmp_unordered("uno", c, d)
            nan = ir.Constant(largest.type, [float("nan")] * WIDTH)
            largest = builder.select(builder.or_(upper, lower), nan, largest)
            value = builder.insert_value(value, largest, row)
        return value

    return result(tile), generate


@intrinsic
def tile_finish(typing, tile, numbers, finish, output, outputs):
    """min(max(tile, low), high) * scale + shift, row r with those of `output` + r; NaN stays NaN.

    numbers from `finish` on: low, high, then `outputs` biases, as many scales and as many shifts
    """

    def generate(context, builder, signature, arguments):
        value, numbers, finish, output, outputs = arguments
        vector = tile_vector(tile.scalar)

        def number(index, row=0):
            scalar = load_scalar(context, builder, signature.args[1], numbers, index, row)
            return splat_scalar(builder, vector, scalar)

        low, high = number(finish, 0), number(finish, 1)
        biases = builder.add(builder.add(finish, output), context.get_constant(types.intp, 2))
        scales = builder.add(biases, outputs)
        shifts = builder.add(scales, outputs)
        for row in range(tile.rows):
            scale, shift = number(scales, row), number(shifts, row)
            for column in range(tile.columns):
                entry = row * tile.columns + column
                one = builder.extract_value(value, entry)
                one = builder.select(builder.fcmp_ordered(">", low, one), low, one)
                one = builder.select(builder.fcmp_ordered("<", high, one), high, one)
                value = builder.insert_value(value, fused_multiply_add(builder, one, scale, shift), entry)
        return value

    return tile(tile, numbers, types.intp, types.intp, types.intp), generate


def _entry_by_entry(tile: Tile, combined):
    """Code that makes a tile of two: combined(builder, one, other) of their entries."""

    def generate(context, builder, signature, arguments):
        value = arguments[0]
        for entry in range(tile.rows * tile.columns):
            one, other = (builder.extract_value(argument, entry) for argument in arguments)
            value = builder.insert_value(value, combined(builder, one, other), entry)
        return value

    return generate


@intrinsic
def tile_larger(typing, a, b):
    """The larger of two tiles, entry by entry; NaN where one of them is."""

    def larger(builder, one, other):
        nan = builder.fcmp_unordered("uno", one, one)
        return builder.select(builder.or_(builder.fcmp_ordered(">", one, other), nan), one, other)

    return a(a, b), _entry_by_entry(a, larger)


@intrinsic
def tile_add(typing, a, b):
    """The sum of two tiles."""

    return a(a, b), _entry_by_entry(a, lambda builder, one, other: builder.fadd(one, other))


@intrinsic
def tile_times(typing, tile, number):
    """The tile times a number."""

    def generate(context, builder, signature, arguments):
        value, number = arguments
        factor = splat_scalar(builder, tile_vector(tile.scalar), number)
        for entry in range(tile.rows * tile.columns):
            product = builder.fmul(builder.extract_value(value, entry), factor)
            value = builder.insert_value(value, product, entry)
        return value

    return tile(tile, tile.scalar), generate


@intrinsic
def transpose_images(typing, codes, start, stride, transposed):
    """transposed[WIDTH k + l] = codes[start + l * stride + k], k below 16, of the bytes of WIDTH images."""

    def generate(context, builder, signature, arguments):
        return transpose_rows(context, builder, signature, arguments, WIDTH)

    return types.void(codes, types.intp, types.intp, transposed), generate


@intrinsic
def tile_of_bytes(typing, codes, index):
    """The WIDTH bytes at `index` as a Tile of one row and column."""
    tile = Tile(types.float32, 1, 1)

    def generate(context, builder, signature, arguments):
        row_type = ir.VectorType(ir.IntType(8), WIDTH)
        pointer = element_pointer(context, builder, signature.args[0], *arguments)
        row = builder.load(builder.bitcast(pointer, row_type.as_pointer()), align=1)
        value = ir.Constant(context.get_value_type(tile), ir.Undefined)
        return builder.insert_value(value, builder.uitofp(row, llvm_vector(types.float32, WIDTH)), 0)

    return tile(codes, types.intp), generate


@intrinsic
def tile_scaled(typing, tile, scale, shift):
    """tile * scale + shift, two numbers."""

    def generate(context, builder, signature, arguments):
        value, *numbers = arguments
        scale, shift = (splat_scalar(builder, tile_vector(tile.scalar), number) for number in numbers)
        for entry in range(tile.rows * tile.columns):
            one = builder.extract_value(value, entry)
            value = builder.insert_value(value, fused_multiply_add(builder, one, scale, shift), entry)
        return value

    return tile(tile, tile.scalar, tile.scalar), generate
