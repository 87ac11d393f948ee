"""How much a file from somebody else may ask for when it is loaded: memory and time (docs/robustness.md).

A few bytes can claim any amount of both: upsampling, padding and pooling have no weights, whose number
the file's size would limit.  So the work for one image is limited by the numbers that a file does
hold: each may be used 2**19 times, which lets a weight move over 512 x 512 pixels and pays for the copies
made on the way, and 2**27 operations are free, which take NumPy less than half a second.
"""

from __future__ import annotations

# Far above any model for pictures of cells (VGG-16 at 224x224: 28.9 million values, 15.5 thousand million
# multiply-adds), and little enough for a small computer to refuse in time.
MAXIMUM_VALUES = 2**27  # in the largest array of one image's forward pass, 512 MiB
MAXIMUM_OPERATIONS = 2**34
FREE_OPERATIONS = 2**27
OPERATIONS_A_NUMBER = 2**19
COPY = 2  # the operations that a value costs which is only copied
# What a value costs that is computed in other ways than by multiplying and adding, by exp, say.  With 8 a
# file of 48 kB, a chain of tanh, took 1.8 seconds to load.
PASS = 48
PASS_IN_A_GRAPH = 8  # the same in an ONNX graph, where every node is charged for all that it reads and writes


def allowed_operations(numbers: int) -> int:
    """How many operations one image may take in a model of so many weights and other numbers."""
    return min(MAXIMUM_OPERATIONS, FREE_OPERATIONS + OPERATIONS_A_NUMBER * numbers)
