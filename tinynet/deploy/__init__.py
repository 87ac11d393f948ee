"""A trained model on its way out of the laptop."""

from tinynet.deploy.single_image import Single, single

__all__ = ["Single", "single"]
