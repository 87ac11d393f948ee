"""Divide a data set into training, validation and test parts, or into folds for cross-validation.

By patient: all cells of a person go to one part, so a test says what happens with people the model
has never seen.  By image: cells of one person are on both sides; they share stain, light and camera,
and the test flatters the model.  Both are stratified: every part has close to its share of each class.

Nothing here is drawn from a generator with a state: the draw for a patient or an image is a function
of the seed and of that patient or image (tinynet/random.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from ..errors import ArgumentError, DataError
from ..random import permutation, uniform

REPORT_SHARES = (0.72, 0.08, 0.20)
"""Training, validation and test in the report this project began with."""

PART_NAMES = ("training", "validation", "test")

MAX_FOLDS = 50

_VALIDATION_SHARE = 0.1  # of the images that are not in the test fold
_TRIALS = 200
_MAX_ENUMERATED = 20_000


def split_by_patient(
    labels: np.ndarray, patients: np.ndarray, shares: Sequence[float] = REPORT_SHARES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(training, validation, test) with no patient in two of them: sorted int64 index arrays.

    labels: int (n,), 0 or 1.  patients: int (n,), no -1.  shares: three positive numbers that add
    to 1.  Each part gets close to its share of either class's images, of the infected patients and
    of the healthy ones: of 200 random stratified assignments of patients the best is taken, then
    patients are moved one at a time while that helps.  On data like the NIH set (160 patients) the
    parts come within 0.01 of their shares of all images.  The order of the images makes no difference.

    Raises ArgumentError for impossible arguments; DataError if a patient is unknown, or if patients
    are too few for both classes to be in every part.
    """
    fractions = _check_shares(shares, len(PART_NAMES))
    labels, patients = _check_labels(labels), _check_patients(patients, labels)
    train, validation, test = _assign_patients(labels, patients, fractions, seed, PART_NAMES)
    return train, validation, test


