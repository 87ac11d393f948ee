"""The exported C program compiles without a warning and answers as the model does, under sanitizers too."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import NAMED, networks, randomised
from test_int8_operations import programs

import tinynet as tn
from tinynet.cli import main
from tinynet.data.synthetic import synthetic_cells
from tinynet.deploy import c_export, c_plan
from tinynet.deploy.graph import lower
from tinynet.deploy.int8.conversion import convert
from tinynet.deploy.int8.model import Int8Model
from tinynet.errors import ArgumentError, FileAccessError
from tinynet.storage import shipped_names

WITH_A_SOFTMAX_INSIDE = {
    "norm after flatten, dropout, one sigmoid",
    "softmax over channels",
    "ends in dropout",
}
ROOT = Path(__file__).parent.parent
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
SANITIZED = [*STRICT, "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover"]

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc to compile the C with")

# Reads float32 inputs, one picture after another; writes the self-test's result, then outputs and logits.
DRIVER = """
#include <stdio.h>
int main(void)
{
    static float input[N_HEIGHT * N_WIDTH * N_CHANNELS], outputs[N_OUTPUTS], logits[N_OUTPUTS];
    const float failed = (float)n_self_test();
    fwrite(&failed, sizeof failed, 1, stdout);
    while (fread(input, sizeof input, 1, stdin) == 1) {
        if (n_predict_scaled(input, outputs) < 0)
            return 3;
        n_logits(logits);
        fwrite(outputs, sizeof outputs, 1, stdout);
        fwrite(logits, sizeof logits, 1, stdout);
    }
    return 0;
}
"""

# Reads pictures: height, width, pixels; writes the class, then outputs.
PICTURES = """
#include <stdio.h>
int main(void)
{
    static unsigned char pixels[300 * 300 * 3];
    float outputs[N_OUTPUTS];
    int size[2];
    if (n_self_test() != 0)
        return 3;
    while (fread(size, sizeof size, 1, stdin) == 1) {
        int label;
        if (fread(pixels, (size_t)(size[0] * size[1] * 3), 1, stdin) != 1)
            return 4;
        label = n_predict(pixels, size[0], size[1], outputs);
        fwrite(&label, sizeof label, 1, stdout);
        fwrite(outputs, sizeof outputs, 1, stdout);
    }
    return 0;
}
"""


def compiled(model, folder, driver, flags, compiler="gcc"):
    """An executable of the model's header and a driver."""
    c_export.write(c_export.export(model, "n"), folder / "n.h")
    (folder / "main.c").write_text(f'#define N_IMPLEMENTATION\n#include "n.h"\n{driver}')
    command = [compiler, *flags, str(folder / "main.c"), "-o", str(folder / "program"), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "program"


def run(program, data, emulator=()):
    done = subprocess.run([*emulator, program], input=data, capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def assert_same_answers(model, folder, flags):
    program = compiled(model, folder, DRIVER, flags)
    x = np.random.default_rng(3).standard_normal((3, *model.input_shape)).astype(np.float32)
    found = np.frombuffer(run(program, x.tobytes()), np.float32)
    assert found[0] == 0, "the self-test fails"
    outputs, logits = found[1:].reshape(3, 2, *model.output_shape).swapaxes(0, 1)
    for got, wanted in ((outputs, model.predict(x)), (logits, model.logits(x))):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * max(1, np.abs(wanted).max()))


def cells_of_all_sizes(model):
    """200 pictures: of the model's size, larger, smaller, not square."""
    return list(drawn_cells(*model.input_shape[:2]))


@functools.cache
def drawn_cells(height, width):
    pictures = []
    for seed, (h, w) in enumerate([(height, width), (90, 90), (140, 77), (23, 31), (height, 2 * width)]):
        side = max(h, w)
        pictures += [image[:h, :w].copy() for image in synthetic_cells(40, size=side, seed=seed).images]
    return pictures


@needs_gcc
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("autoencoder", SANITIZED),
        ("autoencoder", [*STRICT, "-O3", "-march=native"]),
        ("autoencoder", [*STRICT, "-Os", "-DN_LANES=1"]),
        ("small-cnn", [*STRICT, "-O1"]),
    ],
    ids=["sanitized", "fast", "small", "small-cnn"],
)
def test_shipped_classifiers_on_200_cells(tmp_path, name, flags):
    model = tn.load(name)
    program = compiled(model, tmp_path, PICTURES, flags)
    pictures = cells_of_all_sizes(model)
    data = b"".join(struct.pack("ii", *image.shape[:2]) + image.tobytes() for image in pictures)
    found = np.frombuffer(run(program, data), np.dtype([("label", "i4"), ("outputs", "f4", 2)]))
    wanted = model.predict(pictures)
    assert len(found) == 200 and len(np.unique(found["label"])) == 2
    np.testing.assert_allclose(found["outputs"], wanted, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(found["label"], found["outputs"][:, 1] >= np.float32(model.threshold))


@needs_gcc
@pytest.mark.parametrize("name", NAMED)
def test_named_networks(tmp_path, name):
    model = randomised(tn.Sequential(NAMED[name](), (9, 8, 6)))
    assert_same_answers(model, tmp_path, SANITIZED)


@needs_gcc
@settings(max_examples=6)
@given(networks())
def test_drawn_networks(tmp_path_factory, model):
    assert_same_answers(model, tmp_path_factory.mktemp("c"), SANITIZED)


@needs_gcc
@settings(max_examples=3)
@given(networks())
def test_drawn_networks_without_vectors(tmp_path_factory, model):
    assert_same_answers(model, tmp_path_factory.mktemp("c"), [*SANITIZED, "-DN_LANES=1"])


@needs_gcc
def test_preprocessing_threshold_and_temperature(tmp_path):
    made = tn.Preprocessing(height=8, width=6, scale=0.02, mean=(0.1, 0.2, 0.3), deviation=(0.5, 0.6, 0.7))
    layers = [tn.Conv2D(3, 3, activation="relu"), tn.GlobalAveragePool2D(), tn.Dense(1, "sigmoid")]
    model = randomised(tn.Sequential(layers, (8, 6, 3), preprocessing=made, class_names=("a", "b")))
    images = [image[:40] for image in synthetic_cells(20, size=50).images]
    wanted = model.predict(images)[:, 0]
    model.threshold = float(np.median(wanted))
    program = compiled(model, tmp_path, PICTURES, SANITIZED)
    data = b"".join(struct.pack("ii", 40, 50) + image.tobytes() for image in images)
    found = np.frombuffer(run(program, data), np.dtype([("label", "i4"), ("output", "f4")]))
    np.testing.assert_allclose(found["output"], wanted, atol=1e-5)
    np.testing.assert_array_equal(found["label"], found["output"] >= np.float32(model.threshold))
    assert 0 < found["label"].sum() < 20


def library(model, folder):
    """The pair as a shared library."""
    c_export.write(c_export.export(model, "n"), folder / "n.h", pair=True)
    command = ["gcc", *STRICT, "-O1", "-shared", "-fPIC", folder / "n.c", "-o", folder / "n.so", "-lm"]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(folder / "n.so"))


