"""One step of training: forward, loss and backward of a batch, recorded and done again.

The first batch of a shape goes through layers and functions as everywhere else.  The second does too,
and what it does is recorded (kernels/recording.py); from the third on the recording is done again, which
takes out most of what is not arithmetic.  The numbers are the same, bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynet import functions as F
from tinynet import kernels
from tinynet.kernels.recording import Recording, recording
from tinynet.layers import Context
from tinynet.network import Network
from tinynet.tensor import Tensor, observer

RECORDED_LOSSES = (F.softmax_cross_entropy, F.mean_squared_error)


class TrainingStep:
    """The step of a compiled model, for as long as its layers, their settings and the loss stay the same.

    Recorded are networks of this package's layers and losses: another's may do what a recording does not
    see.  Where weights have got other arrays, or become frozen, steps are ordinary from then on.

    Called with a batch it returns the loss and the output, and leaves gradients in the parameters' `grad`.
    The next call may put other numbers into the same arrays.
    """

    def __init__(self, model: Network, seed: int = 0, epoch: int = 0):
        self.model, self.seed, self.epoch = model, seed, epoch
        self.parameters = {name: p for name, p in model.parameters().items() if p.requires_grad}
        ours = all(type(layer).__module__.startswith("tinynet.layers.") for layer in model.chain.walk())
        self._recordable = ours and model.compiled()[1].function in RECORDED_LOSSES
        self._seen: dict[Any, _Recorded | None] = {}

    def __call__(self, batch: np.ndarray, labels: Any, images: np.ndarray) -> tuple[float, Tensor]:
        """Gradients of the mean loss over the batch.

        batch   uint8 or float32 images, as fit takes them
        labels  of these images; None for reconstruction, where the batch is its own target
        images  int64 (n,): their places in the data set, on which dropout depends
        """
        if not self._may_record(batch, labels):
            return self._ordinary(batch, labels, images)
        shape = (batch.shape, batch.dtype, None if labels is None else (labels.shape, labels.dtype))
        if shape not in self._seen:
            self._seen[shape] = None
            return self._ordinary(batch, labels, images)
        recorded = self._seen[shape]
        if recorded is None:
            recorded = self._seen[shape] = _Recorded(self, batch, labels, images)
            return recorded.result()
        if recorded.made.refused or not recorded.same_arrays():
            return self._ordinary(batch, labels, images)
        return recorded(batch, labels, images)

    def _may_record(self, batch: np.ndarray, labels: Any) -> bool:
        if not self._recordable or kernels.active().NAME != "numba" or observer() is not None:
            return False
        classes = isinstance(labels, np.ndarray) and labels.dtype != np.float16  # which Tensor converts
        classes = classes and self.model.compiled()[1].wants_logits
        return batch.dtype in (np.uint8, np.float32) and (classes or labels is None)

    def _ordinary(self, batch: np.ndarray, labels: Any, images: np.ndarray) -> tuple[float, Tensor]:
        value, output = self._compute(batch, labels, self._context(images))
        return value.item(), output

    def _context(self, images: np.ndarray) -> Context:
        loss = self.model.compiled()[1]
        return Context(True, self.seed, self.epoch, images, logits=loss.wants_logits)

    def _compute(self, batch: np.ndarray, labels: Any, context: Context) -> tuple[Tensor, Tensor]:
        loss = self.model.compiled()[1]
        inputs = self.model.to_tensor(batch)
        target = inputs if labels is None else self.model.target(batch, labels)
        output = self.model(inputs, context)
        value = loss(output, target)
        value.backward()
        return value, output


class _Recorded:
    """A step's recording, and the arrays into which the next batch is put."""

    def __init__(self, step: TrainingStep, batch: np.ndarray, labels: Any, images: np.ndarray):
        self.batch, self.labels = batch.copy(), None if labels is None else labels.copy()
        self.context = step._context(images)
        self.parameters, self.again = list(step.parameters.values()), kernels.active().again
        leaves = list(step.model.chain.leaves())
        tensors = [tensor for layer in leaves for tensor in layer.parameters.values()]
        self.weights = [(tensor, tensor.data, tensor.requires_grad) for tensor in tensors]
        self.buffers = [
            (layer.buffers, name, array) for layer in leaves for name, array in layer.buffers.items()
        ]
        with recording() as made:
            self.value, self.output = step._compute(self.batch, self.labels, self.context)
        self.made: Recording = made
        self.given = made.given.get(id(self.batch))
        self.gradients = [parameter.grad for parameter in self.parameters]

    def same_arrays(self) -> bool:
        """Whether weights and running statistics lie where they lay, and the same ones are frozen."""
        return all(
            tensor.data is array and tensor.requires_grad == learns for tensor, array, learns in self.weights
        ) and all(buffers[name] is array for buffers, name, array in self.buffers)

    def result(self) -> tuple[float, Tensor]:
        return self.value.item(), self.output

    def __call__(self, batch: np.ndarray, labels: Any, images: np.ndarray) -> tuple[float, Tensor]:
        if self.given is None:
            np.copyto(self.batch, batch)
        else:
            self.given.array = np.ascontiguousarray(batch)
        if self.labels is not None:
            np.copyto(self.labels, labels)
        self.context.images = images
        self.again(self.made)
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.result()
