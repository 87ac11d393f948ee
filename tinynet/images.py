"""Pictures: read a file, bring it to a model's size, turn it into the numbers a model sees.

What a model sees must not depend on which decoder is installed, so resizing is the engine's own,
exact in integers; the preprocessing of a model travels in its file.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import ArgumentError, ModelFileError
from .image_files import MAX_PIXELS, decode

__all__ = [
    "MAX_PIXELS",
    "MAX_SIDE",
    "Preprocessing",
    "check_picture",
    "decode",
    "looks_like_a_cell",
    "resize",
]

MAX_SIDE = 4096
"""The largest height or width to resize to, in pixels."""


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 (H, W, 3) to uint8 (height, width, 3): the exact mean over each target pixel's box.

    A target pixel covers H/height x W/width source pixels, fractions included; its value is the
    mean of what it covers, rounded half up.  Enlarging follows the same rule.  Aspect is stretched.

    In units of 1/height and 1/width of a source pixel every overlap is an integer, and so is the
    weighted sum S of a box: its value is floor((2 S + H W) / (2 H W)), with no rounding before it.
    Raises ArgumentError for another type or shape, or a size outside 1 to MAX_SIDE.
    """
    check_picture(image)
    for name, side in (("height", height), ("width", width)):
        if isinstance(side, bool) or not isinstance(side, int | np.integer) or not 1 <= side <= MAX_SIDE:
            raise ArgumentError(f"resize: {name} must be an integer from 1 to {MAX_SIDE}, got {side!r}")
    height, width = int(height), int(width)
    source_height, source_width = image.shape[:2]
    if (source_height, source_width) == (height, width):
        return image.copy()
    area = source_height * source_width
    dtype = np.int32 if 255 * area < 2**31 else np.int64  # no sum exceeds 255 * area
    rows = _box_sums(image.reshape(source_height, source_width * 3), height, dtype)
    # (height, W, 3) -> (W, height * 3): the second pass runs along the width.
    columns = rows.reshape(height, source_width, 3).transpose(1, 0, 2).reshape(source_width, height * 3)
    sums = _box_sums(columns, width, dtype).astype(np.int64)
    values = ((2 * sums + area) // (2 * area)).astype(np.uint8)
    return np.ascontiguousarray(values.reshape(width, height, 3).transpose(1, 0, 2))


def _box_sums(lines: np.ndarray, target: int, dtype: type) -> np.ndarray:
    """Weighted sums over boxes of the first axis: (source, m) -> (target, m), weights adding to source."""
    index, weights = _box_weights(len(lines), target)
    weights = weights.astype(dtype)
    sums: np.ndarray = np.empty((target, lines.shape[1]), dtype)
    chunk = max(1, 2**22 // (index.shape[1] * lines.shape[1]))  # bounds the memory a large picture takes
    for first in range(0, target, chunk):
        some = slice(first, first + chunk)
        # Gathering and einsum over the few lines of a box, not a matrix product over all of them:
        # linear in the source, integers throughout, and no BLAS threads to compete with ours.
        np.einsum("tk,tkm->tm", weights[some], lines[index[some]].astype(dtype), out=sums[some])
    return sums


@functools.lru_cache(maxsize=512)
def _box_weights(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Which source pixels each target pixel covers, and how much of each in units of 1/target.

    Returns index and weights, int64 (target, k): k is the most that any covers, and the rows of
    those that cover fewer are filled up with neighbours of weight 0.
    """
    begin = np.arange(target) * source  # in units of 1/target, target pixel i covers
    end = begin + source  # [i, i + 1) * source and source pixel j covers [j, j + 1) * target
    first = begin // target
    most = int(((end - 1) // target - first).max()) + 1
    index = np.minimum(first, source - most)[:, None] + np.arange(most)
    overlap = np.minimum(end[:, None], (index + 1) * target) - np.maximum(begin[:, None], index * target)
    weights = np.maximum(overlap, 0)
    index.flags.writeable = weights.flags.writeable = False
    return index, weights


def check_picture(image: np.ndarray) -> None:
    """Raise ArgumentError unless `image` is uint8 (height, width, 3) with at least one pixel."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ArgumentError(f"a picture must be a uint8 array (height, width, 3), got {got}")
    if 0 in image.shape:
        raise ArgumentError(f"a picture must have at least one pixel, got shape {image.shape}")


@dataclass(frozen=True)
class Preprocessing:
    """From a picture of any size to a model's input: resize, then (x * scale - mean) / deviation.

    height, width: of the model's input, in pixels.  scale: what a level (0 to 255) is multiplied by.
    mean, deviation: three numbers each, for red, green and blue, in units of the scaled values.
    resize and colour name the only methods there are; they are stored so that a model file says
    what it expects.  Raises ArgumentError for values that make no sense.
    """

    height: int
    width: int
    scale: float = 1 / 255
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    deviation: Sequence[float] = (1.0, 1.0, 1.0)
    resize: str = "box"
    colour: str = "rgb"

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            side = getattr(self, name)
            if isinstance(side, bool) or not isinstance(side, int | np.integer) or not 1 <= side <= MAX_SIDE:
                raise ArgumentError(
                    f"preprocessing: {name} must be an integer from 1 to {MAX_SIDE}, got {side!r}"
                )
            object.__setattr__(self, name, int(side))
        for name in ("mean", "deviation"):
            values = getattr(self, name)
            values = values.tolist() if isinstance(values, np.ndarray) else values
            if not isinstance(values, list | tuple) or len(values) != 3 or not all(map(_is_finite, values)):
                raise ArgumentError(f"preprocessing: {name} must be three finite numbers, got {values!r}")
            object.__setattr__(self, name, tuple(map(float, values)))
        if not _is_finite(self.scale) or not self.scale > 0:
            raise ArgumentError(f"preprocessing: scale must be a positive number, got {self.scale!r}")
        object.__setattr__(self, "scale", float(self.scale))
        if not min(self.deviation) > 0:
            raise ArgumentError(f"preprocessing: deviation must be positive, got {self.deviation}")
        for name, only in (("resize", "box"), ("colour", "rgb")):
            if getattr(self, name) != only:
                raise ArgumentError(f"preprocessing: {name} must be {only!r}, got {getattr(self, name)!r}")

    def to_json(self) -> dict[str, Any]:
        """The values as JSON knows them; from_json reads them back unchanged."""
        return {
            "height": self.height,
            "width": self.width,
            "scale": self.scale,
            "mean": list(self.mean),
            "deviation": list(self.deviation),
            "resize": self.resize,
            "colour": self.colour,
        }

    @classmethod
    def from_json(cls, values: Any) -> Preprocessing:
        """The inverse of to_json.  Raises ModelFileError if anything is missing, unknown or nonsense."""
        if not isinstance(values, dict):
            raise ModelFileError(
                f"the model's preprocessing must be a JSON object, got {type(values).__name__}"
            )
        wanted = set(cls.__dataclass_fields__)
        if set(values) != wanted:
            differing = ", ".join(sorted(map(str, set(values) ^ wanted)))
            raise ModelFileError(f"the model's preprocessing has missing or unknown entries: {differing}")
        try:
            return cls(**values)
        except ArgumentError as problem:
            raise ModelFileError(f"the model's {problem}") from None

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) of any size -> uint8 (height, width, 3)."""
        return resize(image, self.height, self.width)

    def normalise(self, images: np.ndarray) -> np.ndarray:
        """uint8 (n, height, width, 3) -> float32 of that shape: (x * scale - mean) / deviation.

        Every step is in float32, in this order, so that other implementations can match it exactly.
        Raises ArgumentError for another type or shape.
        """
        images = np.asarray(images)
        shape = (self.height, self.width, 3)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape:
            raise ArgumentError(
                f"preprocessing: images must be uint8 (n, {self.height}, {self.width}, 3), "
                f"got {images.dtype} {images.shape}"
            )
        values = images.astype(np.float32)
        values *= np.float32(self.scale)
        if any(self.mean):
            values -= np.array(self.mean, np.float32)
        if any(deviation != 1 for deviation in self.deviation):
            values /= np.array(self.deviation, np.float32)
        return values


def _is_finite(value: object) -> bool:
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]


def looks_like_a_cell(image: np.ndarray) -> str | None:
    """None if the picture looks like one segmented red blood cell, else a short reason why not.

    image: uint8 (H, W, 3), RGB, of any size.  A cell is what the NIH data set calls one: a single
    roughly round blob, pink to purple, evenly coloured but for parasites, on a black surround.
    Of a sample of 6,771 real cells 0.5 % are turned away.  Caught are grey pictures, halved
    brightness, colours that no stain has, exactly round frames and blank pictures; of
    fields in uneven frames, and of
    cells that touch, only some: docs/prediction.md has the shares.
    Raises ArgumentError for another type or shape.
    """
    check_picture(image)
    height, width = image.shape[:2]
    if min(height, width) < 20:
        return f"only {width}x{height} pixels"
    if max(height, width) > 1000:
        return f"{width}x{height} pixels: is it a whole field?"
    small = resize(image, 64, 64)
    blob = small.max(axis=2) > 32  # darker than this in every channel is surround
    area = blob.mean()
    if area < 0.02:
        return "nothing but black"
    corners = (blob[:4, :4], blob[:4, -4:], blob[-4:, :4], blob[-4:, -4:])
    edges = (blob[0], blob[-1], blob[:, 0], blob[:, -1])
    if sum(corner.any() for corner in corners) > 1 or np.mean(edges) > 0.45 or area > 0.9:
        return "no black surround: is it a whole field or an unsegmented crop?"
    if area < 0.3:
        return "only a small part is not black"
    inside = _erode(blob, 5)  # away from the outline
    if not inside.any():
        return "not one roughly round blob"
    return _doubt_outline(blob, height, width) or _doubt_stain(small[inside]) or _doubt_detail(small, inside)


def _doubt_outline(blob: np.ndarray, height: int, width: int) -> str | None:
    """What is wrong with the outline of a bool (64, 64) mask of a height x width picture."""
    gaps = [np.diff(np.flatnonzero(blob.any(axis=axis))).max() > 1 for axis in (0, 1)]
    if any(gaps):
        return "not one roughly round blob"
    # The area of an ellipse is 4 pi sqrt(det C), with C the covariance of its points; several blobs,
    # or one with a hole or a ragged outline, spread further than an ellipse of their area would.
    places = np.argwhere(blob)
    middle = places.mean(axis=0)
    covariance = np.cov(places.T)
    solidity = len(places) / (4 * np.pi * np.sqrt(np.linalg.det(covariance)))
    if solidity < 0.75:
        return "not one roughly round blob"
    # In the ellipse of that covariance are the points whose Mahalanobis distance is at most 2.
    away = np.indices(blob.shape).reshape(2, -1).T - middle
    ellipse = ((away @ np.linalg.inv(covariance)) * away).sum(axis=1).reshape(blob.shape) <= 4
    if np.count_nonzero(blob & ellipse) > 0.99 * np.count_nonzero(blob | ellipse):
        return "the outline is a perfect ellipse: is it a field in a round frame?"

    # Two cells that touch: long, with a waist.  Here the picture's own proportions count.
    points = (places - middle) * (height / 64, width / 64)
    variances, axes = np.linalg.eigh(np.cov(points.T))
    elongation = np.sqrt(variances[0] / variances[1])
    thickness = np.histogram(points @ axes[:, 1], 20)[0]  # across the long axis, in 20 slices
    thickest_before = np.maximum.accumulate(thickness)
    thickest_after = np.maximum.accumulate(thickness[::-1])[::-1]
    waist = (thickness / np.minimum(thickest_before, thickest_after)).min()
    if elongation < 0.52 and waist < 0.65:
        return "long, with a waist: is it two cells that touch?"
    if elongation < 0.4:
        return "not one roughly round blob"
    return None


def _doubt_stain(pixels: np.ndarray) -> str | None:
    """What is wrong with the colours of the inside of a cell, uint8 (n, 3)."""
    red, green, blue = np.median(pixels, axis=0)
    brightest = max(red, green, blue)
    if np.mean(np.ptp(pixels, axis=1)) < 0.010 * brightest:
        return "the picture is grey; the model goes by the stain's colour"
    # Haemoglobin and Giemsa's purple absorb green most; cells run from pink to purple.
    if green > 1.15 * red or green > 1.2 * blue or blue > 2 * red or blue < 0.5 * red:
        return "not a colour of Giemsa-stained cells"
    if brightest < 135:
        return "too dark for a stained cell: the model goes by the stain's colour"
    if brightest > 228 or _quantile(pixels.min(axis=1), 0.95) > 203:
        return "too bright for a stained cell: is it a whole field?"
    return None


def _doubt_detail(small: np.ndarray, inside: np.ndarray) -> str | None:
    """Whether uint8 (64, 64, 3) has more detail over its `inside`, bool (64, 64), than a cell has."""
    # What is a few pixels wide: a difference of two Gaussians.  A cell is smooth but for parasites;
    # the third quartile does not see what covers less than a quarter of it.
    channels = small.transpose(2, 0, 1).astype(np.float32)
    fine, coarse = _blur_matrix(len(small), 2), _blur_matrix(len(small), 7)
    band = fine @ channels @ fine.T - coarse @ channels @ coarse.T
    detail = np.sqrt(np.square(band[:, inside]).sum(axis=0))
    if _quantile(detail, 0.75) > 0.038 * np.median(small[inside], axis=0).max():
        return "too much detail for one cell: is it a whole field?"
    return None


def _quantile(values: np.ndarray, share: float) -> float:
    """np.quantile's answer, without its first call's import of masked arrays: 12 ms, for a check of 4."""
    place = (values.size - 1) * share
    below = int(place)
    ordered = np.partition(values, [below, min(below + 1, values.size - 1)]).astype(np.float64)
    low, high = ordered[below], ordered[min(below + 1, values.size - 1)]
    return float(low + (high - low) * (place - below))


@functools.lru_cache(maxsize=4)
def _blur_matrix(size: int, times: int) -> np.ndarray:
    """Float32 (size, size): weights 1/4, 1/2, 1/4 applied `times` times; the ends are repeated."""
    once = np.eye(size) / 2 + np.eye(size, k=1) / 4 + np.eye(size, k=-1) / 4
    once[0, 0] = once[-1, -1] = 3 / 4
    matrix = np.linalg.matrix_power(once, times).astype(np.float32)
    matrix.flags.writeable = False
    return matrix


def _erode(mask: np.ndarray, times: int) -> np.ndarray:
    """Keep the pixels of a bool (h, w) mask that have `times` pixels of it on all four sides."""
    padded = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), bool)
    inner = padded[1:-1, 1:-1]
    inner[...] = mask
    for _ in range(times):
        inner[...] = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inner
