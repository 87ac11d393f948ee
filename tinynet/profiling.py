"""Where the time of a training step goes, layer by layer, measured inside real steps.

An Observer (tensor.py) stands around every Function's forward and backward.  A row is what was computed
as one: where the engine fuses convolution, ReLU and pooling, their time cannot be told apart, and their
names stand together ("conv1+pool1").  Between the steps the processor's peak is measured, so that a
machine that slows down slows both.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinynet import kernels, losses
from tinynet.arguments import whole_number
from tinynet.errors import ArgumentError
from tinynet.kernels.block import Block
from tinynet.kernels.threads import num_threads, set_num_threads
from tinynet.layers import Context, Layer, final_activation
from tinynet.network import Network
from tinynet.optim import AdamW, Optimizer, optimizer_from_config
from tinynet.tensor import Function, Observer, observed_by

# So small that steps on the same random images neither saturate the softmax nor bring denormals.
LEARNING_RATE = 1e-6
LOSS = "loss"
MERGED, WINOGRAD = "upsampling is merged into the convolution", "Winograd's convolution"
WARM_UP = 2  # steps that are not counted: kernels are compiled, memory is touched


@dataclass
class Pass:
    """One direction of a row in one step of a batch.

    seconds     inside its functions
    operations  floating-point, that are done: two a multiply-add of convolutions and dense layers, taps
                in the padding counted; 0 for layers without any
    share       of a plain implementation's operations, below 1 where a method saves some (see Row)
    bytes       of the arrays read and written once each: what would come from memory and go there if
                nothing stayed in a cache.  Scratch and weights packed on the way are not in it.
    """

    seconds: float = 0.0
    operations: float = 0.0
    share: float = 1.0
    bytes: int = 0

    @property
    def gflops(self) -> float | None:
        """Billions of operations a second; None where there are none."""
        return self.operations / self.seconds / 1e9 if self.operations and self.seconds else None


@dataclass
class Row:
    """What was computed as one: a layer, or several fused.

    method  how its convolution does with fewer operations than a plain one, if it does: MERGED or WINOGRAD
    """

    layers: tuple[str, ...]
    forward: Pass = field(default_factory=Pass)
    backward: Pass = field(default_factory=Pass)
    method: str | None = None

    @property
    def name(self) -> str:
        """The layers joined by "+", each after the first without the block it is in."""
        return "+".join([self.layers[0], *(path.rpartition("/")[2] for path in self.layers[1:])])


@dataclass
class Profile:
    """A training step's time, in all and by parts; the parts sum to it.

    seconds   a step's: the mean of the steps in the middle half, by their time
    rows      by layer, in the order in which they ran
    outside   seconds of packing, of the loss (both directions), of the optimiser, and of what lies
              between functions: Python
    threads   of the Numba kernels; None with NumPy's, which run on BLAS's
    peak      GFLOP/s of multiply-adds in registers on `peak_threads` threads, one number a step; empty
              without Numba
    """

    model: str
    input_shape: tuple[int, ...]
    batch_size: int
    repeats: int
    kernels: str
    threads: int | None
    seconds: float
    rows: list[Row]
    outside: dict[str, float]
    peak: list[float]
    peak_threads: int

    @property
    def images_per_second(self) -> float:
        return self.batch_size / self.seconds

    @property
    def operations(self) -> float:
        """Floating-point operations of a step, as they are done."""
        return sum(row.forward.operations + row.backward.operations for row in self.rows)

    @property
    def median_peak(self) -> float | None:
        """GFLOP/s; None where it was not measured."""
        return float(np.median(self.peak)) if self.peak else None

    def share_of_peak(self, gflops: float | None) -> float | None:
        """None where either is not known."""
        peak = self.median_peak
        return None if gflops is None or peak is None else gflops / peak


def profile(model: Network, batch_size: int = 128, repeats: int = 20, threads: int | None = None) -> Profile:
    """Measure `repeats` training steps of a built model on random images.

    threads: of the Numba kernels, during this call; by default as many as they have.  Loss and optimiser
    are the compiled ones, or fitting ones.  Weights, statistics, loss and optimiser are the model's own
    again afterwards.  Raises ArgumentError for senseless numbers and for a model without an input shape
    or without anything to train.
    """
    batch_size = whole_number("profile: batch_size", batch_size, 1)
    repeats = whole_number("profile: repeats", repeats, 1)
    if model.input_shape is None:
        raise ArgumentError(f"profile: model {model.name!r} has no input shape yet; call build() first")
    if not any(parameter.requires_grad for parameter in model.parameters().values()):
        raise ArgumentError(f"profile: model {model.name!r} has no weights to train, or all are frozen")
    with _threads(threads), _as_it_was(model):
        _compile(model)
        images, target = _random_batch(model, batch_size)
        peak = _peak()
        for _ in range(WARM_UP):
            counted = _Step(model, batch_size, counting=True)
            counted.run(images, target)
        steps, rates = [], []
        for _ in range(repeats):
            step = _Step(model, batch_size)
            step.run(images, target)
            steps.append(step)
            rates += [peak.measure()] if peak is not None else []
        return _summed_up(model, batch_size, counted, steps, rates, 0 if peak is None else peak.threads)


class _Step(Observer):
    """One training step, observed: seconds, or (`counting`, which takes time) operations and bytes as well.

    rows     by the names of their layers, in order
    seconds  by part: the whole, and those of Profile.outside
    """

    def __init__(self, model: Network, batch_size: int, counting: bool = False):
        self.model, self.batch_size, self.counting = model, batch_size, counting
        self.rows: dict[tuple[str, ...], Row] = {}
        self.loss = Row((LOSS,))
        self.seconds: dict[str, float] = {}
        self._pending: list[tuple[Function, float, int]] = []  # forward, not yet known of which layer
        self._row_of: weakref.WeakKeyDictionary[Function, Row] = weakref.WeakKeyDictionary()

    def run(self, images: np.ndarray, target: Any) -> None:
        """As fit does it, but that packing is not prepared in another thread meanwhile."""
        optimizer, loss = self.model.compiled()
        parameters = {name: p for name, p in self.model.parameters().items() if p.requires_grad}
        context = Context(training=True, images=np.arange(len(images)), logits=loss.wants_logits)
        clock = time.perf_counter
        started = clock()
        inputs = self.model.to_tensor(images)
        packed = clock()
        with observed_by(self):
            value = loss(self.model(inputs, context), inputs if target is None else target)
            self._belongs_to(self.loss)
            value.item()
            value.backward()
        passed = clock()
        optimizer.step(parameters)
        for parameter in parameters.values():
            parameter.grad = None
        ended = clock()
        self.seconds = {
            "step": ended - started,
            "packing": packed - started,
            LOSS: self.loss.forward.seconds + self.loss.backward.seconds,
            "optimiser": ended - passed,
        }
        inside = sum(row.forward.seconds + row.backward.seconds for row in self.rows.values())
        self.seconds["Python"] = passed - packed - inside - self.seconds[LOSS]

    def forward(self, function: Function, arrays: list[np.ndarray]) -> np.ndarray:
        started = time.perf_counter()
        result = function.forward(*arrays)
        seconds = time.perf_counter() - started
        size = _moved(arrays, [result, *_kept(function)]) if self.counting else 0
        self._pending.append((function, seconds, size))
        return result

    def backward(self, function: Function, cotangent: np.ndarray) -> tuple[np.ndarray | None, ...]:
        towards = self._row_of.get(function, self.loss).backward
        read = [cotangent, *_kept(function)] if self.counting else []
        started = time.perf_counter()
        contributions = function.backward(cotangent)
        towards.seconds += time.perf_counter() - started
        if self.counting:
            towards.bytes += _moved(read, [array for array in contributions if array is not None])
        return contributions

    def layers(self, names: tuple[str, ...]) -> None:
        row = self.rows.setdefault(names, Row(names))
        if self.counting:
            self._count(row)
        self._belongs_to(row)

    def _count(self, row: Row) -> None:
        layers = [self.model.layer(name) for name in row.layers]
        plain = 2.0 * self.batch_size * sum(map(_multiply_adds, layers))
        function = next((function for function, _, _ in self._pending if len(function.needs) > 1), None)
        if function is None or not plain:
            return
        row.method, forward, of_input, of_weight = _savings(function)
        # The gradients of the weights and of the input are as much work as the forward pass each.
        shares = [s for s, wanted in zip((of_input, of_weight), function.needs, strict=False) if wanted]
        row.forward.operations, row.forward.share = forward * plain, forward
        row.backward.operations = sum(shares) * plain
        row.backward.share = sum(shares) / len(shares) if shares else 1.0

    def _belongs_to(self, row: Row) -> None:
        for function, seconds, size in self._pending:
            row.forward.seconds += seconds
            row.forward.bytes += size
            self._row_of[function] = row
        self._pending.clear()


def _multiply_adds(layer: Layer) -> int:
    """Of one image; those of layers inside a block are counted there."""
    return 0 if layer.children() else layer.multiply_accumulates(layer.input_shape or ())


def _savings(function: Function) -> tuple[str | None, float, float, float]:
    """A method, and shares of the plain operations: forward, input's gradient, weight's gradient."""
    block = getattr(function, "block", None)
    if not isinstance(block, Block) or kernels.active().NAME != "numba":
        return None, 1.0, 1.0, 1.0
    from tinynet.kernels.numba import winograd

    _, channels, height, width, _ = vars(function)["x"].shape
    outputs = vars(function)["weight"].shape[3]
    if winograd.suits(block, channels, outputs, height, width):
        share = winograd.ENTRIES / (4 * 9)  # for four outputs
        return WINOGRAD, share, share, 1.0
    share = _merged(block)
    return MERGED if share < 1 else None, share, share, share


def _merged(block: Block) -> float:
    """The share of the operations that is left where upsampling by f is merged into the convolution.

    Along an axis, output pixels of phase q see input pixels (q + d u) // f for the kernel's taps u: where
    taps fall on the same pixel their weights are added first, and one multiplication is done for all.
    """
    share = 1.0
    for factor, size, dilation in zip(block.factor, block.window.size, block.window.dilation, strict=True):
        seen = sum(len({(q + dilation * u) // factor for u in range(size)}) for q in range(factor))
        share *= seen / (factor * size)
    return share


def _kept(function: Function) -> list[np.ndarray]:
    """The arrays that a function has kept for its backward pass."""
    return [value for value in vars(function).values() if isinstance(value, np.ndarray)]


def _moved(read: Sequence[np.ndarray], written: Sequence[np.ndarray]) -> int:
    """Bytes of all these arrays, each once; none where nothing new is written (a view passed on)."""
    sizes = {_place(array): _size(array) for array in read}
    new = {_place(array): _size(array) for array in written if _place(array) not in sizes}
    return sum(sizes.values()) + sum(new.values()) if new else 0


def _place(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _size(array: np.ndarray) -> int:
    """Bytes in memory: what is broadcast lies there once."""
    sides = zip(array.shape, array.strides, strict=True)
    return array.itemsize * math.prod(length for length, stride in sides if stride)


def _summed_up(
    model: Network,
    batch_size: int,
    counted: _Step,
    steps: Sequence[_Step],
    rates: list[float],
    peak_threads: int,
) -> Profile:
    """The mean over the steps in the middle: unlike medians of parts, means of parts sum to that of all."""
    ordered, quarter = sorted(steps, key=lambda step: step.seconds["step"]), len(steps) // 4
    middle = ordered[quarter : len(steps) - quarter]
    for names, row in counted.rows.items():
        row.forward.seconds = float(np.mean([step.rows[names].forward.seconds for step in middle]))
        row.backward.seconds = float(np.mean([step.rows[names].backward.seconds for step in middle]))
    # A chain whose layers have rows has no time of its own.
    rows = [row for row in counted.rows.values() if row.forward.seconds or row.backward.seconds]
    means = {part: float(np.mean([step.seconds[part] for step in middle])) for part in middle[0].seconds}
    active = kernels.active().NAME
    return Profile(
        model=model.name,
        input_shape=model.input_shape or (),
        batch_size=batch_size,
        repeats=len(steps),
        kernels=active,
        threads=num_threads() if active == "numba" else None,
        seconds=means.pop("step"),
        rows=rows,
        outside=means,
        peak=rates,
        peak_threads=peak_threads,
    )


def _peak() -> Any:
    """What measures the peak on as many threads as compute; None without Numba."""
    if kernels.numba_problem() is not None:
        return None
    from tinynet.kernels.numba.peak import Peak

    return Peak(num_threads())


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = num_threads()
    if count is not None:
        set_num_threads(whole_number("profile: threads", count, 1))
    try:
        yield
    finally:
        if count is not None:
            set_num_threads(before)


@contextmanager
def _as_it_was(model: Network) -> Iterator[None]:
    """The model's weights, statistics, loss and optimiser are afterwards what they were before."""
    state = {name: array.copy() for name, array in model.state().items()}
    loss, optimizer = model.loss, model.optimizer
    gradients = {name: parameter.grad for name, parameter in model.parameters().items()}
    try:
        yield
    finally:
        model.load_state(state)
        model.loss, model.optimizer = loss, optimizer
        for name, parameter in model.parameters().items():
            parameter.grad = gradients[name]


