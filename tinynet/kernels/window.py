"""The geometry of a sliding window, shared by convolution and pooling of both kernel sets."""

from __future__ import annotations

from dataclasses import dataclass

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]  # ((top, bottom), (left, right))


@dataclass(frozen=True)
class Window:
    """A window of `size` taps that moves by `stride` over an image with `padding` around it.

    Tap i of the window at output position o reads input position o * stride + i * dilation - before
    (along each axis), with `before` the padding at the top or left.
    """

    size: Pair
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    padding: Padding = ((0, 0), (0, 0))

    @property
    def extent(self) -> Pair:
        """Height and width from the first tap to the last, both included."""
        return (
            (self.size[0] - 1) * self.dilation[0] + 1,
            (self.size[1] - 1) * self.dilation[1] + 1,
        )

    def output_size(self, height: int, width: int) -> Pair:
        """How many positions the window has: floor((n + padding - extent) / stride) + 1 an axis."""
        (top, bottom), (left, right) = self.padding
        return (
            (height + top + bottom - self.extent[0]) // self.stride[0] + 1,
            (width + left + right - self.extent[1]) // self.stride[1] + 1,
        )


def same_padding(height: int, width: int, size: Pair, stride: Pair, dilation: Pair) -> Padding:
    """Padding for which there are ceil(n / stride) positions; an odd one goes to the bottom or right.

    Keras's and TensorFlow's convention (PyTorch's differs for strides above 1).
    """
    sides = []
    for length, taps, step, spread in zip((height, width), size, stride, dilation, strict=True):
        positions = -(-length // step)
        total = max((positions - 1) * step + (taps - 1) * spread + 1 - length, 0)
        sides.append((total // 2, total - total // 2))
    return (sides[0], sides[1])
