"""A whole int8 model as a list of operations: checked once, then carried out on batches."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from tinynet.deploy.int8.arithmetic import HIGHEST, LOWEST
from tinynet.deploy.int8.operations import Operation
from tinynet.deploy.int8.values import Value, check_integer, check_scale
from tinynet.deploy.int8.windows import MOST_VALUES
from tinynet.errors import ArgumentError, ShapeError
from tinynet.limits import PASS, allowed_operations

WORKING_VALUES = 2**22  # in the largest array of one step, where one image needs no more


@dataclass(frozen=True, eq=False)
class Program:
    """Operations over numbered values, of which 0 is the input and i + 1 the result of operations[i].

    input        value 0: the shape of one image, (height, width, channels) or (features,), scale and zero
    operations   the last one's result are the logits

    Raises ArgumentError or ShapeError for operations that do not fit together, that could overflow, or
    read values that are not there yet.
    """

    input: Value
    operations: tuple[Operation, ...]
    values: tuple[Value, ...] = field(init=False)  # by number: what is known of them

    def __post_init__(self) -> None:
        check_scale("input", self.input.scale)
        check_integer("input: zero", self.input.zero, LOWEST, HIGHEST)
        if not self.operations:
            raise ArgumentError("there are no operations")
        found = [self.input]
        names: set[str] = set()
        total = steps = 0
        allowed = allowed_operations(sum(map(_numbers, self.operations)))
        for operation in self.operations:
            if operation.name in names:
                raise ArgumentError(f"two operations are called {operation.name!r:.40}")
            names.add(operation.name)
            for number in operation.inputs:
                if type(number) is not int or not 0 <= number < len(found):
                    raise ArgumentError(
                        f"{operation.label} reads value {number!r:.40}, which is not there yet"
                    )
                if found[number].zero is None:
                    raise ArgumentError(f"{operation.label} reads sums, which only the last operation leaves")
            inputs = [found[number] for number in operation.inputs]
            result = operation.result(inputs)
            if any(side < 1 for side in result.shape):
                raise ShapeError(f"{operation.label}: its result would be {result.shape}")
            working = operation.working_values(inputs)
            total += math.prod(result.shape)
            steps += 2 * (operation.steps(inputs) + PASS * working)  # integers take NumPy about twice as long
            largest = max(total, working)
            if largest > MOST_VALUES or steps > allowed:
                raise ArgumentError(
                    f"{operation.label} would need {largest:,} values and {steps:,} operations for one "
                    f"image; at most {MOST_VALUES:,} and {allowed:,} are allowed"
                )
            found.append(result)
        object.__setattr__(self, "values", tuple(found))

    @property
    def output(self) -> Value:
        """The logits' shape and scale."""
        return self.values[-1]

    def inputs(self, operation: Operation) -> list[Value]:
        """What is known of the values that an operation reads."""
        return [self.values[number] for number in operation.inputs]

    def run(self, images: np.ndarray) -> np.ndarray:
        """int8 (n, *input shape) -> the logits' integers, int32 (n, *output shape)."""
        some = self._images_at_once()
        results = [self._last(images[first : first + some]) for first in range(0, len(images), some)]
        return np.concatenate(results)

    def steps(self, images: np.ndarray) -> Iterator[np.ndarray]:
        """Every value in turn, for looking inside: int8, the last one int8 or int32 sums."""
        last_reader = {
            number: place for place, operation in enumerate(self.operations) for number in operation.inputs
        }
        arrays = {0: images}
        yield images
        for place, operation in enumerate(self.operations):
            found = operation.run([arrays[number] for number in operation.inputs], self.inputs(operation))
            for number in set(operation.inputs):
                if last_reader[number] == place:
                    del arrays[number]
            arrays[place + 1] = found
            yield found

    def _last(self, images: np.ndarray) -> np.ndarray:
        result = deque(self.steps(images), maxlen=1).pop()
        if self.output.zero is None:
            return result
        return result.astype(np.int32) - self.output.zero

    def _images_at_once(self) -> int:
        largest = max(operation.working_values(self.inputs(operation)) for operation in self.operations)
        return max(1, WORKING_VALUES // max(largest, math.prod(self.input.shape)))


def _numbers(operation: Operation) -> int:
    """How many numbers an operation's arrays hold."""
    arrays = (getattr(operation, name, None) for name in ("weight", "bias"))
    return sum(array.size for array in arrays if isinstance(array, np.ndarray))
