"""Fuzz one loader: `python -m fuzz.run model --runs 1000000` (README.md)."""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from random import Random

# Before NumPy is imported: one core, and no decoder that talks.
os.environ.setdefault("TINYNET_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")

import atheris

# Not the kernels and what computes on them: they are most of the work, and no file chooses their branches.
PARTS = ["files", "loading", "storage", "layers", "losses", "optim", "optim_base", "schedules", "images"]
PARTS += ["image_files", "png", "onnx_import", "callbacks", "deploy.int8", "arguments"]
with atheris.instrument_imports(include=[f"tinynet.{part}" for part in PARTS]):
    import tinynet
    from fuzz.guard import Guard, Violation
    from fuzz.loaders import LOADERS

MOST_FINDINGS = 200
REPORT_EVERY = 10_000
AFRESH = (
    0.4  # the share of mutations that start from a good file, not one of the corpus, which are mostly bad
)
RAW = 0.4  # the share of mutations that are libFuzzer's own, of bytes


class Session:
    """Counts what was tried and keeps what went wrong, one file for each place in the code."""

    def __init__(self, name: str, folder: Path, runs: int):
        self.name, self.folder, self.runs = name, folder, runs
        self.loader, self.guard = LOADERS[name](), Guard()
        self.tried, self.accepted, self.slowest = 0, 0, 0.0
        self.errors: collections.Counter = collections.Counter()
        self.findings: dict[str, int] = {}
        self.began = time.monotonic()
        for content in self.loader.seeds():  # what is imported and compiled on the way is so before it counts
            with contextlib.suppress(tinynet.TinynetError):
                self.loader.read(content)()

    def one(self, content: bytes) -> None:
        """Read one file under guard; a violation is kept and the search goes on."""
        self.tried += 1
        try:
            outcome = self.guard.read(self.loader.read(content), self.loader.most_bytes(len(content)))
        except Violation as violation:
            self.keep(content, str(violation))
        else:
            self.slowest = max(self.slowest, outcome.seconds)
            if outcome.error is None:
                self.accepted += 1
            else:
                self.errors[outcome.error] += 1
        if self.tried % REPORT_EVERY == 0 or self.tried == self.runs:
            self.report()

    def keep(self, content: bytes, what: str) -> None:
        """The file and what it did, once for each different place of violation."""
        lines = [line for line in what.splitlines() if "tinynet/" in line or line[:1].strip()]
        place = hashlib.sha256("".join(c for c in "\n".join(lines) if not c.isdigit()).encode()).hexdigest()[
            :12
        ]
        self.findings[place] = self.findings.get(place, 0) + 1
        if self.findings[place] == 1 and len(self.findings) <= MOST_FINDINGS:
            (self.folder / f"{self.name}-{place}.bin").write_bytes(content)
            (self.folder / f"{self.name}-{place}.txt").write_text(what)
            print(f"VIOLATION {place}: {what[-1500:]}", file=sys.stderr, flush=True)

    def report(self) -> None:
        """Write the figures so far to the folder, and one line to standard error."""
        figures = {
            "loader": self.name,
            "tried": self.tried,
            "accepted": self.accepted,
            "refused": dict(self.errors),
            "violations": sum(self.findings.values()),
            "places": len(self.findings),
            "slowest_cpu_seconds": round(self.slowest, 4),
            "peak_resident_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "cpu_seconds": round(time.process_time(), 1),
            "wall_seconds": round(time.monotonic() - self.began, 1),
        }
        (self.folder / f"{self.name}.json").write_text(json.dumps(figures, indent=1) + "\n")
        print(json.dumps(figures), file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loader", choices=LOADERS)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("fuzz/findings"), help="figures, findings, corpus")
    parser.add_argument("--replay", type=Path, help="read this one file under guard instead")
    arguments = parser.parse_args()
    corpus = arguments.out / f"corpus-{arguments.loader}"
    corpus.mkdir(parents=True, exist_ok=True)
    session = Session(arguments.loader, arguments.out, arguments.runs)
    if arguments.replay:
        content = arguments.replay.read_bytes()
        print(session.guard.read(session.loader.read(content), session.loader.most_bytes(len(content))))
        return
    seeds = session.loader.seeds()
    for number, content in enumerate(seeds):
        (corpus / f"seed{number}").write_bytes(content)

    def mutate(content: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < AFRESH:
            content = random.choice(seeds)
        if random.random() < RAW:
            return atheris.Mutate(content, most)
        return session.loader.mutate(content, random)[:most]

    options = [
        f"-runs={arguments.runs}",
        f"-seed={arguments.seed}",
        "-max_len=65536",
        "-timeout=120",
        "-rss_limit_mb=0",
    ]
    options += ["-print_final_stats=1", "-verbosity=0", str(corpus)]
    atheris.Setup([sys.argv[0], *options], session.one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
