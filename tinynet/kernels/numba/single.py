"""A whole network for one image in one call: a plan of operations, carried out one after another.

At twenty microseconds an image, calls from Python are most of the time where every layer is one.  Here the
only call is `one_image`; what it does is data (single_plan.py says how it is laid out, tinynet/single.py
writes it), so it is compiled once for all networks.  Convolutions are in single_convolution.py and
single_winograd.py.
"""

from __future__ import annotations

import math

import numpy as np

from tinynet.kernels.numba.compile import inlined, kernel
from tinynet.kernels.numba.pixels import (
    LANES,
    add,
    limited,
    load,
    multiply_add,
    pointer_at,
    pointer_to,
    repeat,
    store,
    three_channels,
    zero,
)
from tinynet.kernels.numba.single_convolution import convolution, store_row_end
from tinynet.kernels.numba.single_plan import (
    CHANNELS,
    CONVOLUTION,
    COPY,
    DENSE,
    ELEMENTS,
    FINISH,
    FLATTEN,
    HEIGHT,
    KIND,
    LOAD,
    OPTION,
    OUT_HEIGHT,
    OUT_WIDTH,
    OUTPUTS,
    POOL,
    RECORD,
    RESULT,
    SIGMOID,
    SOFTMAX,
    SOURCE,
    SOURCE_PLANE,
    SOURCE_ROW,
    TANH,
    TARGET,
    TARGET_PLANE,
    TARGET_ROW,
    WEIGHTS,
    WIDTH,
    WINOGRAD,
)
from tinynet.kernels.numba.single_winograd import winograd


@kernel
def one_image(plan, numbers, scratch, codes, values, count, results):
    """results (count * outputs,) of the images: codes (uint8) or, where those are none, values (float32)."""
    of_bytes, records = codes.size > 0, plan[OPTION]
    plan, numbers, scratch = pointer_to(plan), pointer_to(numbers), pointer_to(scratch)
    codes, values, results = pointer_to(codes), pointer_to(values), pointer_to(results)
    for image in range(count):
        for at in range(RECORD, records * RECORD, RECORD):
            kind = plan[at + KIND]
            if kind == LOAD:
                _load(plan, at, numbers, scratch, codes, values, of_bytes, image)
            elif kind == CONVOLUTION:
                convolution(plan, at, numbers, scratch)
            elif kind == WINOGRAD:
                winograd(plan, at, numbers, scratch)
            elif kind == POOL:
                _pool(plan, at, scratch)
            elif kind == COPY:
                _copy(plan, at, scratch)
            elif kind == ELEMENTS:
                _elements(plan, at, numbers, scratch)
            elif kind == FLATTEN:
                _flatten(plan, at, scratch)
            elif kind == DENSE:
                _dense(plan, at, numbers, scratch)
            elif kind == SOFTMAX:
                _softmax(plan, at, numbers, scratch)
            elif kind == RESULT:
                _result(plan, at, scratch, results, image)


_ready = False


def ready() -> bool:
    """Whether `one_image` is compiled, or in the cache: compiling it takes ten seconds."""
    global _ready
    if not _ready:
        plan, codes, numbers = np.zeros(RECORD, np.int64), np.zeros(1, np.uint8), np.zeros(1, np.float32)
        _ready = one_image.ready(plan, numbers, numbers, codes, numbers, 1, numbers)
    return _ready


@inlined
def _load(plan, at, numbers, scratch, codes, values, of_bytes, image):
    """(h, w, c) -> (c, h, w): codes times scale plus shift of each channel, or values as they are."""
    channels, height, width = plan[at + CHANNELS], plan[at + HEIGHT], plan[at + WIDTH]
    plane, row = plan[at + TARGET_PLANE], plan[at + TARGET_ROW]
    scale = plan[at + WEIGHTS]
    shift = scale + channels
    for y in range(height):
        source, target = (image * height + y) * width * channels, plan[at + TARGET] + y * row
        x = 0
        if of_bytes and channels == 3:
            while x <= width - LANES:
                red, green, blue = three_channels(codes, source + 3 * x)
                red = multiply_add(red, repeat(numbers, scale), repeat(numbers, shift))
                green = multiply_add(green, repeat(numbers, scale + 1), repeat(numbers, shift + 1))
                blue = multiply_add(blue, repeat(numbers, scale + 2), repeat(numbers, shift + 2))
                store(scratch, target + x, red)
                store(scratch, target + plane + x, green)
                store(scratch, target + 2 * plane + x, blue)
                x += LANES
        while x < width:
            for c in range(channels):
                at_pixel = source + x * channels + c
                if of_bytes:
                    value = np.float32(codes[at_pixel]) * numbers[scale + c] + numbers[shift + c]
                else:
                    value = values[at_pixel]
                scratch[target + c * plane + x] = value
            x += 1


