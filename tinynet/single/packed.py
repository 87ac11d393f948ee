"""A model's weights, packed for a compiled program, and how to tell that they still are the model's."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from tinynet.errors import ArgumentError
from tinynet.layers import Chain

if TYPE_CHECKING:
    from tinynet.network import Network

Program = TypeVar("Program")


class Packed(Generic[Program]):
    """What `make` makes of a model (None where that raises ArgumentError), and whether it still fits.

    Weights may change at any time and in many ways: training, load_state, an assignment into an array.
    So nobody is asked to announce it: everything is compared, objects by identity and numbers bit for
    bit, which takes 6 us: a quarter of what computing one image of the smallest model takes.
    """

    def __init__(self, network: Network, make: Callable[[Network], Program]):
        self.chains = [(block, list(block.layers)) for block in _chains(network.chain)]
        self.settings = (network.temperature, network.preprocessing)
        # attrgetter: asking for all of a layer's options at once takes a third of asking one by one.
        getters = [(leaf, attrgetter(*leaf.options)) for leaf in network.chain.leaves() if leaf.options]
        self.options = [(layer, getter, getter(layer)) for layer, getter in getters]
        layers = [layer for layer in network.chain.leaves() if layer.parameters]
        self.parameters = [(layer, dict(layer.parameters)) for layer in layers]
        tensors = [tensor for layer in layers for tensor in layer.parameters.values()]
        self.arrays = [(tensor, tensor.data) for tensor in tensors]
        self.buffers = [
            (layer.buffers, name, layer.buffers[name]) for layer in layers for name in layer.buffers
        ]
        arrays = [array for _, array in self.arrays] + [array for *_, array in self.buffers]
        places = [(array.ctypes.data, array.size) for array in arrays]
        self.addresses = np.array(places, np.int64).reshape(-1, 2)
        flat = [array.ravel() for array in arrays]
        self.kept = np.concatenate([np.empty(0, np.float32), *flat]).view(np.int32)
        self.program: Program | None = None
        if all(array.dtype == np.float32 and array.flags.c_contiguous for array in arrays):
            with contextlib.suppress(ArgumentError):
                self.program = make(network)

    def fits(self, network: Network) -> bool:
        """Whether packing again would give the same."""
        from tinynet.kernels.numba.single import unchanged

        if (network.temperature, network.preprocessing) != self.settings:
            return False
        for block, layers in self.chains:
            if block.layers != layers:
                return False
        for layer, getter, options in self.options:
            if getter(layer) != options:
                return False
        for layer, parameters in self.parameters:
            if layer.parameters != parameters:
                return False
        for tensor, array in self.arrays:
            if tensor.data is not array:
                return False
        for buffers, name, array in self.buffers:
            if buffers[name] is not array:
                return False
        return self.program is None or unchanged(self.addresses, self.kept)


class Programs(Generic[Program]):
    """Compiled programs by model: packed when first asked for, and again when the model has changed.

    Keeps no model alive; its length is the number of those living that it was asked about.
    """

    def __init__(self) -> None:
        self._packed: weakref.WeakKeyDictionary[Network, Packed[Program]] = weakref.WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self._packed)

    def of(self, network: Network, make: Callable[[Network], Program]) -> Program | None:
        """The model's program, made by `make`; None for a model of which that raises ArgumentError."""
        packed = self._packed.get(network)
        if packed is None or not packed.fits(network):
            packed = self._packed[network] = Packed(network, make)
        return packed.program


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy that begins at a cache line: half of all vector loads and stores would cross one otherwise."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype)
    copy[...] = array
    return copy


def _chains(chain: Chain) -> Iterator[Chain]:
    yield chain
    for layer in chain.layers:
        if isinstance(layer, Chain):
            yield from _chains(layer)
