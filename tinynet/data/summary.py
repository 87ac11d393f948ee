"""What a folder of cells holds, in numbers: patients, classes, sizes, stain, odd files.

Every function returns plain values that json.dumps takes; what is not defined is None.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..images import looks_like_a_cell
from .cache import Images
from .folder import CLASS_NAMES, CellFolder, slide_of

SIDE = 64
"""The pictures' height and width for `stain` and `odd_pictures`; the cache has them at this size."""

_SURROUND = 32  # darker than this in every channel is surround, not cell
_CHUNK = 512  # pictures at a time
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def classes_and_patients(folder: CellFolder) -> dict[str, Any]:
    """Cells by class; patients, infected (by their labels) and healthy, slides; the cells of each patient.

    A patient without any cell labelled infected counts as healthy.  by_patient: one entry a patient,
    {patient, cells, infected, infected_share, slides}.  Images whose name tells no patient are counted
    in `without_patient`.
    """
    slides: dict[int, set[str]] = defaultdict(set)
    for name, patient in zip(folder.names, folder.patients.tolist(), strict=True):
        slides[patient] |= {slide_of(name)} - {""}
    by_patient = []
    for patient in np.unique(folder.patients[folder.patients >= 0]).tolist():
        own = folder.labels[folder.patients == patient]
        by_patient.append(
            {
                "patient": patient,
                "cells": len(own),
                "infected": int(own.sum()),
                "infected_share": float(own.mean()),
                "slides": len(slides[patient]),
            }
        )
    sick = [one for one in by_patient if one["infected"]]
    counts = folder.class_counts()
    return {
        "cells": len(folder),
        "classes": counts,
        "infected_share": counts[CLASS_NAMES[1]] / len(folder) if len(folder) else None,
        "patients": len(by_patient),
        "infected_patients": len(sick),
        "healthy_patients": len(by_patient) - len(sick),
        "slides": sum(one["slides"] for one in by_patient),
        "without_patient": int((folder.patients < 0).sum()),
        "cells_a_patient": quantiles([one["cells"] for one in by_patient]),
        "infected_share_of_infected_patients": quantiles([one["infected_share"] for one in sick]),
        "by_patient": by_patient,
    }