def split_by_image(
    labels: np.ndarray, shares: Sequence[float] = REPORT_SHARES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(training, validation, test), each class divided by `shares` to within one image.

    Optimistic: cells of one patient are in several parts.  Arguments, result and errors are as
    for split_by_patient, without the patients.
    """
    fractions = _check_shares(shares, len(PART_NAMES))
    train, validation, test = _divide_images(_check_labels(labels), fractions, seed, PART_NAMES)
    return train, validation, test


def folds_by_patient(labels: np.ndarray, patients: np.ndarray, k: int = 5, seed: int = 0) -> list[np.ndarray]:
    """k folds with no patient in two of them: sorted int64 index arrays that together are all images.

    Equal shares otherwise as split_by_patient, errors too.
    """
    shares = _check_folds(k)
    labels, patients = _check_labels(labels), _check_patients(patients, labels)
    return _assign_patients(labels, patients, shares, seed, _fold_names(k))


def folds_by_image(labels: np.ndarray, k: int = 5, seed: int = 0) -> list[np.ndarray]:
    """k folds, each class divided equally to within one image.  Optimistic, as split_by_image."""
    shares = _check_folds(k)
    return _divide_images(_check_labels(labels), shares, seed, _fold_names(k))


def cross_validation_parts(
    labels: np.ndarray, patients: np.ndarray | None, fold: int, folds: int = 5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(training, validation, test) of one fold of the one division into folds: sorted int64 indices.

    labels: int (n,), 0 or 1.  patients: int (n,), no -1; None divides by image.  fold: 1 to `folds`.
    The test part is that fold of folds_by_patient (folds_by_image) with seed 0, always the same; a
    tenth of the other folds' images, again whole patients, is the validation part, to choose epoch and
    threshold on.  With five folds these are the report's shares, 0.72, 0.08 and 0.20.
    Errors as for folds_by_patient.
    """
    _check_folds(folds)
    if isinstance(fold, bool) or not isinstance(fold, int | np.integer) or not 1 <= fold <= folds:
        raise ArgumentError(f"the fold must be an integer from 1 to {folds}, got {fold!r}")
    labels, names = _check_labels(labels), ("training", "validation")
    shares = np.array([1 - _VALIDATION_SHARE, _VALIDATION_SHARE])
    if patients is None:
        tests = folds_by_image(labels, folds)
        rest = np.setdiff1d(np.arange(len(labels)), tests[fold - 1])
        training, validation = _divide_images(labels[rest], shares, fold, names)
    else:
        tests = folds_by_patient(labels, patients, folds)
        rest = np.setdiff1d(np.arange(len(labels)), tests[fold - 1])
        training, validation = _assign_patients(labels[rest], np.asarray(patients)[rest], shares, fold, names)
    return rest[training], rest[validation], tests[fold - 1]


def _fold_names(k: int) -> tuple[str, ...]:
    return tuple(f"fold {i + 1}" for i in range(k))


def _check_shares(shares: Sequence[float], parts: int) -> np.ndarray:
    try:
        values = np.asarray(shares, np.float64)
    except (TypeError, ValueError):
        values = np.zeros(0)
    if values.shape != (parts,) or not np.all(values > 0) or not abs(values.sum() - 1) < 1e-6:
        raise ArgumentError(f"shares must be {parts} positive numbers that add to 1, got {shares!r}")
    return values


def _check_folds(k: int) -> np.ndarray:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 2 <= k <= MAX_FOLDS:
        raise ArgumentError(f"the number of folds must be an integer from 2 to {MAX_FOLDS}, got {k!r}")
    return np.full(k, 1 / k)


def _check_labels(labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not np.isin(labels, (0, 1)).all():
        raise ArgumentError(
            f"labels must be integers 0 or 1 of shape (n,), got {labels.dtype} {labels.shape}"
        )
    if len(labels) == 0:
        raise DataError("there are no images to divide")
    return labels.astype(np.int64)


def _check_patients(patients: np.ndarray, labels: np.ndarray) -> np.ndarray:
    patients = np.asarray(patients)
    if patients.shape != labels.shape or patients.dtype.kind not in "iu":
        raise ArgumentError(
            f"patients must be integers of shape {labels.shape}, got {patients.dtype} {patients.shape}"
        )
    unknown = int(np.sum(patients < 0))
    if unknown:
        raise DataError(
            f"the names of {unknown} of {len(patients)} images do not begin with C and a patient's number, "
            "so they cannot be split by patient; --split image splits without, but is optimistic: cells of "
            "one patient are then both learned from and tested on"
        )
    return patients.astype(np.int64)


def _assign_patients(
    labels: np.ndarray, patients: np.ndarray, shares: np.ndarray, seed: int, names: Sequence[str]
) -> list[np.ndarray]:
    people, person = np.unique(patients, return_inverse=True)
    person = person.reshape(-1)
    if len(people) < len(shares):
        raise DataError(f"{len(people)} patients are too few for {len(shares)} parts: {', '.join(names)}")
    # What is to be shared out, one row a patient: images of class 0 and of class 1, and the patient
    # as a healthy or an infected one.
    images = np.stack([np.bincount(person, labels == label, len(people)) for label in (0, 1)], axis=1)
    infected = images[:, 1] > 0
    goods = np.column_stack([images, ~infected, infected]).astype(np.float64)

    proposals = _propose(people, infected, shares, seed)
    best = np.argmin(_cost(_totals(proposals, goods, len(shares)), shares))
    part_of = _improve(proposals[best], goods, shares)
    parts = [np.flatnonzero(part_of[person] == part) for part in range(len(shares))]
    _require_both_classes(parts, labels, names, f"{len(people)} patients, {int(infected.sum())} infected")
    return parts


def _propose(people: np.ndarray, infected: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """Assignments to choose from: int (proposals, patients), each the part of every patient."""
    if len(shares) ** len(people) <= _MAX_ENUMERATED:  # few patients: every assignment there is,
        every = np.array(list(itertools.product(range(len(shares)), repeat=len(people))))
        # in an order that depends on the seed, which thus decides between equally good ones.
        return every[:, np.argsort(uniform(seed, 0, people, "split by patient", 1)[:, 0])]
    draws = uniform(seed, 0, people, "split by patient", _TRIALS)
    offsets = uniform(seed, 0, np.arange(2), "split offset", _TRIALS)
    cuts = np.cumsum(shares)[:-1]
    proposals = np.empty((_TRIALS, len(people)), np.int64)
    for trial in range(_TRIALS):
        for stratum in (0, 1):
            members = np.flatnonzero(infected == bool(stratum))
            members = members[np.argsort(draws[members, trial], kind="stable")]
            # Systematic rounding: with a random offset every part gets its share of the stratum
            # rounded down or up, and exactly its share on average.
            ends = np.floor(cuts * len(members) + offsets[stratum, trial])
            proposals[trial, members] = np.searchsorted(ends, np.arange(len(members)), side="right")
    return proposals


def _totals(proposals: np.ndarray, goods: np.ndarray, parts: int) -> np.ndarray:
    """How much of each good each part has: (..., patients), (patients, goods) -> (..., parts, goods)."""
    return np.stack([(proposals == part) @ goods for part in range(parts)], axis=-2)


def _cost(totals: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """How far (..., parts, goods) are from the shares: chi-squared, and a fine for a class missing.

    Patient counts weigh a tenth of image counts: they matter, but images are what is learned from.
    """
    everything = totals.sum(axis=-2, keepdims=True)
    wanted = shares[:, None] * everything
    safe = np.maximum(wanted * everything, 1e-12)
    distance = np.where(wanted > 0, (totals - wanted) ** 2 / safe, 0.0)
    missing = (totals[..., :2] <= 0).sum(axis=(-2, -1))
    return (distance * np.array([1.0, 1.0, 0.1, 0.1])).sum(axis=(-2, -1)) + 100.0 * missing


def _improve(part_of: np.ndarray, goods: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Move one patient at a time, always the best move, until none helps: int (patients,)."""
    part_of = part_of.copy()
    totals = _totals(part_of, goods, len(shares))
    everyone = np.arange(len(part_of))
    for _ in range(10 * len(part_of)):
        moved = np.repeat(totals[None, None], len(shares), 1).repeat(len(part_of), 0)
        moved[everyone, :, part_of] -= goods[:, None]
        targets = np.arange(len(shares))
        moved[:, targets, targets] += goods[:, None]
        costs = _cost(moved, shares)  # (patients, parts moved to)
        patient, target = np.unravel_index(np.argmin(costs), costs.shape)
        if costs[patient, target] >= _cost(totals, shares) - 1e-12:
            break
        totals = moved[patient, target]
        part_of[patient] = target
    return part_of


def _divide_images(
    labels: np.ndarray, shares: np.ndarray, seed: int, names: Sequence[str]
) -> list[np.ndarray]:
    pieces: list[list[np.ndarray]] = [[] for _ in shares]
    for label in (0, 1):
        shuffled = permutation(seed, 0, np.flatnonzero(labels == label), "split by image")
        ends = np.floor(np.cumsum(shares)[:-1] * len(shuffled) + 0.5).astype(np.int64)
        for part, piece in zip(pieces, np.split(shuffled, ends), strict=True):
            part.append(piece)
    parts = [np.sort(np.concatenate(part)) for part in pieces]
    _require_both_classes(parts, labels, names, f"{len(labels)} images")
    return parts


def _require_both_classes(
    parts: Sequence[np.ndarray], labels: np.ndarray, names: Sequence[str], what: str
) -> None:
    for name, part in zip(names, parts, strict=True):
        for label, kind in ((0, "uninfected"), (1, "infected")):
            if not np.any(labels[part] == label):
                raise DataError(
                    f"the {name} part would have no {kind} cells: {what} are too few to divide so"
                )
