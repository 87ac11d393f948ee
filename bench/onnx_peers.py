"""ONNX Runtime and OpenVINO predicting with the same weights, from a graph that is built here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import tinynet as tn
from bench.common import OUTPUTS, Absent, Contestant, Disagreement, require_close
from bench.works import Work, channels_first_dense, channels_first_kernel


def onnx_model(model: tn.Sequential, from_bytes: bool = False) -> bytes:
    """The model as ONNX: from scaled float32 (n, c, h, w), or uint8 (n, h, w, c), to probabilities."""
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes: list[Any] = []
    constants: list[Any] = []

    def add(operation: str, arrays: dict[str, np.ndarray] | None = None, **attributes: Any) -> None:
        name = f"{operation.lower()}{len(nodes)}"
        source = nodes[-1].output[0] if nodes else "images"
        inputs = [source]
        for key, array in (arrays or {}).items():
            constants.append(numpy_helper.from_array(np.ascontiguousarray(array), f"{name}.{key}"))
            inputs.append(f"{name}.{key}")
        nodes.append(helper.make_node(operation, inputs, [name], name=name, **attributes))

    height, width, channels = model.input_shape or (0, 0, 0)
    if from_bytes:
        add("Transpose", perm=[0, 3, 1, 2])
        add("Cast", to=TensorProto.FLOAT)
        add("Mul", {"scale": np.array(1 / 255, np.float32)})
    flattened: tuple[int, ...] = ()
    for layer in model.chain.leaves():
        values = {name: parameter.data for name, parameter in layer.parameters.items()}
        if isinstance(layer, tn.Conv2D) and layer.padding == "same" and layer.stride == (1, 1):
            taps = list(layer.kernel_size)
            weight = {"weight": channels_first_kernel(values["weight"]), "bias": values["bias"]}
            add("Conv", weight, kernel_shape=taps, pads=[n // 2 for n in taps] + [(n - 1) // 2 for n in taps])
        elif isinstance(layer, tn.MaxPool2D) and layer.padding == "valid":
            add("MaxPool", kernel_shape=list(layer.size), strides=list(layer.stride))
        elif isinstance(layer, tn.BatchNorm):
            statistics = [layer.buffers["running_mean"], layer.buffers["running_variance"]]
            arrays = [values["scale"], values["shift"], *statistics]
            add("BatchNormalization", dict(zip("abcd", arrays, strict=True)), epsilon=layer.epsilon)
        elif isinstance(layer, tn.Flatten):
            add("Flatten")
            flattened = layer.input_shape or ()
        elif isinstance(layer, tn.Dense):
            add("Gemm", {"weight": channels_first_dense(values["weight"], flattened), "bias": values["bias"]})
            flattened = ()
        elif not isinstance(layer, tn.Dropout):
            raise Disagreement(f"ONNX: no twin for {layer!r}")
        activation = getattr(layer, "activation", None)
        if activation is not None:
            add({"relu": "Relu", "softmax": "Softmax"}[activation])
    images = (
        helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", height, width, channels])
        if from_bytes
        else helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", channels, height, width])
    )
    outputs = helper.make_tensor_value_info(
        nodes[-1].output[0], TensorProto.FLOAT, ["n", *model.output_shape]
    )
    graph = helper.make_graph(nodes, model.name, [images], [outputs], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(made)
    return made.SerializeToString()


def _scaled(images: np.ndarray) -> np.ndarray:
    """uint8 (n, h, w, c) -> float32 (n, c, h, w), / 255."""
    scaled = np.empty((len(images), images.shape[3], *images.shape[1:3]), np.float32)
    return np.multiply(images.transpose(0, 3, 1, 2), np.float32(1 / 255), out=scaled)


def onnx_runtime(work: Work, threads: int) -> list[Contestant | Absent]:
    """From float images; from uint8 scaled by NumPy; and from uint8 scaled in the graph."""
    try:
        import onnxruntime
    except ImportError as problem:
        return [Absent("ONNX Runtime", str(problem))]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Its threads spin for work; they may not go on doing so in other contestants' turns.
    options.add_session_config_entry("session.force_spinning_stop", "1")

    def runner(from_bytes: bool) -> Callable[[np.ndarray], np.ndarray]:
        graph = onnx_model(work.model(), from_bytes)
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"images": x})[0]

    return _inference("ONNX Runtime", work, runner)


def openvino(work: Work, threads: int) -> list[Contestant | Absent]:
    """The same; told to compute in float32, because it chooses bfloat16 by itself where it can."""
    try:
        import openvino as vino
    except ImportError as problem:
        return [Absent("OpenVINO", str(problem))]
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }

    def runner(from_bytes: bool) -> Callable[[np.ndarray], np.ndarray]:
        core = vino.Core()
        network = core.read_model(onnx_model(work.model(), from_bytes))
        compiled = core.compile_model(network, "CPU", settings)
        return lambda x: compiled(x)[0]

    return _inference("OpenVINO", work, runner)


def _inference(name: str, work: Work, runner: Callable[[bool], Callable]) -> list[Contestant | Absent]:
    try:
        import onnx  # noqa: F401
    except ImportError as problem:
        return [Absent(name, f"its model is built with onnx: {problem}")]
    images, wanted = work.data[0], work.model().predict(work.data[0])
    floats = _scaled(images)
    on_floats, on_bytes = runner(False), runner(True)
    ways: dict[str, Callable[[], np.ndarray]] = {
        name: lambda: on_floats(floats),
        f"{name} from uint8 (NumPy)": lambda: on_floats(_scaled(images)),
        f"{name} from uint8 (graph)": lambda: on_bytes(images),
    }
    found: list[Contestant | Absent] = []
    for title, run in ways.items():
        apart = require_close(title, "output", run(), wanted, OUTPUTS)
        found.append(Contestant(title, run, work.images, f"outputs within {apart:.1g}"))
    return found
