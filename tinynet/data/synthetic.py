"""Synthetic cells: a caricature of segmented red cells from Giemsa-stained thin smears.

They stand in for real pictures in the built-in default training, in the tests and in the
documentation.  A model trained on them has learnt the caricature and nothing about malaria.

How a cell is drawn.  The cell's outline is a radius as a function of the angle: an ellipse, a few
harmonics, bites and bulges, and a ragged edge.  Its bounding box fills the picture, as in the NIH
set, and all outside is black.  Everything on the cell (rings, dots, pigment, specks, platelets,
pallor, mottling) is a sum of round Gaussian spots.  A Gaussian is a product of a function of x and
a function of y, so the sum over K spots is one matrix product, (height, K) @ (K, width): any number
of spots for a whole chunk of pictures in one call.  The sums are optical densities, and light
through them decays as Beer and Lambert say: colour = glass * exp(-sum of density * absorbance).

Everything random is a function of (seed, index, purpose) (see tinynet/random.py): the first k cells
of a larger draw are the same, and a cell keeps its label, patient and form at every picture size.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ArgumentError, FileAccessError, MissingDependencyError
from ..random import uniform

_CHUNK = 64  # pictures drawn at once: some 20 MB of working arrays at 64x64
_ANGLES = 256  # points on an outline

# Absorbance (red, green, blue) of one unit of density.
_AZURE = np.array([0.30, 1.70, 0.45])  # the dye that colours chromatin: passes purple
_PIGMENT = np.array([0.90, 1.25, 1.60])  # haemozoin: brown-black
_CELL_COLOURS = (
    np.array([0.11, 0.53, 0.47]),  # cell body on an eosin-heavy slide: pink
    np.array([0.22, 0.34, 0.45]),  # beige
    np.array([0.40, 0.40, 0.20]),  # on an azure-heavy (alkaline) one: blue
)


@dataclass
class SyntheticCells:
    """images: uint8 (n, size, size, 3) RGB; labels: int64 (n,), 1 = infected; patients: int64 (n,),
    numbered from 1; names: n file stems in the NIH style, from whose `C<number>` the patient is read."""

    images: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    names: list[str]


def synthetic_cells(count: int, size: int = 64, seed: int = 0, patients: int = 20) -> SyntheticCells:
    """Draw `count` cells of size x size pixels, half of them infected.

    Of the patients (numbered from 1) the last quarter is healthy and has uninfected cells only, as in
    the NIH set.  Stain, lighting and focus vary from patient to patient and, less, from cell to cell.
    Raises ArgumentError unless count >= 1, 16 <= size <= 1024 and patients >= 1.
    """
    count = _integer("count", count, 1)
    size = _integer("size", size, 16, 1024)
    seed = _integer("seed", seed, None)
    patients = _integer("patients", patients, 1)
    index = np.arange(count)
    labels, patient, names = _who(seed, index, patients)
    images = np.empty((count, size, size, 3), np.uint8)
    for start in range(0, count, _CHUNK):
        part = slice(start, start + _CHUNK)
        images[part] = _draw(seed, index[part], labels[part], patient[part], size, size)
    return SyntheticCells(images, labels, patient, names)


def write_folder(
    path: str | os.PathLike[str],
    count: int,
    size_range: tuple[int, int] = (90, 160),
    seed: int = 0,
    patients: int = 20,
) -> Path:
    """Write `count` cells as PNG files in the layout of the NIH set, and return the folder.

    That is path/cell_images/Parasitized/NAME.png and path/cell_images/Uninfected/NAME.png.  Width and
    height are between the two numbers of size_range, in pixels, and differ from picture to picture.
    Raises ArgumentError, MissingDependencyError without Pillow, FileAccessError if it cannot write.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError(
            'writing PNG files needs Pillow: pip install "tinynet-cnn[images]"'
        ) from error
    count = _integer("count", count, 1)
    try:
        smallest, largest = size_range
    except (TypeError, ValueError):
        raise ArgumentError(f"size_range must be two numbers of pixels, not {size_range!r}") from None
    smallest = _integer("size_range[0]", smallest, 16, 1024)
    largest = _integer("size_range[1]", largest, smallest, 1024)
    seed = _integer("seed", seed, None)
    index = np.arange(count)
    labels, patient, names = _who(seed, index, _integer("patients", patients, 1))
    chance = uniform(seed, 0, index, "synthetic picture size", 2)
    width = smallest + np.floor(chance[:, 0] * (largest - smallest + 1)).astype(int)
    height = np.clip(np.rint(width * (0.9 + 0.2 * chance[:, 1])).astype(int), smallest, largest)
    root = Path(path) / "cell_images"
    try:
        for folder in ("Parasitized", "Uninfected"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            one = slice(k, k + 1)
            picture = _draw(seed, index[one], labels[one], patient[one], int(height[k]), int(width[k]))[0]
            target = root / ("Parasitized" if labels[k] else "Uninfected") / f"{names[k]}.png"
            unfinished = target.with_suffix(".unfinished")
            try:
                Image.fromarray(picture).save(unfinished, format="PNG")
                os.replace(unfinished, target)
            finally:
                unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise FileAccessError(f"cannot write synthetic cells to {root}: {error.strerror or error}") from error
    return root


def _integer(name: str, value: int, least: int | None, most: int | None = None) -> int:
    wanted = "an integer"
    if least is not None:
        wanted += f" of at least {least}" if most is None else f" from {least} to {most}"
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, np.integer))
        or (least is not None and value < least)
        or (most is not None and value > most)
    ):
        raise ArgumentError(f"{name} must be {wanted}, not {value!r}")
    return int(value)


