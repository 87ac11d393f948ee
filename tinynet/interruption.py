"""Ctrl-C between two steps of work, instead of in the middle of one.

Python raises KeyboardInterrupt wherever it happens to be: half of the weights may be updated, half of a
line written.  Here the first Ctrl-C is noted, and whoever works looks at it where everything is whole.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class CtrlC:
    """What is known of Ctrl-C within `held_back`.

    asked  whether it was pressed
    holds  whether it waits to be looked at; else it raises KeyboardInterrupt at once.  The second always does
    """

    def __init__(self, holds: bool) -> None:
        self.asked, self.holds = False, holds

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal's handler."""
        if self.asked or not self.holds:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def held_back(*, holds: bool = True, wanted: bool = True) -> Iterator[CtrlC]:
    """Within the `with` block, Ctrl-C is noted; the block looks now and then, and raises KeyboardInterrupt.

    Nothing changes where Ctrl-C would not have raised KeyboardInterrupt here: in other threads than the
    main one, where a program handles the signal itself, or where it is not `wanted`.
    """
    ctrl_c = CtrlC(holds)
    main = threading.current_thread() is threading.main_thread()
    if not (wanted and main and signal.getsignal(signal.SIGINT) is signal.default_int_handler):
        yield ctrl_c
        return
    signal.signal(signal.SIGINT, ctrl_c)
    try:
        yield ctrl_c
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
