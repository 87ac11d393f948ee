"""What a trained network looks for, and where it found it: filters, activation maps, Grad-CAM.

`first_filters`, `activation_maps`, `mean_map` and `grad_cam` return ordinary arrays; `drawing` makes
pictures of them, `pictures` the ones that `tinynet inspect` writes.
"""

from tinynet.inspect.gradcam import grad_cam
from tinynet.inspect.maps import (
    activation_maps,
    enlarge,
    first_convolution,
    first_filters,
    last_maps,
    mean_map,
)

__all__ = [
    "activation_maps",
    "enlarge",
    "first_convolution",
    "first_filters",
    "grad_cam",
    "last_maps",
    "mean_map",
]
