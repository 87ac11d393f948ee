"""The gradient check itself: right gradients pass, every kind of wrong one fails, kinks are told apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinynet.errors import ArgumentError
from tinynet.functions import arithmetic, reductions
from tinynet.functions.activation import relu
from tinynet.functions.convolution import dense
from tinynet.functions.lanes import pack
from tinynet.gradcheck import GradcheckError, NonDifferentiableError, gradcheck
from tinynet.tensor import Function, Tensor, no_grad


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0.5, 2, shape) * np.random.default_rng(seed + 1).choice(
        [-1, 1], shape
    )


class Cube(Function):
    """y = x^3; dx = 3 x^2 dy, which a subclass can spoil."""

    def forward(self, x):
        self.x = x
        return x**3

    def right(self, cotangent):
        return 3 * self.x**2 * cotangent

    def backward(self, cotangent):
        return (self.right(cotangent),)


def spoilt(spoil):
    """The cube with its gradient passed through `spoil`."""

    class Spoilt(Cube):
        def backward(self, cotangent):
            return (spoil(self.right(cotangent)),)

    return lambda x: Spoilt()(x)


def failure(*args, **options):
    """The error that gradcheck raises; NonDifferentiableError, its subclass, would be another finding."""
    with pytest.raises(GradcheckError) as caught:
        gradcheck(*args, **options)
    assert type(caught.value) is GradcheckError
    assert not caught.value.report.passed
    return caught.value


@pytest.mark.parametrize("fast_mode", [True, False])
@given(seed=st.integers(0, 2**32 - 1))
def test_a_right_gradient_passes(fast_mode, seed):
    report = gradcheck(lambda x: Cube()(x), numbers(3, 4), fast_mode=fast_mode, seed=seed)
    assert report and report.passed
    assert report.inputs[0].compared == (3 if fast_mode else 12)
    assert report.inputs[0].max_rel_error < 1e-6


@pytest.mark.parametrize("fast_mode", [True, False])
@given(seed=st.integers(0, 2**32 - 1))
def test_one_percent_too_much_everywhere_fails(fast_mode, seed):
    error = failure(spoilt(lambda dx: 1.01 * dx), numbers(3, 4), fast_mode=fast_mode, seed=seed)
    check = error.report.inputs[0]
    assert check.verdict == "wrong"
    assert check.max_rel_error == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("fast_mode", [True, False])
def test_one_percent_too_much_fails_for_small_gradients_too(fast_mode):
    # Such as those of a mean over many images: about 4e-4, of which 1 % is less than atol.
    def loss(x):
        return reductions.mean(spoilt(lambda dx: 1.01 * dx)(x)) / 1000

    failure(loss, numbers(3, 4), fast_mode=fast_mode)
    assert gradcheck(lambda x: reductions.mean(Cube()(x)) / 1000, numbers(3, 4), fast_mode=fast_mode)


@given(element=st.integers(0, 11), seed=st.integers(0, 2**32 - 1))
def test_a_single_wrong_element_fails_element_by_element_and_is_named(element, seed):
    def spoil(dx):
        dx = dx.copy()
        dx.flat[element] *= 1.01
        return dx

    error = failure(spoilt(spoil), numbers(3, 4), fast_mode=False, seed=seed)
    row, column = divmod(element, 4)
    assert f"at element ({row}, {column})" in str(error)
    assert "1 of 12 disagree" in str(error)


@pytest.mark.parametrize("fast_mode", [True, False])
def test_a_wrong_sign_fails(fast_mode):
    failure(spoilt(lambda dx: -dx), numbers(5), fast_mode=fast_mode)


@pytest.mark.parametrize("fast_mode", [True, False])
def test_permuted_gradients_fail(fast_mode):
    failure(spoilt(lambda dx: dx[::-1]), numbers(5), fast_mode=fast_mode)


def test_a_gradient_that_is_not_passed_on_is_missing():
    error = failure(spoilt(lambda dx: None), numbers(5))
    assert error.report.inputs[0].verdict == "missing"
    assert "backward gives no gradient" in str(error)


def test_a_result_without_history_is_missing_its_gradient():
    assert failure(lambda x: Cube()(x.detach()), numbers(5)).report.inputs[0].verdict == "missing"


def test_an_input_the_function_does_not_depend_on_needs_no_gradient():
    report = gradcheck(lambda x, unused: Cube()(x), (numbers(5), numbers(2)))
    assert [check.verdict for check in report.inputs] == ["ok", "ok"]


def test_a_dropped_term_fails_and_only_its_input_is_blamed():
    class Product(Function):
        """y = a b^2, whose backward forgets the factor 2 of db."""

        def forward(self, a, b):
            self.a, self.b = a, b
            return a * b**2

        def backward(self, cotangent):
            return cotangent * self.b**2, cotangent * self.a * self.b

    error = failure(lambda a, b: Product()(a, b), (numbers(4), numbers(4, seed=5)))
    assert [check.verdict for check in error.report.inputs] == ["ok", "wrong"]


class ForgetfulNormalize(Function):
    """z = (x - mean) / deviation, whose backward forgets that the deviation depends on x."""

    def forward(self, x):
        self.deviation = np.sqrt(x.var(axis=0))
        return (x - x.mean(axis=0)) / self.deviation

    def backward(self, cotangent):
        return ((cotangent - cotangent.mean(axis=0)) / self.deviation,)


def test_a_mistake_that_a_plain_sum_cannot_see_fails():
    x = numbers(8, 3)
    # With a cotangent of ones this backward returns 0, and the sum of the outputs is indeed constant:
    leaf = Tensor(x, requires_grad=True)
    y = ForgetfulNormalize()(leaf)
    y.backward(np.ones(y.shape))
    moved = ForgetfulNormalize()(Tensor(x + 1e-3 * numbers(8, 3, seed=9)))
    np.testing.assert_allclose(leaf.grad, 0, atol=1e-12)
    np.testing.assert_allclose(moved.numpy().sum(), y.numpy().sum(), atol=1e-12)
    failure(lambda x: ForgetfulNormalize()(x), x)


def test_gradients_of_the_wrong_shape_dtype_and_value_are_told():
    def verdict(spoil):
        return failure(spoilt(spoil), numbers(4)).report.inputs[0].verdict

    assert verdict(lambda dx: dx[:, np.newaxis]) == "wrong shape"
    assert verdict(lambda dx: dx.astype(np.float32)) == "wrong dtype"
    assert verdict(lambda dx: dx * np.nan) == "not finite"


def test_a_function_that_is_not_finite_here_or_nearby_is_told():
    with np.errstate(all="ignore"):
        assert "own result is not finite" in str(failure(arithmetic.log, np.array([-1.0, 1.0])))
        error = failure(arithmetic.log, np.array([1e-7, 1.0]))
    assert error.report.inputs[0].verdict == "not finite"


def test_a_function_that_draws_its_own_random_numbers_fails_beyond_the_tolerance():
    random = np.random.default_rng(0)

    def noisy(x):
        return arithmetic.add(x, 1e-9 * random.normal(size=3))

    assert "two runs on the same inputs give results that differ" in str(failure(noisy, numbers(3)))
    # eps large enough that noise of 1e-9 does not matter to the quotients
    assert gradcheck(noisy, numbers(3), nondet_tol=1e-7, eps=1e-2)


def test_a_backward_that_draws_its_own_random_numbers_fails():
    random = np.random.default_rng(0)
    error = failure(spoilt(lambda dx: dx + 1e-12 * random.normal(size=dx.shape)), numbers(3))
    assert "give gradients for input 0 that differ" in str(error)


def test_a_function_that_writes_into_its_input_fails_and_the_callers_array_survives():
    class Overwriting(Cube):
        def forward(self, x):
            y = super().forward(x.copy())
            x[0] = 7
            return y

    x = numbers(3)
    before = x.copy()
    assert "changes input 0 in place" in str(failure(lambda x: Overwriting()(x), x))
    np.testing.assert_array_equal(x, before)


def test_a_backward_that_writes_into_its_input_or_cotangent_fails():
    class Overwriting(Cube):
        def __init__(self, what):
            self.what = what

        def backward(self, cotangent):
            right = self.right(cotangent)
            (self.x if self.what == "input" else cotangent)[0] = 7
            return (right,)

    assert "backward changes input 0 in place" in str(failure(lambda x: Overwriting("input")(x), numbers(3)))
    assert "writes into its cotangent" in str(failure(lambda x: Overwriting("cotangent")(x), numbers(3)))


def kinked(*args, **options):
    with pytest.raises(NonDifferentiableError, match="not differentiable here") as caught:
        gradcheck(*args, **options)
    return caught.value.report


@pytest.mark.parametrize("fast_mode", [True, False])
@pytest.mark.parametrize(
    ("function", "point"),
    [
        (lambda x: arithmetic.maximum(x, 0), [1.0, 0.0, -1.0]),  # ReLU at 0
        (relu, [[1.0, 0.0, -1.0]]),
        (arithmetic.absolute, [1.0, 0.0, -1.0]),  # where 0 and the central quotient even agree
        (lambda x: reductions.max(x), [1.0, 3.0, 3.0]),  # a tie
        (lambda x: reductions.min(x, axis=0), [[1.0, 2.0], [1.0, 3.0]]),
        (lambda x: arithmetic.clip(x, -1, 1), [0.0, 1.0]),
    ],
)
def test_a_kink_is_reported_as_one_and_not_as_a_wrong_gradient(function, point, fast_mode):
    report = kinked(function, np.array(point), fast_mode=fast_mode)
    assert report.inputs[0].verdict == "not differentiable here"


@given(part=st.floats(-0.95, 0.95), seed=st.integers(0, 2**32 - 1))
def test_a_kink_anywhere_within_the_step_is_found(part, seed):
    kinked(lambda x: arithmetic.maximum(x, 0), np.array([part * 1e-6]), fast_mode=False, seed=seed)


def test_a_jump_is_not_differentiable_either():
    class Step(Function):
        def forward(self, x):
            return np.where(x >= 0, 1.0, 0.0)

        def backward(self, cotangent):
            return (np.zeros_like(cotangent),)

    kinked(lambda x: Step()(x), np.array([0.0, 1.0]))
    assert gradcheck(lambda x: Step()(x), np.array([0.5, -0.5]))


def test_only_the_elements_at_the_kink_are_counted():
    report = kinked(lambda x: arithmetic.maximum(x, 0), np.array([1.0, 0.0, -1.0]), fast_mode=False)
    assert "at element (1,)" in report.inputs[0].detail and "(1 of 3)" in report.inputs[0].detail


def test_a_wrong_gradient_beside_a_kink_is_still_called_wrong():
    error = failure(
        lambda x: spoilt(lambda dx: 2 * dx)(arithmetic.maximum(x, 0)), np.array([1.0, 0.0]), fast_mode=False
    )
    assert error.report.inputs[0].verdict == "wrong"


@pytest.mark.parametrize("fast_mode", [True, False])
def test_strong_curvature_is_not_taken_for_a_kink(fast_mode):
    # At 1e-4 the slopes of ln x a step of 1e-6 apart differ by a hundred, and yet it is smooth.
    assert gradcheck(arithmetic.log, np.array([1e-4, 3e-4]), fast_mode=fast_mode)


def test_float32_is_refused_wherever_it_appears():
    x = np.ones(3, np.float32)
    for inputs in (x, Tensor(x, requires_grad=True), (np.ones(3), Tensor(x))):
        with pytest.raises(ArgumentError, match=r"input \d is float32; difference quotients need float64"):
            gradcheck(lambda *x: Cube()(x[0]), inputs)

    class Narrowing(Cube):
        def forward(self, x):
            return super().forward(x).astype(np.float32)

    with pytest.raises(ArgumentError, match="func must return float64, it returned float32"):
        gradcheck(lambda x: Narrowing()(x), np.ones(3))


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(ArgumentError, match="no input requires a gradient"):
        gradcheck(lambda x: x, Tensor(np.ones(3)))
    with pytest.raises(ArgumentError, match="must return Tensors, it returned ndarray"):
        gradcheck(lambda x: x.numpy(), np.ones(3))
    with pytest.raises(ArgumentError, match="it returned nothing"):
        gradcheck(lambda x: (), np.ones(3))
    with pytest.raises(ArgumentError, match="eps must be positive, got 0"):
        gradcheck(lambda x: x, np.ones(3), eps=0)
    with no_grad(), pytest.raises(ArgumentError, match=r"outside no_grad\(\)"):
        gradcheck(lambda x: x, np.ones(3))


def test_a_function_whose_result_changes_shape_is_refused():
    calls = []

    def growing(x):
        calls.append(1)
        return x if len(calls) == 1 else arithmetic.add(x, np.zeros((2, 1)))

    with pytest.raises(ArgumentError, match="returns other shapes from call to call"):
        gradcheck(growing, np.ones(3))


def test_several_results_are_checked_together():
    def both(x):
        return arithmetic.exp(x), Tensor(np.array([1, 2])), spoilt(lambda dx: 1.01 * dx)(x)

    failure(both, numbers(3))
    assert gradcheck(lambda x: (arithmetic.exp(x), Cube()(x), Tensor(np.array([1, 2]))), numbers(3))


def test_integer_inputs_and_constants_are_passed_on_unchecked():
    def chosen(x, index, factor):
        return x[index.numpy()] * factor

    report = gradcheck(chosen, (numbers(3), np.array([0, 0, 2]), Tensor(np.array(2.0))))
    assert [check.name for check in report.inputs] == ["input 0"]


def test_scalars_and_empty_arrays_can_be_checked():
    for fast_mode in (True, False):
        assert gradcheck(lambda x: Cube()(x), 2.0, fast_mode=fast_mode).inputs[0].shape == ()
        empty = gradcheck(lambda x: Cube()(x), np.zeros((0, 3)), fast_mode=fast_mode)
        assert empty.inputs[0].compared == 0


def test_everything_is_left_as_it_was():
    earlier = np.full(3, 5.0)
    weight = Tensor(numbers(3), requires_grad=True)  # not an input: a layer's, say
    weight.grad = earlier
    leaf = Tensor(numbers(3), requires_grad=True)
    made = leaf * 2
    data, values, creator = made.data, made.data.copy(), made.creator
    gradcheck(lambda x: x * x * weight, made)
    assert weight.grad is earlier
    assert made.grad is None and leaf.grad is None
    assert made.data is data and made.creator is creator
    np.testing.assert_array_equal(data, values)


def test_a_tensor_is_perturbed_even_where_the_function_reaches_it_by_another_way():
    weight = Tensor(numbers(3), requires_grad=True, name="weight")
    report = gradcheck(lambda x, _: x * weight * weight, (numbers(3, seed=4), weight))
    assert report.inputs[1].name == "weight" and report.inputs[1].max_rel_error < 1e-6
    wrong = spoilt(lambda dx: 1.01 * dx)
    failure(lambda x, _: x * wrong(weight), (numbers(3, seed=4), weight))


def test_without_raising_the_report_is_returned_and_false():
    report = gradcheck(spoilt(lambda dx: -dx), numbers(3), raise_exception=False)
    assert not report and not report.passed
    assert report.inputs[0].verdict == "wrong"


def test_the_report_prints_a_table_and_names_the_kernels(kernel_set):
    x, weight = numbers(2, 3), Tensor(numbers(3, 4), requires_grad=True, name="weight")
    text = str(gradcheck(arithmetic.matmul, (x, weight)))
    assert f"gradient check of matmul: {kernel_set.NAME} kernels, float64" in text
    assert [line.split("  ")[1].strip() for line in text.splitlines()[1:4]] == ["input", "input 0", "weight"]
    assert "(3, 4)" in text and text.endswith("passed")
    failed = str(gradcheck(spoilt(lambda dx: -dx), x, raise_exception=False))
    assert failed.endswith("FAILED") and "backward gives" in failed


def test_the_same_seed_gives_the_same_report():
    def errors(seed):
        return gradcheck(lambda x: Cube()(x), numbers(5), seed=seed).inputs[0].max_abs_error

    assert errors(1) == errors(1)
    assert errors(1) != errors(2)


@pytest.mark.parametrize("count", [1, 5, 17])
@pytest.mark.parametrize("fast_mode", [True, False])
def test_functions_in_lane_layout_are_checked_on_real_images_only(kernel_set, count, fast_mode):
    x, weight, bias = numbers(count, 3), numbers(3, 2, seed=1), numbers(2, seed=2)

    def layers(x, weight, bias):
        result = dense(pack(x), weight, bias)  # the bias fills padding lanes too
        assert result.lanes is not None
        return result

    assert gradcheck(layers, (x, weight, bias), fast_mode=fast_mode)


def test_inputs_in_lane_layout_are_moved_in_their_real_lanes_only(kernel_set):
    packed = pack(numbers(5, 2, 2, 3)).detach()
    packed.requires_grad = True
    report = gradcheck(relu, packed, fast_mode=False)
    assert report.inputs[0].shape == (5, 2, 2, 3) and report.inputs[0].compared == 60
    failure(lambda x: spoilt(lambda dx: 1.01 * dx)(relu(x)), packed)