@inlined
def _pool(plan, at, scratch):
    """The maximum or mean of each window's real pixels, for any window.

    The table at OPTION: whether the mean; then size, stride, dilation and the padding before, an axis each.
    """
    height, width, table = plan[at + HEIGHT], plan[at + WIDTH], plan[at + OPTION]
    mean = plan[table]
    for c in range(plan[at + CHANNELS]):
        source = plan[at + SOURCE] + c * plan[at + SOURCE_PLANE]
        target = plan[at + TARGET] + c * plan[at + TARGET_PLANE]
        for i in range(plan[at + OUT_HEIGHT]):
            for j in range(plan[at + OUT_WIDTH]):
                largest, total, pixels = np.float32(-np.inf), 0.0, 0
                for u in range(plan[table + 1]):
                    y = i * plan[table + 3] + u * plan[table + 5] - plan[table + 7]
                    if y < 0 or y >= height:
                        continue
                    for v in range(plan[table + 2]):
                        x = j * plan[table + 4] + v * plan[table + 6] - plan[table + 8]
                        if x < 0 or x >= width:
                            continue
                        value = scratch[source + y * plan[at + SOURCE_ROW] + x]
                        if value > largest or value != value:  # NaN, which nothing is larger than, stays
                            largest = value
                        total += value
                        pixels += 1
                place = target + i * plan[at + TARGET_ROW] + j
                scratch[place] = np.float32(total / pixels) if mean else largest


