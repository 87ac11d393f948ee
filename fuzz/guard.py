"""One reading of one file, watched: what it raises, its time and memory, and what it touches.

The file is read in this process, for speed; so the guard has to see everything itself:

* any exception that is not a TinynetError, and any warning from tinynet, is a violation;
* more than a second of processor time is (not of the clock: the machine may be busy);
* memory is bounded by RLIMIT_AS, set anew for each file to what is mapped now plus what the file may
  cost; the MemoryError is found however it was dressed up;
* an audit hook (PEP 578) sees files opened to write, removed, renamed, programs started, connections,
  code that is compiled or run and pickles.  What importlib does is the interpreter's own.
"""

from __future__ import annotations

import os
import re
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from tinynet.errors import TinynetError

SECONDS = 1.0
_PAGE = os.sysconf("SC_PAGE_SIZE")
_OUT_OF_MEMORY = re.compile(r"does not fit in(to)? memory|unable to allocate|out of memory", re.IGNORECASE)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FORBIDDEN = (
    "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.putenv",
    "subprocess.Popen", "socket.", "ctypes.dlopen", "pickle.find_class", "shutil.", "tempfile.", "urllib.",
)  # fmt: skip


class Violation(Exception):
    """What must not happen did; the message says what."""


@dataclass
class Outcome:
    """How one reading ended: `error` is the TinynetError's name, or None where the file was accepted."""

    error: str | None
    message: str
    seconds: float


class Guard:
    """Watches calls of `read`; one guard a process, because an audit hook stays for good."""

    def __init__(self) -> None:
        self._watching = False
        self._seen: list[str] = []
        self._mapped = os.open("/proc/self/statm", os.O_RDONLY)
        sys.addaudithook(self._audit)
        warnings.filterwarnings("error", module="tinynet")

    def read(self, work: Callable[[], object], most_bytes: int, seconds: float = SECONDS) -> Outcome:
        """Call `work`; raise Violation unless it returns, or raises a TinynetError, within the bounds."""
        problem: BaseException | None = None
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        mapped = int(os.pread(self._mapped, 64, 0).split()[0]) * _PAGE
        resource.setrlimit(resource.RLIMIT_AS, (mapped + most_bytes, hard))
        self._seen.clear()
        self._watching = True
        start = time.thread_time()
        try:
            work()
        except Exception as raised:
            problem = raised
        finally:
            self._watching = False
            took = time.thread_time() - start
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        if self._seen:
            raise Violation(f"it did what no file may make it do: {self._seen[0]}")
        if problem is not None:
            if _ran_out_of_memory(problem):
                raise Violation(f"it asked for more than {most_bytes:,} bytes\n{_trace(problem)}")
            if not isinstance(problem, TinynetError):
                raise Violation(f"it raised {type(problem).__name__}\n{_trace(problem)}")
        if took > seconds:
            raise Violation(f"it took {took:.2f} s of processor time; {problem}")
        if problem is None:
            return Outcome(None, "", took)
        return Outcome(type(problem).__name__, str(problem), took)

    def _audit(self, event: str, arguments: tuple) -> None:
        if not self._watching:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & _WRITING
            if writes:
                self._seen.append(f"open {path!r} to write")
        elif event in ("exec", "compile"):
            if not _importing():
                self._seen.append(f"{event} {arguments!r:.200}")
        elif event.startswith(_FORBIDDEN) and not _importing():
            self._seen.append(f"{event} {arguments!r:.200}")


def _importing() -> bool:
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _ran_out_of_memory(problem: BaseException | None) -> bool:
    """Also where it was caught and another exception raised in its place."""
    while problem is not None:
        if isinstance(problem, MemoryError) or _OUT_OF_MEMORY.search(str(problem)):
            return True
        problem = problem.__cause__ or problem.__context__
    return False


def _trace(problem: BaseException) -> str:
    return "".join(traceback.format_exception(problem))
