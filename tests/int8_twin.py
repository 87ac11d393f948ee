"""docs/int8.md once more, as slow as it reads: Python's own integers, one number at a time.

Shares no arithmetic with tinynet/deploy/int8/.  Every partial sum is checked to fit 32 bits, with the zero
point inside the loop and moved out of it, forwards and backwards; products and halves to fit 64.
"""

from __future__ import annotations

from itertools import product

import numpy as np


def run(program, image: np.ndarray) -> np.ndarray:
    """The logits' integers for one image, int8 (h, w, c) or (f,), as value 0 has it."""
    values = [image.tolist()]
    for place, operation in enumerate(program.operations):
        inputs = [values[number] for number in operation.inputs]
        known = [program.values[number] for number in operation.inputs]
        values.append(KINDS[operation.kind](operation, inputs, known, program.values[place + 1].shape))
    zero = program.values[-1].zero or 0
    return np.array(values[-1], dtype=object) - zero


def rescaled(a: int, multiplier: int, shift: int) -> int:
    fits(a, 32)
    assert 0 <= multiplier < 2**31 and 1 <= shift <= 62
    return fits(fits(a * multiplier, 64) + 2 ** (shift - 1), 64) // 2**shift


def stored(store, t: int) -> int:
    return min(max(store.zero + t, store.low), store.high)


def fits(value: int, bits: int) -> int:
    assert -(2 ** (bits - 1)) <= value < 2 ** (bits - 1)
    return value


def weighted(operation, channel: int, pairs: list[tuple[int, int | None]], zero: int) -> int:
    """One output of a weighted operation from (weight, x) pairs; x is None for a tap outside the picture."""
    bias = int(operation.bias[channel])
    for order in (pairs, pairs[::-1]):
        inside = bias
        moved = fits(bias - zero * sum(weight for weight, _ in pairs), 32)
        for weight, x in order:
            inside = fits(inside + weight * (0 if x is None else x - zero), 32)
            moved = fits(moved + weight * (zero if x is None else x), 32)
        assert inside == moved
    store = operation.store
    if isinstance(store, float):
        return inside
    return stored(store, rescaled(inside, int(store.multiplier[channel]), int(store.shift[channel])))


def taps(window, shape, i: int, j: int):
    """Row and column of each tap at output (i, j), in order; None outside the picture."""
    for u, v in product(range(window.size[0]), range(window.size[1])):
        row = i * window.stride[0] + u * window.dilation[0] - window.padding[0][0]
        column = j * window.stride[1] + v * window.dilation[1] - window.padding[1][0]
        inside = 0 <= row < shape[0] and 0 <= column < shape[1]
        yield u, v, (row, column) if inside else None


def image_of(shape, value) -> list:
    return [[[value(i, j, c) for c in range(shape[2])] for j in range(shape[1])] for i in range(shape[0])]


def each(shape, value) -> list:
    """As `image_of`, for vectors too; `value` is given the index as a tuple."""
    if len(shape) == 1:
        return [value((f,)) for f in range(shape[0])]
    return image_of(shape, lambda i, j, c: value((i, j, c)))


def at(x: list, index) -> int:
    for place in index:
        x = x[place]
    return x


def convolution(operation, inputs, known, shape):
    (x,), window, weight = inputs, operation.window, operation.weight
    per_group = shape[2] // operation.groups

    def value(i, j, o):
        first = (o // per_group) * weight.shape[2]
        pairs = []
        for u, v, place in taps(window, known[0].shape, i, j):
            for c in range(weight.shape[2]):
                pixel = None if place is None else x[place[0]][place[1]][first + c]
                pairs.append((int(weight[u, v, c, o]), pixel))
        return weighted(operation, o, pairs, known[0].zero)

    return image_of(shape, value)


def dense(operation, inputs, known, shape):
    (x,), weight = inputs, operation.weight
    return [
        weighted(operation, o, [(int(weight[f, o]), x[f]) for f in range(len(x))], known[0].zero)
        for o in range(shape[0])
    ]


def affine(operation, inputs, known, shape):
    def value(index):
        pair = (int(operation.weight[index[-1]]), at(inputs[0], index))
        return weighted(operation, index[-1], [pair], known[0].zero)

    return each(shape, value)


def average_pool(operation, inputs, known, shape):
    def pixels(i, j, c):
        places = [place for _, _, place in taps(operation.window, known[0].shape, i, j) if place is not None]
        return [inputs[0][row][column][c] - known[0].zero for row, column in places]

    numbers = sorted({len(pixels(i, j, 0)) for i in range(shape[0]) for j in range(shape[1])})

    def value(i, j, c):
        found, store = pixels(i, j, c), operation.store
        if isinstance(store, float):
            return fits(sum(found), 32)
        k = numbers.index(len(found))
        return stored(store, rescaled(sum(found), int(store.multiplier[k]), int(store.shift[k])))

    return image_of(shape, value)


def max_pool(operation, inputs, known, shape):
    def value(i, j, c):
        places = [place for _, _, place in taps(operation.window, known[0].shape, i, j) if place is not None]
        return max(inputs[0][row][column][c] for row, column in places)

    return image_of(shape, value)


def add(operation, inputs, known, shape):
    store = operation.store

    def value(index):
        terms = [
            (at(x, index) - one.zero) * int(multiplier)
            for x, one, multiplier in zip(inputs, known, store.multiplier, strict=True)
        ]
        shift = int(store.shift[0])
        return stored(store, fits(sum(terms) + 2 ** (shift - 1), 64) // 2**shift)

    return each(shape, value)


def concatenate(operation, inputs, known, shape):
    store = operation.store
    owners = [(k, c) for k, one in enumerate(known) for c in range(one.shape[-1])]

    def value(index):
        k, c = owners[index[-1]]
        centred = at(inputs[k], (*index[:-1], c)) - known[k].zero
        return stored(store, rescaled(centred, int(store.multiplier[k]), int(store.shift[k])))

    return each(shape, value)


def upsample(operation, inputs, known, shape):
    down, right = operation.factor
    return image_of(shape, lambda i, j, c: inputs[0][i // down][j // right][c])


def flatten(operation, inputs, known, shape):
    if len(known[0].shape) == 1:
        return inputs[0]
    return [number for row in inputs[0] for pixel in row for number in pixel]


def table(operation, inputs, known, shape):
    return each(shape, lambda index: int(operation.table[at(inputs[0], index) + 128]))


KINDS = {
    "convolution": convolution,
    "dense": dense,
    "affine": affine,
    "average_pool": average_pool,
    "max_pool": max_pool,
    "add": add,
    "concatenate": concatenate,
    "upsample": upsample,
    "flatten": flatten,
    "table": table,
}
