"""For each loader the files to start from, how they are mutated, and what reading one may cost.

The bounds are those of docs/robustness.md; `most_bytes` gives them for a file of so many bytes.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

import tinynet as tn
from tinynet import callbacks, files, image_files, png
from tinynet.callbacks import BackupAndRestore, EarlyStopping

MiB = 2**20


@dataclass(frozen=True)
class Loader:
    """One loader of files from strangers; `read` is called twice over: with the content, outside the guard,
    and what that returns under it.

    seeds         files to start from
    mutate        a file from another one
    read          what reads a file of this content, and returns where it is accepted
    most_bytes    the memory that a file of this size may take
    """

    seeds: Callable[[], list[bytes]]
    mutate: Callable[[bytes, Random], bytes]
    read: Callable[[bytes], Callable[[], object]]
    most_bytes: Callable[[int], int]


def models() -> list[tn.Sequential]:
    """Small models: between them every kind of layer and every way to end."""
    classes = ("uninfected", "infected")
    made = [
        tn.Sequential(
            [tn.Conv2D(2, 3, activation="relu"), tn.BatchNorm(), tn.Flatten(), tn.Dense(2, "softmax")],
            (4, 4, 3), class_names=classes, name="classifier",
        ),
        tn.Sequential(
            [
                tn.Residual([tn.Conv2D(3, 3, activation="relu6")], [tn.Conv2D(3, 1)]),
                tn.Concatenate([[tn.AveragePool2D(3, stride=1, padding="same")], []]),
                tn.MaxPool2D(2), tn.Flatten(), tn.Dense(2),
            ],
            (4, 4, 3), class_names=classes, name="blocks",
        ),
        tn.Sequential(
            [
                tn.Conv2D(4, (3, 1), stride=2, padding=((1, 0), (2, 1)), activation="tanh"),
                tn.UpSample2D(2), tn.Conv2D(4, 3, groups=2, dilation=2), tn.GlobalAveragePool2D(),
                tn.Dropout(0.2), tn.Dense(1, "sigmoid"),
            ],
            (5, 5, 3), class_names=classes, name="windows",
        ),
        tn.Sequential([tn.Dense(3, "relu"), tn.BatchNorm(), tn.Dense(3), tn.Softmax()], (5,), name="vectors"),
        tn.Sequential([tn.Conv2D(2, 1), tn.Chain([tn.ReLU(), tn.Sigmoid()])], (4, 4, 3), name="pictures"),
    ]  # fmt: skip
    made[0].compile(tn.AdamW(tn.OneCycle(0.01, 40)), tn.sparse_categorical_crossentropy(smoothing=0.05))
    made[1].compile(tn.SGD(0.1), "mse")
    return made


def _model_files() -> list[bytes]:
    made = [_saved(model.save) for model in models()]
    codes = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3)).astype(np.uint8)
    made += [_saved(model.quantize("int8", codes).save) for model in models()[:2]]
    return [*made, _saved(models()[0].quantize("float16").save)]


def _saved(save: Callable[[Path], object]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        save(path)
        return path.read_bytes()


class _InMemory:
    """A file in memory (tmpfs), so that a loader opens, measures and reads it as any other."""

    def __init__(self) -> None:
        folder = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()
        self._descriptor, self.path = tempfile.mkstemp(prefix="tinynet-fuzz-", dir=folder)
        atexit.register(os.unlink, self.path)  # not by the garbage collector, while the guard is looking

    def holding(self, content: bytes) -> str:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, content, 0)
        return self.path


def _training() -> tuple[callbacks.Training, list[callbacks.Callback], bytes]:
    """A training that was interrupted after an epoch, and its checkpoint."""
    model = models()[0]
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (8, 4, 4, 3)).astype(np.uint8)
    found: list = []

    class Watch(BackupAndRestore):
        def on_epoch_end(self, training: callbacks.Training, logs: dict[str, float]) -> None:
            super().on_epoch_end(training, logs)
            found.append(training)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        kept = EarlyStopping("loss", patience=3)
        model.fit(images, np.arange(8) % 2, epochs=1, batch_size=4, callbacks=[kept, Watch(path)], verbose=0)
        content = path.read_bytes()
    return found[0], [kept], content


def model_file() -> Loader:
    """tinynet.load: float32, float16 and int8 model files."""
    from fuzz import containers

    file = _InMemory()
    # The path is made before the guard looks, so that writing it is not taken for the loader's.
    return Loader(_model_files, containers.mutate, _through(file, tn.load), lambda size: 64 * MiB + 8 * size)


def checkpoint() -> Loader:
    """What fit reads to go on: tinynet.callbacks.restore."""
    from fuzz import containers

    training, kept, content = _training()
    file = _InMemory()
    return Loader(
        lambda: [content],
        containers.mutate,
        _through(file, lambda path: callbacks.restore(path, files.load_checkpoint(path), training, kept)),
        lambda size: 32 * MiB + 8 * size,
    )


def onnx() -> Loader:
    """tinynet.from_onnx, a run, and to_sequential."""
    from fuzz import graphs
    from tinynet.deploy.onnx_export import to_onnx

    file = _InMemory()

    def read(path: str) -> None:
        made = tn.from_onnx(path)
        shapes = [
            [side if isinstance(side, int) else 1 for side in value.shape or ()] for value in made.inputs
        ]
        if sum(map(math.prod, shapes)) < 10**6:  # what is given is not the file's to choose
            inputs = zip(shapes, made.inputs, strict=True)
            with contextlib.suppress(tn.TinynetError):
                made.run([np.zeros(shape, value.dtype or np.float32) for shape, value in inputs])
        made.to_sequential()

    return Loader(
        lambda: [*map(to_onnx, models()), *graphs.seeds()],
        graphs.mutate,
        _through(file, read),
        lambda size: 64 * MiB + 64 * size,
    )


def picture() -> Loader:
    """tinynet.image_files.decode, with Pillow and, for PNG, without; with OpenCV where it is installed."""
    from fuzz import pictures

    image_files.PIXELS_BEFORE_PILLOW = 0  # Pillow from the first picture on; png.py is called below
    decoders: list[Callable[[bytes, image_files.Header], np.ndarray]] = [image_files._decode_with_pillow]
    try:
        import cv2  # noqa: F401

        decoders.append(image_files._decode_with_opencv)
    except ImportError:
        pass
    decoders.append(image_files._decode_alone)

    def read(content: bytes) -> None:
        problem: tn.TinynetError | None = None
        accepted = False
        for decoder in decoders:
            if decoder is image_files._decode_alone and not content.startswith(png.SIGNATURE):
                continue
            image_files._find_decoder = lambda *_, decoder=decoder: decoder
            try:
                found = tn.images.decode(content)
            except tn.TinynetError as refused:
                problem = refused
            else:
                accepted = True
                assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3 and found.size
        if not accepted and problem is not None:
            raise problem

    return Loader(
        _pictures, pictures.mutate, lambda content: lambda: read(content), lambda size: 192 * MiB + 8 * size
    )


def _through(file: _InMemory, read: Callable[[str], object]) -> Callable[[bytes], Callable[[], object]]:
    """Called with the content, before the guard; what it returns is called under it."""

    def prepare(content: bytes) -> Callable[[], object]:
        path = file.holding(content)
        return lambda: read(path)

    return prepare


def _pictures() -> list[bytes]:
    """Small pictures in every format, PNG in every colour type and depth."""
    from PIL import Image

    generator = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(13), np.arange(9))[:, :, None] * (7, 5, 3)
    pixels = ((smooth + generator.integers(0, 9, (13, 9, 3))) % 256).astype(np.uint8)
    colour = Image.fromarray(pixels)
    made = []

    def add(image: Image.Image, format: str, **options: object) -> None:
        file = io.BytesIO()
        image.save(file, format, **options)
        made.append(file.getvalue())

    for mode in ("RGB", "RGBA", "L", "LA", "P", "1"):
        add(colour.convert(mode), "PNG")
    add(Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257), "PNG")
    add(colour.convert("L"), "PNG", transparency=7)
    made += [_interlaced(pixels)]
    for options in ({}, {"progressive": True}, {"quality": 20, "restart_marker_blocks": 1}):
        add(colour, "JPEG", **options)
    add(colour.convert("CMYK"), "JPEG")
    add(colour.convert("L"), "JPEG")
    for mode in ("RGB", "P", "1", "L", "RGBA"):
        add(colour.convert(mode), "BMP")
    add(colour.convert("P"), "GIF")
    add(colour.convert("P"), "GIF", save_all=True, append_images=[colour.convert("P").rotate(90)])
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        add(colour, "TIFF", compression=compression)
    add(colour.convert("1"), "TIFF", compression="group4")
    add(colour.convert("RGBA"), "TIFF")
    add(Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257), "TIFF")
    for options in ({"lossless": True}, {"quality": 50}, {"exif": b"Exif\0\0" + bytes(20)}):
        add(colour, "WEBP", **options)
    add(colour.convert("RGBA"), "WEBP")
    for mode in ("RGB", "L", "1"):
        add(colour.convert(mode), "PPM")
    made += [b"P3\n2 2\n255\n1 2 3 4 5 6 7 8 9 10 11 12\n", b"P1\n3 1\n1 0 1\n", b"P2 2 1 65535 1 65000\n"]
    return made


def _interlaced(pixels: np.ndarray) -> bytes:
    """An Adam7 PNG of uint8 (height, width, 3), which Pillow reads but does not write."""
    import struct
    import zlib

    lines = b"".join(
        b"\0" + line.tobytes()
        for row, column, down, across in png._PASSES
        for line in pixels[row::down, column::across]
        if line.size
    )
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 1)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return png.SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )


LOADERS = {"model": model_file, "checkpoint": checkpoint, "onnx": onnx, "picture": picture}
