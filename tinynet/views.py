"""One answer from the eight ways in which a square picture can lie: test-time augmentation.

A cell has no up and no down, but a network's answer changes a little when the picture is turned.  The mean
over all eight does not.  Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional
neural networks" (NIPS 2012), section 4.1, average an image's predictions over crops and reflections, Simonyan
and Zisserman, "Very deep convolutional networks" (ICLR 2015, arXiv:1409.1556), section 3.2, over reflections.

Here it is the logits that are averaged, before the temperature: softmax of their mean is the geometric mean
of the eight probabilities, divided by its sum over the classes, since softmax takes from log p and from a
logit the same answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tinynet.errors import ArgumentError, ShapeError

if TYPE_CHECKING:
    from tinynet.deploy.int8.model import Int8Model
    from tinynet.network import Network

CHOICES = (1, 8)
EIGHT = 8
LEAST = 16  # views at a time: two pictures', which fill a block of lanes


def wants_eight(model: Network | Int8Model, views: Any) -> bool:
    """Whether `views` is 8 rather than 1; ArgumentError for others, or if eight do not suit the model."""
    if isinstance(views, bool) or not isinstance(views, int | np.integer) or views not in CHOICES:
        raise ArgumentError(f"views must be 1 or 8, got {views!r:.40}")
    if views == 1:
        return False
    ending, shape = model.ending(), model.input_shape
    if ending not in ("softmax", "sigmoid") or len(model.output_shape) != 1:
        raise ArgumentError(
            f"model {model.name!r} gives no probabilities of classes (softmax or sigmoid): "
            "the answers to eight views cannot be averaged"
        )
    if shape is not None and (len(shape) != 3 or shape[0] != shape[1]):
        raise ArgumentError(
            f"model {model.name!r} takes {' x '.join(map(str, shape))}: eight views need a square picture, "
            "which four of them lay on its side"
        )
    return True


def eight_views(images: np.ndarray) -> np.ndarray:
    """(n, h, h, c) -> (n, 8, h, h, c): as they are, mirrored in either axis and both; the same transposed."""
    lying = (images, images.transpose(0, 2, 1, 3))  # both (n, h, h, c)
    ways = [one[:, ::down, ::across] for one in lying for down in (1, -1) for across in (1, -1)]
    return np.stack(ways, axis=1)


def averaged_logits(logits: Callable[[np.ndarray], np.ndarray], images: np.ndarray, size: int) -> np.ndarray:
    """The mean of the logits over eight views, float32 (n, K).

    logits  from images (m, h, h, c) to float32 (m, K), such as a model's
    images  (n, h, h, c), uint8 or floats; n at least 1
    size    how many views to answer at a time, for memory's sake; never fewer than LEAST

    Pictures go in pairs, an odd last one twice, so that whatever `size` and n are, a block of lanes is
    full and pairs stay together: the bits of an answer depend on neither.  Sums are float64, in which
    eight float32 hardly ever round: nor do they depend on the views' order.  Raises ShapeError unless
    square.
    """
    if images.ndim != 4 or images.shape[1] != images.shape[2]:
        raise ShapeError(f"eight views need square pictures (n, h, h, channels), got {images.shape}")
    step, means = max(size // LEAST, 1) * 2, []
    for at in range(0, len(images), step):
        part = images[at : at + step]
        pairs = np.concatenate([part, part[-1:]]) if len(part) % 2 else part
        turned = eight_views(pairs)  # (m, h, h, c) -> (m, 8, h, h, c)
        found = logits(turned.reshape(-1, *images.shape[1:]))  # (8 m, h, h, c) -> (8 m, K)
        found = found.reshape(len(pairs), EIGHT, -1)  # (m, 8, K)
        means.append(found.mean(axis=1, dtype=np.float64)[: len(part)].astype(np.float32))  # (m, K)
    return np.concatenate(means)
