"""How a plan for single.py is laid out: what tinynet/single.py writes and the kernel reads.

A plan is one int64 array.  It begins with a record of RECORD numbers for each operation, in order; the
first one's kind is BEGIN and its OPTION their number.  Tables that records point to come after.  Weights
are in one float32 array ("numbers"), activations in another ("scratch"); records hold indices into them.

An activation in scratch is channels, rows, pixels: `PLANE` numbers from channel to channel, `ROW` from row to
row.  Around it lie zeros, as many as the operation that reads it needs for padding and for whole vectors.
"""

from __future__ import annotations

RECORD = 24

# Kinds of operation.
BEGIN, LOAD, CONVOLUTION, WINOGRAD, POOL, COPY, ELEMENTS, FLATTEN, DENSE, SOFTMAX, RESULT = range(11)

# Fields of a record.  Not every operation uses every field.
KIND = 0
SOURCE, SOURCE_PLANE, SOURCE_ROW = 1, 2, 3  # scratch: the first number read, and the steps from it
CHANNELS, HEIGHT, WIDTH = 4, 5, 6  # of what is read
TARGET, TARGET_PLANE, TARGET_ROW = 7, 8, 9  # scratch: the first number written, and the steps from it
OUTPUTS, OUT_HEIGHT, OUT_WIDTH = (
    10,
    11,
    12,
)  # of what is computed, before a pooling that follows in the same pass
WEIGHTS = 13  # numbers
FINISH = 14  # numbers: low, high; then bias, scale and shift of each output, each a whole number of vectors
POOLED = 15  # 1: the maximum of each 2x2 pixels is kept
TAPS, TAP_COUNT, POSITIONS = 16, 17, 18  # plan: tables of offsets in scratch; POSITIONS one for each vector
ROWS = 19  # rows (of tiles, for WINOGRAD) computed before they are finished, so that they stay in the cache
WORK, PRODUCTS = 20, 21  # scratch: room for what is not finished yet
WORK_PLANE = 22  # its step from one channel (or output) to the next
OPTION = 23  # CONVOLUTION: groups; ELEMENTS: a function; WINOGRAD, POOL, COPY: plan, a table of theirs

# Functions of ELEMENTS, applied before limits, scale and shift.
IDENTITY, SIGMOID, TANH = range(3)

OUTPUTS_OF_TILE = 4
APART = 16  # numbers, a cache line: what lies a multiple of 4096 bytes apart competes for the same places