@needs_gcc
def test_pixels_of_a_phone_and_what_is_refused(tmp_path):
    """RGBA in padded rows; impossible sizes; numbers that are none."""
    model = tn.load("autoencoder")
    made = library(model, tmp_path)
    image = synthetic_cells(1, size=70).images[0]
    padded = np.zeros((70, 80, 4), np.uint8)
    padded[:, :70, :3], padded[:, :70, 3] = image, 200
    outputs = np.zeros(2, np.float32)
    at = ctypes.c_void_p(padded.ctypes.data), ctypes.c_void_p(outputs.ctypes.data)
    made.n_predict_pixels(at[0], 70, 70, ctypes.c_long(320), 4, at[1])
    np.testing.assert_allclose(outputs, model.predict([image])[0], atol=1e-5)
    for height, width in ((0, 5), (5, 0), (-1, 5), (32768, 1), (1, 32768)):
        assert made.n_predict(at[0], height, width, at[1]) == -1
    for number in (np.nan, np.inf, -np.inf):
        scaled = np.zeros(32 * 32 * 3, np.float32)
        scaled[1000] = number
        assert made.n_predict_scaled(ctypes.c_void_p(scaled.ctypes.data), at[1]) == -1
    names = (ctypes.c_char_p * 2).in_dll(made, "n_class_names")
    assert list(names) == [b"uninfected", b"infected"]


