"""LiteRT (TensorFlow Lite with XNNPACK) predicting with the same weights, from a graph that is built here.

TensorFlow is not needed for that: the schema of the file travels in LiteRT's own wheel, and the
flatbuffers package, which LiteRT needs anyway, writes it.  Operators are those that TensorFlow's
converter makes of these layers: the activation inside the convolution, batch-norm as a product and a sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import tinynet as tn
from bench.common import OUTPUTS, Absent, Contestant, Disagreement, require_close
from bench.works import Work

NAME = "LiteRT"


class _Graph:
    """Tensors, constants and operators of one TensorFlow Lite model, one after another."""

    def __init__(self, schema: Any):
        self.schema = schema
        self.buffers = [schema.BufferT()]  # the first one stays empty
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.codes: list[Any] = []

    def tensor(self, name: str, shape: tuple[int, ...], kind: int, data: np.ndarray | None = None) -> int:
        buffer = 0
        if data is not None:
            buffer = len(self.buffers)
            self.buffers.append(self.schema.BufferT())
            self.buffers[-1].data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
        made = self.schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, list(shape), kind, buffer
        self.tensors.append(made)
        return len(self.tensors) - 1

    def constant(self, name: str, data: np.ndarray) -> int:
        kind = {"float32": self.schema.TensorType.FLOAT32, "int32": self.schema.TensorType.INT32}
        return self.tensor(name, data.shape, kind[data.dtype.name], data)

    def add(self, operator: str, inputs: list[int], shape: tuple[int, ...], options: Any = None) -> int:
        """The index of the operator's float32 result of this shape; versions are the first of each."""
        number = getattr(self.schema.BuiltinOperator, operator)
        known = [code.builtinCode for code in self.codes]
        if number not in known:
            code = self.schema.OperatorCodeT()
            code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
            self.codes.append(code)
            known.append(number)
        made = self.schema.OperatorT()
        made.opcodeIndex, made.inputs = known.index(number), inputs
        made.outputs = [self.tensor(f"{operator.lower()}{len(self.operators)}", shape, 0)]
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            made.builtinOptionsType, made.builtinOptions = getattr(self.schema.BuiltinOptions, kind), options
        self.operators.append(made)
        return made.outputs[0]

    def finished(self, first: int, last: int) -> bytes:
        """The model file's bytes."""
        import flatbuffers

        graph = self.schema.SubGraphT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs = [first], [last]
        model = self.schema.ModelT()
        model.version, model.operatorCodes = 3, self.codes
        model.subgraphs, model.buffers = [graph], self.buffers
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def litert_model(model: tn.Sequential, from_bytes: bool = False, batch: int = 1) -> bytes:
    """The model as a .tflite file: from scaled float32 or uint8 (batch, h, w, c) to probabilities."""
    from ai_edge_litert import schema_py_generated as schema

    graph = _Graph(schema)
    shape: tuple[int, ...] = (batch, *(model.input_shape or ()))
    kind = schema.TensorType.UINT8 if from_bytes else schema.TensorType.FLOAT32
    first = at = graph.tensor("images", shape, kind)
    if from_bytes:
        cast = schema.CastOptionsT()
        cast.inDataType, cast.outDataType = kind, schema.TensorType.FLOAT32
        at = graph.add("CAST", [at], shape, cast)
        at = graph.add(
            "MUL", [at, graph.constant("scale", np.array([1 / 255], np.float32))], shape, schema.MulOptionsT()
        )

    def fused(activation: str | None) -> int:
        kinds = schema.ActivationFunctionType
        return {None: kinds.NONE, "relu": kinds.RELU, "softmax": kinds.NONE}[activation]

    for layer in model.chain.leaves():
        values = {name: parameter.data for name, parameter in layer.parameters.items()}
        shape = (batch, *layer.output_shape(shape[1:]))
        options: Any
        if isinstance(layer, tn.Conv2D) and layer.padding == "same" and layer.stride == (1, 1):
            options = schema.Conv2DOptionsT()
            options.padding, options.strideW, options.strideH = schema.Padding.SAME, 1, 1
            options.dilationWFactor = options.dilationHFactor = 1
            options.fusedActivationFunction = fused(layer.activation)
            # (kh, kw, c, o) -> (o, kh, kw, c)
            weight = graph.constant(f"{layer.path}.weight", values["weight"].transpose(3, 0, 1, 2))
            bias = graph.constant(f"{layer.path}.bias", values["bias"])
            at = graph.add("CONV_2D", [at, weight, bias], shape, options)
        elif isinstance(layer, tn.MaxPool2D) and layer.padding == "valid":
            options = schema.Pool2DOptionsT()
            options.padding = schema.Padding.VALID
            options.filterHeight, options.filterWidth = layer.size
            options.strideH, options.strideW = layer.stride
            at = graph.add("MAX_POOL_2D", [at], shape, options)
        elif isinstance(layer, tn.BatchNorm):
            statistics = layer.buffers
            factor = values["scale"] / np.sqrt(statistics["running_variance"] + np.float32(layer.epsilon))
            shift = values["shift"] - statistics["running_mean"] * factor
            at = graph.add(
                "MUL", [at, graph.constant(f"{layer.path}.scale", factor)], shape, schema.MulOptionsT()
            )
            at = graph.add(
                "ADD", [at, graph.constant(f"{layer.path}.shift", shift)], shape, schema.AddOptionsT()
            )
        elif isinstance(layer, tn.Flatten):
            options = schema.ReshapeOptionsT()
            options.newShape = list(shape)
            sides = graph.constant(f"{layer.path}.shape", np.array(shape, np.int32))
            at = graph.add("RESHAPE", [at, sides], shape, options)
        elif isinstance(layer, tn.Dense):
            options = schema.FullyConnectedOptionsT()
            options.fusedActivationFunction = fused(layer.activation)
            weight = graph.constant(f"{layer.path}.weight", values["weight"].T)
            bias = graph.constant(f"{layer.path}.bias", values["bias"])
            at = graph.add("FULLY_CONNECTED", [at, weight, bias], shape, options)
        elif not isinstance(layer, tn.Dropout):
            raise Disagreement(f"LiteRT: no twin for {layer!r}")
        if getattr(layer, "activation", None) == "softmax":
            options = schema.SoftmaxOptionsT()
            options.beta = 1.0
            at = graph.add("SOFTMAX", [at], shape, options)
    return graph.finished(first, at)


