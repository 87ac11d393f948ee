"""No step of a plan writes into another's memory, or makes anything of what lies beyond its own.

A plan (tinynet/single, tinynet/batch) keeps all activations in one array, where frames around arrays
(test_kernel_bounds.py) do not see one run into the next.  Here the pieces of that array lie apart, with NaN
between them: what is read there comes out in the answers.  The plan is carried out up to each of its steps,
and whatever a step changes must be in the pieces that were laid out for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st
from tinynet.models import autoencoder, classifier, small_cnn

import tinynet as tn
from tinynet import batch, kernels, single
from tinynet.errors import ArgumentError

if kernels.numba_problem() is not None:
    pytest.skip("plans are for the Numba kernels", allow_module_level=True)

from test_single import images_for, networks, randomise

from tinynet.batch import plan as batch_plan
from tinynet.kernels.numba import batch as batch_kernel
from tinynet.kernels.numba import batch_plan as batch_fields
from tinynet.kernels.numba import single as single_kernel
from tinynet.kernels.numba import single_plan as single_fields
from tinynet.kernels.numba.tiles import WIDTH
from tinynet.single import plan as single_plan
from tinynet.single.packed import aligned

GAP = 4096  # numbers on either side of a piece; whole cache lines
NAN = np.array([0x7FC0BEEF], np.uint32).view(np.float32)[0]


@dataclass
class Piece:
    """`size` numbers of scratch from `start`, laid out for a record of the plan: its target, or its work."""

    start: int
    size: int
    record: int


@dataclass
class Kind:
    """One of the two kinds of plans: what makes them, what carries them out, on how many images at once."""

    program: Callable
    writer: type
    fields: object
    kernel: Callable[..., None]
    images: int

    def carry_out(self, program, records: int, memory: np.ndarray, images: np.ndarray) -> np.ndarray:
        """The answers to images, of the plan's first so many records."""
        plan, results = program.plan.copy(), np.zeros((len(images), *program.output_shape), np.float32)
        plan[self.fields.OPTION] = records
        codes, values = np.empty(0, np.uint8), images.reshape(-1)
        self.kernel(plan, program.numbers, memory, codes, values, len(images), results.reshape(-1))
        return results


def batch_of(plan, numbers, memory, codes, values, count, results):
    bytes_ = np.empty(batch_kernel.BYTES, np.uint8)
    batch_kernel.images_of_batch(
        plan, numbers, memory, codes, values, bytes_, count, 0, count, results
    )  # fmt: skip


KINDS = {
    "single": Kind(single.Program, single_plan._Writer, single_fields, single_kernel.one_image, 1),
    "batch": Kind(batch.Program, batch_plan._Writer, batch_fields, batch_of, WIDTH),
}


@contextlib.contextmanager
def apart(kind: Kind, pieces: list[Piece]) -> Iterator[None]:
    """Plans that are made meanwhile have their pieces of scratch GAP apart; `pieces` tells where."""
    original = kind.writer.room

    def room(self, size: int) -> int:
        self.scratch += GAP
        pieces.append(Piece(original(self, size), size, len(self.records)))
        self.scratch += GAP
        return pieces[-1].start

    with mock.patch.object(kind.writer, "room", room):
        yield


@dataclass
class Spread:
    """A program whose pieces lie apart, and what each of its records does to scratch.

    changed  for each record the places in scratch that it changes
    """

    kind: Kind
    program: object
    pieces: list[Piece]
    images: np.ndarray

    def memory(self, between: float = NAN) -> np.ndarray:
        memory = np.full(self.program._scratch, between, np.float32)
        for piece in self.pieces:
            memory[piece.start : piece.start + piece.size] = 0
        return aligned(memory)

    @property
    def records(self) -> int:
        return int(self.program.plan[self.kind.fields.OPTION])

    def field(self, record: int, name: str) -> int:
        return record * self.kind.fields.RECORD + getattr(self.kind.fields, name)

    def changes(self, record: int) -> np.ndarray:
        """The places in scratch that a record changes, in order.

        Once with NaN between the pieces and once with a number: a step that works in place makes NaN of NaN.
        """
        found = []
        for between in (NAN, -7.25):
            before, after = self.memory(between), self.memory(between)
            self.kind.carry_out(self.program, record, before, self.images)
            self.kind.carry_out(self.program, record + 1, after, self.images)
            found.append(np.flatnonzero(after.view(np.uint32) != before.view(np.uint32)))
        return np.unique(np.concatenate(found))

    def answers(self) -> np.ndarray:
        return self.kind.carry_out(self.program, self.records, self.memory(), self.images)

    def own(self, record: int) -> list[Piece]:
        """The pieces that a record may change: laid out for it, or, where it works in place, its source."""
        source = int(self.program.plan[self.field(record, "SOURCE")])
        if self.program.plan[self.field(record, "KIND")] in in_place(self.kind):
            return [p for p in self.pieces if p.start <= source < p.start + p.size]
        return [piece for piece in self.pieces if piece.record == record]

    def strays(self, record: int, own: list[Piece]) -> bool:
        """Whether the record changes what is in none of its own pieces."""
        places = self.changes(record)
        inside = np.zeros(places.size, bool)
        for piece in own:
            inside |= (places >= piece.start) & (places < piece.start + piece.size)
        return not inside.all()


def in_place(kind: Kind) -> tuple[int, ...]:
    return (kind.fields.ELEMENTS, getattr(kind.fields, "SOFTMAX", kind.fields.ELEMENTS))