def _who(seed: int, index: np.ndarray, patients: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, patients and names.  Cells 2j and 2j+1 are one of each class, in random order, so that
    every even draw is balanced; each class goes round its patients in turn, so that all occur."""
    pair = index // 2
    first_is_infected = uniform(seed, 0, pair, "synthetic label", 1)[:, 0] < 0.5
    labels = ((index % 2 == 0) == first_is_infected).astype(np.int64)
    sick = patients - patients // 4
    patient = 1 + np.where(labels == 1, pair % sick, pair % patients).astype(np.int64)
    names = [
        f"C{p}P{100 + p}{'ThinF' if p <= sick else 'NThinF'}_IMG_synthetic_cell_{k}"
        for p, k in zip(patient.tolist(), index.tolist(), strict=True)
    ]
    return labels, patient, names


class _Chance:
    """Uniform numbers for the cells of one chunk, each a function of (seed, cell index, purpose)."""

    def __init__(self, seed: int, index: np.ndarray):
        self.seed, self.index = seed, index

    def unit(self, purpose: str, count: int = 1) -> np.ndarray:
        """(n, count) numbers in [0, 1)."""
        return uniform(self.seed, 0, self.index, "synthetic " + purpose, count)

    def between(self, purpose: str, low: float, high: float, count: int = 1) -> np.ndarray:
        return low + (high - low) * self.unit(purpose, count)

    def bell(self, purpose: str, count: int = 1) -> np.ndarray:
        """(n, count) nearly normal numbers, mean 0, deviation 1 (the sum of four uniform ones)."""
        n = len(self.index)
        return (self.unit(purpose, 4 * count).reshape(n, count, 4).sum(2) - 2.0) * np.sqrt(3.0)

    def happens(self, purpose: str, probability: float) -> np.ndarray:
        """(n,) True with the given probability."""
        return self.unit(purpose)[:, 0] < probability

    def only(self, chosen: np.ndarray) -> _Chance:
        return _Chance(self.seed, self.index[chosen])


def _outline(chance: _Chance) -> np.ndarray:
    """(n, _ANGLES) radius of the cell as a function of the angle, near 1."""
    angle = np.linspace(0, 2 * np.pi, _ANGLES, endpoint=False)
    order = np.arange(2, 7)
    amplitude = chance.bell("harmonics", 5) * np.array([0.075, 0.030, 0.018, 0.010, 0.007])
    phase = chance.between("phases", 0, 2 * np.pi, 5)
    radius = 1 + np.einsum("no,noa->na", amplitude, np.cos(order[:, None] * angle + phase[..., None]))
    # Bites and bulges: where a neighbour overlapped or the segmentation went astray.
    strange = np.where(chance.happens("strange", 0.30), 1.0, 0.15)[:, None]
    depth = chance.between("bite depth", -0.45, 0.25, 3) * chance.unit("bite share", 3) * strange
    width = chance.between("bite width", 0.12, 0.45, 3)
    away = angle - chance.between("bite place", 0, 2 * np.pi, 3)[..., None]
    away = np.abs((away + np.pi) % (2 * np.pi) - np.pi)
    radius += np.einsum("nb,nba->na", depth, np.exp(-((away / width[..., None]) ** 4)))
    # Ragged: steps of unequal length, and on some cells wider tatters.
    ragged = 0.006 + 0.035 * chance.unit("raggedness") ** 5
    steps = np.repeat(chance.bell("ragged steps", _ANGLES // 4), 4, axis=1)
    tatters = np.repeat(chance.bell("ragged tatters", _ANGLES // 16), 16, axis=1)
    jitter = np.round(2 * chance.unit("ragged where", _ANGLES)).astype(int)  # unequal lengths
    at = (np.arange(_ANGLES) + 3 * jitter) % _ANGLES
    steps = np.take_along_axis(steps + 1.3 * tatters, np.sort(at, axis=1), axis=1)
    return np.maximum(radius + ragged * steps, 0.35)


def _spots(
    across: np.ndarray, down: np.ndarray, x: np.ndarray, y: np.ndarray, radius: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """Sum of Gaussian spots.  across (n, width), down (n, height): the pixels' coordinates;
    x, y, radius, weight (n, K): the spots -> (n, height, width)."""
    scale = 0.7071 / radius
    columns = np.exp(-(((across[:, None, :] - x[:, :, None]) * scale[:, :, None]) ** 2))
    rows = np.exp(-(((down[:, None, :] - y[:, :, None]) * scale[:, :, None]) ** 2)) * weight[:, :, None]
    return np.matmul(rows.transpose(0, 2, 1), columns)


class _Fields:
    """What lies on the cells of a chunk, as densities (n, height, width)."""

    def __init__(self, outline: np.ndarray, across: np.ndarray, down: np.ndarray):
        shape = (len(across), down.shape[1], across.shape[1])
        self.outline, self.across, self.down = outline, across, down
        self.azure = np.zeros(shape, np.float32)  # purple stain
        self.pigment = np.zeros(shape, np.float32)
        self.clear = np.zeros(shape, np.float32)  # share of the cell body that is missing, 0 to 1

    def place(
        self, chosen: np.ndarray, depth: np.ndarray, angle: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """x and y (m, K) of points at `depth` (0 centre, 1 edge) and `angle` of the chosen m cells."""
        at = (angle / (2 * np.pi) * _ANGLES).astype(int) % _ANGLES
        reach = depth * np.take_along_axis(self.outline[chosen], at, axis=1)
        return reach * np.cos(angle), reach * np.sin(angle)

    def spots(
        self,
        chosen: np.ndarray,
        x: np.ndarray,
        y: np.ndarray,
        radius: np.ndarray | float,
        weight: np.ndarray | float,
    ) -> np.ndarray:
        """Spots on the chosen m cells; x, y, radius, weight broadcast to (m, K) -> (m, height, width)."""
        parts = (self.across[chosen], self.down[chosen], *np.broadcast_arrays(x, y, radius, weight))
        return _spots(*(np.asarray(part, np.float32) for part in parts))


def _draw_rings(fields: _Fields, chance: _Chance, chosen: np.ndarray, which: str) -> None:
    """Ring forms: a thin ring, clearer inside, with one or two chromatin dots on it."""
    chance = chance.only(chosen)
    depth = chance.unit(which + "depth") ** 0.6 * 0.88
    x, y = fields.place(chosen, depth, chance.between(which + "angle", 0, 2 * np.pi))
    size = chance.between(which + "size", 0.07, 0.20)
    strength = 0.45 + 0.75 * chance.unit(which + "strength") ** 0.7  # the faint ones are the hard ones
    turn = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    start = chance.between(which + "turn", 0, 2 * np.pi)
    tilt = chance.between(which + "tilt", 0, np.pi)
    flat = chance.between(which + "flat", 0.55, 1.0)

    def on_ring(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        long, short = size * np.cos(at), size * flat * np.sin(at)
        return x + long * np.cos(tilt) - short * np.sin(tilt), y + long * np.sin(tilt) + short * np.cos(tilt)

    # The ring is thick on the side of the chromatin and may be open on the other.
    thick = 0.75 + 0.5 * np.cos(turn - start)
    line = chance.between(which + "line", 0.018, 0.032)
    weight = strength * chance.between(which + "ring", 0.1, 0.5) * thick * (0.4 + 2.5 * size) / line * 0.05
    fields.azure[chosen] += fields.spots(chosen, *on_ring(turn), line, weight)
    fields.clear[chosen] += fields.spots(chosen, x, y, size * 0.6, 0.35 * chance.unit(which + "vacuole"))
    second = start + chance.between(which + "apart", 0.25, 2.85)
    has_second = chance.unit(which + "two") < 0.35
    dot = chance.between(which + "dot", 0.035, 0.068)
    for at, there in ((start, 1.0), (second, has_second)):
        fields.azure[chosen] += fields.spots(chosen, *on_ring(at), dot, 1.6 * strength * there)


def _draw_late_stages(fields: _Fields, chance: _Chance, chosen: np.ndarray, schizont: bool) -> None:
    """Trophozoites: a lump of cytoplasm with chromatin and a grain of pigment.
    Schizonts: a heap of merozoites about a clump of pigment, filling much of the cell."""
    which = "schizont " if schizont else "trophozoite "
    chance = chance.only(chosen)
    smallest, largest, farthest = (0.26, 0.50, 0.35) if schizont else (0.10, 0.24, 0.80)
    reach = chance.between(which + "size", smallest, largest)
    depth = chance.between(which + "depth", 0, farthest)
    x, y = fields.place(chosen, depth, chance.between(which + "angle", 0, 2 * np.pi))
    strength = 0.5 + 0.7 * chance.unit(which + "strength")
    lump_x = x + reach * chance.bell(which + "lump x", 10) * 0.42
    lump_y = y + reach * chance.bell(which + "lump y", 10) * 0.42
    lump = reach * chance.between(which + "lump", 0.25, 0.5, 10)
    fields.azure[chosen] += fields.spots(chosen, lump_x, lump_y, lump, 0.22 * strength)
    count = 12 if schizont else 3
    grain_x = x + reach * chance.bell(which + "grain x", count) * 0.55
    grain_y = y + reach * chance.bell(which + "grain y", count) * 0.55
    grain = chance.between(which + "grain", 0.04, 0.075, count)
    fields.azure[chosen] += fields.spots(chosen, grain_x, grain_y, grain, 0.9 * strength)
    pigment_x = x + reach * chance.bell(which + "pigment x", 4) * 0.2
    pigment_y = y + reach * chance.bell(which + "pigment y", 4) * 0.2
    amount = chance.between(which + "pigment", 0.0, 0.9)
    fields.pigment[chosen] += fields.spots(chosen, pigment_x, pigment_y, 0.035, amount)


def _draw_platelets(fields: _Fields, chance: _Chance, chosen: np.ndarray) -> None:
    """A platelet on or beside the cell: a granular violet lump without ring or dense dot."""
    chance = chance.only(chosen)
    x, y = fields.place(
        chosen,
        chance.between("platelet depth", 0.3, 1.0),
        chance.between("platelet angle", 0, 2 * np.pi),
    )
    reach = chance.between("platelet size", 0.06, 0.16)
    lump_x = x + reach * 0.5 * chance.bell("platelet x", 14)
    lump_y = y + reach * 0.5 * chance.bell("platelet y", 14)
    weight = chance.between("platelet strength", 0.10, 0.45)
    lump = reach * chance.between("platelet lump", 0.25, 0.5, 14)
    fields.azure[chosen] += fields.spots(chosen, lump_x, lump_y, lump, weight)
    fields.clear[chosen] += fields.spots(chosen, x, y, reach * 1.6, 0.5)


def _draw_distractors(fields: _Fields, chance: _Chance) -> None:
    """What infected and uninfected cells alike may carry: specks of stain, smears, bubbles, mottling."""
    n = len(chance.index)
    everyone = np.arange(n)
    mottle = chance.bell("mottle", 16) * 0.05
    x, y = (chance.between(f"mottle {axis}", -1, 1, 16) for axis in "xy")
    fields.clear += fields.spots(everyone, x, y, 0.22, mottle)

    specks = np.flatnonzero(chance.happens("specks", 0.33))
    some = chance.only(specks)
    number = 1 + np.floor(some.unit("speck number") ** 3 * 10)
    there = np.arange(10) < number
    x, y = fields.place(
        specks, np.sqrt(some.unit("speck depth", 10)), some.between("speck angle", 0, 2 * np.pi, 10)
    )
    radius = some.between("speck size", 0.010, 0.028, 10)
    weight = there * some.between("speck strength", 0.2, 1.0, 10) * some.between("specks strength", 0.3, 1.0)
    fields.azure[specks] += fields.spots(specks, x, y, radius, weight)

    smears = np.flatnonzero(chance.happens("smear", 0.08))
    some = chance.only(smears)
    x, y = fields.place(smears, some.unit("smear depth"), some.between("smear angle", 0, 2 * np.pi))
    along = np.linspace(-1, 1, 8) * some.between("smear length", 0.05, 0.25)
    turn = some.between("smear turn", 0, np.pi)
    faint = some.between("smear strength", 0.05, 0.20)
    wide = some.between("smear width", 0.03, 0.09)
    fields.azure[smears] += fields.spots(
        smears, x + along * np.cos(turn), y + along * np.sin(turn), wide, faint
    )

    bubbles = np.flatnonzero(chance.happens("bubble", 0.07))
    some = chance.only(bubbles)
    x, y = fields.place(bubbles, some.unit("bubble depth"), some.between("bubble angle", 0, 2 * np.pi))
    radius = some.between("bubble size", 0.03, 0.07)
    fields.clear[bubbles] += fields.spots(bubbles, x, y, radius, 0.8)
    fields.pigment[bubbles] += fields.spots(bubbles, x + radius, y + radius, radius * 0.6, 0.3)


def _draw(
    seed: int, index: np.ndarray, labels: np.ndarray, patient: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Cells `index` with these labels (n,) and patients (n,) -> uint8 (n, height, width, 3)."""
    n = len(index)
    chance, slide = _Chance(seed, index), _Chance(seed, patient)  # slide: the same for all of a patient
    outline = _outline(chance)

    # The outline's bounding box fills the picture.
    angle = np.linspace(0, 2 * np.pi, _ANGLES, endpoint=False)
    across, down = (
        (points.max(1, keepdims=True) + points.min(1, keepdims=True)) / 2
        + (points.max(1, keepdims=True) - points.min(1, keepdims=True)) / 2 * pixels
        for points, pixels in (
            (outline * np.cos(angle), (np.arange(width) + 0.5) * 2 / width - 1),
            (outline * np.sin(angle), (np.arange(height) + 0.5) * 2 / height - 1),
        )
    )
    across, down = across.astype(np.float32), down.astype(np.float32)
    fields = _Fields(outline, across, down)

    # Where a pixel is between centre (0) and edge (1).
    radius = np.hypot(across[:, None, :], down[:, :, None])
    turn = np.arctan2(down[:, :, None], across[:, None, :])
    at = np.rint(turn * np.float32(_ANGLES / (2 * np.pi))).astype(np.int32) % _ANGLES
    edge = np.take_along_axis(outline.astype(np.float32), at.reshape(n, -1), axis=1).reshape(at.shape)
    depth = radius / edge
    pixel = 2.0 / np.minimum(height, width)
    inside = np.clip((edge - radius) / np.float32(pixel) + np.float32(0.5), 0, 1)

    _draw_distractors(fields, chance)
    platelet = chance.unit("platelet")[:, 0] < np.where(labels == 1, 0.03, 0.08)
    _draw_platelets(fields, chance, np.flatnonzero(platelet))
    form = np.where(labels == 1, chance.unit("form")[:, 0], -1.0)
    _draw_rings(fields, chance, np.flatnonzero((form >= 0) & (form < 0.80)), "ring ")
    _draw_rings(fields, chance, np.flatnonzero((form >= 0) & (form < 0.17)), "second ring ")
    _draw_late_stages(fields, chance, np.flatnonzero((form >= 0.80) & (form < 0.93)), schizont=False)
    _draw_late_stages(fields, chance, np.flatnonzero(form >= 0.93), schizont=True)

    # The body: pale in the middle, denser towards the rim, and off the cell bare glass.
    pallor = slide.between("pallor", 0.05, 0.75) * chance.unit("pallor share")
    breadth = chance.between("pallor breadth", 0.22, 0.50)[..., None]
    steep = chance.between("pallor steepness", 1.5, 6.0)[..., None]
    centre = np.exp(-((depth / breadth.astype(np.float32)) ** steep.astype(np.float32)))
    fringe = (0.08 * chance.unit("fringe") ** 4 + 0.035 * slide.unit("fringe") ** 2)[..., None]
    on_cell = np.clip((1 - fringe.astype(np.float32) - depth) / np.float32(0.06) + 0.5, 0, 1) * 0.8 + 0.2
    body = (1 - pallor[..., None].astype(np.float32) * centre) * (1 - np.clip(fields.clear, -0.5, 0.9))
    body *= (0.92 + 0.16 * depth**3) * on_cell

    # Colours.
    mixing = slide.unit("cell colour", 3) ** 2.5 * np.array([2.2, 0.6, 1.0]) + 1e-3
    mixing = mixing / mixing.sum(1, keepdims=True) + 0.03 * chance.bell("cell colour", 3)
    amount = slide.between("cell density", 0.75, 1.35) * (1 + 0.10 * chance.bell("cell density"))
    # Sums, not a matrix product, whose rounding may depend on how many cells are drawn at once.
    cell = amount * sum(mixing[:, k, None] * colour for k, colour in enumerate(_CELL_COLOURS))
    azure = _AZURE * (1 + 0.15 * slide.bell("azure colour", 3)) * slide.between("azure density", 0.75, 1.15)
    glass = 232 * (1 + 0.025 * slide.bell("glass", 3)) * (1 + 0.03 * chance.bell("glass"))
    slope = 0.06 * chance.bell("light", 2)
    light = 1 + slope[:, :1, None] * across[:, None, :] + slope[:, 1:, None] * down[:, :, None]
    light = (light * inside).astype(np.float32)

    # Dense spots saturate instead of piling up.
    stain = 1.25 * (1 - np.exp(-fields.azure / np.float32(1.25)))
    grain = chance.unit("grain", height * width).reshape(n, height, width).astype(np.float32) - 0.5
    grain *= slide.between("grain", 2, 7)[..., None].astype(np.float32) * (inside > 0.5)
    picture = np.empty((n, height, width, 3), np.uint8)
    for colour in range(3):
        density = body * cell[:, colour, None, None].astype(np.float32)
        density += stain * azure[:, colour, None, None].astype(np.float32)
        density += fields.pigment * np.float32(_PIGMENT[colour])
        value = glass[:, colour, None, None].astype(np.float32) * light * np.exp(-density) + grain
        picture[..., colour] = np.clip(np.rint(value), 0, 255)
    return picture
