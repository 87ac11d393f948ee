"""docs/convolution-by-hand.md, number by number: its own arithmetic, and against both kernel sets."""

from __future__ import annotations

import contextlib
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest

from tinynet import functional as F
from tinynet.tensor import Tensor

PAGE = (Path(__file__).parent.parent / "docs" / "convolution-by-hand.md").read_text(encoding="utf-8")
ONE_CHANNEL, TWO_CHANNELS = PAGE.split("## One channel")[1].split("## Two channels")
TWO_CHANNELS = TWO_CHANNELS.split("## The same by the engine")[0]

ELEMENT = re.compile(r"(\w+?\d?)(?:\[(\d),(\d)\])?")


def arrays(text):
    """{name: array} for every array drawn on the page, as often as it is drawn."""
    found = {}
    lines = text.splitlines()
    for number, line in enumerate(lines):
        for start in re.finditer(r"(\w+) = (?=\[)", line):
            rows, column = [], start.end()
            for below in lines[number:]:
                row = re.match(r"\[([-\d ]+)\]", below[column:])
                if row is None:
                    break
                rows.append([int(value) for value in row[1].split()])
            found.setdefault(start[1], []).append(np.array(rows))
    return found


def sums(text):
    """(name, index, terms by name, terms by number, total) for every sum written out on the page.

    A term is a list of factors: element names in the one form, numbers in the other.
    """
    pattern = re.compile(
        r"^    (\w+)(?:\[(\d),(\d)\])? = (?!\[)(.+(?:\n +\+ .+)*)\n +(?:=) (.+)\n +(?:=) (-?\d+)$",
        re.MULTILINE,
    )
    for name, row, column, names, values, total in pattern.findall(text):
        index = (int(row), int(column)) if row else ()
        by_name = [term.split() for term in re.split(r"\s+\+ ", names)]
        by_value = [[int(factor.strip("()")) for factor in term.split("·")] for term in values.split(" + ")]
        yield name, index, by_name, by_value, int(total)


def value(element, known):
    name, row, column = ELEMENT.fullmatch(element).groups()
    array = known[name]
    return int(array.item() if row is None else array[int(row), int(column)])


def by_the_engine(known, channels):
    """What the kernels compute from the page's inputs, under the page's names."""
    x = np.stack([known[f"x{c}"] for c in channels], axis=-1)[np.newaxis].astype(np.float64)
    w = np.stack([known[f"w{c}"] for c in channels], axis=-1)[..., np.newaxis].astype(np.float64)
    leaves = [Tensor(array, requires_grad=True) for array in (x, w, known["b"].reshape(1).astype(np.float64))]
    y = F.conv2d(*leaves, padding="valid")
    y.backward(known["dy"].reshape(1, 2, 2, 1))
    results = {"y": y.numpy()[0, :, :, 0], "db": leaves[2].grad}
    for number, channel in enumerate(channels):
        results[f"dx{channel}"] = leaves[0].grad[0, :, :, number]
        results[f"dw{channel}"] = leaves[1].grad[:, :, number, 0]
    return results


SECTIONS = [
    pytest.param(ONE_CHANNEL, [""], {"y": 4, "dx": 9, "dw": 4, "db": 1}, id="one channel"),
    pytest.param(TWO_CHANNELS, ["1", "2"], {"y": 4, "dx2": 9, "dw2": 4}, id="two channels"),
]


@pytest.mark.parametrize(("text", "channels", "counts"), SECTIONS)
def test_every_element_has_its_sum_and_every_sum_is_right(text, channels, counts):
    drawn = arrays(text)
    known = {name: versions[0] for name, versions in drawn.items()}
    written = list(sums(text))
    assert len({(name, index) for name, index, *_ in written}) == len(written)
    assert {name: sum(other == name for other, *_ in written) for name in counts} == counts
    assert len(written) == sum(counts.values())
    for name, index, by_name, by_value, total in written:
        assert by_value == [[value(element, known) for element in term] for term in by_name], (name, index)
        assert sum(math.prod(term) for term in by_value) == total, (name, index)
        if name in known:
            assert known[name][index] == total, (name, index)


@pytest.mark.parametrize(("text", "channels", "counts"), SECTIONS)
def test_the_page_says_what_the_kernels_compute(kernel_set, text, channels, counts):
    drawn = arrays(text)
    results = by_the_engine({name: versions[0] for name, versions in drawn.items()}, channels)
    for name, index, *_, total in sums(text):
        assert results[name].reshape(-1 if name == "db" else (*results[name].shape,))[index or 0] == total
    for name, versions in drawn.items():
        for version in versions:
            if name in results:
                np.testing.assert_array_equal(version, results[name])
    assert set(counts) - {"db"} <= set(drawn)


def test_the_two_sections_continue_one_another(kernel_set):
    """The first channel is that of the first section, in its inputs and in its gradients."""
    first = {name: versions[0] for name, versions in arrays(ONE_CHANNEL).items()}
    second = {name: versions[0] for name, versions in arrays(TWO_CHANNELS).items()}
    for name, same in (("x", "x1"), ("w", "w1"), ("b", "b"), ("dy", "dy")):
        np.testing.assert_array_equal(first[name], second[same])
    one, two = by_the_engine(first, [""]), by_the_engine(second, ["1", "2"])
    for name, same in (("dx", "dx1"), ("dw", "dw1"), ("db", "db")):
        np.testing.assert_array_equal(one[name], two[same])


def test_the_equations_at_the_top_are_the_sums_below():
    """Each written sum has the terms that the general equations give it: no more, no fewer."""
    inside = {"x": range(3), "w": range(2), "dy": range(2)}
    for text in (ONE_CHANNEL, TWO_CHANNELS):
        for name, index, by_name, _, _ in sums(text):
            terms = {frozenset(term) for term in by_name}
            assert len(terms) == len(by_name)
            channel = name[2:]
            pairs = [(u, v) for u in inside["w"] for v in inside["w"]]
            if name == "y":
                i, j = index
                expected = {
                    frozenset([f"x{c}[{i + u},{j + v}]", f"w{c}[{u},{v}]"])
                    for u, v in pairs
                    for c in ([""] if text is ONE_CHANNEL else ["1", "2"])
                } | {frozenset(["b"])}
            elif name == "db":
                expected = {frozenset([f"dy[{i},{j}]"]) for i, j in pairs}
            elif name.startswith("dx"):
                m, n = index
                expected = {
                    frozenset([f"dy[{m - u},{n - v}]", f"w{channel}[{u},{v}]"])
                    for u, v in pairs
                    if m - u in inside["dy"] and n - v in inside["dy"]
                }
            else:
                u, v = index
                expected = {frozenset([f"dy[{i},{j}]", f"x{channel}[{i + u},{j + v}]"]) for i, j in pairs}
            assert terms == expected, (name, index)


def test_the_program_prints_what_the_page_says(kernel_set):
    program, output = re.search(r"```python\n(.*?)```\n\nprints\n\n```\n(.*?)```", PAGE, re.DOTALL).groups()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, "docs/convolution-by-hand.md", "exec"), {})
    assert printed.getvalue() == output