def spread(kind: Kind, model: tn.Sequential, seed: int) -> Spread | None:
    """None where the model is not one that this kind of plan can express."""
    pieces: list[Piece] = []
    with apart(kind, pieces):
        try:
            program = kind.program(model)
        except ArgumentError:
            return None
    return Spread(kind, program, pieces, images_for(model, kind.images, seed, of_bytes=False))


def check(kind: Kind, model: tn.Sequential, seed: int = 0) -> Spread | None:
    """Every record keeps to its pieces, and the answers are those of a plan whose pieces touch."""
    found = spread(kind, model, seed)
    if found is None:
        return None
    assert [record for record in range(1, found.records) if found.strays(record, found.own(record))] == []
    got = found.answers()
    usual = kind.program(model)
    memory = aligned(np.zeros(usual._scratch, np.float32))
    np.testing.assert_array_equal(got, kind.carry_out(usual, found.records, memory, found.images))
    assert not np.isnan(got).any()
    return found


def of(shape: tuple[int, ...], *layers: Callable[[], tn.Layer]) -> Callable[[], tn.Sequential]:
    return lambda: tn.Sequential([layer() for layer in layers], shape)


MODELS = {
    "autoencoder": autoencoder,
    "classifier": classifier,
    "small_cnn": small_cnn,
    # Winograd's method of batches, with numbers of outputs that fill no tile.
    "many channels": of(
        (6, 10, 32), lambda: tn.Conv2D(37, 3, activation="relu"), lambda: tn.Conv2D(35, 3)
    ),
    "many, pooled": of(
        (6, 6, 35), lambda: tn.Conv2D(33, 3, activation="relu"), lambda: tn.MaxPool2D(2)
    ),
    "odd sides": of(
        (7, 33, 8), lambda: tn.Conv2D(9, 3), lambda: tn.Conv2D(5, 3), lambda: tn.MaxPool2D(2)
    ),
    "taps in passes": of((6, 7, 17), lambda: tn.Conv2D(7, 5, activation="relu6")),
    "strides": of(
        (9, 17, 3), lambda: tn.Conv2D(6, 3, stride=2), lambda: tn.Conv2D(3, 2, stride=(1, 3))
    ),
    "enlarged": of(
        (4, 16, 3), lambda: tn.UpSample2D(2), lambda: tn.Conv2D(5, 3), lambda: tn.UpSample2D((1, 3))
    ),
    "vectors": of(
        (21,), lambda: tn.Dense(13, "relu"), lambda: tn.Dense(17, "tanh"), lambda: tn.Dense(3)
    ),
    "no padding": of(
        (3, 32, 3), lambda: tn.Conv2D(4, 1), lambda: tn.AveragePool2D(1), tn.BatchNorm, tn.Flatten,
        lambda: tn.Dense(2, "softmax"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_s_steps_keep_to_their_own_memory(kind, name):
    found = check(KINDS[kind], randomise(MODELS[name](), 1))
    assert found is not None or (kind, name) == ("batch", "vectors")  # a tanh between layers


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(model=networks(), seed=st.integers(0, 10**6))
def test_any_network_s_steps_keep_to_their_own_memory(kind, model, seed):
    note(f"{model.layers}")
    check(KINDS[kind], model, seed)


# What these tests would find.


def moved_out(found: Spread, record: int, piece: Piece, places: np.ndarray, side: str) -> int | None:
    """Move what a record keeps in a piece so that its last number, or its first, lies outside; how far."""
    plan, end = found.program.plan, piece.start + piece.size
    inside = places[(places >= piece.start) & (places < end)]
    if inside.size == 0:
        return None
    far = end - int(inside[-1]) if side == "after" else piece.start - int(inside[0]) - 1
    in_its_place = plan[found.field(record, "KIND")] in in_place(found.kind)
    names = ("SOURCE",) if in_its_place else ("TARGET", "WORK", "PRODUCTS")
    fields = [found.field(record, name) for name in names if hasattr(found.kind.fields, name)]
    moved = [at for at in fields if piece.start <= plan[at] < end]
    assert len(moved) == 1
    plan[moved[0]] += far
    return far


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "small_cnn"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_number_outside_of_a_piece_is_found_whatever_step_writes_it(kind, name, side):
    found, tried = spread(KINDS[kind], randomise(MODELS[name](), 1), 0), 0
    if found is None:
        return
    plan = found.program.plan
    for record in range(1, found.records):
        own, changes = found.own(record), found.changes(record)
        for piece in own:
            found.program.plan = plan.copy()
            if moved_out(found, record, piece, changes, side) is not None:
                assert found.strays(record, own), f"record {record} of {found.records}"
                tried += 1
            found.program.plan = plan
    assert tried >= found.records - 2  # all but the first, which begins, and the last, which only reads


@pytest.mark.parametrize("name", ["classifier", "no padding"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_piece_that_is_laid_out_one_number_too_small_is_found(kind, name):
    found = spread(KINDS[kind], randomise(MODELS[name](), 1), 0)
    for record in range(1, found.records):
        changes, own = found.changes(record), found.own(record)
        for piece in own:
            size = piece.size
            inside = changes[(changes >= piece.start) & (changes < piece.start + size)]
            if inside.size:
                piece.size = int(inside[-1]) - piece.start  # the last one that is written is not in it
                assert found.strays(record, own)
                piece.size = size


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_outside_of_a_piece_comes_out(kind):
    """The last record reads one number further than its source reaches."""
    found = spread(KINDS[kind], randomise(MODELS["no padding"](), 1), 0)
    last, plan = found.records - 1, found.program.plan
    source = plan[found.field(last, "SOURCE")]
    (piece,) = [p for p in found.pieces if p.start <= source < p.start + p.size]
    plan[found.field(last, "SOURCE")] = piece.start + piece.size - found.kind.images
    assert np.isnan(found.answers()).any()