@needs_gcc
def test_the_self_test_notices_another_weight(tmp_path):
    layers = [tn.Conv2D(4, 3, activation="relu"), tn.Flatten(), tn.Dense(2, "softmax")]
    model = randomised(tn.Sequential(layers, (4, 4, 3)))
    program = compiled(model, tmp_path, DRIVER, [*STRICT, "-O1"])
    assert np.frombuffer(run(program, b""), np.float32)[0] == 0
    text = (tmp_path / "n.h").read_text()
    assert text.count("n_bias0[4] = {\n    ") == 1
    (tmp_path / "n.h").write_text(text.replace("n_bias0[4] = {\n    ", "n_bias0[4] = {\n    7.0f + "))
    subprocess.run(["gcc", tmp_path / "main.c", "-o", program, "-lm"], check=True)
    assert np.frombuffer(run(program, b""), np.float32)[0] == 1


@needs_gcc
def test_odd_names_stay_inside_strings_and_comments(tmp_path):
    """Class and layer names are the user's own words."""
    names = ('p_a"b\\', "*/ ??/ é\n%d")
    layers = [tn.Conv2D(2, 3, name="p_\n*end"), tn.GlobalAveragePool2D(), tn.Softmax(name='"')]
    model = tn.Sequential(layers, (4, 4, 3), class_names=names, name="*/ #error")
    made = library(model, tmp_path)
    assert [name.decode() for name in (ctypes.c_char_p * 2).in_dll(made, "n_class_names")] == list(names)


@needs_gcc
def test_two_programs_in_one_file(tmp_path):
    model = tn.Sequential([tn.Conv2D(2, 3)], (4, 4, 3))
    for name in ("one", "two"):
        c_export.write(c_export.export(model, name), tmp_path / f"{name}.h")
    (tmp_path / "main.c").write_text(
        '#define ONE_IMPLEMENTATION\n#include "one.h"\n#define TWO_IMPLEMENTATION\n#include "two.h"\n'
        '#include "one.h"\nint main(void) { return one_self_test() + two_self_test(); }\n'
    )
    subprocess.run(["gcc", *STRICT, tmp_path / "main.c", "-o", tmp_path / "program", "-lm"], check=True)
    run(tmp_path / "program", b"")


