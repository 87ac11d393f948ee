"""Operators that move elements about, or make arrays from nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinynet.onnx_import.records import Call
from tinynet.onnx_import.registry import (
    MANY,
    REQUIRED,
    integer,
    integers,
    operator,
    real,
    reals,
    tensor,
    text,
)


def positive_axis(call: Call, axis: int, axes: int) -> int:
    """An axis counted from the front; refused where there is none."""
    if not -axes <= axis < axes:
        call.refuse(f"axis {axis} does not exist in an array of {axes} axes")
    return int(axis) % axes


def positive_axes(call: Call, axes: Any, count: int) -> tuple[int, ...]:
    """Axes counted from the front, each once."""
    found = tuple(positive_axis(call, int(axis), count) for axis in axes)
    if len(set(found)) != len(found):
        call.refuse(f"the axes {tuple(int(axis) for axis in axes)} name one twice")
    return found


def listed(call: Call, name: str, value: np.ndarray | None) -> list[int] | None:
    """An input that holds whole numbers, as a list."""
    if value is None:
        return None
    if value.ndim > 1 or value.dtype.kind not in "iu":
        call.refuse(f"its {name} are {value.dtype} of shape {value.shape}, wanted a list of whole numbers")
    return [int(number) for number in value.reshape(-1)]


@operator("Reshape", 5, 13, 14, 19, 21, 23, 24, 25, inputs=2, allowzero=integer(0, 0, 1))
def reshape(call: Call, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """The same elements under another shape; 0 keeps a side, unless `allowzero`, -1 is what remains."""
    wanted = listed(call, "shape", shape) or []
    if not call["allowzero"]:
        if any(side == 0 and place >= x.ndim for place, side in enumerate(wanted)):
            call.refuse(f"shape {x.shape} cannot become {wanted}: there is no such side to keep")
        wanted = [x.shape[place] if side == 0 else side for place, side in enumerate(wanted)]
    known = math.prod(side for side in wanted if side != -1)
    if wanted.count(-1) > 1 or min(wanted, default=0) < -1 or len(wanted) > 32:
        call.refuse(f"no array can have the shape {wanted}")
    if (-1 in wanted and (not known or x.size % known)) or (-1 not in wanted and known != x.size):
        call.refuse(f"shape {x.shape} ({x.size} elements) cannot become {wanted}")
    return x.reshape(wanted)


@operator("Flatten", 1, 9, 11, 13, 21, 23, 24, 25, axis=integer(1))
def flatten(call: Call, x: np.ndarray) -> np.ndarray:
    """Two axes: those before `axis` as one, and the rest as one."""
    axis = call["axis"]
    if not -x.ndim <= axis <= x.ndim:
        call.refuse(f"axis {axis} does not exist in an array of {x.ndim} axes")
    before = x.shape[: axis if axis >= 0 else axis + x.ndim]
    after = x.shape[len(before) :]
    return x.reshape(math.prod(before), math.prod(after))


@operator("Transpose", 1, 13, 21, 23, 24, 25, perm=integers())
def transpose(call: Call, x: np.ndarray) -> np.ndarray:
    """The axes in another order, by default reversed."""
    order = call["perm"]
    if order is None:
        return x.T
    if sorted(order) != list(range(x.ndim)):
        call.refuse(f"the attribute 'perm' is {order}, no order of {x.ndim} axes")
    return x.transpose(order)


@operator("Squeeze", 1, 11, 13, 21, 23, 24, 25, inputs=(1, 2), axes=integers())
def squeeze(call: Call, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    """x without these axes of length 1, by default all."""
    chosen = call["axes"] if axes is None else listed(call, "axes", axes)
    if chosen is None:
        return x.reshape([side for side in x.shape if side != 1])
    dropped = positive_axes(call, chosen, x.ndim)
    if any(x.shape[axis] != 1 for axis in dropped):
        call.refuse(f"an axis of {dropped} of shape {x.shape} is not of length 1")
    return x.reshape([side for axis, side in enumerate(x.shape) if axis not in dropped])


@operator("Unsqueeze", 1, 11, 13, 21, 23, 24, 25, inputs=(1, 2), axes=integers())
def unsqueeze(call: Call, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    """x with new axes of length 1 at these places of the result."""
    chosen = call["axes"] if axes is None else listed(call, "axes", axes)
    if chosen is None:
        call.refuse("it names no axes")
    if len(chosen) + x.ndim > 32:
        call.refuse(f"no array can have {len(chosen) + x.ndim} axes")
    added = positive_axes(call, chosen, x.ndim + len(chosen))
    return np.expand_dims(x, added)


@operator("Concat", 4, 11, 13, inputs=(1, MANY), axis=integer(REQUIRED))
def concat(call: Call, *arrays: np.ndarray) -> np.ndarray:
    """The arrays one after another along an axis."""
    axis = positive_axis(call, call["axis"], arrays[0].ndim)
    rest = {(*array.shape[:axis], None, *array.shape[axis + 1 :]) for array in arrays}
    if len(rest) > 1 or len({array.dtype for array in arrays}) > 1:
        listed = ", ".join(f"{array.dtype} {array.shape}" for array in arrays[:6])
        call.refuse(f"its inputs ({listed}) differ elsewhere than along axis {axis}")
    total = list(arrays[0].shape)
    total[axis] = sum(array.shape[axis] for array in arrays)
    call.room(total)
    return np.concatenate(arrays, axis=axis)


@operator(
    "Split",
    2,
    11,
    13,
    18,
    inputs=(1, 2),
    outputs=MANY,
    axis=integer(0),
    split=integers(),
    num_outputs=integer(),
)
def split(call: Call, x: np.ndarray, sizes: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
    """Stretches along an axis: of the lengths given, or equal ones of which the last may be shorter."""
    axis = positive_axis(call, call["axis"], x.ndim)
    count, length = len(call.node.outputs), x.shape[axis]
    lengths = call["split"] if sizes is None else listed(call, "lengths", sizes)
    if lengths is None:
        part = -(-length // count)
        if (call.opset < 18 and length % count) or (call["num_outputs"] or count) != count:
            call.refuse(f"{length} cannot be split into {count} equal parts")
        lengths = [min(part, max(0, length - part * place)) for place in range(count)]
    if len(lengths) != count or min(lengths) < 0 or sum(lengths) != length:
        call.refuse(f"{length} is not split by the lengths {list(lengths)[:20]} into {count} outputs")
    return tuple(np.split(x, np.cumsum(lengths)[:-1], axis=axis))


@operator(
    "Slice", 1, 10, 11, 13, inputs=(1, 5), starts=integers(), ends=integers(), axes=integers(),
)  # fmt: skip
def slice_(call: Call, x: np.ndarray, *inputs: np.ndarray | None) -> np.ndarray:
    """Stretches along axes, with steps; ends outside are moved to the edge."""
    if call.opset < 10:
        starts, ends, axes, steps = call["starts"], call["ends"], call["axes"], None
    else:
        given = (*inputs, None, None, None, None)[:4]
        names = ("starts", "ends", "axes", "steps")
        starts, ends, axes, steps = (
            listed(call, name, value) for name, value in zip(names, given, strict=True)
        )
    if starts is None or ends is None:
        call.refuse("it has no starts or no ends")
    axes = positive_axes(call, range(len(starts)) if axes is None else axes, x.ndim)
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        call.refuse("starts, ends, axes and steps are not equally many, or a step is 0")
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        length = x.shape[axis]
        start, end = (place + length if place < 0 else place for place in (start, end))
        if step > 0:
            index[axis] = slice(min(max(start, 0), length), min(max(end, 0), length), step)
        else:
            last = min(max(end, -1), length - 1)
            index[axis] = slice(min(max(start, 0), length - 1), None if last < 0 else last, step)
    return x[tuple(index)]


@operator("Gather", 1, 11, 13, inputs=2, axis=integer(0))
def gather(call: Call, x: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Rows along an axis by their numbers; negative ones count from the end."""
    axis = positive_axis(call, call["axis"], x.ndim)
    if index.dtype.kind not in "iu":
        call.refuse(f"its indices are {index.dtype}, wanted whole numbers")
    if index.size and not -x.shape[axis] <= index.min() <= index.max() < x.shape[axis]:
        call.refuse(f"an index is outside the {x.shape[axis]} rows along axis {axis}")
    call.room((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))
    return np.take(x, index, axis=axis)


