"""A whole network for a batch in one call: a plan of operations, for a tile's part of the lanes at a time.

So few images are in work at once that their activations stay in the second-level cache, nothing is written
for a backward pass, and Python is called once a range of images, not once a layer.  What is done is data
(batch_plan.py says how it is laid out, tinynet/batch/plan.py writes it), so one compiled kernel serves every
network.  Convolutions are in batch_convolution.py and batch_winograd.py.
"""

from __future__ import annotations

import numpy as np

from tinynet.kernels.numba.batch_convolution import convolution, dense
from tinynet.kernels.numba.batch_plan import (
    CHANNELS,
    CONVOLUTION,
    COPY,
    DENSE,
    ELEMENTS,
    FINISH,
    KIND,
    LOAD,
    OPTION,
    OUTPUTS,
    POOL,
    POSITION_COUNT,
    POSITIONS,
    RECORD,
    RESULT,
    SOURCE,
    SOURCE_PLANE,
    TAPS,
    TARGET,
    TARGET_PLANE,
    TARGETS,
    WEIGHTS,
    WINOGRAD,
)
from tinynet.kernels.numba.batch_tiles import (
    tile_add,
    tile_finish,
    tile_larger,
    tile_of_bytes,
    tile_scaled,
    tile_times,
    transpose_images,
)
from tinynet.kernels.numba.batch_winograd import winograd
from tinynet.kernels.numba.compile import inlined, kernel
from tinynet.kernels.numba.simd import offset, pointer
from tinynet.kernels.numba.tiles import WIDTH, tile_load, tile_store, tile_zero

BYTES = 3 * 16 * WIDTH  # of scratch for loading: 16 pixels of WIDTH images


@kernel
def images_of_batch(plan, numbers, scratch, codes, values, bytes_, count, first, last, results):
    """results (count, outputs) of the images first..last, in groups of WIDTH images.

    codes    uint8 (count, pixels, 3), or none: then values float32 (count, pixels, channels)
    scratch  of as many numbers as the plan wants, all of them 0, for the zeros around images
    count    at least WIDTH: where fewer images than that are left, some before them are computed again
    """
    of_bytes, records = codes.size > 0, plan[OPTION]
    plan, numbers, scratch = pointer(plan), pointer(numbers), pointer(scratch)
    codes, values, bytes_, results = pointer(codes), pointer(values), pointer(bytes_), pointer(results)
    for wanted in range(first, last, WIDTH):
        image = min(wanted, count - WIDTH)
        for at in range(RECORD, records * RECORD, RECORD):
            kind = plan[at + KIND]
            if kind == LOAD:
                if of_bytes:
                    _load_bytes(plan, at, numbers, scratch, codes, image, bytes_)
                else:
                    _load(plan, at, scratch, values, image)
            elif kind == CONVOLUTION:
                convolution(plan, at, numbers, scratch)
            elif kind == WINOGRAD:
                winograd(plan, at, numbers, scratch)
            elif kind == DENSE:
                dense(plan, at, numbers, scratch)
            elif kind == POOL:
                _pool(plan, at, numbers, scratch)
            elif kind == COPY:
                _copy(plan, at, scratch)
            elif kind == ELEMENTS:
                _elements(plan, at, numbers, scratch)
            elif kind == RESULT:
                _result(plan, at, scratch, results, image, wanted, min(wanted + WIDTH, last))


@inlined
def _load_bytes(plan, at, numbers, scratch, codes, image, bytes_):
    """(h, w, 3) of WIDTH images -> (3, h, w, WIDTH): codes times scale plus shift of each channel."""
    pixels, targets, plane = plan[at + POSITION_COUNT], plan[at + TARGETS], plan[at + TARGET_PLANE]
    scale = plan[at + WEIGHTS]
    start, size = image * pixels * 3, pixels * 3
    whole = pixels // 16 * 16
    for p in range(0, whole, 16):
        for part in range(3):
            transpose_images(codes, start + p * 3 + part * 16, size, offset(bytes_, part * 16 * WIDTH))
        for c in range(3):
            factor, summand = numbers[scale + c], numbers[scale + 3 + c]
            for k in range(16):
                tile = tile_scaled(tile_of_bytes(bytes_, (k * 3 + c) * WIDTH), factor, summand)
                tile_store(tile, scratch, plan[at + TARGET] + c * plane + plan[targets + p + k], 0, (0,))
    for p in range(whole, pixels):
        for c in range(3):
            target = plan[at + TARGET] + c * plane + plan[targets + p]
            for lane in range(WIDTH):
                bytes_[lane] = codes[start + lane * size + p * 3 + c]
            tile = tile_scaled(tile_of_bytes(bytes_, 0), numbers[scale + c], numbers[scale + 3 + c])
            tile_store(tile, scratch, target, 0, (0,))


