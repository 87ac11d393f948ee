"""One image at a time: a model compiled into a plan that one call of one kernel carries out.

Batches fill vectors with sixteen images (tinynet/kernels/README.md); a single image fills them with
neighbouring pixels.  `predict` of a model comes here for a few images where the Numba kernels are in
use; tinynet.deploy.single is the same for those who count microseconds.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from tinynet import kernels
from tinynet.single.packed import Programs, aligned

if TYPE_CHECKING:
    from tinynet.network import Network

FEW = kernels.FEW
"""Up to so many images `predict` computes one after another."""


class Program:
    """A built model's weights, packed as they are now, and its operations, for images one at a time.

    Safe to call from several threads: each has activations of its own.  Raises ArgumentError where a
    layer is not one that the kernel has (Residual, Concatenate), or activations take too much memory.
    """

    def __init__(self, network: Network):
        from tinynet.kernels.numba import single as kernel
        from tinynet.single.plan import make_plan
        from tinynet.single.steps import planes, steps_of

        assert network.input_shape is not None
        self.input_shape, self.output_shape = network.input_shape, network.output_shape
        made = network.preprocessing
        scale, shift = np.ones(self.input_shape[-1]), np.zeros(self.input_shape[-1])
        self.takes_bytes = made is not None
        if made is not None:
            deviation = np.array(made.deviation)
            scale, shift = made.scale / deviation, -np.array(made.mean) / deviation
        if len(self.input_shape) == 1:  # (features,)
            scale, shift = np.ones(self.input_shape[0]), np.zeros(self.input_shape[0])
        steps = steps_of(network.layers, self.input_shape, network.temperature)
        self.plan, numbers, self._scratch, outputs = make_plan(steps, planes(self.input_shape), scale, shift)
        self.numbers = aligned(numbers)
        assert outputs == int(np.prod(self.output_shape))
        self.of_thread = threading.local()
        # Compiled or loaded now; nobody looks at the types of a call's arguments, which takes 3 us.
        memory, results = self.scratch(), np.empty(1, FLOATS)
        self.run = kernel.one_image.entry(self.plan, self.numbers, memory, NO_CODES, NO_VALUES, 1, results)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """What the model's `predict` gives for images (n, ...) of its shape: float32 (n, outputs...).

        images: uint8 or float32, C-contiguous and writeable as a whole, which is not checked here.
        """
        results = np.empty((len(images), *self.output_shape), FLOATS)
        codes, values = (images.ravel(), NO_VALUES) if images.dtype == BYTES else (NO_CODES, images.ravel())
        self.run(self.plan, self.numbers, self.scratch(), codes, values, len(images), results.reshape(-1))
        return results

    def scratch(self) -> np.ndarray:
        """The calling thread's memory for activations."""
        try:
            memory: np.ndarray = self.of_thread.memory
        except AttributeError:
            memory = self.of_thread.memory = aligned(np.zeros(self._scratch, FLOATS))
        return memory


BYTES, FLOATS = np.dtype(np.uint8), np.dtype(np.float32)
NO_CODES, NO_VALUES = np.empty(0, np.uint8), np.empty(0, np.float32)


_packed = Programs[Program]()


def predict(network: Network, images: np.ndarray) -> np.ndarray | None:
    """What `network.predict` gives for a few images, or None where that is the batch kernels' work.

    That is where the Numba kernels are not in use or this one would have to be compiled unasked, the model
    has a layer that is not one of the kernel's, or the images are not uint8 or float32 of the model's shape.
    Weights are packed at the first call, and again when they have changed.
    """
    if kernels.active().NAME != "numba" or not kernels.single_images_ready():
        return None
    if images.shape[1:] != network.input_shape:
        return None
    if images.dtype == BYTES:
        if network.preprocessing is None:
            return None
    elif images.dtype != FLOATS:
        return None
    program = _packed.of(network, Program)
    if program is None:
        return None
    if not images.flags.carray:
        images = np.array(images, order="C")
    return program(images)