@inlined
def _copy(plan, at, scratch):
    """Each pixel repeated, and columns dealt out for a stride.

    The table at OPTION: the factors of height and width; the stride, the padding on the left, and the step
    from the columns 0, stride, 2 stride, ... of the padded row to those that begin at 1, at 2, ...
    """
    table = plan[at + OPTION]
    tall, wide = plan[table], plan[table + 1]
    stride, left, phase = plan[table + 2], plan[table + 3], plan[table + 4]
    for c in range(plan[at + CHANNELS]):
        source = plan[at + SOURCE] + c * plan[at + SOURCE_PLANE]
        target = plan[at + TARGET] + c * plan[at + TARGET_PLANE]
        for y in range(plan[at + HEIGHT] * tall):
            line, row = source + y // tall * plan[at + SOURCE_ROW], target + y * plan[at + TARGET_ROW]
            if stride == 1:
                for x in range(plan[at + WIDTH]):
                    for repeated in range(wide):
                        scratch[row + left + x * wide + repeated] = scratch[line + x]
            else:
                for x in range(plan[at + WIDTH] * wide):
                    column = left + x
                    scratch[row + column % stride * phase + column // stride] = scratch[line + x // wide]


@inlined
def _elements(plan, at, numbers, scratch):
    """A function of every number, then limits, scale and shift; where they lie."""
    channels, function = plan[at + CHANNELS], plan[at + OPTION]
    finish, padded = plan[at + FINISH], -(-channels // LANES) * LANES
    low, high = numbers[finish], numbers[finish + 1]
    temperature = numbers[plan[at + WEIGHTS]]
    for c in range(channels):
        scale, shift = numbers[finish + 2 + padded + c], numbers[finish + 2 + 2 * padded + c]
        for y in range(plan[at + HEIGHT]):
            row = plan[at + SOURCE] + c * plan[at + SOURCE_PLANE] + y * plan[at + SOURCE_ROW]
            for x in range(row, row + plan[at + WIDTH]):
                value = scratch[x]
                if function == SIGMOID:
                    value = np.float32(_sigmoid(value / temperature))
                elif function == TANH:
                    value = np.float32(math.tanh(value))
                if value < low:
                    value = low
                if value > high:
                    value = high
                scratch[x] = value * scale + shift


@inlined
def _sigmoid(value):
    """1 / (1 + exp(-value)), without overflow."""
    small = math.exp(-abs(value))
    return (1.0 if value >= 0 else small) / (1 + small)


@inlined
def _flatten(plan, at, scratch):
    """(c, h, w) with what lies between rows and channels -> (h, w, c) without."""
    place = plan[at + TARGET]
    for y in range(plan[at + HEIGHT]):
        for x in range(plan[at + WIDTH]):
            source = plan[at + SOURCE] + y * plan[at + SOURCE_ROW] + x
            for _ in range(plan[at + CHANNELS]):
                scratch[place] = scratch[source]
                source += plan[at + SOURCE_PLANE]
                place += 1


@inlined
def _dense(plan, at, numbers, scratch):
    """Lanes are outputs.  Weights (vectors of outputs, features, LANES) are read in the order they lie."""
    features, source = plan[at + CHANNELS], plan[at + SOURCE]
    bias, target, w = plan[at + FINISH] + 2, plan[at + TARGET], plan[at + WEIGHTS]
    outputs = plan[at + OUTPUTS]
    padded = -(-outputs // LANES) * LANES
    low, high = repeat(numbers, bias - 2), repeat(numbers, bias - 1)
    for o in range(0, padded, LANES):
        a = b = c = d = zero()  # four sums, of every fourth feature, keep the multiply-add units busy
        for f in range(source, source + features, 4):
            a = multiply_add(repeat(scratch, f), load(numbers, w), a)
            b = multiply_add(repeat(scratch, f + 1), load(numbers, w + LANES), b)
            c = multiply_add(repeat(scratch, f + 2), load(numbers, w + 2 * LANES), c)
            d = multiply_add(repeat(scratch, f + 3), load(numbers, w + 3 * LANES), d)
            w += 4 * LANES
        value = limited(add(add(add(a, b), add(c, d)), load(numbers, bias + o)), low, high)
        value = multiply_add(value, load(numbers, bias + padded + o), load(numbers, bias + 2 * padded + o))
        store_row_end(scratch, target + o, value, outputs - o)  # the next layer may read a little further


@inlined
def _softmax(plan, at, numbers, scratch):
    """exp(z / temperature) over its sum, of one vector, in place; the largest is subtracted first."""
    first, step = plan[at + SOURCE], plan[at + SOURCE_PLANE]
    last = first + plan[at + CHANNELS] * step
    temperature = numbers[plan[at + WEIGHTS]]
    largest = scratch[first]
    for i in range(first, last, step):
        largest = max(largest, scratch[i])  # with NaN among them, all of it is NaN whatever is subtracted
    total = 0.0
    for i in range(first, last, step):
        scratch[i] = math.exp((scratch[i] - largest) / temperature)
        total += scratch[i]
    for i in range(first, last, step):
        scratch[i] = np.float32(scratch[i] / total)


@inlined
def _result(plan, at, scratch, results, image):
    """(c, h, w) -> (h, w, c), where the caller wants it."""
    channels, height, width = plan[at + CHANNELS], plan[at + HEIGHT], plan[at + WIDTH]
    place = image * channels * height * width
    for y in range(height):
        for x in range(width):
            source = plan[at + SOURCE] + y * plan[at + SOURCE_ROW] + x
            for c in range(channels):
                results[place] = scratch[source + c * plan[at + SOURCE_PLANE]]
                place += 1


@kernel
def unchanged(addresses, kept):
    """Whether float32 arrays (address and size of each) still hold the numbers of `kept`, bit for bit."""
    kept = pointer_to(kept)
    place = 0
    for i in range(len(addresses)):
        now = pointer_at(addresses[i, 0])
        different = np.int32(0)
        for k in range(addresses[i, 1]):
            different |= now[k] ^ kept[place + k]
        if different != 0:
            return False
        place += addresses[i, 1]
    return True
