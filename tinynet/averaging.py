"""Which weights a training leaves: besides the best epoch's (EarlyStopping), an average of many epochs'.

The epoch of lowest validation loss is a choice among noisy numbers where few patients validate.  An average
of the weights along the end of a training needs no such choice, and is often better than each of them:
Izmailov et al., "Averaging weights leads to wider optima and better generalization" (UAI 2018,
arXiv:1803.05407).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynet.arguments import number
from tinynet.callbacks import Arrays, Callback, Training


class WeightAveraging(Callback):
    """At the end of the training the model has a running mean of the weights that epochs ended with.

    decay  after each epoch: mean <- decay mean + (1 - decay) weights; from 0 (the last epoch's weights)
           to below 1.  The first epochs count as much as the decay leaves of them: the mean is divided
           by 1 - decay^epochs, as Adam's means are.

    Batch-norm's running mean and variance, state like the weights, are averaged alike.  Sums are float64.
    """

    def __init__(self, decay: float = 0.8):
        self.decay = number("WeightAveraging: decay", decay, 0.0, 0.999)
        self.sums: Arrays = {}
        self.share = 0.0  # the sum of the epochs' shares

    def on_train_begin(self, training: Training) -> None:
        self.sums, self.share = {}, 0.0

    def on_epoch_end(self, training: Training, logs: dict[str, float]) -> None:
        new = 1.0 - self.decay
        for name, array in training.model.state().items():
            earlier = self.sums.get(name)
            kept = 0.0 if earlier is None else self.decay * earlier
            self.sums[name] = kept + new * array.astype(np.float64)
        self.share = self.decay * self.share + new

    def on_train_end(self, training: Training) -> None:
        if self.sums:
            state = training.model.state()
            training.model.load_state(
                {name: (total / self.share).astype(state[name].dtype) for name, total in self.sums.items()}
            )

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        return self.sums, {"decay": self.decay, "share": self.share}

    def load_state(self, arrays: Arrays, values: dict[str, Any]) -> None:
        self.sums, self.share = dict(arrays), values["share"]
