"""tinynet: a convolutional network engine written from scratch (NumPy, and Numba for speed).

Importing it compiles nothing, and imports neither Numba nor an image or plotting library.
"""

from pathlib import Path as _Path

__version__ = "0.1.0"

# In a checkout and in an editable install the folder models/ lies beside this package; a wheel has
# it inside.  Either way it is imported as tinynet.models.
_beside = _Path(__file__).resolve().parent.parent
if not (_Path(__file__).parent / "models").is_dir() and (_beside / "models" / "__init__.py").is_file():
    __path__.append(str(_beside))

from tinynet import functional
from tinynet.callbacks import (
    BackupAndRestore,
    Callback,
    CSVLogger,
    EarlyStopping,
    LearningRateScheduler,
    ModelCheckpoint,
    TerminateOnNaN,
)
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
from tinynet.optim import SGD, AdamW, RMSprop
from tinynet.schedules import (
    Cosine,
    ExponentialDecay,
    OneCycle,
    Plateau,
    StepDecay,
)
from tinynet.tensor import Tensor, no_grad
from tinynet.training import History
