"""The public gradient check: backward() against difference quotients.

For a function y = f(x) with Jacobian J, backward() computes J^T c from a cotangent c.  With
phi(t) = <c, f(x + t r)> for a direction r, the two sides of

    <J^T c, r>  =  phi'(0)  =  (phi(h) - phi(-h)) / 2h  +  O(h^2)

are computed independently of one another: the left by backward(), the right by running f.

Why c is random and not all ones (a plain sum of the outputs): batch-norm's outputs sum to a
constant and softmax's to one, whatever the input.  Their plain sums have gradient zero, which a
backward that forgot half its terms may well return too.

Source: Griewank and Walther, "Evaluating Derivatives" (2nd ed., 2008), chapter 3; the argument
names and the tolerances' form are PyTorch's torch.autograd.gradcheck.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from tinynet.errors import ArgumentError, TinynetError
from tinynet.tensor import Tensor, grad_enabled, topological_order

DIRECTIONS = 3  # random directions an input in fast mode: one may by chance be blind to a mistake

EPSILON = float(np.finfo(np.float64).eps)

OK = "ok"
KINK = "not differentiable here"


class InputCheck(NamedTuple):
    """What the check of one input found.

    shape      its ordinary shape
    compared   how many derivatives were compared: directions, or elements
    max_abs_error, max_rel_error   the largest differences between backward and quotients
    verdict    "ok", "wrong", "missing", "wrong shape", "wrong dtype", "not finite" or
               "not differentiable here"
    detail     where and how, a sentence; empty where the verdict is "ok"
    """

    name: str
    shape: tuple[int, ...]
    compared: int
    max_abs_error: float
    max_rel_error: float
    verdict: str
    detail: str


class GradcheckReport(NamedTuple):
    """What gradcheck found; true where everything passed, and printable as a table.

    problems   what is wrong with the function as a whole, a sentence each
    kernels    the kernel set that ran, "numpy" or "numba"
    """

    function: str
    kernels: str
    fast_mode: bool
    inputs: tuple[InputCheck, ...]
    problems: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.problems and all(check.verdict == OK for check in self.inputs)

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        mode = f"{DIRECTIONS} random directions an input" if self.fast_mode else "element by element"
        lines = [f"gradient check of {self.function}: {self.kernels} kernels, float64, {mode}"]
        rows = [("input", "shape", "abs. error", "rel. error", "verdict")]
        for check in self.inputs:
            errors = f"{check.max_abs_error:.1e}", f"{check.max_rel_error:.1e}"
            rows.append((check.name, str(check.shape), *errors, check.verdict))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines += [
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        lines += [f"  {sentence}" for sentence in self.sentences()]
        return "\n".join([*lines, "passed" if self.passed else "FAILED"])

    def sentences(self) -> list[str]:
        """Every finding as a sentence, the function's first."""
        return [*self.problems, *(check.detail for check in self.inputs if check.detail)]


class GradcheckError(TinynetError, ValueError):
    """A gradient is wrong, missing, misshapen or not reproducible; `report` says which and by how much."""

    def __init__(self, message: str, report: GradcheckReport):
        super().__init__(message)
        self.report = report


class NonDifferentiableError(GradcheckError):
    """The function has a kink or jump at this point: no gradient is right here.  Choose another point."""


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    fast_mode: bool = True,
    seed: int = 0,
) -> GradcheckReport:
    """Compare the gradients that backward() gives for func(*inputs) with difference quotients.

    func        returns a Tensor or a tuple of them, in ordinary or lane layout
    inputs      a Tensor or array, or a tuple or list of them.  Checked are Tensors that require
                a gradient, and floating-point arrays; the others are passed on.  All
                floating-point data must be float64: in float32 rounding hides the mistakes.
    eps         the step h
    atol, rtol  a derivative a passes against the quotient n if |a - n| <= atol s + rtol |n| + u.
                s is the input's largest derivative, between 0.01 and 1: the small gradients of
                a mean over many numbers are not let through for being small.  u is what
                rounding func's own result does to the quotient.
    raise_exception  False: return the report whatever it says
    nondet_tol  how far two runs on the same inputs may differ, in results and gradients
    fast_mode   True compares along random directions, DIRECTIONS for each input, at two calls of
                func a direction; it finds mistakes that concern many elements.  False compares
                every element, at two calls an element, and finds a single wrong one.
    seed        of the random cotangent and directions

    The inputs, and every gradient that was stored before, are left as they were.

    Raises ArgumentError for inputs that cannot be checked, NonDifferentiableError where the
    only finding is a kink (two one-sided slopes that do not meet as the step shrinks; Chainer's
    gradient_check does likewise), and GradcheckError for any other finding.
    """
    for name, value in (("eps", eps), ("atol", atol), ("rtol", rtol)):
        if not value > 0:
            raise ArgumentError(f"gradcheck: {name} must be positive, got {value}")
    if not grad_enabled():
        raise ArgumentError("gradcheck: gradients are off here; call it outside no_grad()")
    tensors, checked = _tensors(inputs)
    with _untouched(tensors):
        report = _Run(func, tensors, checked, eps, seed).report(atol, rtol, nondet_tol, fast_mode)
    if raise_exception and not report.passed:
        kinks_only = not report.problems and all(check.verdict in (OK, KINK) for check in report.inputs)
        error = NonDifferentiableError if kinks_only else GradcheckError
        raise error(f"gradcheck of {report.function}: {'; '.join(report.sentences())}", report)
    return report


