"""No Numba kernel reads or writes a number outside the arrays it is given, or leaves one unwritten.

Bounds checking does not see the loads and stores of whole vectors.  So every array of every
call is moved into a larger buffer whose rest, the frame, is filled with NaN: a kernel that
reads the frame gives another result than without it, one that writes it is seen afterwards.
On Linux the same tests run again in a child process, where the arrays lie against pages of
memory that may not be touched at all.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tinynet as tn
from tinynet import batch, kernels, single
from tinynet.kernels.block import Block
from tinynet.kernels.window import Window

if kernels.numba_problem() is not None:
    pytest.skip("these are the Numba kernels' bounds", allow_module_level=True)

from test_single import images_for, networks

from tinynet.kernels import numba as fast
from tinynet.kernels.numba import parallel
from tinynet.kernels.numba.compile import Kernel, _registry
from tinynet.kernels.numba.warmup import warmup
from tinynet.kernels.numba.winograd import MANY
from tinynet.kernels.numpy.pooling import pixel_counts

GUARDED = "TINYNET_TEST_GUARD_PAGES"  # set in the child process
PAGE = mmap.PAGESIZE
dtypes = st.sampled_from([np.float32, np.float64])
seeds = st.integers(0, 10**6)
counts = st.integers(1, 70) | st.sampled_from([16, 32, 64])  # of images; where every lane is real
linux = pytest.mark.skipif(sys.platform != "linux", reason="mprotect is called as on Linux")


class Framed:
    """A copy of an array inside a buffer that is NaN before and after it.

    Each array of a call has a NaN of its own (by `number`), so that a NaN that was read from one
    frame and written to another is seen.
    """

    def __init__(self, array: np.ndarray, number: int):
        self.place(array, number, np.empty(PAGE + array.nbytes + PAGE, np.uint8), PAGE)

    def place(self, array: np.ndarray, number: int, buffer: np.ndarray, start: int) -> None:
        assert array.flags.c_contiguous
        # Every such word is a NaN in float32, every pair of them one in float64.
        word = np.array([0x7FF80000 + number], np.uint32).view(np.uint8)
        inside = slice(start, start + array.nbytes)
        self.frame = {"before": buffer[: inside.start], "after": buffer[inside.stop :]}
        self.expected = {side: np.resize(word, frame.size) for side, frame in self.frame.items()}
        for side, frame in self.frame.items():
            frame[:] = self.expected[side]
        self.array = buffer[inside].view(array.dtype).reshape(array.shape)
        self.array[...] = array

    def check(self, what: str) -> None:
        for side, frame in self.frame.items():
            untouched = np.array_equal(frame, self.expected[side])
            assert untouched, f"{what} wrote {side} an array of shape {self.array.shape}"


class Guarded(Framed):
    """The same between two pages that may not be touched, against the first or the second of them."""

    def __init__(self, array: np.ndarray, number: int, first: bool):
        pages = -(-array.nbytes // PAGE) or 1
        memory = mmap.mmap(-1, (pages + 2) * PAGE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        libc = ctypes.CDLL(None, use_errno=True)
        for page in (0, pages + 1):
            if libc.mprotect(ctypes.c_void_p(address + page * PAGE), ctypes.c_size_t(PAGE), 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        inside = np.frombuffer(memory, np.uint8)[PAGE:-PAGE]
        self.place(array, number, inside, 0 if first else inside.size - array.nbytes)


FRAMES: list[Callable[..., Framed]] = [Framed]
if os.environ.get(GUARDED):
    FRAMES = [partial(Guarded, first=True), partial(Guarded, first=False)]


called: set[Kernel] = set()  # in frames


def call_in_frames(kernel: Kernel, *arguments):
    """Kernel.__call__ on framed copies of the arrays, which are copied back; what the kernel returned."""
    note_for_the_parent(kernel, arguments)
    called.add(kernel)
    outcomes, returned = [], []
    for frame in FRAMES:
        framed = [frame(a, i) if isinstance(a, np.ndarray) else a for i, a in enumerate(arguments)]
        returned.append(kernel.compiled()(*[a.array if isinstance(a, Framed) else a for a in framed]))
        for a in framed:
            if isinstance(a, Framed):
                a.check(kernel.__name__)
        outcomes.append(framed)
    for i, argument in enumerate(arguments):
        if isinstance(argument, np.ndarray) and argument.flags.writeable:
            argument[...] = outcomes[0][i].array
            for other in outcomes[1:]:
                np.testing.assert_array_equal(other[i].array, argument)
    assert len(set(returned)) == 1
    return returned[0]


def entry_in_frames(kernel: Kernel, *arguments):
    """Kernel.entry: what carries calls out in frames, for those that ask once and call it often."""
    return functools.partial(call_in_frames, kernel)


def note_for_the_parent(kernel: Kernel, arguments) -> None:
    """Written before the call, because a touched guard page ends the process."""
    if os.environ.get(GUARDED):
        shapes = [a.shape if isinstance(a, np.ndarray) else a for a in arguments]
        Path(os.environ[GUARDED]).write_text(f"{kernel.__name__}{shapes}")


def ranges_one_after_another(task, count, work, *_):
    """over_ranges as three threads would divide the work, without the threads."""
    edges = [count * i // 3 for i in range(4)]
    for first, last in itertools.pairwise(edges):
        if first < last:
            task(first, last)


class NaNForEmpty:
    """NumPy, but empty arrays hold NaN where others find what was left in memory."""

    def __getattr__(self, name):
        return getattr(np, name)

    def empty(self, shape, dtype=np.float64):
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8).fill(255)
        return array

    def empty_like(self, like):
        array = np.empty_like(like)
        array.reshape(-1, order="A").view(np.uint8).fill(255)
        return array


def nan_scratch(kind, size, dtype):
    """memory.scratch, which gives what an earlier kernel left."""
    return np.full(size, np.nan if np.dtype(dtype).kind == "f" else 255, dtype)


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Numba does not know the NumPy that hands out NaN, so kernels are compiled before."""
    warmup(np.float32)
    warmup(np.float64)


