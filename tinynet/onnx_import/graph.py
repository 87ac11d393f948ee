"""An ONNX graph that runs: any graph of supported operators, on ordinary arrays in ONNX's order of axes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinynet.arguments import whole_number
from tinynet.errors import ArgumentError, DataError, ModelFileError, ShapeError, TinynetError
from tinynet.limits import PASS_IN_A_GRAPH, allowed_operations
from tinynet.onnx_import.records import MAXIMUM_ALIVE, Budget, Call, Description, Node, Value, shown
from tinynet.onnx_import.registry import OPERATORS
from tinynet.tensor import no_grad

if TYPE_CHECKING:
    from tinynet.images import Preprocessing
    from tinynet.model import Sequential

Observer = Callable[[Node, tuple[np.ndarray, ...]], None]
A_NODE = 2**14  # operations that any node costs, however small its arrays
BATCH = 16  # images a step in predict, where the graph leaves it open


class OnnxModel:
    """A graph read from an ONNX file.

    name, opset, producer   what the file says of itself
    metadata                more of it, text by name
    inputs, outputs         Values: name, dtype, and shape, whose sides may be names or None
    nodes                   what it does, in order
    constants               its weights by name, not to be written to
    """

    def __init__(self, description: Description):
        self.path, self.name, self.opset = description.path, description.name, description.opset
        self.producer, self.metadata = description.producer, description.metadata
        self.constants = description.constants
        self.inputs, self.outputs, self.nodes = description.inputs, description.outputs, description.nodes
        self._readers = Counter(name for node in self.nodes for name in node.inputs if name)
        self._readers.update(value.name for value in self.outputs)

    def __repr__(self) -> str:
        return f"OnnxModel({self.name!r}, {len(self.nodes)} nodes, opset {self.opset})"

    def run(self, inputs: Mapping[str, Any] | Sequence[Any]) -> dict[str, np.ndarray]:
        """Every output by name, for inputs by name or in order, each of the input's dtype and shape.

        Raises ArgumentError or ShapeError for inputs that are not those of the graph, ModelFileError,
        naming the node, where the graph cannot be carried out with them.  Safe to call from threads.
        """
        given = self._checked(inputs)
        return self._execute(given, max([1, *(array.shape[0] for array in given.values() if array.ndim)]))

    def trace(self, inputs: Mapping[str, Any] | Sequence[Any], see: Observer) -> dict[str, np.ndarray]:
        """As `run`; see(node, results) is called after every node.

        May take the work of one image, however many the file makes a batch.
        """
        return self._execute(self._checked(inputs), 1, see)

    def _execute(
        self, given: dict[str, np.ndarray], images: int, see: Observer | None = None
    ) -> dict[str, np.ndarray]:
        values = {**self.constants, **given}
        numbers = sum(array.size for array in self.constants.values())
        budget = Budget(images * allowed_operations(numbers), MAXIMUM_ALIVE)
        unread = Counter(self._readers)
        with no_grad(), np.errstate(all="ignore"):
            for node in self.nodes:
                arrays = [values[name] if name else None for name in node.inputs]
                results = self._carry_out(Call(node, budget), arrays)
                if see is not None:
                    see(node, results)
                for name, result in zip(node.outputs, results, strict=False):
                    if unread[name]:
                        values[name] = result
                        budget.alive -= result.size
                del arrays, results
                for name in node.inputs:
                    unread[name] -= 1
                    if name and not unread[name] and name not in self.constants:
                        budget.alive += values.pop(name).size
                if budget.alive < 0:
                    raise ModelFileError(
                        f"{self.path}: {node.label}: the graph keeps more arrays than is sensible"
                    )
        return {value.name: np.array(values[value.name]) for value in self.outputs}

    def predict(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """The first output for a batch x of the only input, some images at a time.

        x           as the graph wants it: its dtype, its order of axes, images along the first
        batch_size  by default the one that the graph is made for, or 16 where that is open
        """
        if len(self.inputs) != 1:
            names = ", ".join(shown(value.name) for value in self.inputs)
            raise ArgumentError(f"predict wants a graph with one input, this has {names or 'none'}; use run")
        x, (source,), first = np.asarray(x), self.inputs, self.outputs[0].name
        if x.ndim == 0 or len(x) == 0:
            raise DataError("predict: there are no images")
        fixed = source.shape[0] if source.shape else None
        size = whole_number("batch_size", batch_size, 1) if batch_size is not None else BATCH
        if isinstance(fixed, int):
            size = max(1, fixed)
        parts = []
        for at in range(0, len(x), size):
            part = x[at : at + size]
            missing = size - len(part) if isinstance(fixed, int) else 0
            full = np.concatenate([part, np.repeat(part[:1], missing, axis=0)]) if missing else part
            result = self.run([full])[first]
            parts.append(result[: len(part)] if result.ndim else result[None])
        return np.concatenate(parts)

    def to_sequential(
        self, *, preprocessing: Preprocessing | None = None, class_names: Sequence[str] | None = None
    ) -> Sequential:
        """The same network as a tinynet model, which can be trained, saved and exported.

        Its images are (n, height, width, channels), whatever the graph's are.  What the graph and the
        metadata of a file that tinynet wrote say of preprocessing, classes, threshold and temperature is
        kept; for other files it can be given here.

        Raises ModelFileError, naming the node, where tinynet has no layer for it, and where the result
        does not give the graph's answer to a random input.
        """
        from tinynet.onnx_import.sequential import to_sequential

        with np.errstate(all="ignore"):  # NaN in weights shows in the answer
            return to_sequential(self, preprocessing, class_names)

    def _carry_out(self, call: Call, arrays: list[np.ndarray | None]) -> tuple[np.ndarray, ...]:
        known = OPERATORS[call.node.operator]
        missing = [place for place, array in enumerate(arrays[: known.inputs[0]]) if array is None]
        try:
            if missing:
                call.refuse(f"its input number {missing[0] + 1} is left out")
            call.charge(A_NODE + PASS_IN_A_GRAPH * sum(array.size for array in arrays if array is not None))
            result = known.function(call, *arrays)
        except (TinynetError, ValueError, TypeError, IndexError, OverflowError, MemoryError) as problem:
            text = " ".join(str(problem).split()) or type(problem).__name__
            label = "" if text.startswith(call.node.label) else f"{call.node.label}: "
            raise ModelFileError(f"{self.path}: {label}{text}") from problem
        results = result if isinstance(result, tuple) else (result,)
        return tuple(np.asarray(array) for array in results)

    def _checked(self, inputs: Mapping[str, Any] | Sequence[Any]) -> dict[str, np.ndarray]:
        """The inputs by name, as arrays of the dtypes and shapes that the graph states."""
        names = [value.name for value in self.inputs]
        if not isinstance(inputs, Mapping):
            if len(inputs) != len(names):
                raise ArgumentError(f"the graph has {len(names)} inputs, got {len(inputs)}")
            inputs = dict(zip(names, inputs, strict=True))
        if set(inputs) != set(names):
            got = ", ".join(shown(name) for name in inputs)
            raise ArgumentError(f"the graph's inputs are {', '.join(map(shown, names))}, got {got or 'none'}")
        sides: dict[str, int] = {}
        return {value.name: _checked(value, np.asarray(inputs[value.name]), sides) for value in self.inputs}


def _checked(value: Value, array: np.ndarray, sides: dict[str, int]) -> np.ndarray:
    where = f"input {shown(value.name)}"
    if value.dtype is not None and array.dtype != value.dtype:
        raise ArgumentError(f"{where}: wanted {value.dtype}, got {array.dtype}")
    if array.dtype.kind not in "fiub":
        raise ArgumentError(f"{where}: wanted numbers, got {array.dtype}")
    if value.shape is None:
        return array
    wanted = "(" + ", ".join("?" if side is None else str(side) for side in value.shape) + ")"
    if array.ndim != len(value.shape):
        raise ShapeError(f"{where}: wanted the shape {wanted}, got {array.shape}")
    for side, length in zip(value.shape, array.shape, strict=True):
        if side is None or side == "":
            continue
        expected = side if isinstance(side, int) else sides.setdefault(side, length)
        if length != expected:
            raise ShapeError(f"{where}: wanted the shape {wanted}, got {array.shape}")
    return array
