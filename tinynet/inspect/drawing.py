"""Maps, filters and heat as pictures: uint8 arrays (height, width, 3), RGB, without a plotting library."""

from __future__ import annotations

import numpy as np

from tinynet.errors import ShapeError
from tinynet.images import check_picture
from tinynet.inspect.maps import enlarge

# Dark blue, green, yellow: five colours of viridis (Smith and van der Walt, "A better default colormap for
# Matplotlib", SciPy 2015), whose lightness rises evenly, also without red or green vision and in print.
# Yellow and green stand out on pink and purple cells.
_COLOURS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], np.float64)
SCALE_CSS = "linear-gradient(to right, " + ", ".join(f"rgb{tuple(map(int, c))}" for c in _COLOURS) + ")"

_STRENGTH = 0.75  # of the heat's colour where it is hottest


def heat_colours(values: np.ndarray) -> np.ndarray:
    """Numbers from 0 to 1, any shape -> colours, uint8 (..., 3)."""
    place = np.clip(np.nan_to_num(values), 0, 1) * (len(_COLOURS) - 1)
    steps = np.arange(len(_COLOURS))
    return np.rint(np.stack([np.interp(place, steps, colour) for colour in _COLOURS.T], -1)).astype(np.uint8)


def unit_range(values: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Numbers brought from [low, high], by default their extremes, to [0, 1]; all 0 where these are one."""
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    if not high > low:
        return np.zeros(values.shape, np.float64)
    return np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)


def overlay(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Heat, numbers from 0 to 1 (h, w), over a picture uint8 (H, W, 3): cold parts show it unchanged."""
    check_picture(picture)
    if heat.ndim != 2:
        raise ShapeError(f"heat must have shape (h, w), not {heat.shape}")
    large = np.clip(enlarge(heat[None], *picture.shape[:2])[0], 0, 1)
    share = _STRENGTH * large[:, :, None]
    return np.rint((1 - share) * picture + share * heat_colours(large)).astype(np.uint8)


def map_tiles(maps: np.ndarray) -> np.ndarray:
    """(h, w, channels) -> uint8 (channels, h, w, 3), all on one scale from least to most."""
    return heat_colours(unit_range(maps)).transpose(2, 0, 1, 3)


def filter_tiles(weights: np.ndarray) -> np.ndarray:
    """Filters (kh, kw, channels, filters) -> uint8 (tiles, kh, kw, 3): grey is 0, one scale for all.

    With three channels, a tile a filter, in the colours that it takes up: red is a positive weight on
    red.  With others, a tile for every filter and channel, the channels of a filter one after another.
    """
    largest = np.abs(weights).max(initial=0) or 1.0
    levels = np.rint(127.5 + 127.5 * weights / largest).astype(np.uint8)
    if weights.shape[2] == 3:
        return levels.transpose(3, 0, 1, 2)
    tiles = levels.transpose(3, 2, 0, 1).reshape(-1, *weights.shape[:2])
    return np.repeat(tiles[..., None], 3, axis=3)


def magnify(picture: np.ndarray, side: int) -> np.ndarray:
    """Every pixel a square: the picture enlarged by the whole factor that brings it nearest to `side`."""
    factor = max(1, round(side / max(picture.shape[:2])))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def mosaic(tiles: np.ndarray, columns: int, side: int = 64, gap: int = 4) -> np.ndarray:
    """uint8 (k, h, w, 3) -> one picture of them, row by row, each about `side` pixels, white between."""
    large = [magnify(tile, side) for tile in tiles]
    height, width = large[0].shape[:2]
    columns = min(columns, len(large))
    rows = -(-len(large) // columns)
    whole = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for k, tile in enumerate(large):
        top, left = k // columns * (height + gap), k % columns * (width + gap)
        whole[top : top + height, left : left + width] = tile
    return whole
