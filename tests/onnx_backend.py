"""The ONNX project's own tests, which come with the onnx package, run through its backend interface.

    python tests/onnx_backend.py             writes what they give into docs/onnx.md
    python tests/onnx_backend.py networks    runs the nine networks for pictures of 224x224, minutes

A test is a model, inputs and the outputs expected.  It applies where tinynet has every operator of the
model.  Of those that apply, the ones we refuse are in NOT_SUPPORTED with a reason; nothing may fail.
"""

from __future__ import annotations

import math
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinynet.errors import ModelFileError
from tinynet.onnx_import.graph import OnnxModel
from tinynet.onnx_import.nodes import NODES
from tinynet.onnx_import.reader import read_bytes
from tinynet.onnx_import.registry import OPERATORS, Operator

onnx = pytest.importorskip("onnx")
base, loader = pytest.importorskip("onnx.backend.base"), pytest.importorskip("onnx.backend.test.loader")
runner = pytest.importorskip("onnx.backend.test.runner")

PAGE = Path(__file__).parent.parent / "docs" / "onnx.md"
KINDS = {
    "node": "single operators",
    "simple": "small models",
    "pytorch-operator": "operators as PyTorch wrote them",
    "pytorch-converted": "layers as PyTorch wrote them",
}
# The names of tests that apply and are refused; what the refusal says; why.
NOT_SUPPORTED = [
    (
        r"cast(like)?_.*(BFLOAT16|FLOAT8|FLOAT4|INT4|INT2)",
        r"elements of type \w+ are not supported",
        "types of elements that NumPy does not have (bfloat16, float8, float4, 4- and 2-bit integers)",
    ),
    (r"equal_string|cast(like)?_.*STRING", "elements of type STRING", "text"),
    (r"identity_(sequence|opt)", "only arrays are supported", "sequences and optional values"),
    (r"batchnorm_.*_training_mode", r"\(BatchNormalization\): it has 3 outputs", "batch-norm in training"),
    (r"training_dropout", r"\(Dropout\): .* dropout in training", "dropout in training"),
    (r"maxpool_with_argmax", r"\(MaxPool\): it has 2 outputs", "the places of the maxima (Indices)"),
    (
        r"(maxpool|averagepool)_3d|(Conv|AvgPool|MaxPool)3d",
        "3 spatial axes .*; 1 and 2 are supported",
        "volumes: convolution and pools over 3 axes",
    ),
    (
        r"resize_.*(linear|cubic|tf_crop)",
        r"\(Resize\): the attribute 'mode' is (linear|cubic)",
        "linear and cubic interpolation",
    ),
]


class Backend(base.Backend):
    """tinynet as the onnx package wants a backend."""

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **options: Any) -> Representation:
        super().prepare(model, device, **options)  # the onnx package's own checker
        return Representation(OnnxModel(read_bytes(model.SerializeToString(), "model")))

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"


class Representation(base.BackendRep):
    """A model that is ready to run."""

    def __init__(self, model: OnnxModel):
        self.model = model

    def run(self, inputs: Sequence[np.ndarray], **options: Any) -> tuple[np.ndarray, ...]:
        return tuple(self.model.run(list(inputs)).values())


@dataclass(frozen=True)
class Case:
    """One test: the model, and pairs of inputs and expected outputs."""

    name: str
    kind: str
    model: Any
    sets: Sequence[tuple[Sequence[Any], Sequence[Any]]]
    tolerances: tuple[float, float]

    @property
    def operators(self) -> list[str]:
        """The operators of the model, each once."""
        return sorted({node.op_type for node in self.model.graph.node})

    @property
    def applies(self) -> bool:
        return all(name in OPERATORS for name in self.operators)


@dataclass(frozen=True)
class Outcome:
    """What became of a case: "passed", "refused" with the message, or "failed" with what differs."""

    case: Case
    result: str
    message: str = ""