@contextlib.contextmanager
def frames():
    """Within the block every (compiled) kernel runs in frames, on ranges of three threads, into NaN."""
    with contextlib.ExitStack() as stack:
        modules = [m for name, m in sys.modules.items() if name.startswith("tinynet.kernels.numba.")]
        for module in modules:
            if hasattr(module, "over_ranges"):
                stack.enter_context(mock.patch.object(module, "over_ranges", ranges_one_after_another))
            if hasattr(module, "scratch"):
                stack.enter_context(mock.patch.object(module, "scratch", nan_scratch))
            if hasattr(module, "np"):
                stack.enter_context(mock.patch.object(module, "np", NaNForEmpty()))
        stack.enter_context(mock.patch.object(Kernel, "__call__", call_in_frames))
        stack.enter_context(mock.patch.object(Kernel, "entry", entry_in_frames))
        yield


def same_in_frames(operation, *arguments):
    """The operation's result, after making sure that it is the same in frames.

    In frames first: what writes outside of its arrays is then noticed before it does harm.
    """
    with frames():
        framed = operation(*arguments)
    expected = operation(*arguments)
    for a, b in zip(_tuple(framed), _tuple(expected), strict=True):
        if a is None and b is None:
            continue
        assert not np.isnan(a).any(), f"{operation.__name__} read a frame or left numbers unwritten"
        np.testing.assert_array_equal(a, b)
    return expected


def _tuple(result):
    return result if isinstance(result, tuple) else (result,)


@st.composite
def windows(draw):
    size = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    extent = Window(size, stride, dilation).extent
    padding = tuple((draw(st.integers(0, e - 1)), draw(st.integers(0, e - 1))) for e in extent)
    height, width = (draw(st.integers(max(1, e - sum(p)), 8)) for e, p in zip(extent, padding, strict=True))
    return Window(size, stride, dilation, padding), height, width


def random_lanes(rng, blocks, channels, height, width, dtype):
    return rng.standard_normal((blocks, channels, height, width, 16)).astype(dtype)


few = settings(max_examples=20)


@few
@given(windows(), st.integers(1, 2), st.integers(1, 3), st.integers(1, 6), st.integers(1, 3), dtypes, seeds)
def test_convolution(geometry, groups, channels, outputs, blocks, dtype, seed):
    window, height, width = geometry
    rng = np.random.default_rng(seed)
    x = random_lanes(rng, blocks, groups * channels, height, width, dtype)
    weight = rng.standard_normal((*window.size, channels, groups * outputs)).astype(dtype)
    bias = rng.standard_normal(groups * outputs).astype(dtype)
    y = same_in_frames(fast.conv2d, x, weight, bias, window, groups)
    same_in_frames(fast.conv2d_input_gradient, y, weight, window, groups, height, width)
    same_in_frames(fast.conv2d_weight_gradient, x, y, window, groups)
    same_in_frames(fast.channel_sum, y)