def _tensors(inputs: Any) -> tuple[list[Tensor], list[int]]:
    """The inputs as Tensors, and the positions of those to be checked."""
    given: Sequence[Any] = inputs if isinstance(inputs, tuple | list) else (inputs,)
    tensors = []
    for i, value in enumerate(given):
        tensor = value
        if not isinstance(value, Tensor):
            array = np.asarray(value)
            tensor = Tensor(array, requires_grad=array.dtype == np.float64)
        if tensor.dtype.kind == "f" and tensor.dtype != np.float64:
            raise ArgumentError(
                f"gradcheck: input {i} is {tensor.dtype}; difference quotients need float64, convert it first"
            )
        tensors.append(tensor)
    checked = [i for i, tensor in enumerate(tensors) if tensor.requires_grad]
    if not checked:
        raise ArgumentError("gradcheck: no input requires a gradient, so there is nothing to check")
    return tensors, checked


@contextmanager
def _untouched(tensors: list[Tensor]) -> Iterator[None]:
    """Within the block the tensors are leaves on copies of their data; after it all is as before."""
    before = [(tensor, tensor.data, tensor.grad, tensor.creator) for tensor in tensors]
    for tensor in tensors:
        tensor.data, tensor.creator = tensor.data.copy(), None
    try:
        yield
    finally:
        for tensor, data, grad, creator in before:
            tensor.data, tensor.grad, tensor.creator = data, grad, creator


def _positions(tensor: Tensor) -> np.ndarray:
    """Where in data.ravel() each element of the ordinary array is stored; padding lanes are nowhere."""
    numbered = Tensor(np.arange(tensor.data.size).reshape(tensor.data.shape))
    numbered.lanes = tensor.lanes
    return numbered.numpy().ravel()


def _largest(array: Any) -> float:
    return float(np.max(np.abs(array), initial=0.0))


def _same(one: np.ndarray, two: np.ndarray) -> bool:
    return one.shape == two.shape and np.array_equal(one, two, equal_nan=one.dtype.kind == "f")


def _fault(stored: np.ndarray | None, tensor: Tensor) -> tuple[str, str] | None:
    """What is wrong with a gradient before any comparison: a verdict and why."""
    if stored is None:
        return None  # right, where the function does not depend on the input: the quotients will tell
    if stored.shape != tensor.data.shape:
        return "wrong shape", f"backward gives a gradient of shape {stored.shape}, wanted {tensor.data.shape}"
    if stored.dtype != tensor.dtype:
        return "wrong dtype", f"backward gives a gradient of {stored.dtype}, wanted {tensor.dtype}"
    if not np.isfinite(stored.reshape(-1)[_positions(tensor)]).all():
        return "not finite", "backward gives a gradient that is not finite"
    return None


class _Directions:
    """The directions in which one input is moved: random ones, or each element by itself."""

    def __init__(self, shape: tuple[int, ...], draw: Callable[[tuple[int, ...]], np.ndarray] | None):
        self.shape = shape
        self.size = int(np.prod(shape, dtype=np.int64))
        self.drawn = None if draw is None else [draw(shape) for _ in range(DIRECTIONS if self.size else 0)]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.direction(k) for k in range(self.size if self.drawn is None else len(self.drawn)))

    def direction(self, k: int) -> np.ndarray:
        if self.drawn is not None:
            return self.drawn[k]
        direction = np.zeros(self.size)
        direction[k] = 1.0
        return direction.reshape(self.shape)

    def name(self, k: int) -> str:
        if self.drawn is not None:
            return f"along random direction {k}"
        return f"at element {tuple(int(i) for i in np.unravel_index(k, self.shape))}"