def sizes(loaded: Images) -> dict[str, Any]:
    """Height, width, longest side and width / height of the pictures before resizing.

    histogram: how many have a longest side in each 20 pixels, {from: count}.
    """
    height, width = loaded.sizes[:, 0].astype(np.int64), loaded.sizes[:, 1].astype(np.int64)
    longest = np.maximum(height, width)
    bins, counts = np.unique(longest // 20 * 20, return_counts=True)
    return {
        "height": quantiles(height),
        "width": quantiles(width),
        "longest_side": quantiles(longest),
        "aspect": quantiles(width / height),
        "histogram": {str(low): int(count) for low, count in zip(bins, counts, strict=True)},
    }


def inside_colours(images: np.ndarray) -> np.ndarray:
    """The mean colour of each cell away from its outline: uint8 (n, h, w, 3) -> float64 (n, 3), 0 to 255.

    Inside is what is not black and has two pixels on every side that are not either: pixels on the
    outline are mixed with the surround.  NaN where there is no such pixel.
    """
    colours = np.full((len(images), 3), np.nan)
    for first in range(0, len(images), _CHUNK):
        some = images[first : first + _CHUNK]
        inside = _erode(_erode(some.max(axis=3) > _SURROUND))
        count = inside.sum(axis=(1, 2))
        sums = np.einsum("nhwc,nhw->nc", some, inside, dtype=np.float64)
        filled = count > 0
        colours[first : first + _CHUNK][filled] = sums[filled] / count[filled, None]
    return colours


def stain(folder: CellFolder, loaded: Images) -> dict[str, Any]:
    """How the colour inside the cells varies, red, green, blue from 0 to 255.

    Parasites have a colour of their own, so patients and slides are told by their uninfected cells.

    cells        mean and standard deviation over all cells, by class
    between      standard deviation of the patients' mean colours
    within       standard deviation of cells about their patient's mean
    share        of the variance of uninfected cells that lies between patients (0: none, 1: all)
    infected_minus_uninfected  mean over the patients who have both
    by_patient, by_slide       the mean colour of each, and from how many cells
    """
    labels, patients = folder.labels[loaded.kept], folder.patients[loaded.kept]
    slides = np.array([slide_of(folder.names[place]) for place in loaded.kept], object)
    colours = inside_colours(loaded.images)
    seen = np.isfinite(colours).all(axis=1)
    clear = seen & (labels == 0)
    known = clear & (patients >= 0)
    by_patient = _means(colours[known], patients[known])
    own = dict(by_patient)
    residuals = np.array([c - own[p][0] for c, p in zip(colours[known], patients[known], strict=True)])
    means = np.array([mean for _, (mean, _) in by_patient]).reshape(-1, 3)
    total = np.square(colours[known] - colours[known].mean(axis=0)).sum(axis=0) if known.any() else None
    sick = dict(_means(colours[seen & (labels == 1)], patients[seen & (labels == 1)]))
    steps = np.array([sick[p][0] - own[p][0] for p in sick if p >= 0 and p in own]).reshape(-1, 3)
    return {
        "cells": {
            name: {
                "mean": _triple(colours[seen & (labels == label)], np.mean),
                "deviation": _triple(colours[seen & (labels == label)], np.std),
            }
            for label, name in enumerate(CLASS_NAMES)
        },
        "between": _triple(means, np.std),
        "within": _triple(residuals, np.std) if known.any() else None,
        "share": None
        if total is None or not total.all()
        else [float(v) for v in 1 - np.square(residuals).sum(axis=0) / total],
        "infected_minus_uninfected": _triple(steps, np.mean),
        "by_patient": [
            {"patient": int(patient), "colour": mean.tolist(), "cells": count}
            for patient, (mean, count) in by_patient
        ],
        "by_slide": [
            {"slide": str(slide), "colour": mean.tolist(), "cells": count}
            for slide, (mean, count) in _means(colours[clear], slides[clear])
            if slide
        ],
    }


def odd_pictures(folder: CellFolder, loaded: Images, check: bool = False) -> list[dict[str, Any]]:
    """Pictures that are readable and yet not as the others: {image, what}, in the folder's order.

    That is: pixel for pixel the same as another; nothing but black, or no black surround; a side of less
    than 20 or more than 1000 pixels; over 2.5 times as long as broad.  check: also all that
    `looks_like_a_cell` turns away (some four milliseconds a picture).
    """
    found: list[tuple[int, str]] = []
    first_of: dict[tuple[int, int, bytes], int] = {}
    for row, (image, (height, width)) in enumerate(zip(loaded.images, loaded.sizes.tolist(), strict=True)):
        place = int(loaded.kept[row])
        digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
        twin = first_of.setdefault((height, width, digest), place)
        if twin != place:
            other = "with another label" if folder.labels[twin] != folder.labels[place] else "twice"
            found.append((place, f"the same picture as {folder.names[twin]}: there {other}"))
        if min(height, width) < 20 or max(height, width) > 1000:
            found.append((place, f"{width}x{height} pixels"))
        elif max(height, width) > 2.5 * min(height, width):
            found.append((place, f"{width}x{height} pixels: over 2.5 times as long as broad"))
        reason = looks_like_a_cell(image) if check else None
        cell = (image.max(axis=2) > _SURROUND).mean()
        if reason is None and cell < 0.02:
            reason = "nothing but black"
        elif reason is None and cell > 0.97:
            reason = "no black surround"
        if reason is not None:
            found.append((place, reason))
    return [{"image": folder.names[place], "what": what} for place, what in sorted(found)]


def quantiles(values: Sequence[float] | np.ndarray) -> dict[str, float] | None:
    """Smallest, largest and the quantiles between, by name; None of nothing."""
    array = np.asarray(values, np.float64)
    if not array.size:
        return None
    names = ("min", "p5", "p25", "median", "p75", "p95", "max")
    found = np.quantile(array, _QUANTILES)
    return {**dict(zip(names, map(float, found), strict=True)), "mean": float(array.mean())}


def _erode(mask: np.ndarray) -> np.ndarray:
    """Bool (n, h, w): the pixels whose four neighbours are in the mask too; outside the picture none is."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    inner = padded[:, 1:-1, 1:-1] & padded[:, :-2, 1:-1] & padded[:, 2:, 1:-1]
    return inner & padded[:, 1:-1, :-2] & padded[:, 1:-1, 2:]


def _means(colours: np.ndarray, groups: np.ndarray) -> list[tuple[Any, tuple[np.ndarray, int]]]:
    """The mean colour and the number of cells of each group, in the groups' order."""
    return [
        (group, (colours[groups == group].mean(axis=0), int((groups == group).sum())))
        for group in sorted(set(groups.tolist()))
    ]


def _triple(colours: np.ndarray, function: Any) -> list[float] | None:
    """A function of the first axis of (n, 3); None of nothing."""
    return [float(value) for value in function(colours, axis=0)] if len(colours) else None
