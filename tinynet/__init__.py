"""tinynet: a convolutional network engine written from scratch (NumPy, and Numba for speed)."""

__version__ = "0.1.0"
