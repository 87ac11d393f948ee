"""The tables of a fused block: what its kernels read, and which weights they read it with."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tinynet.kernels.block import Block
from tinynet.kernels.numba.convolution_tables import whole_tiles
from tinynet.kernels.numba.products import tile_weights
from tinynet.kernels.numba.simd import LANES


class Axis(NamedTuple):
    """One axis of a block with upsampling by f: its phases q and what kernel tap u reads in each.

    taps    for each phase, the input offsets that are read, ascending
    mixing  for each phase a 0/1 matrix (offsets, kernel taps): which kernel taps read which offset
    length  positions of each phase
    before, after  padding of the input
    """

    taps: list[list[int]]
    mixing: list[np.ndarray]
    length: int
    before: int
    after: int


class Tables(NamedTuple):
    """Offsets in numbers (not bytes); see numba/convolution.py for taps and positions."""

    mixing: dict[str, np.ndarray] | None  # (phases * taps_y * taps_x, kh * kw) of 0 and 1, by dtype
    padding: tuple[int, int, int, int]  # of x: top, left, padded height, padded width
    padded: bool  # whether there is any
    tap_count: int
    taps: np.ndarray  # (phases, T): on padded x, in (channel, row, column) order; T a multiple of 4
    positions: np.ndarray  # (P,): on padded x; with pooling the four of a window lie together
    targets: np.ndarray  # (phases, P): in the result
    image: tuple[int, int, int, int]  # the padded cotangent image: top, left, height, width
    sources: np.ndarray  # (P',): positions on padded x, row-major, each once: for the weight gradient
    dy_targets: np.ndarray  # (phases, P'): the same in the cotangent image
    dx_taps: np.ndarray  # in (phase, row, column, output) order, on the cotangent image
    dx_positions: np.ndarray  # on the cotangent image
    dx_targets: np.ndarray  # in x
    forward_order: np.ndarray  # of the mixed weights: phase, tile of outputs, tap, output
    backward_order: np.ndarray  # of the same: tile of channels, dx_tap, channel
    gradient_order: np.ndarray  # (phases, taps_y, taps_x, C, O): where in (phases, O, T) its gradient is

    def matrix(self, dtype: np.dtype) -> np.ndarray:
        """What mixes weights of this dtype; only with upsampling is there one."""
        assert self.mixing is not None
        return self.mixing[dtype.name]

    def padded_size(self, channels: int) -> int:
        """Numbers in a padded block, 0 where there is no padding."""
        return channels * self.padding[2] * self.padding[3] * LANES if self.padded else 0


@lru_cache(maxsize=128)
def tables_for(block: Block, channels: int, outputs: int, height: int, width: int) -> Tables:
    """Everything the kernels of this block need for images (channels, height, width)."""
    sizes = block.convolved_size(height, width)
    rows, columns = (
        _axis(block, axis, length, size)
        for axis, (length, size) in enumerate(zip((height, width), sizes, strict=True))
    )
    factor_y, factor_x = block.factor
    padded_height, padded_width = height + rows.before + rows.after, width + columns.before + columns.after
    phases = [(q, r) for q in range(factor_y) for r in range(factor_x)]

    # Forward.
    c = np.arange(channels)[:, None, None]
    taps = np.stack(
        [
            _flat(
                (c * padded_height + np.array(rows.taps[q])[:, None] + rows.before) * padded_width
                + np.array(columns.taps[r])
                + columns.before
            )
            for q, r in phases
        ]
    )
    i, j = _order(rows.length, columns.length, block.pool)
    out_width = block.output_size(height, width)[1]
    if block.pool:  # one target a window, in the place of each of its four positions
        targets = [(i // 2 * out_width + j // 2) * LANES]
    else:
        targets = [((i * factor_y + q) * out_width + j * factor_x + r) * LANES for q, r in phases]

    # The cotangent image: wide enough for every tap of the input gradient at every input pixel.
    offsets_y = [q - factor_y * e for q in range(factor_y) for e in rows.taps[q]]
    offsets_x = [r - factor_x * e for r in range(factor_x) for e in columns.taps[r]]
    top, bottom = _room(offsets_y, factor_y * (height - 1), sizes[0])
    left, right = _room(offsets_x, factor_x * (width - 1), sizes[1])
    image_height, image_width = sizes[0] + top + bottom, sizes[1] + left + right
    plane_rows, plane_columns = np.divmod(np.arange(rows.length * columns.length), columns.length)
    dy_targets = [
        ((plane_rows * factor_y + q + top) * image_width + plane_columns * factor_x + r + left) * LANES
        for q, r in phases
    ]
    o = np.arange(outputs)
    dx_taps = [
        (o * image_height + q - factor_y * e + top) * image_width + r - factor_x * d + left
        for q, r in phases
        for e in rows.taps[q]
        for d in columns.taps[r]
    ]
    m, n = np.divmod(np.arange(height * width), width)
    all_taps = np.ascontiguousarray(np.stack([whole_tiles(row) for row in taps]))
    kernel_size = len(rows.taps[0]), len(columns.taps[0])
    forward, backward, gradient = _orders(len(phases), *kernel_size, channels, outputs, all_taps.shape[1])
    return Tables(
        mixing=None if phases == [(0, 0)] else _mixing(rows, columns, phases),
        padding=(rows.before, columns.before, padded_height, padded_width),
        padded=(padded_height, padded_width) != (height, width),
        tap_count=taps.shape[1],
        taps=all_taps,
        positions=whole_tiles((i * padded_width + j) * LANES),
        targets=np.stack([whole_tiles(row) for row in targets]),
        image=(top, left, image_height, image_width),
        sources=(plane_rows * padded_width + plane_columns) * LANES,
        dy_targets=np.stack(dy_targets),
        dx_taps=np.concatenate(dx_taps) * LANES,
        dx_positions=whole_tiles((m * factor_y * image_width + n * factor_x) * LANES),
        dx_targets=whole_tiles((m * width + n) * LANES),
        forward_order=forward,
        backward_order=backward,
        gradient_order=gradient,
    )


def mix_weights(weight: np.ndarray, tables: Tables) -> np.ndarray:
    """(kh, kw, C, O) -> flat (phases, taps_y, taps_x, C, O): what reads the same is added up."""
    if tables.mixing is None:
        return weight.ravel()
    matrix = tables.matrix(weight.dtype)
    return (matrix @ weight.reshape(matrix.shape[1], -1)).ravel()


def unmix_weights(gradient: np.ndarray, shape: tuple[int, ...], tables: Tables) -> np.ndarray:
    """(phases, taps_y, taps_x, C, O) -> (kh, kw, C, O): each kernel entry's gradient, from every phase."""
    if tables.mixing is None:
        return gradient.reshape(shape)
    matrix = tables.matrix(gradient.dtype)
    return (matrix.T @ gradient.reshape(matrix.shape[0], -1)).reshape(shape)


