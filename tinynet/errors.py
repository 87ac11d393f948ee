"""The exceptions tinynet raises for mistakes a user can make and mend.

Each also derives from ValueError or OSError, so code that knows nothing of tinynet
still catches them sensibly.  The command line turns any of them into one sentence.
"""


class TinynetError(Exception):
    """Base of every exception that tinynet raises on purpose."""


class ArgumentError(TinynetError, ValueError):
    """An argument has a value that makes no sense; names the argument, what came, what was wanted."""


class ShapeError(TinynetError, ValueError):
    """An array has the wrong shape; names the layer or operation, what it got, what it wanted."""


class DataError(TinynetError, ValueError):
    """A data set cannot be used as it is: empty, one class only, no patient names, ..."""


class ImageError(TinynetError, ValueError):
    """A picture cannot be read: not an image, truncated, too large, ..."""


class ModelFileError(TinynetError, ValueError):
    """A model file or checkpoint is damaged, tampered with, of another kind or too new."""


class NonFiniteError(TinynetError, ValueError):
    """A loss, activation or gradient became NaN or infinite; names the step and the layer."""


class FileAccessError(TinynetError, OSError):
    """A file cannot be read or written: missing, no permission, disk full, ..."""


class FolderInUseError(TinynetError, OSError):
    """Another process is writing in the folder of a run; names the folder and the process."""


class MissingDependencyError(TinynetError, ValueError):
    """An optional library is needed for this and is not installed; names the extra that brings it."""