@needs_gcc
def test_the_example_classifies_a_ppm(tmp_path, capsys):
    assert main(["export", "autoencoder", "--to", "c", "--out", str(tmp_path / "cells.h")]) == 0
    shutil.copy(ROOT / "examples" / "c" / "main.c", tmp_path)
    flags = SANITIZED
    subprocess.run(["gcc", *flags, tmp_path / "main.c", "-o", tmp_path / "cells", "-lm"], check=True)
    cells = synthetic_cells(4, size=60)
    probabilities = tn.load("autoencoder").predict(list(cells.images))[:, 1]
    for image, probability in zip(cells.images, probabilities, strict=True):
        (tmp_path / "cell.ppm").write_bytes(b"P6\n# drawn\n60 60\n255\n" + image.tobytes())
        done = subprocess.run([tmp_path / "cells", "cell.ppm"], cwd=tmp_path, capture_output=True, text=True)
        label = "infected" if probability >= 0.5 else "uninfected"
        assert done.stdout.splitlines()[0] == f"{label}  {probability:.4f}  cell.ppm"
        assert "Not a medical device; for research and teaching." in done.stdout
    for content in (b"", b"P6\n60 60\n255\n" + bytes(100), b"P3 1 1 255 0 0 0", b"P6\n99999 1\n255\n"):
        (tmp_path / "cell.ppm").write_bytes(content)
        done = subprocess.run([tmp_path / "cells", "cell.ppm"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 1 and "not a binary PPM" in done.stderr


@needs_gcc
def test_the_page_s_commands_run_as_they_stand(tmp_path):
    """In a folder where the checkout is called tinynet, with the command of this interpreter."""
    page = (ROOT / "docs" / "c-export.md").read_text(encoding="utf-8")
    commands = page.split("<!-- commands -->\n```sh\n")[1].split("```")[0]
    (tmp_path / "tinynet").symlink_to(ROOT, target_is_directory=True)
    image = synthetic_cells(1, size=60).images[0]
    (tmp_path / "cell.ppm").write_bytes(b"P6 60 60 255\n" + image.tobytes())
    tool = tmp_path / "bin" / "tinynet"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tinynet "$@"\n')
    tool.chmod(0o755)
    environment = os.environ | {"PATH": f"{tool.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-ec", commands], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    label, probability, path = done.stdout.splitlines()[-2].split()
    wanted = tn.load("autoencoder").predict([image])[0, 1]
    assert (label, path) == ("infected" if wanted >= 0.5 else "uninfected", "cell.ppm")
    assert abs(float(probability) - wanted) < 1e-4


def test_the_page_s_costs_are_what_is_exported():
    """A row for every shipped model, two for one in float32: as it is and made int8; and no others."""
    wanted = set()
    for name in shipped_names():
        models = [tn.load(name)]
        height, width, _ = models[0].input_shape
        if not isinstance(models[0], Int8Model):
            models.append(convert(models[0], synthetic_cells(8, size=height).images))
        for model in models:
            exported = c_export.export(model, "n")
            costs = (exported.constants, exported.arena, exported.multiply_accumulates)
            cells = (f"{name}, {height}x{width}", exported.numbers, *(f"{cost:,}" for cost in costs))
            wanted.add(f"| {' | '.join(cells)} |")
    page = (ROOT / "docs" / "c-export.md").read_text(encoding="utf-8")
    table = page.split("| model | numbers |")[1].split("\n\n")[0]
    assert set(table.splitlines()[2:]) == wanted


def test_what_the_command_prints(tmp_path, capsys):
    out = tmp_path / "my cells.h"
    assert main(["export", "autoencoder", "--to", "c", "--out", str(out), "--pair"]) == 0
    printed = capsys.readouterr().out
    assert "my_cells_predict" in printed and "769,968 a picture" in printed
    assert "65,496 bytes of weights" in printed and "38,720 bytes" in printed
    assert "Not a medical device; for research and teaching." in printed
    assert '#include "my cells.h"' in out.with_suffix(".c").read_text()
    text = out.read_text()
    assert "#define MY_CELLS_ARENA_BYTES 38720" in text and "malloc" not in text
    assert "IMPLEMENTATION\n\n" not in text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--out", "no/folder/cells.h"], "could not be written"),
        (["--out", "cells.txt"], "must end in .h"),
        (["--out", "cells.h", "--name", "2cells"], "cannot begin the names of C functions"),
        (["--out", "cells.h", "--name", "a-b"], "cannot begin the names of C functions"),
    ],
)
def test_misuse_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, capsys, options, sentence):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "autoencoder", "--to", "c", *options]) == 1
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_pair_is_written_whole_or_not_at_all(tmp_path):
    exported = c_export.export(tn.Sequential([tn.Conv2D(2, 3)], (4, 4, 3)), "n")
    (tmp_path / "n.h").mkdir()
    with pytest.raises(FileAccessError):
        c_export.write(exported, tmp_path / "n.h", pair=True)
    assert not (tmp_path / "n.c").exists()
    (tmp_path / "n.c").write_text("mine")
    with pytest.raises(FileAccessError):
        c_export.write(exported, tmp_path / "n.h", pair=True)
    assert (tmp_path / "n.c").read_text() == "mine"


def test_a_layer_that_c_has_no_form_for():
    class Odd(tn.Layer):
        kind = "odd"

    with pytest.raises(ArgumentError, match=r"layer 'odd1' \(Odd\) cannot be exported to C"):
        c_export.export(tn.Sequential([Odd()], (4, 4, 3)), "n")


