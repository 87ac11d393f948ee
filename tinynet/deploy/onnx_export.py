"""A model as an ONNX graph, for any ONNX runtime: from a picture to class probabilities.

The graph takes pictures in tinynet's order, (n, height, width, channels), and transposes them once;
inside, images are (n, channels, height, width), as ONNX has them.  It uses opset 17 (2022), which
runtimes of the years since read.  What a graph cannot say (class names, threshold, where the model
comes from) is in the file's metadata_props, as text.  docs/onnx.md lists it all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import tinynet
from tinynet.deploy.graph import Graph, Operation, lower
from tinynet.errors import ArgumentError
from tinynet.files import write_atomically
from tinynet.layers import final_activation
from tinynet.network import Network
from tinynet.onnx_library import onnx_library
from tinynet.texts import NOTICE

if TYPE_CHECKING:
    from tinynet.deploy.int8.model import Int8Model

OPSET, IR_VERSION = 17, 8
INPUTS = {"uint8": "images", "float32": "input"}

Order = tuple[int, int, int] | None  # of a vector: (c, h, w) where it counts channels first


def export_onnx(
    model: Network | Int8Model, path: str | os.PathLike[str], *, input_type: str | None = None
) -> None:
    """Write the model as an ONNX file, whole or not at all.  Raises as `to_onnx`, and FileAccessError."""
    write_atomically(path, [to_onnx(model, input_type=input_type)])


def to_onnx(model: Network | Int8Model, *, input_type: str | None = None) -> bytes:
    """The model as the bytes of an ONNX file, accepted by onnx.checker.

    input_type  "uint8": the input `images` is uint8 (n, height, width, 3), of the model's size, and the
                model's preprocessing is part of the graph; "float32": the input `input` is float32
                (n, height, width, channels) or (n, features), already scaled.  By default uint8 where
                the model has preprocessing.

    The output is float32: `probabilities` (n, classes) with the temperature applied, or `output`.
    Raises ArgumentError for an input type that the model cannot have and a layer that is not tinynet's,
    NonFiniteError for weights with NaN or infinity, MissingDependencyError without the onnx package.
    """
    onnx, network = onnx_library(), _float_model(model)
    source, input_type = input_of(network, input_type)
    writer = _Writer(onnx, lower(network, target="ONNX"))
    made = writer.model(source, output_of(network), metadata(network))
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString(deterministic=True)


def input_of(model: Network | Int8Model, input_type: str | None = None) -> tuple[str, str]:
    """The name of the graph's input, and its type: the one asked for, or the default.

    Raises ArgumentError for a type that the model cannot have.
    """
    if not isinstance(model, Network):
        raise ArgumentError(
            "an int8 model cannot be exported to ONNX; export the float model it was made from"
        )
    if input_type is None:
        input_type = "float32" if model.preprocessing is None else "uint8"
    if input_type not in INPUTS:
        raise ArgumentError(f"input_type must be one of {', '.join(INPUTS)}, got {input_type!r}")
    if input_type == "uint8" and model.preprocessing is None:
        raise ArgumentError(
            f"model {model.name!r} has no preprocessing for uint8 pictures; export it with float32 input"
        )
    return INPUTS[input_type], input_type


def output_of(model: Network | Int8Model) -> str:
    """The name of the graph's output."""
    model = _float_model(model)
    ending = final_activation(model.last_layer())
    return "probabilities" if ending in ("softmax", "sigmoid") and len(model.output_shape) == 1 else "output"


def _float_model(model: Network | Int8Model) -> Network:
    if not isinstance(model, Network):
        raise ArgumentError(
            "an int8 model cannot be exported to ONNX; export the float model it was made from"
        )
    return model


def metadata(model: Network) -> dict[str, str]:
    """What goes into metadata_props: plain text, numbers and lists as JSON."""
    made = model.preprocessing
    return {
        "class_names": json.dumps(model.class_names),
        "threshold": json.dumps(model.threshold),
        "temperature": json.dumps(model.temperature),
        "preprocessing": json.dumps(None if made is None else made.to_json()),
        "provenance": json.dumps({"tinynet": tinynet.__version__, **model.provenance}),
        "metrics": json.dumps(model.metrics),
        "notice": NOTICE,
    }