def litert(work: Work, threads: int) -> list[Contestant | Absent]:
    """From float images; from uint8 scaled by NumPy; and from uint8 cast and scaled in the graph."""
    try:
        import flatbuffers  # noqa: F401
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as problem:
        return [Absent(NAME, str(problem))]

    def runner(from_bytes: bool) -> Callable[[np.ndarray], np.ndarray]:
        content = litert_model(work.model(), from_bytes, work.batch)
        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
        source = interpreter.get_input_details()[0]["index"]
        result = interpreter.get_output_details()[0]["index"]

        def run(images: np.ndarray) -> np.ndarray:
            interpreter.set_tensor(source, images)
            interpreter.invoke()
            return interpreter.get_tensor(result)

        return run

    images, wanted = work.data[0], work.model().predict(work.data[0])
    scaled = images * np.float32(1 / 255)
    on_floats, on_bytes = runner(False), runner(True)
    ways: dict[str, Callable[[], np.ndarray]] = {
        NAME: lambda: on_floats(scaled),
        f"{NAME} from uint8 (NumPy)": lambda: on_floats(images * np.float32(1 / 255)),
        f"{NAME} from uint8 (graph)": lambda: on_bytes(images),
    }
    found: list[Contestant | Absent] = []
    for title, run in ways.items():
        apart = require_close(title, "output", run(), wanted, OUTPUTS)
        found.append(Contestant(title, run, work.images, f"outputs within {apart:.1g}"))
    return found
