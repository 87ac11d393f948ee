"""The self-test of a model file: a picture that anyone can compute, and the answer to it.

NumPy does not promise that its random streams stay the same, so the picture comes from an
integer recurrence that is part of the file format.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynet.errors import ArgumentError, ModelFileError
from tinynet.files.atomic import PathLike, path_text

# Knuth and Lewis's "quick and dirty" generator; Press et al., Numerical Recipes, section 7.1.
MULTIPLIER = 1664525
INCREMENT = 1013904223
MAXIMUM_VALUES = 2**26
RELATIVE_TOLERANCE = 1e-4


def selftest_input(seed: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """The self-test picture, uint8 of shape (1, height, width, channels), the same on every machine.

    From state = seed, for each value in C order:

        state = (state * 1664525 + 1013904223) mod 2**32;    value = state >> 24

    Raises ArgumentError for a seed outside 0 .. 2**32 - 1, a size below 1 or more than 2**26 values.
    """
    for name, value, lowest in (
        ("seed", seed, 0),
        ("height", height, 1),
        ("width", width, 1),
        ("channels", channels, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not lowest <= value < 2**32:
            raise ArgumentError(
                f"self-test {name} is {value!r}; it must be an integer from {lowest} to 2**32 - 1."
            )
    shape = (1, int(height), int(width), int(channels))
    count = shape[1] * shape[2] * shape[3]
    if count > MAXIMUM_VALUES:
        raise ArgumentError(f"a self-test picture of shape {shape} has more than {MAXIMUM_VALUES:,} values.")
    states = np.empty(count, np.uint32)
    states[0] = (int(seed) * MULTIPLIER + INCREMENT) % 2**32
    # n steps at once are again "multiply and add": the n states known so far give the next n.
    known, multiplier, increment = 1, MULTIPLIER, INCREMENT
    while known < count:
        new = min(known, count - known)
        states[known : known + new] = states[:new] * np.uint32(multiplier) + np.uint32(increment)
        increment = (multiplier * increment + increment) % 2**32
        multiplier = multiplier * multiplier % 2**32
        known += new
    return (states >> np.uint32(24)).astype(np.uint8).reshape(shape)


def check_selftest(expected: Any, got: Any, path: PathLike) -> None:
    """Compare the logits that a model file expects of its self-test with those computed from it.

    They agree if |got - expected| <= 1e-4 * max(1, max |expected|) everywhere; arrays or lists
    of the same number of values.  Raises ModelFileError, naming the file, if they do not.
    """
    name = path_text(path)
    try:
        wanted = np.asarray(expected, np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        raise ModelFileError(f"{name} is damaged: the logits of its self-test are not numbers.") from None
    computed = np.asarray(got, np.float64).reshape(-1)
    if wanted.size == 0 or wanted.size != computed.size:
        raise ModelFileError(
            f"{name} does not reproduce its self-test: it expects {wanted.size} logits "
            f"and computes {computed.size}."
        )
    with np.errstate(invalid="ignore"):
        error = float(np.abs(computed - wanted).max())
    tolerance = RELATIVE_TOLERANCE * max(1.0, float(np.abs(wanted).max()))
    # Written so that NaN and infinity fail too.
    if not (error <= tolerance and np.isfinite(tolerance)):
        raise ModelFileError(
            f"{name} does not reproduce its self-test: the logits differ by {error:.3g}, "
            f"more than {tolerance:.3g}."
        )
