"""Tensor: recording, backward, fan-out, depth, no_grad, printing."""

import io
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinynet.functions.operators  # noqa: F401  (gives Tensor its operators)
from tinynet.errors import ArgumentError, ShapeError
from tinynet.functions.arithmetic import add, exp, multiply
from tinynet.functions.lanes import pack
from tinynet.tensor import Function, Tensor, grad_enabled, no_grad


def leaf(*values: float) -> Tensor:
    return Tensor(np.array(values), requires_grad=True)


def test_a_tensor_used_twice_receives_the_sum_of_both_gradients():
    x = leaf(3.0)
    (x * x + x).backward()
    assert x.grad == pytest.approx([7.0])


def test_a_diamond_is_passed_through_once_after_both_arms_are_complete():
    calls = []

    class Watched(Function):
        def forward(self, x):
            return 2 * x

        def backward(self, cotangent):
            calls.append(float(cotangent[0]))
            return (2 * cotangent,)

    x = leaf(1.0)
    shared = Watched()(x)
    (shared * 3 + shared * 5).backward()
    assert calls == [8.0]
    assert x.grad == pytest.approx([16.0])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100), st.booleans()), min_size=1, max_size=15))
def test_any_graph_of_sums_and_products_agrees_with_forward_mode(steps):
    x = leaf(0.5)
    nodes = [(x, 0.5, 1.0)]  # tensor, value, derivative
    for first, second, product in steps:
        a, a_value, a_slope = nodes[first % len(nodes)]
        b, b_value, b_slope = nodes[second % len(nodes)]
        if product:
            nodes.append((a * b, a_value * b_value, a_slope * b_value + a_value * b_slope))
        else:
            nodes.append(((a + b) / 2, (a_value + b_value) / 2, (a_slope + b_slope) / 2))
    result, value, slope = nodes[-1]
    result.backward()
    assert result.item() == pytest.approx(value)
    assert x.grad[0] == pytest.approx(slope)


def test_a_chain_of_5000_operations_needs_no_recursion():
    x = leaf(1.0)
    y = x
    for _ in range(5000):
        y = y + 0.001
    y.backward()
    assert y.item() == pytest.approx(6.0)
    assert x.grad == pytest.approx([1.0])
    del y  # and neither does forgetting it


def test_backward_twice_accumulates_and_zero_grad_forgets():
    x = leaf(1.0, 2.0)
    y = (x * x).sum()
    y.backward()
    y.backward()
    np.testing.assert_allclose(x.grad, [4.0, 8.0])
    x.zero_grad()
    assert x.grad is None


def test_the_gradients_of_two_leaves_do_not_share_memory():
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    (x + y).sum().backward()
    x.grad += 10
    np.testing.assert_array_equal(y.grad, [1.0, 1.0])


def test_gradients_are_kept_for_leaves_and_where_asked_for():
    x = leaf(2.0)
    middle, kept = x * 3, x * 5
    kept.retain_grad()
    (middle + kept).backward()
    assert middle.grad is None
    np.testing.assert_array_equal(kept.grad, [1.0])


def test_detached_data_carries_no_gradient():
    x = leaf(2.0)
    (x * x.detach()).backward()
    assert x.grad == pytest.approx([2.0])


def test_no_grad_records_nothing_and_ends_even_after_an_exception():
    x = leaf(1.0)
    with pytest.raises(KeyError), no_grad():
        assert not grad_enabled()
        y = x * 2
        assert y.creator is None and not y.requires_grad
        raise KeyError
    assert grad_enabled()
    assert (x * 2).requires_grad


def test_no_grad_in_one_thread_leaves_another_recording():
    x, inside, done = leaf(1.0), threading.Event(), threading.Event()
    seen = []

    def predicting():
        with no_grad():
            inside.set()
            done.wait(10)
            seen.append((x * 2).requires_grad)

    thread = threading.Thread(target=predicting)
    thread.start()
    assert inside.wait(10)
    recorded_here = (x * 2).requires_grad
    done.set()
    thread.join()
    assert recorded_here is True
    assert seen == [False]