@inlined
def _load(plan, at, scratch, values, image):
    """(h, w, c) of WIDTH images -> (c, h, w, WIDTH)."""
    pixels, channels = plan[at + POSITION_COUNT], plan[at + CHANNELS]
    size = pixels * channels
    for p in range(pixels):
        for c in range(channels):
            target = plan[at + TARGET] + c * plan[at + TARGET_PLANE] + plan[plan[at + TARGETS] + p]
            source = image * size + p * channels + c
            for lane in range(WIDTH):
                scratch[target + lane] = values[source + lane * size]


@inlined
def _pool(plan, at, numbers, scratch):
    """The maximum or mean of each window's real pixels.

    POSITIONS has, for every output pixel, where in the table TAPS its pixels begin, and one entry more.
    """
    starts, taps, targets = plan[at + POSITIONS], plan[at + TAPS], plan[at + TARGETS]
    shares = plan[at + OPTION]
    for c in range(plan[at + CHANNELS]):
        source = plan[at + SOURCE] + c * plan[at + SOURCE_PLANE]
        target = plan[at + TARGET] + c * plan[at + TARGET_PLANE]
        for p in range(plan[at + POSITION_COUNT]):
            first, last = taps + plan[starts + p], taps + plan[starts + p + 1]
            total = tile_zero(scratch, 1, 1)
            if shares >= 0:
                for t in range(first, last):
                    total = tile_add(total, tile_load(total, scratch, source + plan[t]))
                total = tile_times(total, numbers[shares + p])
            else:
                total = tile_scaled(total, np.float32(0), np.float32(-np.inf))
                for t in range(first, last):
                    total = tile_larger(tile_load(total, scratch, source + plan[t]), total)
            tile_store(total, scratch, target + plan[targets + p], 0, (0,))


@inlined
def _copy(plan, at, scratch):
    """Pixels from POSITIONS to TARGETS, channel by channel: enlarging, or flattening."""
    positions, targets = plan[at + POSITIONS], plan[at + TARGETS]
    for c in range(plan[at + CHANNELS]):
        source = plan[at + SOURCE] + c * plan[at + SOURCE_PLANE]
        target = plan[at + TARGET] + c * plan[at + TARGET_PLANE]
        for p in range(plan[at + POSITION_COUNT]):
            tile = tile_load(tile_zero(scratch, 1, 1), scratch, source + plan[positions + p])
            tile_store(tile, scratch, target + plan[targets + p], 0, (0,))


@inlined
def _elements(plan, at, numbers, scratch):
    """Limits, scale and shift of every number, where it lies."""
    positions, outputs = plan[at + POSITIONS], plan[at + OUTPUTS]
    for c in range(outputs):
        source = plan[at + SOURCE] + c * plan[at + SOURCE_PLANE]
        for p in range(plan[at + POSITION_COUNT]):
            place = source + plan[positions + p]
            tile = tile_load(tile_zero(scratch, 1, 1), scratch, place)
            tile_store(tile_finish(tile, numbers, plan[at + FINISH], c, outputs), scratch, place, 0, (0,))


@inlined
def _result(plan, at, scratch, results, image, first, last):
    """(c, h, w, WIDTH) -> (h, w, c) of the images first..last; lane 0 is `image`."""
    pixels, channels = plan[at + POSITION_COUNT], plan[at + CHANNELS]
    for p in range(pixels):
        source = plan[at + SOURCE] + plan[plan[at + POSITIONS] + p]
        for c in range(channels):
            for one in range(first, last):
                place = (one * pixels + p) * channels + c
                results[place] = scratch[source + c * plan[at + SOURCE_PLANE] + one - image]