def _compile(model: Network) -> None:
    """Its own kind of optimiser and loss, or AdamW and the loss that its ending asks for."""
    endings = {"softmax": "sparse_categorical_crossentropy", "sigmoid": "binary_crossentropy"}
    ending = final_activation(list(model.chain.leaves())[-1])
    loss = model.loss or losses.get_loss(endings.get(ending or "", "mse"))
    optimizer: Optimizer = AdamW(LEARNING_RATE)
    if model.optimizer is not None:
        optimizer = optimizer_from_config(model.optimizer.config() | {"learning_rate": LEARNING_RATE})
    model.compile(optimizer, loss)


def _random_batch(model: Network, count: int) -> tuple[np.ndarray, Any]:
    """Random images, uint8 where the model takes them, and a target; None where that is the input."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *(model.input_shape or ())), dtype=np.uint8)
    scaled = images if model.preprocessing is not None else images.astype(np.float32) / 255
    loss = model.compiled()[1]
    if loss.wants_images and model.output_shape == model.input_shape:
        return scaled, None
    if loss.wants_images:
        return scaled, model.target(scaled, rng.random((count, *model.output_shape), np.float32))
    if loss.ending == "sigmoid":
        return scaled, rng.integers(0, 2, (count, *model.output_shape))
    return scaled, rng.integers(0, model.output_shape[0], count)