@few
@given(
    st.integers(1, 2), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.booleans(), dtypes, seeds
)
def test_dense(groups, features, outputs, blocks, whole_image, dtype, seed):
    """The window is the whole image: positions are blocks, and a tile of them may be half empty."""
    rng = np.random.default_rng(seed)
    height, width = (3, 2) if whole_image else (1, 1)
    x = random_lanes(rng, blocks, groups * features, height, width, dtype)
    weight = rng.standard_normal((height, width, features, groups * outputs)).astype(dtype)
    bias, window = rng.standard_normal(groups * outputs).astype(dtype), Window((height, width))
    y = same_in_frames(fast.conv2d, x, weight, bias, window, groups)
    same_in_frames(fast.conv2d_input_gradient, y, weight, window, groups, height, width)
    same_in_frames(fast.conv2d_weight_gradient, x, y, window, groups)


@st.composite
def fused_blocks(draw):
    window, height, width = draw(windows())
    window = Window(window.size, (1, 1), window.dilation, window.padding)
    pool = draw(st.booleans())
    factor = (1, 1) if pool else draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    block = Block(window, factor, pool or draw(st.booleans()), pool)
    assume(block.fits(height, width))
    return block, height, width


@few
@given(fused_blocks(), st.integers(1, 5), st.integers(1, 6), st.integers(1, 3), st.booleans(), dtypes, seeds)
def test_fused_block(geometry, channels, outputs, blocks, needs_input, dtype, seed):
    block, height, width = geometry
    rng = np.random.default_rng(seed)
    x = random_lanes(rng, blocks, channels, height, width, dtype)
    weight = rng.standard_normal((*block.window.size, channels, outputs)).astype(dtype)
    bias = rng.standard_normal(outputs).astype(dtype)
    y, code = same_in_frames(fast.conv_block, x, weight, bias, block)
    dy = rng.standard_normal(y.shape).astype(dtype)
    same_in_frames(fast.conv_block_backward, dy, x, weight, y, code, block, needs_input)


@settings(max_examples=8)
@given(
    st.sampled_from([19, MANY, MANY + 5]), st.sampled_from([7, MANY, MANY + 2]), st.booleans(), dtypes, seeds
)
def test_many_channels(channels, outputs, pool, dtype, seed):
    """Where taps come in passes, and Winograd's method."""
    block = Block(Window((3, 3), padding=((1, 1), (1, 1))), relu=True, pool=pool)
    rng = np.random.default_rng(seed)
    x = random_lanes(rng, 2, channels, 4, 6, dtype)
    weight = rng.standard_normal((3, 3, channels, outputs)).astype(dtype)
    y, code = same_in_frames(fast.conv_block, x, weight, weight[0, 0, 0], block)
    same_in_frames(
        fast.conv_block_backward, rng.standard_normal(y.shape).astype(dtype), x, weight, y, code, block, True
    )


@few
@given(windows(), st.integers(1, 2), st.integers(1, 3), dtypes, seeds)
def test_pooling(geometry, blocks, channels, dtype, seed):
    window, height, width = geometry
    x = random_lanes(np.random.default_rng(seed), blocks, channels, height, width, dtype)
    y, tap = same_in_frames(fast.max_pool, x, window)
    same_in_frames(fast.max_pool_backward, np.ones_like(y), tap, window, height, width)
    assume((pixel_counts(window, height, width) > 0).all())  # there is no mean of nothing
    y = same_in_frames(fast.average_pool, x, window)
    same_in_frames(fast.average_pool_backward, y, window, height, width)


@few
@given(st.tuples(st.integers(1, 3), st.integers(1, 3)), st.integers(1, 4), st.integers(1, 4), dtypes, seeds)
def test_upsampling(factor, height, width, dtype, seed):
    x = random_lanes(np.random.default_rng(seed), 2, 2, height, width, dtype)
    same_in_frames(fast.upsample_backward, same_in_frames(fast.upsample, x, factor), factor)