class _Writer:
    """Appends ONNX nodes, operation by operation.

    A flattened image keeps ONNX's order of its features, channels first; the weights of what reads it
    are permuted instead.  `orders` says of each value, by its number in the graph, which order it has.
    """

    def __init__(self, onnx: Any, graph: Graph):
        self.onnx, self.graph = onnx, graph
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.names: list[str] = []  # of values, by number
        self.orders: list[Order] = []

    def model(self, source: str, target: str, properties: dict[str, str]) -> Any:
        """The whole ModelProto, with an input and an output of these names."""
        helper, proto, shape = self.onnx.helper, self.onnx.TensorProto, self.graph.input_shape
        from_bytes, sides = source == INPUTS["uint8"], ["n", *shape]
        value = source
        if from_bytes:
            scale, shift = self.graph.input_scale()
            value = self.node("Cast", [value], "pixels", to=proto.FLOAT)
            value = self.node("Mul", [value, self.constant("pixels.scale", scale)], "scaled")
            if shift.any():
                value = self.node("Add", [value, self.constant("pixels.shift", shift)], "centred")
        if len(shape) == 3:
            value = self.node("Transpose", [value], "planes", perm=[0, 3, 1, 2])
        self.names, self.orders = [value], [None]
        for operation in self.graph.operations:
            name, order = getattr(self, operation.kind)(operation)
            self.names.append(name)
            self.orders.append(order)
        self.ending(target)
        result = helper.make_tensor_value_info(target, proto.FLOAT, ["n", *self.graph.output_shape])
        graph = helper.make_graph(
            self.nodes,
            self.graph.name or "model",
            [helper.make_tensor_value_info(source, proto.UINT8 if from_bytes else proto.FLOAT, sides)],
            [result],
            [self.onnx.numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        made = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="tinynet",
            producer_version=tinynet.__version__,
            doc_string=NOTICE,
        )
        helper.set_model_props(made, properties)
        return made

    def ending(self, target: str) -> None:
        """From the last value, the logits, to the output: temperature, activation, tinynet's order."""
        graph = self.graph
        value, order = self.names[-1], self.orders[-1]
        temperature = np.array(graph.temperature, np.float32)
        if graph.ending in ("softmax", "sigmoid") and temperature != 1:
            value = self.node("Div", [value, self.constant("temperature", temperature)], "calibrated")
        if graph.ending is not None:
            value = self.activation(graph.ending, [value], "answer")
        if len(graph.output_shape) == 3:
            value = self.node("Transpose", [value], target, perm=[0, 2, 3, 1])
        else:
            value = self.rows_first(value, order, target)
        if value != target:
            self.node("Identity", [value], target)

    def node(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Append a node whose name is also that of its result; the name."""
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        """Keep an initializer; its name."""
        self.constants[name] = np.ascontiguousarray(array)
        return name

    def name(self, operation: Operation) -> str:
        """A name that is the operation's own and says which layer it comes from."""
        return f"{len(self.names)}:{operation.name}/{operation.kind}"

    def inputs(self, operation: Operation) -> list[str]:
        return [self.names[number] for number in operation.inputs]

    def order(self, operation: Operation) -> Order:
        """The order of the only input."""
        return self.orders[operation.inputs[0]]

    def rows_first(self, value: str, order: Order, name: str) -> str:
        """A vector in tinynet's order: rows, columns, channels."""
        if order is None:
            return value
        channels, height, width = order
        shape = self.constant(f"{name}.planes", np.array([0, channels, height, width], np.int64))
        value = self.node("Reshape", [value, shape], f"{name}/planes")
        value = self.node("Transpose", [value], f"{name}/rows", perm=[0, 2, 3, 1])
        return self.node("Flatten", [value], name)

    # One method a kind of operation: the name and the order of its result.

    def convolution(self, operation: Operation) -> tuple[str, Order]:
        name, window = self.name(operation), operation.window
        assert window is not None and operation.weight is not None and operation.bias is not None
        # (kh, kw, c / groups, o) -> (o, c / groups, kh, kw)
        weight = self.constant(f"{name}.weight", operation.weight.transpose(3, 2, 0, 1))
        inputs = [*self.inputs(operation), weight]
        if operation.bias.any():
            inputs.append(self.constant(f"{name}.bias", operation.bias))
        self.node("Conv", inputs, name, dilations=window.dilation, group=operation.groups, **_sides(window))
        return name, None

    def dense(self, operation: Operation) -> tuple[str, Order]:
        name = self.name(operation)
        assert operation.weight is not None and operation.bias is not None
        weight = operation.weight[_permutation(self.order(operation), len(operation.weight))]
        inputs = [*self.inputs(operation), self.constant(f"{name}.weight", weight)]
        inputs.append(self.constant(f"{name}.bias", operation.bias))
        return self.node("Gemm", inputs, name), None

    def affine(self, operation: Operation) -> tuple[str, Order]:
        """Batch-norm whose statistics are in its scale and shift: runtimes know how to fuse it."""
        name, order = self.name(operation), self.order(operation)
        assert operation.scale is not None and operation.shift is not None
        permutation = _permutation(order, len(operation.scale))
        arrays = {
            "scale": operation.scale[permutation],
            "shift": operation.shift[permutation],
            "mean": np.zeros_like(operation.scale),
            "variance": np.ones_like(operation.scale),
        }
        constants = [self.constant(f"{name}.{key}", array) for key, array in arrays.items()]
        inputs = [*self.inputs(operation), *constants]
        return self.node("BatchNormalization", inputs, name, epsilon=0.0), order

    def max_pool(self, operation: Operation) -> tuple[str, Order]:
        name = self.name(operation)
        return self.node("MaxPool", self.inputs(operation), name, **_sides(operation.window)), None

    def average_pool(self, operation: Operation) -> tuple[str, Order]:
        name, window = self.name(operation), operation.window
        assert window is not None
        inputs, before = self.inputs(operation), self.graph.shape(operation.inputs[0])
        if window.size == before[:2] and operation.shape[:2] == (1, 1) and not any(map(any, window.padding)):
            return self.node("GlobalAveragePool", inputs, name), None
        return self.node("AveragePool", inputs, name, count_include_pad=0, **_sides(window)), None

    def upsample(self, operation: Operation) -> tuple[str, Order]:
        name = self.name(operation)
        scales = self.constant(f"{name}.scales", np.array([1, 1, *operation.factor], np.float32))
        modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.node("Resize", [*self.inputs(operation), "", scales], name, **modes), None

    def flatten(self, operation: Operation) -> tuple[str, Order]:
        height, width, channels = self.graph.shape(operation.inputs[0])
        order = None if channels == 1 or height * width == 1 else (channels, height, width)
        return self.node("Flatten", self.inputs(operation), self.name(operation)), order

    def add(self, operation: Operation) -> tuple[str, Order]:
        name = self.name(operation)
        orders = {self.orders[number] for number in operation.inputs}
        order = orders.pop() if len(orders) == 1 else None
        inputs = self.inputs(operation)
        if orders:  # vectors in different orders
            inputs = [
                self.rows_first(value, self.orders[number], f"{name}/{place}")
                for place, (value, number) in enumerate(zip(inputs, operation.inputs, strict=True))
            ]
        return self.node("Add" if len(inputs) == 2 else "Sum", inputs, name), order

    def concatenate(self, operation: Operation) -> tuple[str, Order]:
        return self.node("Concat", self.inputs(operation), self.name(operation), axis=1), None

    def relu(self, operation: Operation) -> tuple[str, Order]:
        return self.activation(operation.kind, self.inputs(operation), self.name(operation)), self.order(
            operation
        )

    relu6 = sigmoid = tanh = softmax = relu

    def activation(self, kind: str, inputs: list[str], name: str) -> str:
        """Append an activation; softmax is over axis 1: channels of an image, features of a vector."""
        if kind == "softmax":
            return self.node("Softmax", inputs, name, axis=1)
        if kind == "relu6":
            limits = [self.constant("zero", np.float32(0)), self.constant("six", np.float32(6))]
            return self.node("Clip", [*inputs, *limits], name)
        return self.node({"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}[kind], inputs, name)


def _sides(window: Any) -> dict[str, Any]:
    """The attributes that convolution and pools share; ONNX lists pads as top, left, bottom, right."""
    (top, bottom), (left, right) = window.padding
    return {"kernel_shape": window.size, "strides": window.stride, "pads": [top, left, bottom, right]}


def _permutation(order: Order, size: int) -> np.ndarray:
    """Where each feature of a vector in this order is in tinynet's order."""
    if order is None:
        return np.arange(size)
    channels, height, width = order
    return np.arange(size).reshape(height, width, channels).transpose(2, 0, 1).reshape(-1)