def test_a_function_does_only_the_work_that_is_needed():
    x, constant = leaf(2.0), Tensor(np.array([3.0]))
    y = multiply(x, constant)
    assert y.creator.needs == (True, False)
    assert y.creator.backward(np.ones(1))[1] is None
    assert multiply(constant, constant).creator is None


@pytest.mark.parametrize("cotangent", [np.ones(2), np.ones((3, 1)), 1.0])
def test_a_cotangent_of_another_shape_is_refused(cotangent):
    with pytest.raises(ShapeError, match=r"cotangent has shape .* wanted \(3,\)"):
        (leaf(1.0, 2.0, 3.0) * 2).backward(cotangent)


def test_only_a_scalar_can_do_without_a_cotangent():
    with pytest.raises(ShapeError, match="needs a cotangent"):
        (leaf(1.0, 2.0) * 2).backward()


def test_backward_where_nothing_requires_a_gradient_is_refused():
    with pytest.raises(ArgumentError, match="nothing that made this tensor requires a gradient"):
        (Tensor([1.0]) * 2).backward()


def test_integers_compute_but_have_no_gradient():
    counts = Tensor(np.array([1, 2, 3]))
    assert (counts * 2).dtype.kind == "i"
    assert not (counts * 2).requires_grad
    with pytest.raises(ArgumentError, match="only floating-point data has a gradient, got int"):
        Tensor(np.array([1, 2]), requires_grad=True)


@pytest.mark.parametrize("data", [["a"], [None], np.array([1j])])
def test_what_is_not_a_real_number_is_refused(data):
    with pytest.raises(ArgumentError, match="data must be numbers"):
        Tensor(data)


def test_python_floats_become_float32_and_arrays_keep_their_dtype():
    assert Tensor([1.0, 2.0]).dtype == np.float32
    assert Tensor(np.array([1.0])).dtype == np.float64
    assert Tensor(np.array([1.0], np.float16)).dtype == np.float32
    assert Tensor(np.array([1, 2], np.uint8)).dtype == np.uint8


def test_repr_tells_values_shape_dtype_name_and_origin():
    weight = Tensor(np.ones((2, 2), np.float32), requires_grad=True, name="weight")
    text = repr(weight)
    for part in ("[1., 1.]", "shape=(2, 2)", "dtype=float32", "name='weight'", "requires_grad=True"):
        assert part in text
    assert "from=Exp" in repr(exp(weight))
    assert "0." not in repr(Tensor(np.zeros((30, 30))))  # large ones without their values


def test_trace_prints_operations_shapes_and_norms_from_the_result_backwards():
    x = Tensor(np.array([3.0, 4.0]), requires_grad=True, name="x")
    log = io.StringIO()
    (x * x).sum().backward(trace=log)
    lines = log.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["Sum", "Multiply"]
    assert "x (2,) |grad| 5" in lines[1]  # each operand of x * x receives x itself, of norm 5


def test_trace_true_prints_to_standard_output(capsys):
    leaf(1.0).exp().backward(trace=True)
    assert capsys.readouterr().out.startswith("Exp")


def test_item_and_length():
    assert Tensor(np.array([[2.5]])).item() == 2.5
    with pytest.raises(ShapeError, match="wanted one element"):
        leaf(1.0, 2.0).item()
    assert len(leaf(1.0, 2.0)) == 2
    with pytest.raises(ShapeError, match="scalar has no length"):
        len(Tensor(np.array(1.0)))


def test_the_truth_of_several_elements_is_refused():
    assert Tensor(np.array([1.0]))
    assert not Tensor(np.array(0.0))
    with pytest.raises(ShapeError, match="truth"):
        bool(leaf(1.0, 2.0))


def test_iterating_gives_the_slices_with_their_gradients():
    x = Tensor(np.arange(6.0).reshape(3, 2), requires_grad=True)
    rows = list(x)
    assert [row.shape for row in rows] == [(2,)] * 3
    rows[1].sum().backward()
    np.testing.assert_array_equal(x.grad, [[0, 0], [1, 1], [0, 0]])


