"""A trained model leaves Python: the model as a flat list of plain operations, and what is made of it."""

from tinynet.deploy.single_image import Single, single

__all__ = ["Single", "single"]