def cases() -> Iterator[Case]:
    """Every test of these kinds that the installed onnx package has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in KINDS:
            for test in loader.load_model_tests(kind=kind):
                tolerances = (test.rtol, test.atol)
                if test.model is not None:
                    yield Case(test.name, kind, test.model, test.data_sets, tolerances)
                elif test.model_dir and os.path.exists(os.path.join(test.model_dir, "model.onnx")):
                    model = onnx.load(os.path.join(test.model_dir, "model.onnx"))
                    yield Case(test.name, kind, model, list(_stored(test.model_dir)), tolerances)


def outcome(case: Case) -> Outcome:
    """Run one case."""
    try:
        ready = Backend.prepare(case.model)
        for inputs, wanted in case.sets:
            got = ready.run([_array(item) for item in inputs])
            wanted = [_array(item) for item in wanted]
            relative, absolute = case.tolerances
            runner.Runner.assert_similar_outputs(wanted, got, rtol=relative, atol=absolute)
    except ModelFileError as problem:
        return Outcome(case, "refused", str(problem))
    except Exception as problem:  # anything else is a failure, and is listed as one
        return Outcome(case, "failed", f"{type(problem).__name__}: {problem}")
    return Outcome(case, "passed")


def reason(found: Outcome) -> str | None:
    """Why a refused case that applies is not supported; None where that was not expected."""
    for name, message, why in NOT_SUPPORTED:
        if re.search(name, found.case.name) and re.search(message, found.message):
            return why
    return None


def _array(item: Any) -> Any:
    return onnx.numpy_helper.to_array(item) if isinstance(item, onnx.TensorProto) else item


def _stored(folder: str) -> Iterator[tuple[list[Any], list[Any]]]:
    for number in range(len([name for name in os.listdir(folder) if name.startswith("test_data_set_")])):
        place = os.path.join(folder, f"test_data_set_{number}")
        yield _tensors(place, "input"), _tensors(place, "output")


def _tensors(folder: str, what: str) -> list[Any]:
    found = []
    while os.path.exists(path := os.path.join(folder, f"{what}_{len(found)}.pb")):
        found.append(onnx.TensorProto())
        found[-1].ParseFromString(Path(path).read_bytes())
    return found


def report(outcomes: Sequence[Outcome]) -> str:
    """What docs/onnx.md says of the tests, between its marks."""
    applying = [found for found in outcomes if found.case.applies]
    lines = [
        f"onnx {onnx.__version__}, whose newest opset is {onnx.defs.onnx_opset_version()}:",
        "",
        "| tests of | there are | apply | passed | refused |",
        "|---|--:|--:|--:|--:|",
    ]
    for kind, title in [*KINDS.items(), ("", "all")]:
        rows = [[found for found in some if kind in ("", found.case.kind)] for some in (outcomes, applying)]
        results = Counter(found.result for found in rows[1])
        counts = (len(rows[0]), len(rows[1]), results["passed"], results["refused"])
        lines.append(f"| {title} | {' | '.join(f'{count:,}' for count in counts)} |")
    lines += ["", "Those that apply and are refused want:", ""]
    reasons = Counter(reason(found) for found in applying if found.result == "refused")
    lines += [f"* {why}: {count}" for why, count in reasons.items()]
    lines += [
        "",
        "| operator | from opset | passed | refused | layer | limits |",
        "|---|--:|--:|--:|---|---|",
    ]
    single = Counter(
        (found.case.operators[0], found.result) for found in applying if len(found.case.operators) == 1
    )
    for name, operator in sorted(OPERATORS.items()):
        layer = "yes" if name in NODES or name in ("Concat", "Sum") else ""
        passed, refused = single[name, "passed"], single[name, "refused"]
        lines.append(
            f"| {name} | {operator.versions[0]} | {passed} | {refused} | {layer} | {_note(operator)} |"
        )
    several = [found.result for found in applying if len(found.case.operators) > 1]
    counts = f"{several.count('passed')} | {several.count('refused')}"
    lines.append(f"| several in one model | | {counts} | | |")
    return "\n".join(lines)


def _note(operator: Operator) -> str:
    only = [
        f"`{key}` {attribute.allowed[0]} only"
        for key, attribute in operator.attributes.items()
        if attribute.allowed is not None and len(attribute.allowed) == 1
    ]
    more = [] if operator.note == "" else [operator.note]
    return "; ".join([*more, *only])


BEGIN, END = "<!-- from here: python tests/onnx_backend.py -->\n", "<!-- to here -->\n"


def written() -> str:
    """What the page has between its marks."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip()


def networks() -> None:
    """Print a row a network: the largest difference from the output expected, and if it is a Sequential."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    for path in sorted(folder.glob("light_*.onnx")):
        model = OnnxModel(read_bytes(path.read_bytes(), path.name))
        (source,) = model.inputs
        count = math.prod(source.shape)
        x = (np.arange(count).reshape(source.shape) / count).astype(
            np.float32
        )  # as the package's runner does
        (wanted,) = _tensors_at(path.with_name(f"{path.stem}_output_0.pb"))
        difference = np.abs(model.predict(x) - wanted).max() / np.abs(wanted).max()
        try:
            becomes = f"yes, {len(list(model.to_sequential().chain.leaves()))} layers"
        except ModelFileError as problem:
            becomes = f"no: {str(problem).partition(': ')[2]}"
        print(f"| {path.stem[6:]} | {len(model.nodes)} | {difference:.1e} | {becomes} |", flush=True)


def _tensors_at(path: Path) -> list[np.ndarray]:
    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return [_array(tensor)]


if __name__ == "__main__":
    from tinynet import kernels

    if sys.argv[1:] == ["networks"]:
        networks()
        sys.exit()
    with kernels.using("numpy"):
        text = report([outcome(case) for case in cases()])
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    sys.stdout.write(text.partition("\n\n|")[0] + "\n")
