"""What every layer is: parameters and configuration around a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from tinynet import functions as F
from tinynet import random
from tinynet.errors import ArgumentError, ModelFileError, ShapeError
from tinynet.tensor import Tensor

Shape = tuple[int, ...]  # of one image, without the batch: (height, width, channels) or (features,)

ACTIVATIONS = {
    "relu": F.relu,
    "relu6": F.relu6,
    "sigmoid": F.sigmoid,
    "tanh": F.tanh,
    "softmax": F.softmax,
}


@dataclass
class Context:
    """What a forward pass is for.

    training       batch statistics and dropout are on
    seed, epoch    with `images`, the images' indices in the data set: what dropout's masks depend on
    record         where each layer's result is kept under its name, if anywhere
    logits         leave out the last layer's activation, for losses that take logits
    """

    training: bool = False
    seed: int = 0
    epoch: int = 0
    images: np.ndarray | None = None
    record: dict[str, Tensor] | None = None
    logits: bool = False
    last: Any = field(default=None, repr=False)  # the model's last layer

    def keys(self, purpose: str, count: int) -> np.ndarray:
        """One random key an image, for this seed, epoch and purpose."""
        images = np.arange(count) if self.images is None else self.images
        return random.keys(self.seed, self.epoch, images, purpose)


class Layer:
    """Parameters and configuration around a function of tinynet.functions.

    A subclass sets `kind` (its default name), and writes `output_shape` (which raises ShapeError
    where the input does not fit), `forward`, and where it has parameters `build`.  Its
    constructor's arguments are its configuration: they are kept as attributes of the same names.
    """

    kind: ClassVar[str] = "layer"
    options: ClassVar[tuple[str, ...]] = ()  # the constructor's arguments, besides the name

    def __init__(self, name: str | None = None):
        if name is not None and (not isinstance(name, str) or not name or set(name) & set("./")):
            raise ArgumentError(
                f"{type(self).__name__}: name must be a word without '.' and '/', got {name!r}"
            )
        self.name = name or ""
        self.path = self.name  # with the names of the blocks it is in, once it belongs to a model
        self._trainable = True
        self.parameters: dict[str, Tensor] = {}
        self.buffers: dict[str, np.ndarray] = {}
        self.input_shape: Shape | None = None  # set by build

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self.config().items())
        return f"{type(self).__name__}({options})"

    @property
    def label(self) -> str:
        """The layer as error messages name it."""
        return f"layer {self.path or self.kind!r} ({type(self).__name__})"

    @property
    def trainable(self) -> bool:
        """Whether training changes the layer; setting it sets those inside a block too."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = bool(value)
        for parameter in self.parameters.values():
            parameter.requires_grad = self._trainable
        for child in self.children():
            child.trainable = value

    def children(self) -> list[Layer]:
        """The layers that this one is composed of, in order."""
        return []

    def leaves(self) -> Iterator[Layer]:
        """This layer, or the layers inside it, without the blocks that hold them."""
        inside = self.children()
        if not inside:
            yield self
        for child in inside:
            yield from child.leaves()

    def walk(self) -> Iterator[Layer]:
        """The layers inside this one, in order, each block after what it holds."""
        for child in self.children():
            yield from child.walk()
            yield child

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, JSON-able."""
        values = {key: getattr(self, key) for key in self.options}
        return {"name": self.name, **values} if self.name else values

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> Layer:
        """The layer with this configuration, as read from JSON, which has lists where we want tuples."""
        return cls(**{key: _tuples(value) for key, value in options.items()})

    def build(self, input_shape: Shape, rng: np.random.Generator | None) -> Shape:
        """Make the parameters for images of this shape, without `rng` placeholders; the output's shape."""
        self.input_shape = tuple(input_shape)
        return self.output_shape(self.input_shape)

    def output_shape(self, input_shape: Shape) -> Shape:
        """The shape of one image's result, given one image's."""
        return input_shape

    def multiply_accumulates(self, input_shape: Shape) -> int:
        """Multiplications paired with an addition, for one image."""
        return 0

    def __call__(self, x: Tensor, context: Context) -> Tensor:
        y = self.forward(x, context)
        if context.record is not None and self.path:
            context.record[self.path] = y
        return y

    def forward(self, x: Tensor, context: Context) -> Tensor:
        raise NotImplementedError

    def activate(self, x: Tensor, activation: str | None, context: Context) -> Tensor:
        """Apply the activation, unless this is the last layer and logits are wanted."""
        if activation is None or (context.logits and context.last is self):
            return x
        return ACTIVATIONS[activation](x)

    def new_parameter(self, name: str, shape: Shape, values: Callable[[], np.ndarray] | None) -> None:
        """Keep a trainable float32 array; without `values`, a placeholder that takes no memory.

        A model file's weights replace placeholders only once their shapes agree, so that a file
        which claims absurd sizes costs nothing.
        """
        array = np.broadcast_to(np.float32(0), shape) if values is None else values().astype(np.float32)
        self.parameters[name] = Tensor(array, requires_grad=self.trainable, name=f"{self.path}.{name}")

    def new_buffer(self, name: str, shape: Shape, value: float | None) -> None:
        """Keep a float32 array that is saved but not trained; without `value`, a placeholder."""
        filled = np.broadcast_to(np.float32(0), shape)
        self.buffers[name] = filled if value is None else np.full(shape, value, np.float32)

    def images_only(self, input_shape: Shape) -> None:
        """Raise ShapeError unless the input is (height, width, channels)."""
        if len(input_shape) != 3:
            raise ShapeError(f"{self.label} wants images (height, width, channels), got {input_shape}")

    def positive(self, name: str, value: Any) -> int:
        """`value`, a whole number of at least 1; raises ArgumentError otherwise."""
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ArgumentError(
                f"{type(self).__name__}: {name} must be a whole number of at least 1, got {value!r}"
            )
        return int(value)

    def number(self, name: str, value: Any, lowest: float) -> float:
        """`value`, a number of at least `lowest` and below 1; raises ArgumentError otherwise."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value < 1:
            raise ArgumentError(
                f"{type(self).__name__}: {name} must be at least {lowest:g} and below 1, got {value!r}"
            )
        return float(value)

    def flag(self, name: str, value: Any) -> bool:
        """`value`, True or False; raises ArgumentError otherwise."""
        if not isinstance(value, bool | np.bool_):
            raise ArgumentError(f"{type(self).__name__}: {name} must be True or False, got {value!r}")
        return bool(value)

    def known_activation(self, activation: str | None) -> str | None:
        """`activation`, None or a name in ACTIVATIONS; raises ArgumentError otherwise."""
        if activation is not None and (not isinstance(activation, str) or activation not in ACTIVATIONS):
            raise ArgumentError(
                f"{type(self).__name__}: activation must be one of {', '.join(ACTIVATIONS)} or None, "
                f"got {activation!r}"
            )
        return activation


_kinds: dict[str, type[Layer]] = {}


def register(layer: type[Layer]) -> type[Layer]:
    """Class decorator: a model file may name this layer."""
    _kinds[layer.__name__] = layer
    return layer


def layer_to_json(layer: Layer) -> dict[str, Any]:
    """The layer's type and configuration, for a model file."""
    return {"type": type(layer).__name__, **layer.config()}


def layer_from_json(description: Any) -> Layer:
    """The layer that layer_to_json described; raises ModelFileError for anything else.

    Only registered types can be named: nothing in a file is looked up or run.
    """
    if not isinstance(description, dict) or not isinstance(description.get("type"), str):
        raise ModelFileError(f"architecture: a layer must be an object with a type, got {description!r:.80}")
    options = dict(description)
    kind = options.pop("type")
    if kind not in _kinds:
        raise ModelFileError(f"architecture: unknown layer type {kind!r:.40}; made by a newer tinynet?")
    unknown = sorted(set(options) - {*_kinds[kind].options, "name"})
    if unknown:
        raise ModelFileError(f"architecture: {kind} has no option {unknown[0]!r:.40}")
    try:
        return _kinds[kind].from_options(options)
    except (TypeError, ArgumentError, ShapeError) as problem:
        raise ModelFileError(f"architecture: {kind}: {problem}") from None


def _tuples(value: Any) -> Any:
    """JSON has lists where the constructors want tuples."""
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value