# int8: the same integers.

INTEGERS = """
#include <stdio.h>
int main(void)
{
    static float input[N_HEIGHT * N_WIDTH * N_CHANNELS], outputs[N_OUTPUTS];
    static int32_t integers[N_OUTPUTS];
    if (n_self_test() != 0)
        return 3;
    while (fread(input, sizeof input, 1, stdin) == 1) {
        if (n_predict_scaled(input, outputs) < 0)
            return 4;
        n_integers(integers);
        fwrite(integers, sizeof integers, 1, stdout);
        fwrite(outputs, sizeof outputs, 1, stdout);
    }
    return 0;
}
"""
DECLARED, WRITTEN = "float outputs[N_OUTPUTS];", "fwrite(&label,"
INTEGERS_OF_PICTURES = PICTURES.replace(DECLARED, f"{DECLARED} int32_t integers[N_OUTPUTS];").replace(
    WRITTEN, f"n_integers(integers); fwrite(integers, sizeof integers, 1, stdout); {WRITTEN}"
)


def assert_logits_of_200_cells_bit_for_bit(model, folder, flags):
    program = compiled(model, folder, INTEGERS_OF_PICTURES, flags)
    pictures = cells_of_all_sizes(model)
    data = b"".join(struct.pack("ii", *image.shape[:2]) + image.tobytes() for image in pictures)
    kind = np.dtype([("integers", "i4", 2), ("label", "i4"), ("outputs", "f4", 2)])
    found = np.frombuffer(run(program, data), kind)
    prepared = np.stack([model.preprocessing.prepare(image) for image in pictures])
    np.testing.assert_array_equal(found["integers"], model.integers(prepared))
    np.testing.assert_allclose(found["outputs"], model.predict(prepared), atol=1e-6, rtol=0)
    np.testing.assert_array_equal(found["label"], found["outputs"][:, 1] >= np.float32(model.threshold))
    assert len(found) == 200 and len(np.unique(found["integers"], axis=0)) > 100


@needs_gcc
@pytest.mark.parametrize(
    "flags",
    [SANITIZED, [*STRICT, "-O3", "-march=native"], [*STRICT, "-Os"]],
    ids=["sanitized", "fast", "small"],
)
def test_int8_logits_of_200_cells_bit_for_bit(tmp_path, flags):
    floats = tn.load("autoencoder")
    model = convert(floats, synthetic_cells(64, size=floats.input_shape[0], seed=9).images)
    assert_logits_of_200_cells_bit_for_bit(model, tmp_path, flags)


@needs_gcc
@pytest.mark.parametrize("name", ["cells-70k", "cells-10k"])
def test_shipped_int8_logits_of_200_cells_bit_for_bit(tmp_path, name):
    """Sanitized and optimised: they multiply three and six times as often as the autoencoder."""
    assert_logits_of_200_cells_bit_for_bit(tn.load(name), tmp_path, [*SANITIZED, "-O2"])


# Compilers and processors that are tried where they are: compiler, flags, what runs the program.
ELSEWHERE = {
    "clang": ("clang", [*STRICT, "-O3"], []),
    "clang, sanitized": ("clang", [*STRICT, "-O1", "-fsanitize=address,undefined", *SANITIZED[-1:]], []),
    "32 bits": ("gcc", [*STRICT, "-O2", "-m32"], []),
    "arm64": ("aarch64-linux-gnu-gcc", [*STRICT, "-O3", "-static"], ["qemu-aarch64-static"]),
    "armhf": ("arm-linux-gnueabihf-gcc", [*STRICT, "-Os", "-static"], ["qemu-arm-static"]),
}