@operator("Expand", 8, 13, inputs=2)
def expand(call: Call, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """x repeated to the shape that its own and this one broadcast to."""
    wanted = np.broadcast_shapes(x.shape, call.room(listed(call, "shape", shape) or []))
    return np.broadcast_to(x, call.room(wanted)).copy()


@operator("Tile", 6, 13, inputs=2)
def tile(call: Call, x: np.ndarray, repeats: np.ndarray) -> np.ndarray:
    """x repeated along each axis."""
    times = listed(call, "repeats", repeats) or []
    if len(times) != x.ndim or min(times, default=0) < 0:
        call.refuse(f"its repeats are {times} for an input of shape {x.shape}")
    call.room([side * many for side, many in zip(x.shape, times, strict=True)])
    return np.tile(x, times)


@operator(
    "Pad", 2, 11, 13, 18, 19, 21, 23, 24, 25, inputs=(1, 4), pads=integers(), value=real(0.0),
    mode=text("constant", "constant", "edge", "reflect", "wrap"),
)  # fmt: skip
def pad(
    call: Call,
    x: np.ndarray,
    pads: np.ndarray | None = None,
    value: np.ndarray | None = None,
    axes: np.ndarray | None = None,
) -> np.ndarray:
    """x with a border; negative widths cut off."""
    widths = call["pads"] if pads is None else listed(call, "pads", pads)
    named = listed(call, "axes", axes)
    chosen = positive_axes(call, range(x.ndim) if named is None else named, x.ndim)
    if widths is None or len(widths) != 2 * len(chosen):
        call.refuse(f"its pads are {widths}; wanted two for each of {len(chosen)} axes")
    both = [(0, 0)] * x.ndim
    for place, axis in enumerate(chosen):
        both[axis] = widths[place], widths[place + len(chosen)]
    shape = [side + before + after for side, (before, after) in zip(x.shape, both, strict=True)]
    call.room(shape)
    mode = call["mode"]
    if mode != "constant" and any(side < 1 for side in x.shape):
        call.refuse(f"an input of shape {x.shape} has nothing to repeat")
    border = [(max(before, 0), max(after, 0)) for before, after in both]
    call.room([side + before + after for side, (before, after) in zip(x.shape, border, strict=True)])
    fill = x.dtype.type(call["value"] if value is None else value.reshape(-1)[0])
    padded = np.pad(x, border, constant_values=fill) if mode == "constant" else np.pad(x, border, mode)
    cut = tuple(
        slice(max(-before, 0), side - max(-after, 0))
        for side, (before, after) in zip(padded.shape, both, strict=True)
    )
    return padded[cut]


@operator(
    "Constant", 1, 9, 11, 12, 13, 19, 21, 23, 24, 25, inputs=0, value=tensor(),
    value_float=real(), value_floats=reals(), value_int=integer(), value_ints=integers(),
    note="dense numbers",
)  # fmt: skip
def constant(call: Call) -> np.ndarray:
    """The attribute."""
    given = {key: value for key, value in call.node.attributes.items() if value is not None}
    if len(given) != 1:
        call.refuse(f"it has {len(given)} values, wanted one")
    ((key, value),) = given.items()
    if key == "value":
        return value
    return np.array(value, np.float32 if "float" in key else np.int64)


@operator("ConstantOfShape", 9, 20, 21, 23, 24, 25, value=tensor())
def constant_of_shape(call: Call, shape: np.ndarray) -> np.ndarray:
    """One number everywhere, by default a float32 zero."""
    value = call["value"]
    if value is not None and value.size != 1:
        call.refuse(f"the attribute 'value' has {value.size} elements, wanted one")
    fill = np.zeros((), np.float32) if value is None else value.reshape(())
    return np.full(call.room(listed(call, "shape", shape) or []), fill)


@operator("Shape", 1, 13, 15, 19, 21, 23, 24, 25, start=integer(0), end=integer())
def shape_of(call: Call, x: np.ndarray) -> np.ndarray:
    """The sides from `start` to `end`."""
    return np.array(x.shape[slice(call["start"], call["end"])], np.int64)


@operator("Size", 1, 13, 19, 21, 23, 24, 25)
def size_of(call: Call, x: np.ndarray) -> np.ndarray:
    """The number of elements."""
    return np.array(x.size, np.int64)
