"""A model as named arrays and a description, and the self-test that a file must pass when it is loaded."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

import tinynet
from tinynet import files, kernels
from tinynet.errors import ArgumentError, FileAccessError, ModelFileError, NonFiniteError, TinynetError
from tinynet.files import packaged
from tinynet.layers import layer_to_json
from tinynet.network import Network

SELFTEST_SEED = 1
SELFTEST_OUTPUTS = 16  # of an output with more numbers, so many of them at even distances


def save(model: Network, path: Any) -> None:
    """Write the model file; on FileAccessError or NonFiniteError an older one is kept."""
    for name, array in _built(model).state().items():
        if not np.isfinite(array).all():
            raise NonFiniteError(f"{path}: not written, {name} holds NaN or infinity")
    files.save_model_file(path, stored(model), describe(model))


@contextlib.contextmanager
def described(path: Any, what: str) -> Iterator[None]:
    """Any mistake in a file's description, met while `what` is made of it, becomes a ModelFileError."""
    try:
        yield
    except KeyError as missing:
        problem = f"it has no {missing}"
    except (TinynetError, TypeError, ValueError, OverflowError) as reason:
        problem = str(reason)
    except MemoryError:
        problem = "it does not fit in memory"
    else:
        return
    raise ModelFileError(f"{path}: the model file does not describe {what}: {problem}")


def file_size(model: Network) -> int:
    """How many bytes `save` would write."""
    return files.file_bytes(stored(_built(model)), describe(model))


def stored(model: Network) -> dict[str, np.ndarray]:
    """The arrays as the file has them: the model's, or with its weights in float16 (see `stored_as`)."""
    if stored_as(model) == "float32":
        return model.state()
    return {
        name: array.astype(np.float16) if is_weight(array) else array for name, array in model.state().items()
    }


def stored_as(model: Network) -> str:
    """ "float16" for a model in that format, unless it was trained since and float16 would change it."""
    if model.number_format != "float16":
        return "float32"
    with np.errstate(over="ignore"):
        exact = all(
            np.array_equal(array, array.astype(np.float16))
            for array in model.state().values()
            if is_weight(array)
        )
    return "float16" if exact else "float32"


def is_weight(array: np.ndarray) -> bool:
    """Whether an array is one that float16 halves; biases and batch-norm's vectors are few, and stay."""
    return array.ndim > 1


def describe(model: Network) -> dict[str, Any]:
    """Everything about a model but its weights, JSON-able (docs/model-file.md)."""
    training = {}
    if model.optimizer is not None and model.loss is not None:
        training = {"optimizer": model.optimizer.config(), "loss": model.loss.config()}
    number_format = stored_as(model)
    return {
        **({} if number_format == "float32" else {"number_format": number_format}),
        "architecture": {
            "name": model.name,
            "input_shape": list(model.input_shape or ()),
            "layers": [layer_to_json(layer) for layer in model.layers],
        },
        "preprocessing": model.preprocessing.to_json() if model.preprocessing else None,
        "class_names": model.class_names,
        "threshold": model.threshold,
        "temperature": model.temperature,
        "training": training,
        "provenance": {"tinynet": tinynet.__version__, **model.provenance},
        "metrics": model.metrics,
        "self_test": {"seed": SELFTEST_SEED, "outputs": selftest_outputs(model, SELFTEST_SEED)},
    }


def selftest_outputs(model: Network, seed: int) -> list[float]:
    """The model's logits for the self-test input, on the NumPy kernels; at most 16, evenly chosen."""
    shape = model.input_shape or ()
    height, width, channels = shape if len(shape) == 3 else (1, 1, shape[0])
    codes = files.selftest_input(seed, height, width, channels).reshape(1, *shape)
    with kernels.using("numpy"), np.errstate(all="ignore"):
        # Without preprocessing there is no place for bytes: the model gets them divided by 255.
        x = codes if model.preprocessing is not None else codes.astype(np.float32) / np.float32(255)
        outputs = model.logits(x).reshape(-1)
    if not np.isfinite(outputs).all():
        raise NonFiniteError(f"model {model.name!r}: its answer to the self-test is not finite")
    chosen = np.linspace(0, outputs.size - 1, min(outputs.size, SELFTEST_OUTPUTS)).astype(int)
    return [float(f"{value:.7g}") for value in outputs[chosen].tolist()]


def check_selftest(model: Network, description: dict[str, Any], path: Any) -> None:
    """Raise ModelFileError unless the model gives the outputs that its file says it gives."""
    test = description.get("self_test")
    if (
        not isinstance(test, dict)
        or set(test) != {"seed", "outputs"}
        or not isinstance(test["outputs"], list)
    ):
        raise ModelFileError(f"{path}: the model file has no self-test")
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in test["outputs"]):
        raise ModelFileError(f"{path}: the outputs of the self-test are not numbers")
    try:
        computed = selftest_outputs(model, test["seed"])
    except (TinynetError, MemoryError) as problem:
        raise ModelFileError(f"{path}: the self-test cannot be run: {problem}") from None
    files.check_selftest(test["outputs"], computed, path)


def locate(model: Any) -> str:
    """The path of a model file, given a path or the name of a shipped model; raises FileAccessError."""
    try:
        path = os.fspath(model)
    except TypeError:
        path = None
    if not isinstance(path, str):
        raise ArgumentError(f"wanted the path of a model file or a model's name, got {model!r:.60}")
    if os.path.isfile(path) or os.path.splitext(path)[1] or os.path.basename(path) != path or not path:
        return path
    if path in shipped_names():  # found before a folder of the same name
        return os.path.join(weights_folder(), f"{path}.safetensors")
    if os.path.exists(path):
        return path
    raise FileAccessError(f"{path}: no such file, and no shipped model of that name; there are {_names()}")


def size_in_bytes(model: Any) -> int:
    """How large a model file is, given its path or the name of a shipped model; raises FileAccessError."""
    with files.open_to_read(locate(model)) as file:
        return file.seek(0, os.SEEK_END)


def weights_folder() -> str:
    """Where shipped weights lie: inside the installed package or its zip, or beside it in a checkout."""
    package = os.path.dirname(os.path.abspath(tinynet.__file__))
    inside = os.path.join(package, "models", "weights")
    found = os.path.isdir(inside) or packaged.in_archive(inside)
    return inside if found else os.path.join(os.path.dirname(package), "models", "weights")


def shipped_names() -> list[str]:
    """The names that `load` knows without a file."""
    ending = ".safetensors"
    names = packaged.file_names(weights_folder())
    return [name.removesuffix(ending) for name in names if name.endswith(ending)]


def now() -> str:
    """The time as provenance records it: UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0).isoformat()


def _names() -> str:
    return ", ".join(shipped_names()) or "none"


def _built(model: Network) -> Network:
    if model.input_shape is None:
        raise ArgumentError(f"model {model.name!r} has no weights yet: give it an input_shape, or fit it")
    return model