def test_numpy_takes_a_constant_tensor_as_an_array_but_never_drops_a_gradient_silently():
    np.testing.assert_array_equal(np.asarray(Tensor(np.array([1.0, 2.0]))), [1.0, 2.0])
    assert np.asarray(Tensor(np.array([1.0])), np.float32).dtype == np.float32
    with pytest.raises(ArgumentError, match="requires a gradient"):
        np.asarray(leaf(1.0))
    with pytest.raises(ArgumentError, match="requires a gradient"):
        add(leaf(1.0), [leaf(2.0)])
    with pytest.raises(TypeError):
        np.exp(leaf(1.0))


def test_the_gradient_of_a_gradient_is_refused_clearly():
    x = leaf(2.0)
    y = x * x
    with pytest.raises(ArgumentError, match="gradient of a gradient is out of scope"):
        y.backward(create_graph=True)
    with pytest.raises(ArgumentError, match="gradient of a gradient is out of scope"):
        y.backward(leaf(1.0))
    y.backward(Tensor([1.0]))
    assert isinstance(x.grad, np.ndarray) and x.grad == pytest.approx([4.0])
    with pytest.raises(ArgumentError, match="nothing that made this tensor requires a gradient"):
        (Tensor(x.grad) * x.grad).backward()


# What a mutation of the printed text would otherwise survive.


def test_a_tensor_prints_as_what_it_is():
    x = leaf(1.0, 2.123456)
    assert repr(x) == "Tensor([1.    , 2.1235], shape=(2,), dtype=float64, requires_grad=True)"
    named = Tensor(np.zeros(9, np.float32), name="weights")
    assert repr(named) == "Tensor(shape=(9,), dtype=float32, name='weights')"
    assert repr(Tensor(np.zeros(8))).startswith("Tensor([0., 0., 0., 0., 0., 0., 0., 0.], ")
    assert repr(x * x) == "Tensor([1.    , 4.5091], shape=(2,), dtype=float64, from=Multiply)"
    images = pack(np.zeros((3, 4, 5, 2)))
    assert repr(images) == f"Tensor(shape=(3, 4, 5, 2), dtype=float64, lanes={images.data.shape})"


def test_the_trace_names_operation_shapes_and_sizes():
    x, y, text = leaf(3.0, 4.0), Tensor(np.array([2.0, 2.0])), io.StringIO()
    x.name = "x"
    multiply(x, y).backward(np.array([0.0, 1.0]), trace=text)
    line = "Multiply               (2,) |grad| 1  ->  x (2,) |grad| 2; input (2,) |grad| -\n"
    assert text.getvalue() == line


def test_before_backward_there_is_no_gradient_in_either_layout():
    x = leaf(1.0)
    assert x.grad is None and x.grad_numpy() is None
    assert pack(np.zeros((3, 4, 5, 2))).grad_numpy() is None
    x.grad = np.array([5.0])
    assert x.grad_numpy() is x.grad
    x.zero_grad()
    assert x.grad_numpy() is None


def test_as_an_array_it_keeps_its_dtype_unless_another_is_asked_for():
    x = Tensor(np.array([1.5, 2.5], np.float32))
    assert np.asarray(x).dtype == np.float32 and np.asarray(x) is x.numpy()
    assert np.asarray(x, np.float64).dtype == np.float64
    assert np.shares_memory(np.asarray(x, np.float32), x.data)
    assert x.__array__(np.float64).dtype == np.float64
    copied = x.__array__(copy=True)
    assert np.array_equal(copied, x.data) and not np.shares_memory(copied, x.data)
    with pytest.raises(ArgumentError, match=r"requires a gradient .* by itself; ask for x\.numpy\(\)"):
        np.asarray(leaf(1.0))
    with pytest.raises(ShapeError, match=r"^Tensor: a scalar has no length$"):
        len(Tensor(1.0))
