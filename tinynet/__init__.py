"""tinynet: a convolutional network engine written from scratch (NumPy, and Numba for speed).

Importing it compiles nothing, and imports neither Numba nor an image or plotting library.
"""

import os as _os  # (pathlib would be a tenth of importing tinynet)
import typing as _typing
from importlib import import_module as _import_module

__version__ = "0.1.0"

# In a checkout and in an editable install the folder models/ lies beside this package; a wheel has
# it inside.  Either way it is imported as tinynet.models.
_package = _os.path.dirname(_os.path.realpath(__file__))
_beside = _os.path.dirname(_package)
if not _os.path.isdir(_os.path.join(_package, "models")) and _os.path.isfile(
    _os.path.join(_beside, "models", "__init__.py")
):
    __path__.append(_beside)

from tinynet import functional
from tinynet.errors import TinynetError
from tinynet.gradcheck import gradcheck
from tinynet.images import Preprocessing
from tinynet.kernels import use as set_kernels
from tinynet.kernels.threads import num_threads, set_num_threads
from tinynet.layers import (
    AveragePool2D,
    BatchNorm,
    Chain,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    Layer,
    MaxPool2D,
    ReLU,
    ReLU6,
    Residual,
    Sigmoid,
    Softmax,
    Tanh,
    UpSample2D,
)
from tinynet.loading import load
from tinynet.losses import sparse_categorical_crossentropy
from tinynet.model import Sequential
from tinynet.onnx_import import from_onnx
from tinynet.optim import SGD, AdamW, RMSprop
from tinynet.schedules import (
    Cosine,
    ExponentialDecay,
    OneCycle,
    Plateau,
    StepDecay,
)
from tinynet.tensor import Tensor, no_grad

if _typing.TYPE_CHECKING:
    from tinynet.callbacks import (
        BackupAndRestore,
        Callback,
        CSVLogger,
        EarlyStopping,
        LearningRateScheduler,
        ModelCheckpoint,
        TerminateOnNaN,
    )
    from tinynet.training import History

# What only training needs is imported when it is first asked for (PEP 562): starting is most of what one
# prediction takes, and these with what they import would be 12 of 49 ms beyond NumPy.
_WITH_TRAINING = {
    "callbacks": (
        "BackupAndRestore",
        "CSVLogger",
        "Callback",
        "EarlyStopping",
        "LearningRateScheduler",
        "ModelCheckpoint",
        "TerminateOnNaN",
    ),
    "training": ("History",),
}

if not _typing.TYPE_CHECKING:  # with this in sight, a type checker would believe in any name

    def __getattr__(name: str) -> object:
        for module, names in _WITH_TRAINING.items():
            if name == module or name in names:
                found = _import_module(f"tinynet.{module}")
                return globals().setdefault(name, found if name == module else getattr(found, name))
        raise AttributeError(f"module 'tinynet' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *(name for names in _WITH_TRAINING.values() for name in names)})