class _Run:
    """The function at one point: its values, what backward() gives, and phi nearby."""

    def __init__(
        self, func: Callable[..., Any], tensors: list[Tensor], checked: list[int], eps: float, seed: int
    ):
        self.func, self.tensors, self.checked, self.eps = func, tensors, checked, eps
        self.random = np.random.default_rng(seed)
        self.point = [tensor.data.copy() for tensor in tensors]
        self.problems: list[str] = []
        self.cotangents: list[np.ndarray] = []

    def report(self, atol: float, rtol: float, nondet_tol: float, fast_mode: bool) -> GradcheckReport:
        from tinynet import kernels

        values, gradients = self.backward()
        if not all(np.isfinite(value).all() for value in values):
            self.problems.append("the function's own result is not finite at this point")
        self.compare_runs((values, gradients), self.backward(), nondet_tol)
        checks: list[InputCheck] = []
        if not self.problems:  # otherwise the quotients mean nothing
            products = [c * value for c, value in zip(self.cotangents, values, strict=True)]
            self.here = self.phi(values)
            # Rounding the results moves phi by about this, and a quotient by that over the step.
            self.rounding = 4 * EPSILON * float(sum(np.abs(p).sum() for p in products)) / self.eps
            checks = [self.check(i, gradients[i], atol, rtol, fast_mode) for i in self.checked]
        name = getattr(self.func, "__name__", type(self.func).__name__)
        problems = tuple(dict.fromkeys(self.problems))  # each once
        return GradcheckReport(name, kernels.active().NAME, fast_mode, tuple(checks), problems)

    def outputs(self) -> list[Tensor]:
        """The floating-point results of func at the inputs' present data."""
        before = [tensor.data.copy() for tensor in self.tensors]
        result = self.func(*self.tensors)
        given = list(result) if isinstance(result, tuple | list) else [result]
        for output in given:
            if not isinstance(output, Tensor):
                raise ArgumentError(
                    f"gradcheck: func must return Tensors, it returned {type(output).__name__}"
                )
        outputs = [output for output in given if output.dtype.kind == "f"]
        if not outputs or any(output.dtype != np.float64 for output in outputs):
            dtypes = ", ".join(str(output.dtype) for output in given)
            raise ArgumentError(f"gradcheck: func must return float64, it returned {dtypes or 'nothing'}")
        shapes = [output.shape for output in outputs]
        if not self.cotangents:
            self.cotangents = [self.signs(shape) for shape in shapes]
        if shapes != [cotangent.shape for cotangent in self.cotangents]:
            raise ArgumentError(f"gradcheck: func returns other shapes from call to call, now {shapes}")
        self.undo_changes(before, "func")
        return outputs

    def signs(self, shape: tuple[int, ...]) -> np.ndarray:
        """Random numbers with random signs, between 0.5 and 1 so that none counts for nearly nothing."""
        return self.random.uniform(0.5, 1.0, shape) * self.random.choice([-1.0, 1.0], shape)

    def undo_changes(self, before: list[np.ndarray], culprit: str) -> None:
        for i, (tensor, data) in enumerate(zip(self.tensors, before, strict=True)):
            if not _same(tensor.data, data):
                self.problems.append(f"{culprit} changes input {i} in place")
                tensor.data = data

    def backward(self) -> tuple[list[np.ndarray], dict[int, np.ndarray | None]]:
        """The values of the outputs, and the gradient of each checked input as backward() leaves it."""
        outputs = self.outputs()
        before = [tensor.data.copy() for tensor in self.tensors]
        for tensor in self.tensors:
            tensor.grad = None
        ours = {id(tensor) for tensor in self.tensors}
        for output, cotangent in zip(outputs, self.cotangents, strict=True):
            if not output.requires_grad:
                continue
            stored = np.zeros(output.data.shape)  # padding lanes: zero
            stored.reshape(-1)[_positions(output)] = cotangent.ravel()
            given = stored.copy()
            others = [tensor for tensor in topological_order(output) if id(tensor) not in ours]
            earlier = [tensor.grad for tensor in others]
            output.backward(given)
            for tensor, gradient in zip(others, earlier, strict=True):
                tensor.grad = gradient
            if not _same(given, stored):
                self.problems.append("a backward writes into its cotangent, which others may share")
        self.undo_changes(before, "backward")
        values = [output.numpy().copy() for output in outputs]
        return values, {i: self.tensors[i].grad for i in self.checked}

    def compare_runs(self, first: Any, second: Any, nondet_tol: float) -> None:
        """Two runs on the same inputs must agree, or the quotients measure noise."""
        pairs = [("results", one, two) for one, two in zip(first[0], second[0], strict=True)]
        pairs += [(f"gradients for input {i}", first[1][i], second[1][i]) for i in self.checked]
        for what, one, two in pairs:
            if one is None or two is None or _same(one, two):
                continue
            difference = _largest(one - two) if one.shape == two.shape else np.inf
            if not difference <= nondet_tol:
                self.problems.append(
                    f"two runs on the same inputs give {what} that differ by {difference:.2g}"
                )

    def phi(self, values: list[np.ndarray]) -> float:
        """<c, y>, summed over the outputs."""
        return float(np.sum([np.sum(c * value) for c, value in zip(self.cotangents, values, strict=True)]))

    def phi_at(self, i: int, direction: np.ndarray, step: float) -> float:
        """phi with input i moved by step * direction; the direction is in the input's ordinary shape."""
        tensor = self.tensors[i]
        moved = self.point[i].copy()
        moved.reshape(-1)[_positions(tensor)] += step * direction.ravel()
        tensor.data = moved
        try:
            return self.phi([output.numpy() for output in self.outputs()])
        finally:
            tensor.data = self.point[i].copy()

    def check(
        self, i: int, stored: np.ndarray | None, atol: float, rtol: float, fast_mode: bool
    ) -> InputCheck:
        """Compare the gradient for input i that backward() left in `stored` with quotients."""
        tensor, h = self.tensors[i], self.eps
        name = tensor.name or f"input {i}"

        def result(verdict: str, detail: str, errors: Any = np.nan, relative: Any = np.nan) -> InputCheck:
            detail = detail and f"{name}: {detail}"
            largest = _largest(errors), _largest(relative)
            return InputCheck(name, tensor.shape, np.size(errors), *largest, verdict, detail)

        fault = _fault(stored, tensor)
        if fault is not None:
            return result(*fault)
        gradient = np.zeros(tensor.shape)
        if stored is not None:
            gradient = stored.reshape(-1)[_positions(tensor)].reshape(tensor.shape)
        directions = _Directions(tensor.shape, self.signs if fast_mode else None)
        slopes = np.array([np.sum(gradient * direction) for direction in directions])
        ahead = np.array([self.phi_at(i, direction, h) for direction in directions])
        behind = np.array([self.phi_at(i, direction, -h) for direction in directions])
        quotients = (ahead - behind) / (2 * h)
        if not np.isfinite(quotients).all():
            return result("not finite", f"the function is not finite a step of {h:g} away")

        sizes = np.maximum(np.abs(slopes), np.abs(quotients))
        allowed = atol * np.clip(_largest(sizes), 0.01, 1) + rtol * np.abs(quotients) + self.rounding
        errors = np.abs(slopes - quotients)
        relative = errors / np.where(sizes > 0, sizes, 1)
        # The slopes to either side of the point differ by this much: curvature, or a kink.
        bends = np.abs(ahead - 2 * self.here + behind) / h
        kinks = [
            k for k in np.flatnonzero(bends > allowed).tolist() if self.is_kink(i, directions.direction(k))
        ]
        wrong = [k for k in np.flatnonzero(errors > allowed).tolist() if k not in kinks]
        if wrong:
            k = wrong[0]
            gave = "no gradient" if stored is None else f"{slopes[k]:.6g}"
            detail = f"{directions.name(k)} backward gives {gave}, the difference quotient {quotients[k]:.6g}"
            detail += f" ({len(wrong)} of {len(slopes)} disagree)"
            return result("missing" if stored is None else "wrong", detail, errors, relative)
        if kinks:
            detail = f"{directions.name(kinks[0])} the slopes before and after this point differ by "
            detail += f"{bends[kinks[0]]:.3g}: {KINK} ({len(kinks)} of {len(slopes)}); choose another point"
            return result(KINK, detail, errors, relative)
        return result(OK, "", errors, relative)

    def is_kink(self, i: int, direction: np.ndarray) -> bool:
        """Whether phi's second difference shrinks otherwise than with the square of the step.

        It does so, by a factor of 4 for half the step, where phi is smooth.  At a kink the factor
        is 2, at a jump 1; a kink beside the point, at a part d of the step, can imitate 4 for one
        halving but not for two, whatever d: hence three steps.
        """

        def second_difference(step: float) -> float:
            return self.phi_at(i, direction, step) - 2 * self.here + self.phi_at(i, direction, -step)

        large, middle, small = (second_difference(self.eps / part) for part in (1, 2, 4))
        return abs(large - 4 * middle) > abs(large) / 5 or abs(middle - 4 * small) > abs(middle) / 5
