"""From the start of a process to its printed answer for one picture, beside ONNX Runtime and bare NumPy.

    python -m bench.predict_startup [--picture FILE] [--wheel FILE] [--rounds 15] [--json FILE]

In every round each program starts once in a fresh process: `import numpy` and a print, `tinynet predict`
with the NumPy kernels (with --wheel also from that file, nothing installed), and a script that does the same
with ONNX Runtime and OpenCV (or Pillow).  What is compared is when the first line arrives (the median of
the differences within a round), and memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.common import Absent, Disagreement, Others, Spread, spread, surroundings

# A process inherits the memory mark of the one that started it, so a small one starts and measures.
MEASURE = """
import os, sys, time
reading, writing = os.pipe()
begin = time.perf_counter()
to_pipe = [(os.POSIX_SPAWN_DUP2, writing, 1)]
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=to_pipe)
os.close(writing)
output = b""
while piece := os.read(reading, 4096):
    if b"\\n" not in output and b"\\n" in output + piece:
        answered = time.perf_counter()
    output += piece
_, status, used = os.wait4(child, 0)
ended = time.perf_counter()
if status or b"\\n" not in output:
    sys.exit(1)
print(output.decode().splitlines()[0])
print(answered - begin, ended - begin, used.ru_maxrss)
"""

ROOT = Path(__file__).resolve().parent.parent
MODEL = "autoencoder"
NUMPY, TINYNET, PEER = "import numpy", "tinynet predict", "ONNX Runtime script"
FROM_WHEEL = "from the wheel file"
GOAL_SECONDS, GOAL_MEGABYTES = 0.08, 40  # beyond bare NumPy; in all
SAME_ANSWER = 0.05  # the peer resizes in its own way

COMMAND = "import sys; from tinynet.cli import main; sys.exit(main())"  # as pip's `tinynet` has it

# As someone would write it who has the network as cells.onnx: nothing that it does not need.
ONNX_SCRIPT = """
import sys
import numpy as np
import onnxruntime
try:
    import cv2
    small = cv2.resize(cv2.imread(sys.argv[2]), (32, 32), interpolation=cv2.INTER_AREA)[:, :, ::-1]
