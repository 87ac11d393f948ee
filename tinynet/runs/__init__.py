"""A run: a recipe carried out on a data set, everything it leaves kept in one folder."""

from tinynet.runs.config import RunConfig
from tinynet.runs.run import train

__all__ = ["RunConfig", "train"]