@few
@given(counts, st.integers(1, 4), st.integers(1, 3), dtypes, seeds)
def test_normalization(count, channels, size, dtype, seed):
    rng = np.random.default_rng(seed)
    x, dy = (random_lanes(rng, -(-count // 16), channels, size, 2, dtype) for _ in range(2))
    mean, variance = same_in_frames(fast.channel_moments, x, count)
    scale = rng.standard_normal(channels)
    same_in_frames(fast.normalize, x, mean, variance, scale, scale, count)
    same_in_frames(fast.normalize_sums, dy, x, mean, variance, count)
    same_in_frames(fast.normalize_input_gradient, dy, x, mean, variance, scale, scale, scale, count)


@few
@given(counts, st.integers(1, 3), st.integers(1, 3), dtypes, seeds)
def test_dropout_rectifiers_and_loss(count, channels, size, dtype, seed):
    rng = np.random.default_rng(seed)
    x, dy = (random_lanes(rng, -(-count // 16), channels, size, 2, dtype) for _ in range(2))
    keys = rng.integers(0, 2**32, (x.shape[0], 16), dtype=np.uint32)
    same_in_frames(fast.dropout, x, keys, 0.3)
    few, few_dy = x.reshape(-1)[:count], dy.reshape(-1)[:count]  # not a whole number of vectors
    for values, cotangents in ((x, dy), (few, few_dy)):
        same_in_frames(fast.relu_backward, cotangents, same_in_frames(fast.relu, values))
        same_in_frames(fast.relu6_backward, cotangents, same_in_frames(fast.relu6, values))
    rows, targets = x[0, :, 0, 0, :].T, dy[0, :, 0, 0, :].T  # (16, channels)
    same_in_frames(fast.softmax_cross_entropy, rows, targets)
    same_in_frames(fast.squared_error, x, dy, count)
    same_in_frames(fast.squared_error_gradient, x, dy, 0.5, count)


@few
@given(counts, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), dtypes, seeds)
def test_packing(count, channels, height, width, dtype, seed):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((count, height, width, channels)).astype(dtype)
    codes = rng.integers(0, 256, images.shape, dtype=np.uint8)
    same_in_frames(fast.unpack, same_in_frames(fast.pack, images, 16), count)
    same_in_frames(fast.pack_bytes, codes, rng.random(channels), rng.random(channels), 16)


@few
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9) | st.just(17), st.integers(1, 6), seeds)
def test_warping(count, height, width, channels, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    matrices = np.eye(2, 3) + rng.normal(0, 0.7, (count, 2, 3)) * [1, 1, 6]
    same_in_frames(fast.warp, images, np.round(matrices * 65536).astype(np.int32))


def in_place(update, *arguments):
    """The arrays of an optimiser's update after it, which changes copies of them."""
    copies = [a.copy(order="K") if isinstance(a, np.ndarray) else a for a in arguments]
    update(*copies)
    return tuple(a for a in copies if isinstance(a, np.ndarray))


@few
@given(st.integers(0, 70) | st.integers(0, 1500), st.sampled_from([0.0, 0.3]), st.booleans(), dtypes, seeds)
def test_optimizers(size, decay, nesterov, dtype, seed):
    w, g, v, s = (np.random.default_rng(seed).random((4, size)) + 0.1).astype(dtype)
    same_in_frames(in_place, fast.sgd, w, g, None, 0.1, decay, 0.0, False)
    same_in_frames(in_place, fast.sgd, w, g, v, 0.1, decay, 0.9, nesterov)
    same_in_frames(in_place, fast.rmsprop, w, g, s, None, 0.1, decay, 0.9, 1e-7, 0.0)
    same_in_frames(in_place, fast.rmsprop, w, g, s, v, 0.1, decay, 0.9, 1e-7, 0.9)
    same_in_frames(in_place, fast.adamw, w, g, v, s, 0.1, decay, 0.9, 0.999, 1e-8, 3)
    assert same_in_frames(fast.all_finite, w)


@few
@given(networks(), seeds)
def test_one_image(model, seed):
    def answers(images):
        return single.Program(model)(images)  # made in frames too: it keeps the kernel that it calls

    same_in_frames(answers, images_for(model, 2, seed, of_bytes=False))
    if model.preprocessing is not None:
        same_in_frames(answers, images_for(model, 2, seed, of_bytes=True))


@few
@given(networks(), counts, seeds)
def test_a_batch_in_one_call(model, count, seed):
    """Several ranges, the last group of each not full; scratch that holds NaN before."""
    images = images_for(model, count, seed, model.preprocessing is not None)
    with kernels.using("numba"), mock.patch.object(batch, "WORTH_A_RANGE", 1), one_thread():
        if batch.logits(model, images) is not None:  # else it goes layer by layer
            same_in_frames(batch.logits, model, images)


@contextlib.contextmanager
def one_thread():
    """Frames are not for several threads at once."""
    before = kernels.threads.num_threads()
    tn.set_num_threads(1)
    try:
        yield
    finally:
        tn.set_num_threads(before)


def every_operation(x, dy, images, codes):
    """(name, result) of the operations that take lanes or images, on the given arrays."""
    rng = np.random.default_rng(1)
    channels, count = x.shape[1], x.shape[0] * 16 - 3
    window, half = Window((3, 3), padding=((1, 1), (1, 1))), Window((2, 2), (2, 2))
    weight = np.asfortranarray(rng.standard_normal((3, 3, channels, channels)).astype(x.dtype))
    some = rng.standard_normal(channels)
    keys = np.asfortranarray(rng.integers(0, 2**32, (x.shape[0], 16), dtype=np.uint32))
    height, width = x.shape[2:4]
    pooled, tap = fast.max_pool(x, half)
    transforms = np.round((np.eye(2, 3) + 0.1) * 65536).astype(np.int32)
    yield "conv2d", fast.conv2d(x, weight, some.astype(x.dtype), window, 1)
    yield "conv2d_input_gradient", fast.conv2d_input_gradient(dy, weight, window, 1, height, width)
    yield "conv2d_weight_gradient", fast.conv2d_weight_gradient(x, dy, window, 1)
    many, square = np.ones((1, MANY, 2, 2, 16), x.dtype), np.ones((3, 3, MANY, MANY), x.dtype)
    yield "conv_block", fast.conv_block(many, square, square[0, 0, 0], Block(window, relu=True))[0]
    for pool in (False, True):
        block = Block(window, relu=True, pool=pool)
        y, code = fast.conv_block(x, weight, some.astype(x.dtype), block)
        yield "conv_block", y
        # dy and y in the memory order of x
        y, cotangent = (np.empty_like(x[:, :, : y.shape[2], : y.shape[3]]) for _ in range(2))
        y[...], cotangent[...] = fast.conv_block(x, weight, some.astype(x.dtype), block)[0], 0.5
        gradients = fast.conv_block_backward(cotangent, x, weight, y, code, block, True)
        yield "conv_block_backward", np.concatenate([g.ravel() for g in gradients])
    yield "channel_sum", fast.channel_sum(dy)
    yield "relu", fast.relu(x)
    yield "relu6", fast.relu6(x)
    yield "relu_backward", fast.relu_backward(dy, x)
    yield "relu6_backward", fast.relu6_backward(dy, x)
    yield "max_pool", pooled
    yield "max_pool_backward", fast.max_pool_backward(pooled, tap, half, height, width)
    yield "average_pool", fast.average_pool(x, half)
    yield "average_pool_backward", fast.average_pool_backward(pooled, half, height, width)
    yield "upsample", fast.upsample(x, (2, 1))
    yield "upsample_backward", fast.upsample_backward(x, (2, 1))
    yield "channel_moments", np.stack(fast.channel_moments(x, count))
    yield "normalize", fast.normalize(x, some, some, some, some, count)
    yield "normalize_sums", np.stack(fast.normalize_sums(dy, x, some, some, count))
    yield "normalize_input_gradient", fast.normalize_input_gradient(dy, x, *[some] * 5, count)
    yield "dropout", fast.dropout(x, keys, 0.5)
    yield "softmax_cross_entropy", fast.softmax_cross_entropy(x[0, :, 0, 0], dy[0, :, 0, 0])[0]
    yield "squared_error", fast.squared_error(x, dy, count)
    yield "squared_error_gradient", fast.squared_error_gradient(x, dy, 0.5, count)
    for velocity in (None, dy):
        yield "sgd", np.stack(in_place(fast.sgd, x, dy, velocity, 0.1, 0.1, 0.9, True))
        squares = in_place(fast.rmsprop, x, dy, x * x, velocity, 0.1, 0.1, 0.9, 1e-7, 0.9)
        yield "rmsprop", np.stack(squares)
    yield "adamw", np.stack(in_place(fast.adamw, x, dy, dy, x * x, 0.1, 0.1, 0.9, 0.999, 1e-8, 2))
    yield "all_finite", fast.all_finite(x)
    yield "pack", fast.pack(images, 16)
    yield "unpack", fast.unpack(x, count)
    yield "pack_bytes", fast.pack_bytes(codes, some, some, 16)
    yield "warp", fast.warp(codes, np.broadcast_to(transforms, (len(codes), 2, 3)))
    stains = np.ones((len(codes), codes.shape[3], 2), np.int32)
    yield "warp", fast.warp(codes, np.broadcast_to(transforms, (len(codes), 2, 3)), stains)


def test_nothing_is_missing_here(monkeypatch):
    monkeypatch.setenv("TINYNET_KERNELS", "numba")  # single images' kernel is not compiled unasked
    rng = np.random.default_rng(0)
    x, codes = random_lanes(rng, 1, 3, 4, 6, np.float32), np.zeros((2, 4, 6, 3), np.uint8)
    called.clear()
    with frames():
        names = {name for name, _ in every_operation(x, x, codes.astype(np.float32), codes)}
        model = tn.Sequential([tn.Conv2D(4, 3)], (4, 6, 3))
        for _ in range(2):  # the second time, to see that the weights are the same
            single.predict(model, codes)
        batch.logits(model, codes.astype(np.float32))
    assert names == set(fast.__all__) - {"NAME", "again", "lanes_for", "each_range", "num_threads"}
    assert {kernel.__name__ for kernel in _registry} == {kernel.__name__ for kernel in called}


def every_other_one(array):
    """The same numbers, with others between them."""
    wide = np.full((*array.shape, 2), 7, array.dtype)
    wide[..., 0] = array
    return wide[..., 0]


@pytest.mark.parametrize("arrange", [np.asfortranarray, every_other_one])
def test_arrays_in_any_memory_order(arrange):
    """Kernels see flat arrays in row-major order; a transposed one is copied into it, and comes out right."""
    rng = np.random.default_rng(0)
    x, dy = (random_lanes(rng, 2, 3, 4, 6, np.float32) for _ in range(2))
    images = rng.standard_normal((5, 4, 6, 3)).astype(np.float32)
    codes = rng.integers(0, 256, images.shape, dtype=np.uint8)
    plain = every_operation(x, dy, images, codes)
    arranged = every_operation(*map(arrange, (x, dy, images, codes)))
    for (name, a), (_, b) in zip(plain, arranged, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def too_far(direction):
    """A call of a kernel for one plane more than its arrays, of one memory page each, hold."""
    from tinynet.kernels.numba.upsampling import _upsample

    x, y = np.ones(PAGE // 4, np.float32), np.ones(PAGE // 4, np.float32)
    planes = x.size // (2 * 2 * 16)
    _upsample(x, 0, planes, 2, 2, 1, 1, y)
    first, last = (0, planes + 1) if direction == "after" else (-1, planes)
    with frames():
        _upsample(x, first, last, 2, 2, 1, 1, y)


@pytest.mark.skipif(bool(os.environ.get(GUARDED)), reason="it would end the child process")
@pytest.mark.parametrize("direction", ["before", "after"])
def test_a_write_outside_is_noticed(direction):
    with pytest.raises(AssertionError, match=f"_upsample wrote {direction} an array"):
        too_far(direction)


@pytest.mark.skipif(bool(os.environ.get(GUARDED)), reason="this test starts the child process")
@linux
def test_all_of_it_against_guard_pages(tmp_path):
    note = tmp_path / "last call"
    child = run_child([sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", __file__], note)
    last_call = note.read_text() if note.exists() else "none"
    assert child.returncode == 0, f"last call: {last_call}\n{child.stdout[-4000:]}\n{child.stderr[-4000:]}"


@pytest.mark.skipif(bool(os.environ.get(GUARDED)), reason="this test starts the child process")
@pytest.mark.parametrize("direction", ["before", "after"])
@linux
def test_a_touched_guard_page_ends_the_child(tmp_path, direction):
    code = f"import test_kernel_bounds as t; t.too_far({direction!r})"
    child = run_child([sys.executable, "-c", code], tmp_path / "last call")
    assert child.returncode == -signal.SIGSEGV, child.stderr
    assert (tmp_path / "last call").read_text().startswith("_upsample")


def run_child(command, note):
    here = Path(__file__).parent
    paths = [str(here.parent), str(here), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, GUARDED: str(note), "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        command, env=environment, cwd=here.parent, capture_output=True, text=True, timeout=300
    )


def test_threads_are_left_out_of_frames():
    """Frames copy arrays in and out around a call, which would undo what another thread wrote."""
    with frames():
        assert parallel.over_ranges is ranges_one_after_another