except ImportError:
    from PIL import Image
    small = np.asarray(Image.open(sys.argv[2]).convert("RGB").resize((32, 32), Image.Resampling.BOX))
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
images = np.ascontiguousarray(small.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
probability = session.run(None, {"images": images})[0][0, 1]
print("infected" if probability >= 0.5 else "uninfected", f"{probability:.4f}", flush=True)
"""


@dataclass(frozen=True)
class Program:
    """What is started, and with which variables beside the environment's."""

    name: str
    words: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Start:
    """One process: seconds to its first line and to its end, its largest memory, the line."""

    answered: float
    ended: float
    megabytes: float
    line: str


def programs(picture: Path, folder: Path, wheel: Path | None = None) -> list[Program | Absent]:
    """The programs for this picture; what they need is written into `folder`."""
    python = sys.executable
    answer = (python, "-c", COMMAND, "predict", MODEL, str(picture))
    found: list[Program | Absent] = [
        Program(NUMPY, (python, "-c", "import numpy; print(numpy.__version__, flush=True)")),
        Program(TINYNET, answer, (("TINYNET_KERNELS", "numpy"),)),
    ]
    if wheel is not None:
        path = os.pathsep.join(filter(None, [str(wheel), os.environ.get("PYTHONPATH")]))
        found.append(Program(FROM_WHEEL, answer, (("TINYNET_KERNELS", "numpy"), ("PYTHONPATH", path))))
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as problem:
        return [*found, Absent(PEER, str(problem))]
    import tinynet as tn
    from bench.onnx_peers import onnx_model

    (folder / "cells.onnx").write_bytes(onnx_model(tn.load(MODEL)))
    (folder / "script.py").write_text(ONNX_SCRIPT, encoding="utf-8")
    words = (python, str(folder / "script.py"), str(folder / "cells.onnx"), str(picture))
    return [*found, Program(PEER, words)]


def start(program: Program, environment: Mapping[str, str]) -> Start:
    """Run it to its end.  Raises Disagreement where it fails."""
    done = subprocess.run(
        [sys.executable, "-ISc", MEASURE, *program.words],
        env={**environment, **dict(program.variables)}, cwd=tempfile.gettempdir(),
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise Disagreement(f"{program.name} failed: {done.stderr.strip()[-300:]}")
    line, figures = done.stdout.splitlines()
    answered, ended, largest = map(float, figures.split())
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, kilobytes elsewhere
    return Start(answered, ended, largest * unit / 1e6, line)


def environment(folder: Path) -> dict[str, str]:
    """As after an installation: compiled Python files exist, made by the first start, which is not timed."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**variables, "PYTHONPYCACHEPREFIX": str(folder / "compiled")}


def measure(contestants: Sequence[Program], rounds: int, folder: Path) -> dict[str, list[Start]]:
    """Every program's starts, a round after another, after one that does not count."""
    variables = environment(folder)
    first = {program.name: start(program, variables) for program in contestants}
    check_answers({name: one.line for name, one in first.items()})
    starts: dict[str, list[Start]] = {program.name: [] for program in contestants}
    for _ in range(rounds):
        for program in contestants:
            starts[program.name].append(start(program, variables))
    return starts


def check_answers(lines: Mapping[str, str]) -> None:
    """Raise Disagreement unless all who answered gave the same label, and nearly the same probability."""
    answers = {name: line.split()[:2] for name, line in lines.items() if name != NUMPY}
    labels = {label for label, _ in answers.values()}
    probabilities = [float(probability) for _, probability in answers.values()]
    if len(labels) > 1 or max(probabilities) - min(probabilities) > SAME_ANSWER:
        raise Disagreement(f"the answers differ: {answers}")


def beyond_numpy(starts: Mapping[str, Sequence[Start]], name: str) -> Spread:
    """Seconds to the answer more than `import numpy` took in the same round."""
    pairs = zip(starts[name], starts[NUMPY], strict=True)
    return spread([one.answered - bare.answered for one, bare in pairs])


def table(starts: Mapping[str, Sequence[Start]], absent: Sequence[Absent]) -> str:
    """A line a program, then whether the goals are reached."""
    lines = [f"{'seconds':20}{'to answer':>10}{'quartiles':>18}{'beyond NumPy':>14}{'to end':>9}{'MB':>8}"]
    for name, found in starts.items():
        seconds = spread([one.answered for one in found])
        quartiles = f"{seconds.low:.3f} to {seconds.high:.3f}"
        more = "" if name == NUMPY else f"{beyond_numpy(starts, name).median:.3f}"
        end = spread([one.ended for one in found]).median
        largest = max(one.megabytes for one in found)
        lines.append(f"{name:20}{seconds.median:10.3f}{quartiles:>18}{more:>14}{end:9.3f}{largest:8.1f}")
    lines += [f"{one.name:20}absent: {one.reason}" for one in absent]
    more_seconds = beyond_numpy(starts, TINYNET).median
    memory = max(one.megabytes for one in starts[TINYNET])
    lines.append(_verdict("seconds beyond bare NumPy", more_seconds, GOAL_SECONDS))
    lines.append(_verdict("megabytes", memory, GOAL_MEGABYTES))
    return "\n".join(lines)


def _verdict(what: str, got: float, goal: float) -> str:
    return f"goal: at most {goal:g} {what}: {got:.3g}, {'reached' if got <= goal else 'MISSED'}"


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.predict_startup", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--picture", type=Path, metavar="FILE", help="default: a synthetic cell, 130x130")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="time tinynet from this wheel file, too")
    parser.add_argument("--rounds", type=int, default=15, help="default 15")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every start there")
    arguments = parser.parse_args(words)
    if arguments.rounds < 1:
        parser.error("--rounds: wanted at least 1")
    if not hasattr(os, "wait4"):  # Windows
        parser.error("this system does not tell the memory of a process that has ended (os.wait4)")
    others = Others()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        picture = arguments.picture or synthetic_picture(folder)
        found = programs(picture.resolve(), folder, arguments.wheel and arguments.wheel.resolve())
        contestants = [one for one in found if isinstance(one, Program)]
        starts = measure(contestants, arguments.rounds, folder)
    print(table(starts, [one for one in found if isinstance(one, Absent)]))
    about: dict[str, Any] = surroundings(threads=os.cpu_count() or 1) | {"others": others.share()}
    if about["others"] is not None:
        print(f"other programs used {about['others']:.0%} of the processors meanwhile")
    if arguments.json is not None:
        from tinynet.files.atomic import write_atomically

        kept = {name: [asdict(one) for one in every] for name, every in starts.items()}
        text = json.dumps({"surroundings": about, "starts": kept}, indent=1) + "\n"
        write_atomically(arguments.json, [text.encode()])
    return 0


def synthetic_picture(folder: Path) -> Path:
    """A drawn cell of the usual size as a PNG with Pillow's filters, which are those of real files."""
    from PIL import Image

    from tinynet.data.synthetic import synthetic_cells

    Image.fromarray(synthetic_cells(1, size=130).images[0]).save(folder / "cell.png")
    return folder / "cell.png"


if __name__ == "__main__":
    sys.exit(main())