@pytest.mark.parametrize("place", ELSEWHERE)
def test_other_compilers_and_processors_on_200_cells(tmp_path, place):
    compiler, flags, emulator = ELSEWHERE[place]
    (tmp_path / "empty.c").write_text("int main(void) { return 0; }\n")
    try:
        empty = [compiler, *flags, tmp_path / "empty.c", "-o", tmp_path / "empty", "-lm"]
        subprocess.run(empty, check=True, capture_output=True)
        run(tmp_path / "empty", b"", emulator)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"{' '.join([compiler, *flags])} makes no program that runs here")
    floats = tn.load("autoencoder")
    small = convert(floats, synthetic_cells(64, size=floats.input_shape[0], seed=9).images)
    pictures = cells_of_all_sizes(floats)
    data = b"".join(struct.pack("ii", *image.shape[:2]) + image.tobytes() for image in pictures)
    program = compiled(floats, tmp_path, PICTURES, flags, compiler)
    kind = np.dtype([("label", "i4"), ("outputs", "f4", 2)])
    found = np.frombuffer(run(program, data, emulator), kind)
    np.testing.assert_allclose(found["outputs"], floats.predict(pictures), atol=1e-5, rtol=0)
    program = compiled(small, tmp_path, INTEGERS_OF_PICTURES, flags, compiler)
    kind = np.dtype([("integers", "i4", 2), ("label", "i4"), ("outputs", "f4", 2)])
    found = np.frombuffer(run(program, data, emulator), kind)
    prepared = np.stack([small.preprocessing.prepare(image) for image in pictures])
    np.testing.assert_array_equal(found["integers"], small.integers(prepared))


def assert_same_integers(model, x, folder, flags):
    program = compiled(model, folder, INTEGERS, flags)
    raw = run(program, np.ascontiguousarray(x, np.float32).tobytes())
    found = np.frombuffer(raw, np.int32).reshape(len(x), 2, *model.output_shape)
    np.testing.assert_array_equal(found[:, 0], model.integers(x.astype(np.float32)))


@needs_gcc
@settings(max_examples=8)
@given(programs(), st.integers(0, 2**32 - 1))
def test_drawn_int8_programs_bit_for_bit(tmp_path_factory, program, seed):
    model = Int8Model(program)
    first = program.input
    integers = np.random.default_rng(seed).integers(-128, 128, (4, *first.shape))
    integers[0], integers[1] = -128, 127
    x = (integers - first.zero) * first.scale
    assert_same_integers(model, x, tmp_path_factory.mktemp("c"), SANITIZED)


@needs_gcc
@pytest.mark.parametrize("name", sorted(set(NAMED) - WITH_A_SOFTMAX_INSIDE))
def test_named_networks_made_int8(tmp_path, name):
    model = randomised(tn.Sequential(NAMED[name](), (9, 8, 6)))
    x = np.random.default_rng(1).standard_normal((5, *model.input_shape)).astype(np.float32)
    assert_same_integers(convert(model, x), 1.5 * x, tmp_path, SANITIZED)


# The plan.


@given(networks())
def test_buffers_in_use_at_once_do_not_overlap(model):
    planned = c_plan.plan(lower(model))
    for one in planned.buffers:
        assert one.offset >= 0 and one.offset % c_plan.ALIGNMENT == 0
        assert one.offset + one.bytes <= planned.arena
        for other in planned.buffers:
            if one is not other and one.first <= other.last and other.first <= one.last:
                assert one.offset + one.bytes <= other.offset or other.offset + other.bytes <= one.offset


def test_convolutions_take_along_what_follows():
    layers = [
        tn.Conv2D(4, 3), tn.BatchNorm(), tn.ReLU(), tn.MaxPool2D(2), tn.BatchNorm(), tn.Conv2D(4, 3),
        tn.MaxPool2D(2), tn.Tanh(), tn.ReLU(), tn.MaxPool2D(2, stride=1), tn.Flatten(), tn.Dense(3, "relu"),
        tn.BatchNorm(), tn.Dense(2, "softmax"),
    ]  # fmt: skip
    steps = c_plan.plan(lower(randomised(tn.Sequential(layers, (8, 8, 3))))).steps
    found = [(s.operation.kind, s.activation, s.pool is not None, s.affine is not None) for s in steps]
    assert found == [
        ("convolution", "relu", True, True),
        ("convolution", "tanh", True, False),
        ("relu", None, False, False),
        ("max_pool", None, False, False),
        ("dense", "relu", False, True),
        ("dense", None, False, False),
    ]
    assert steps[2].in_place
