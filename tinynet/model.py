"""What a user holds: Sequential builds, trains, evaluates, predicts, explains itself and saves."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from tinynet import storage
from tinynet.errors import ArgumentError
from tinynet.layers import Context
from tinynet.network import Network
from tinynet.tensor import Tensor

if TYPE_CHECKING:
    from tinynet.deploy.int8.model import Int8Model
    from tinynet.training import History


class Sequential(Network):
    """A model: layers one after another (a layer may be a Residual or Concatenate block).

    layers         a list of layers
    input_shape    (height, width, channels) of one image, or (features,); may be left out, then it
                   is taken from the first batch
    preprocessing  what happens to uint8 images; by default they are divided by 255
    class_names    for classifiers, in the order of the outputs
    seed           of the initial weights
    name           for printing

    threshold      the probability of class 1 from which on `predict` of the command line says class 1
    temperature    what logits are divided by before softmax or sigmoid (calibration)
    """

    def fit(self, x: Any, y: Any = None, **options: Any) -> History:
        """Train; returns a History.  See tinynet.training.fit for the options."""
        from tinynet import progress, training  # here, so that predicting does not wait for them

        with progress.compilation(shown=bool(options.get("verbose", 1))):
            return training.fit(self, x, y, **options)

    def gradients(self, x: Any, y: Any) -> dict[str, np.ndarray]:
        """d(loss) / d(result) of every layer and / d(parameter), by name ("conv1", "conv1.weight").

        The loss is the compiled one, the layers behave as in use.  A cross-entropy takes the last
        layer's activation on itself: that layer's result is then its logits.  Frozen parameters have
        no gradient.  Parameters' own `grad` is left as it was.
        """
        loss = self.compiled()[1]
        tensor = self.to_tensor(x).retain_grad()
        tensor.requires_grad = True
        record: dict[str, Tensor] = {"input": tensor}
        parameters = self.parameters()
        before = {name: parameter.grad for name, parameter in parameters.items()}
        for parameter in parameters.values():
            parameter.grad = None
        try:
            output = self(tensor, Context(record=record, logits=loss.wants_logits))
            for result in record.values():
                result.retain_grad()
            loss(output, self.target(x, y)).backward()
            found = {name: result.grad_numpy() for name, result in record.items()}
            found |= {name: parameter.grad for name, parameter in parameters.items()}
        finally:
            for name, parameter in parameters.items():
                parameter.grad = before[name]
        return {name: gradient for name, gradient in found.items() if gradient is not None}

    def summary(self, print_fn: Any = print) -> str:
        """Print and return a table: output shapes, parameters, multiply-adds, activation and file bytes."""
        from tinynet import summaries

        text = summaries.table(self)
        if print_fn is not None:
            print_fn(text)
        return text

    def quantize(
        self, number_format: str = "int8", images: Any = None, calibration: str | None = None
    ) -> Int8Model | Sequential:
        """A copy in smaller numbers: "int8", which computes in whole numbers, or "float16", in the file only.

        images       for int8, to calibrate with: a few hundred uint8 images like those to come, from
                     the training, not the test
        calibration  for int8: "max", "percentile" or "mse" (tinynet/deploy/int8/calibration.py)

        Raises ArgumentError for layers or numbers that the format has no form for, DataError without images.
        """
        if number_format == "float16":
            from tinynet.deploy import float16

            return float16.convert(self)
        if number_format != "int8":
            raise ArgumentError(f'number_format must be "int8" or "float16", got {number_format!r:.40}')
        from tinynet.deploy.int8 import conversion

        return conversion.convert(self, images, calibration or conversion.CALIBRATION)

    def save(self, path: str | PathLike) -> None:
        """Write the model file: weights, architecture, preprocessing, self-test; nothing in it can run."""
        storage.save(self, path)
