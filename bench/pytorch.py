"""PyTorch doing the same work: a twin of the model, its training step, and the same augmentation.

Compared with tinynet before it is timed: inference by its outputs, training by its loss and all
gradients (without dropout, whose masks differ), augmentation by its pictures.  The images lie in
memory as each format likes them best.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import tinynet as tn
from bench.common import OUTPUTS, Absent, Contestant, Disagreement, require_close
from bench.works import (
    LEARNING_RATE,
    Work,
    channels_first_dense,
    channels_first_kernel,
    loss_and_gradients,
    without_dropout,
)
from tinynet import random
from tinynet.data.augment import Augmentation

FORMATS = ("contiguous", "channels_last")

# Gradients jump: where rounding decides which of a window's values is the largest, or on which side
# of zero one is, k of n such choices move a gradient by about sqrt(2 k / n).  PyTorch's own two
# memory formats differ by 0.02 in the small CNN.
GRADIENTS = 3e-2
RESULTS = 1e-4  # outputs and losses of every format: some convolutions are Winograd's
AUGMENTED = 4e-3  # pictures: tinynet interpolates with 8-bit weights and rounds to uint8


def pytorch(work: Work, threads: int, compile_seconds: float) -> list[Contestant | Absent]:
    """Contiguous and channels_last, each as it is and compiled (given `compile_seconds`, 0 for never)."""
    try:
        import torch
    except ImportError as problem:
        return [Absent("PyTorch", str(problem))]
    torch.set_num_threads(threads)
    agreement = _compare_pytorch(work)
    wanted = _result(work)
    found: list[Contestant | Absent] = []
    for compiled in (False, True):
        for memory_format in FORMATS:
            name = f"PyTorch {memory_format}" + (" compiled" if compiled else "")
            if compiled and not compile_seconds:
                found.append(Absent(name, "not asked for"))
                continue
            run = _pytorch_run(work, memory_format, compiled)
            try:
                with _at_most(compile_seconds if compiled else 0):
                    result = run()
            except Exception as problem:
                if not compiled:
                    raise
                reason = (str(problem).strip() or type(problem).__name__).splitlines()[0]
                found.append(Absent(name, f"torch.compile: {reason}"))
                continue
            if wanted is not None:
                require_close(name, "result", result, wanted, RESULTS)
            found.append(Contestant(name, run, work.images, agreement))
    return found


def _result(work: Work) -> Any:
    """tinynet's outputs, or its first loss; None where it depends on random numbers."""
    model = work.model()
    if work.kind == "inference":
        return model.predict(work.data[0])
    dropout = any(isinstance(layer, tn.Dropout) for layer in model.chain.leaves())
    return None if dropout or work.kind == "epoch" else loss_and_gradients(model, *work.data)


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """TimeoutError when the block takes longer (0: no limit), where this thread can be interrupted."""
    if (
        not seconds
        or not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def ring(number: int, frame: object) -> None:
        raise TimeoutError(f"not done after {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def pytorch_twin(model: tn.Sequential) -> Any:
    """A torch.nn.Sequential of the same layers and weights, from (n, c, h, w) to logits."""
    import torch
    from torch import nn

    layers: list[Any] = []
    shape: tuple[int, ...] = ()
    flattened: tuple[int, ...] = ()
    for layer in model.chain.leaves():
        shape = layer.input_shape or ()
        state: dict[str, np.ndarray] = {}
        if isinstance(layer, tn.Conv2D) and layer.padding == "same" and layer.stride == (1, 1):
            layers.append(nn.Conv2d(shape[2], layer.filters, layer.kernel_size, padding="same"))
            state = {
                "weight": channels_first_kernel(layer.parameters["weight"].data),
                "bias": layer.parameters["bias"].data,
            }
        elif isinstance(layer, tn.Dense):
            layers.append(nn.Linear(shape[0], layer.units))
            state = {
                "weight": channels_first_dense(layer.parameters["weight"].data, flattened).T,
                "bias": layer.parameters["bias"].data,
            }
            flattened = ()
        elif isinstance(layer, tn.MaxPool2D) and layer.padding == "valid":
            layers.append(nn.MaxPool2d(layer.size, layer.stride))
        elif isinstance(layer, tn.UpSample2D):
            layers.append(nn.Upsample(scale_factor=layer.factor, mode="nearest"))
        elif isinstance(layer, tn.BatchNorm):
            layers.append(nn.BatchNorm2d(shape[-1], eps=layer.epsilon, momentum=1 - layer.momentum))
            state = {
                "weight": layer.parameters["scale"].data,
                "bias": layer.parameters["shift"].data,
                "running_mean": layer.buffers["running_mean"],
                "running_var": layer.buffers["running_variance"],
            }
        elif isinstance(layer, tn.Dropout):
            layers.append(nn.Dropout(layer.rate))
        elif isinstance(layer, tn.Flatten):
            layers.append(nn.Flatten())
            flattened = shape
        else:
            raise Disagreement(f"PyTorch: no twin for {layer!r}")
        if state:
            tensors = {name: torch.tensor(np.ascontiguousarray(array)) for name, array in state.items()}
            layers[-1].load_state_dict(tensors, strict=False)
        if getattr(layer, "activation", None) == "relu":
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def _pytorch_images(images: np.ndarray, memory_format: str) -> Any:
    """uint8 (n, c, h, w), in memory as the format says."""
    import torch

    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=_format(memory_format))


def _format(name: str) -> Any:
    import torch

    return {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}[name]


def _pytorch_run(work: Work, memory_format: str, compiled: bool) -> Callable[[], object]:
    """A function that does the work once."""
    import torch
    from torch.nn import functional as F

    images, labels = _pytorch_images(work.data[0], memory_format), torch.from_numpy(work.data[1])
    net = pytorch_twin(work.model()).to(memory_format=_format(memory_format))

    if work.kind == "inference":
        net.eval()

        def infer(batch: Any) -> Any:
            return net(batch.to(torch.float32).mul(1 / 255)).softmax(1)

        forward: Any = torch.compile(infer, options={"freezing": True}) if compiled else infer

        def run_inference() -> object:
            with torch.inference_mode() if not compiled else torch.no_grad():
                return forward(images).numpy()

        return run_inference

    net.train()
    parameters = list(net.parameters())
    optimizer = (
        torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.01, fused=True)
        if work.optimizer == "adamw"
        else torch.optim.RMSprop(parameters, lr=LEARNING_RATE, alpha=0.9, foreach=True)
    )

    def loss_of(batch: Any, target: Any) -> tuple[Any, Any]:
        x = batch.to(torch.float32).mul(1 / 255)
        output = net(x)
        return (F.mse_loss(output, x) if work.reconstructs else F.cross_entropy(output, target)), output

    def augmented_loss_of(batch: Any, target: Any, numbers: Any) -> tuple[Any, Any]:
        output = net(augment(batch, numbers, Augmentation()))
        return F.cross_entropy(output, target), output

    chosen: Any = augmented_loss_of if work.kind == "epoch" else loss_of
    forward = torch.compile(chosen) if compiled else chosen

    def one_step(*batch: Any) -> tuple[float, Any]:
        """The loss before the step, and the outputs."""
        loss, output = forward(*batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item(), output.detach()

    def run_epoch() -> tuple[float, float]:
        total, right = 0.0, 0
        for chosen in torch.randperm(len(images)).split(work.batch):
            target = labels[chosen]
            loss, output = one_step(images[chosen], target, torch.rand(len(chosen), 7))
            total += loss * len(chosen)
            right += int((output.argmax(1) == target).sum())
        return total / len(images), right / len(images)

    return run_epoch if work.kind == "epoch" else lambda: one_step(images, labels)[0]


def augment(images: Any, numbers: Any, how: Augmentation) -> Any:
    """tinynet's Augmentation: square uint8 (n, c, h, w), uniform numbers (n, 7) -> float32 / 255."""
    import torch
    from torch.nn import functional as F

    angle = torch.deg2rad((2 * numbers[:, 0] - 1) * how.rotation)
    zoom = 1 + numbers[:, 1] * how.scale
    shear = (2 * numbers[:, 4] - 1) * how.shear
    flip_x = torch.where(numbers[:, 5] < 0.5, -1.0, 1.0) if how.horizontal_flip else torch.ones_like(angle)
    flip_y = torch.where(numbers[:, 6] < 0.5, -1.0, 1.0) if how.vertical_flip else torch.ones_like(angle)
    cosine, sine = angle.cos() / zoom, angle.sin() / zoom
    shift = 2 * (2 * numbers[:, 2:4] - 1) * how.shift  # in affine_grid's units a picture is 2 wide
    rows = [
        torch.stack([cosine * flip_x, (cosine * shear - sine) * flip_y, shift[:, 0]], 1),
        torch.stack([sine * flip_x, (sine * shear + cosine) * flip_y, shift[:, 1]], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    pixels = images.to(torch.float32).mul(1 / 255)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _compare_pytorch(work: Work) -> str:
    """What was compared, in words; raises Disagreement."""
    import torch
    from torch.nn import functional as F

    model, images, labels = work.model(), work.data[0][: work.batch], work.data[1][: work.batch]
    net = pytorch_twin(model)
    x = _pytorch_images(images, "contiguous").to(torch.float32) / 255
    if work.kind == "inference":
        net.eval()
        with torch.no_grad():
            outputs = net(x).softmax(1).numpy()
        apart = require_close("PyTorch", "output", outputs, model.predict(images), OUTPUTS)
        return f"outputs within {apart:.1g}"
    for module in net:
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    output = net(x)
    loss = F.mse_loss(output, x) if work.reconstructs else F.cross_entropy(output, torch.from_numpy(labels))
    loss.backward()
    with without_dropout(model):
        wanted = loss_and_gradients(model, images, labels)
    apart = require_close("PyTorch", "loss", loss.item(), wanted, OUTPUTS)
    furthest = max(
        require_close("PyTorch", f"gradient of {name}", got, gradient, GRADIENTS)
        for name, got, gradient in _gradients(model, net)
    )
    said = f"loss within {apart:.1g}, gradients within {furthest:.1g}"
    if work.kind == "epoch":
        how, indices = Augmentation(), np.arange(len(images))
        numbers = torch.from_numpy(random.uniform(0, 0, indices, "augmentation", 7).astype(np.float32))
        pictures = augment(_pytorch_images(images, "contiguous"), numbers, how).permute(0, 2, 3, 1).numpy()
        mine = how(images, 0, 0, indices).astype(np.float32) / 255
        said += f", pictures within {require_close('PyTorch', 'augmentation', pictures, mine, AUGMENTED):.1g}"
    return said


def _gradients(model: tn.Sequential, net: Any) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, PyTorch's and tinynet's gradient of every parameter, both in PyTorch's shape."""
    twins = iter(module for module in net if list(module.parameters(recurse=False)))
    flattened: tuple[int, ...] = ()
    for layer in model.chain.leaves():
        if isinstance(layer, tn.Flatten):
            flattened = layer.input_shape or ()
        if not layer.parameters:
            continue
        twin = next(twins)
        for name, parameter in layer.parameters.items():
            gradient = parameter.grad
            assert gradient is not None
            if name == "weight" and isinstance(layer, tn.Conv2D):
                gradient = channels_first_kernel(gradient)
            elif name == "weight":
                gradient, flattened = channels_first_dense(gradient, flattened).T, ()
            theirs = twin.weight if name in ("weight", "scale") else twin.bias
            yield f"{layer.path}.{name}", theirs.grad.numpy(), gradient
