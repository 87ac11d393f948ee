"""How a plan for batch.py is laid out: what tinynet/batch/plan.py writes and the kernel reads.

A plan is one int64 array.  It begins with a record of RECORD numbers for each operation, in order; the first
one's kind is BEGIN and its OPTION their number.  Tables that records point to come after.  Weights and what
else is float32 are in one array ("numbers"), activations in another ("scratch"); records hold indices.

An activation in scratch is channels, rows, pixels, lanes: PLANE numbers from channel to channel.  Zeros that
its reader wants around it lie in it, so a table says where each pixel is.  Lanes are those of a tile (WIDTH).
"""

from __future__ import annotations

RECORD = 20

# Kinds of operation.
BEGIN, LOAD, CONVOLUTION, WINOGRAD, DENSE, POOL, COPY, ELEMENTS, RESULT = range(9)

# Fields of a record.  Not every operation uses every field.
KIND = 0
SOURCE, SOURCE_PLANE = 1, 2  # scratch: where an activation begins, and the step from channel to channel
TARGET, TARGET_PLANE = 3, 4  # the same of what is written
CHANNELS, OUTPUTS = 5, 6  # read and written; of CONVOLUTION in each group
WEIGHTS = 7  # numbers; of LOAD the scale and then the shift of each channel
FINISH = 8  # numbers: low, high; then bias, scale and shift of each output (see batch_tiles.tile_finish)
FINISHED = 9  # how many outputs those are of
POOLED = 10  # 1: the four positions of a tile are one window, whose maximum is kept
GROUPS, PHASES = 11, 12  # of CONVOLUTION: groups of channels; sets of taps and targets (see block.py)
TAPS, TAP_COUNT = 13, 14  # plan: offsets in scratch of what each sum reads
POSITIONS, POSITION_COUNT = 15, 16  # plan: offsets in scratch to which taps are added, or of pixels
TARGETS = 17  # plan: offsets in scratch, from a channel's beginning, of what is written
WORK = 18  # scratch: room for what is not finished yet
OPTION = 19  # WINOGRAD: numbers between rows of the source; POOL: numbers, shares of a mean, or -1