def _mixing(rows: Axis, columns: Axis, phases: list[tuple[int, int]]) -> dict[str, np.ndarray]:
    matrices = [np.kron(rows.mixing[q], columns.mixing[r]) for q, r in phases]
    return {name: np.concatenate(matrices).astype(name) for name in ("float32", "float64")}


def _orders(
    phases: int, kh: int, kw: int, channels: int, outputs: int, taps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices into flat mixed weights (phases, kh, kw, C, O) for forward and backward; see Tables."""
    weights = np.arange(phases * kh * kw * channels * outputs).reshape(phases, kh, kw, channels, outputs)
    tiles = tile_weights(channels * kh * kw, outputs)
    # (phases, kh, kw, C, O) -> (phases, C * kh * kw * O)
    forward = weights.transpose(0, 3, 1, 2, 4).reshape(phases, -1)[:, tiles].ravel()
    # -> (phases * kh * kw * O, C)
    backward = weights.transpose(0, 1, 2, 4, 3).ravel()[tile_weights(phases * kh * kw * outputs, channels)]
    sums = np.arange(phases * outputs * taps).reshape(phases, outputs, taps)[:, :, : channels * kh * kw]
    # (phases, O, C, kh, kw) -> (phases, kh, kw, C, O)
    gradient = sums.reshape(phases, outputs, channels, kh, kw).transpose(0, 3, 4, 2, 1)
    return forward, backward, np.ascontiguousarray(gradient)


def _axis(block: Block, axis: int, length: int, size: int) -> Axis:
    factor, before = block.factor[axis], block.window.padding[axis][0]
    reads = [
        [(q + u * block.window.dilation[axis] - before) // factor for u in range(block.window.size[axis])]
        for q in range(factor)
    ]
    most = max(len(set(read)) for read in reads)
    taps, mixing = [], []
    for read in reads:
        offsets = sorted(set(read))
        matrix = [[float(offset == r) for r in read] for offset in offsets]
        missing = most - len(offsets)  # phases of one length: the rest is read with weight zero
        taps.append(offsets + offsets[-1:] * missing)
        mixing.append(np.array(matrix + [[0.0] * len(read)] * missing))
    count = size // factor
    lowest, highest = min(map(min, taps)), max(map(max, taps))
    return Axis(taps, mixing, count, max(0, -lowest), max(0, count - 1 + highest - (length - 1)))


def _order(rows: int, columns: int, pool: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the positions: row-major, or window by window (an odd edge is not pooled)."""
    if not pool:
        return np.divmod(np.arange(rows * columns), columns)
    i, j, u, v = np.meshgrid(np.arange(rows // 2), np.arange(columns // 2), [0, 1], [0, 1], indexing="ij")
    return (2 * i + u).ravel(), (2 * j + v).ravel()


def _room(offsets: list[int], last: int, size: int) -> tuple[int, int]:
    """How far taps at these offsets reach before the first and after the last of `size` pixels."""
    return max(0, -min(offsets)), max(0, last + max(offsets) - (size - 1))


def _flat(offsets: np.ndarray) -> np.ndarray:
    return offsets.ravel() * LANES
