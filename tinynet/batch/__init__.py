"""Batches in use: a model compiled into a plan that one call of one kernel carries out on a range of images.

`predict` comes here with more images than tinynet.single takes, where the Numba kernels are in use.  What
a plan cannot express (branches, a sigmoid between layers) goes layer by layer, as training does.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from tinynet import kernels
from tinynet.single.packed import Programs, aligned

if TYPE_CHECKING:
    from tinynet.network import Network

RANGES = 4  # a thread: one that is held up does fewer
MOST_IMAGES = 1024  # in a range: what has to be copied before the kernel can read it, is so much at a time
WORTH_A_RANGE = 8e6  # multiply-adds that take several times as long as handing them over


class Program:
    """A built model's weights, packed as they are now, and its operations up to the logits.

    Safe to call from several threads.  Raises ArgumentError where a layer is not one that the kernel has,
    or activations or tables take too much memory.
    """

    def __init__(self, network: Network):
        from tinynet.batch.plan import plan_of

        assert network.input_shape is not None
        self.output_shape, self._work = network.output_shape, network.multiply_adds()
        self.plan, numbers, self._scratch = plan_of(network)
        self.numbers = aligned(numbers)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The logits of images (n, ...) of the model's shape, uint8 or floats: float32 (n, outputs...)."""
        from tinynet.kernels.numba.batch import BYTES, images_of_batch
        from tinynet.kernels.numba.memory import scratch
        from tinynet.kernels.numba.parallel import each_range
        from tinynet.kernels.numba.tiles import WIDTH

        real = len(images)
        if real < WIDTH:  # a tile's lanes are never empty
            images = np.concatenate([images, np.repeat(images[-1:], WIDTH - real, axis=0)])
        count = len(images)
        results = np.empty((count, *self.output_shape), np.float32)
        of_bytes = images.dtype == np.uint8
        no_codes, no_values = np.empty(0, np.uint8), np.empty(0, np.float32)

        def task(first: int, last: int) -> None:
            start = max(0, min(first, last - WIDTH))  # so that there is a whole group of images
            part = np.ascontiguousarray(images[start:last], np.uint8 if of_bytes else np.float32)
            flat = (part if part.flags.writeable else part.copy()).reshape(-1)  # one type, one compilation
            codes, values = (flat, no_values) if of_bytes else (no_codes, flat)
            room, bytes_ = scratch("batch", self._scratch, np.float32), scratch("bytes", BYTES, np.uint8)
            room.fill(0)
            images_of_batch(
                self.plan, self.numbers, room, codes, values, bytes_, last - start, first - start,
                last - start, results[start:last].reshape(-1),
            )  # fmt: skip

        each_range(task, _ranges(count, WIDTH, self._work))
        return results[:real]


def _ranges(count: int, lanes: int, work: int) -> list[tuple[int, int]]:
    """0..count in ranges of whole groups of `lanes` images; work: multiply-adds of an image."""
    from tinynet.kernels.threads import num_threads

    groups = -(-count // lanes)
    parts = max(1, min(RANGES * num_threads(), int(count * work / WORTH_A_RANGE)))
    parts = min(groups, max(parts, -(-count // MOST_IMAGES)))
    edges = [min(groups * part // parts * lanes, count) for part in range(parts + 1)]
    return list(itertools.pairwise(edges))


_packed = Programs[Program]()


def logits(network: Network, images: np.ndarray) -> np.ndarray | None:
    """What `network.logits` gives, or None where that is the work of its layers.

    That is where the Numba kernels are not in use, the model has a layer that is not one of the kernel's,
    or the images are not uint8 or floating-point of the model's shape.  Weights are packed at the first
    call, and again when they have changed.
    """
    if kernels.active().NAME != "numba" or images.shape[1:] != network.input_shape:
        return None
    if images.dtype == np.uint8:
        if network.preprocessing is None:
            return None
    elif images.dtype.kind != "f":
        return None
    program = _packed.of(network, Program)
    if program is None:
        return None
    return program(images)
