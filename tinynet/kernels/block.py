"""What a fused convolution block is, for both kernel sets: [upsample,] convolve [, rectify [, max-pool]]."""

from __future__ import annotations

from typing import NamedTuple

from tinynet.kernels.window import Window


class Block(NamedTuple):
    """Upsampling by `factor`, a convolution of stride 1, and what follows it, done in one pass.

    window  of the convolution, on the upsampled image; its stride is 1
    factor  of nearest-neighbour upsampling before it, (1, 1) for none
    relu    whether the sum is rectified
    pool    whether 2x2 max-pooling with stride 2 follows that; then relu is true and factor (1, 1)
    """

    window: Window
    factor: tuple[int, int] = (1, 1)
    relu: bool = False
    pool: bool = False

    def convolved_size(self, height: int, width: int) -> tuple[int, int]:
        """Of the convolution's result, before pooling."""
        return self.window.output_size(height * self.factor[0], width * self.factor[1])

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the block's result."""
        out_height, out_width = self.convolved_size(height, width)
        return (out_height // 2, out_width // 2) if self.pool else (out_height, out_width)

    def fits(self, height: int, width: int) -> bool:
        """Whether these kernels do it: an upsampling's phases must be of one size."""
        out_height, out_width = self.convolved_size(height, width)
        whole = out_height % self.factor[0] == 0 and out_width % self.factor[1] == 0
        return whole and min(self.output_size(height, width)) >= 1
