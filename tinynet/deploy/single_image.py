"""One image, as fast as can be: a model packed once, then calls that check little.

    classify = tinynet.deploy.single(tinynet.load("autoencoder"))
    probabilities = classify(image)      # uint8 (32, 32, 3) -> float32 (2,)

`model.predict` of one image runs the same kernel.  It also makes sure, at each call, that no weight has
changed; here the weights are those of the moment at which the model was packed.
"""

from __future__ import annotations

import math

import numpy as np

from tinynet import kernels
from tinynet.arguments import as_array
from tinynet.errors import ArgumentError, MissingDependencyError, ShapeError
from tinynet.network import Network
from tinynet.single import BYTES, FLOATS, NO_CODES, NO_VALUES, Program

_empty = np.empty


def single(model: Network) -> Single:
    """The model, frozen as it is now, as a function of one image.

    Compiles or loads the kernel, so that no later call waits for it.  Raises ArgumentError where the model
    is in int8, is not built yet or has a layer that the kernel does not have (Residual, Concatenate), and
    MissingDependencyError where Numba cannot be used.
    """
    return Single(model)


class Single:
    """A frozen model for one image at a time; see `single`.  Not a medical device; for research and teaching.

    Safe to call from several threads, each of which keeps its own activations, and after a fork.
    """

    def __init__(self, model: Network):
        problem = kernels.numba_problem()
        if problem is not None:
            raise MissingDependencyError(
                f"a compiled single-image model needs Numba, which cannot be used here ({problem}); "
                'pip install "tinynet-cnn[fast]" brings it, and model.predict works without'
            )
        if not isinstance(model, Network):
            raise ArgumentError(
                f"model {getattr(model, 'name', model)!r} is not a float model, which the compiled kernel "
                "for one image needs: model.predict answers in int8 too, and so does exported C"
            )
        if model.input_shape is None:
            raise ArgumentError(f"model {model.name!r} has no input shape yet: build it, or predict once")
        self.name, self.class_names = model.name, model.class_names
        self.input_shape, self.output_shape = model.input_shape, model.output_shape
        self._preprocessing = model.preprocessing
        self._program = Program(model)
        self._plan, self._numbers = self._program.plan, self._program.numbers
        self._scratch = self._program.of_thread
        self._outputs, self._is_vector = math.prod(self.output_shape), len(self.output_shape) == 1
        self._run = self._program.run

    def __repr__(self) -> str:
        return f"Single({self.name!r}, input {self.input_shape}, output {self.output_shape})"

    def __call__(self, image: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """What `model.predict` gives for this image: float32 of the model's output shape, (classes,) say.

        image  uint8 (h, w, 3), which is preprocessed, and resized where it has another size; or float32
               of the model's input shape, already scaled
        out    where the answer is written and what is returned: float32 of the output shape, C-contiguous;
               without it, which is all that a call allocates, a new array
        """
        # Every line here takes a fiftieth of the time that the small classifier takes.
        plain = type(image) is np.ndarray and image.shape == self.input_shape and image.flags.carray
        codes, values = NO_CODES, NO_VALUES
        if plain and image.dtype is BYTES and self._preprocessing is not None:
            codes = image.ravel()
        else:
            image = self._prepared(image)
            codes, values = (image.ravel(), NO_VALUES) if image.dtype == BYTES else (NO_CODES, image.ravel())
        try:
            scratch = self._scratch.memory
        except AttributeError:  # the first call on this thread
            scratch = self._program.scratch()
        results = _empty(self._outputs, FLOATS) if out is None else self._checked(out).reshape(-1)
        self._run(self._plan, self._numbers, scratch, codes, values, 1, results)
        if out is not None:
            return out
        return results if self._is_vector else results.reshape(self.output_shape)

    def _checked(self, out: np.ndarray) -> np.ndarray:
        """Raise ArgumentError unless the kernel, which checks nothing, can write there."""
        fits = type(out) is np.ndarray and out.dtype == FLOATS and out.shape == self.output_shape
        if fits and out.flags.carray:
            return out
        raise ArgumentError(
            f"model {self.name!r}: out must be a C-contiguous, writeable float32 array {self.output_shape}, "
            f"got {out!r:.80}"
        )

    def _prepared(self, image: np.ndarray) -> np.ndarray:
        """Whatever can be made an image of the model; raises ArgumentError or ShapeError otherwise."""
        image = as_array(f"model {self.name!r}", image)
        if image.dtype == BYTES:
            if self._preprocessing is None:
                raise ArgumentError(f"model {self.name!r} has no preprocessing for uint8; it wants float32")
            if image.shape != self.input_shape:
                image = self._preprocessing.prepare(image)
        elif image.dtype.kind != "f":
            raise ArgumentError(
                f"model {self.name!r} wants a uint8 image or a float32 one already scaled, got {image.dtype}"
            )
        if image.shape != self.input_shape:
            raise ShapeError(f"model {self.name!r} wants one image {self.input_shape}, got {image.shape}")
        return np.array(image, BYTES if image.dtype == BYTES else FLOATS, order="C")
