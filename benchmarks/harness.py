"""Interleaved CPU timing, rows of the table, and the machine they were measured on.

Import this before torch: OpenMP reads its settings once. Idle threads must sleep, or their
spinning counts as CPU time of whoever waits for them.
"""

import contextlib
import datetime
import importlib.metadata
import importlib.util
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_OPENMP = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "OMP_NUM_THREADS": "1"}
if "torch" in sys.modules and os.environ.get("GOMP_SPINCOUNT") != "0":
    raise RuntimeError("import `harness` before torch: OpenMP has read its settings already.")
os.environ.update(_OPENMP)

QUICK = os.environ.get("LOSSATLAS_BENCH_QUICK") == "1"
ROUNDS = 3 if QUICK else 7
_GOAL = re.compile(r"(>=|<=|<|>)\s*([\d.]+)\s*(\S*)")
_BETWEEN = re.compile(r"([\d.]+) to ([\d.]+)")
_VERSIONS = ("torch", "numpy", "scipy", "gudhi", "lossatlas", "loss-landscapes", "landscaper")


@dataclass(frozen=True)
class Timing:
    """CPU seconds of one job over some rounds."""

    median: float
    minimum: float
    rounds: int

    @property
    def ms(self) -> float:
        return 1000 * self.median


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: the work.
        peer: what ours stands beside.
        ours: our figure, in `unit`; None where it was not measured.
        theirs: the peer's figure, in `unit`.
        unit: of both; a goal in "x" is about theirs / ours, any other goal about ours.
        goal: such as ">= 10x" or "<= 0.25 ms"; "" where there is none.
        note: what a reader should know.
    """

    what: str
    peer: str = ""
    ours: float | None = None
    theirs: float | None = None
    unit: str = "ms"
    goal: str = ""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.theirs / self.ours if self.ours and self.theirs is not None else None

    @property
    def reached(self) -> bool | None:
        """Whether the goal is met; None where there is none or nothing was measured."""
        between = _BETWEEN.fullmatch(self.goal)
        if between is not None and self.ours is not None:
            return float(between[1]) <= self.ours <= float(between[2])
        found = _GOAL.match(self.goal)
        if found is None:
            return None
        sign, bound, unit = found[1], float(found[2]), found[3]
        value = self.ratio if unit == "x" else self.ours
        if value is None:
            return None
        return {
            ">=": value >= bound,
            ">": value > bound,
            "<=": value <= bound,
            "<": value < bound,
        }[sign]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio, "reached": self.reached}

    @classmethod
    def from_any(cls, row: "Row | Mapping[str, Any]") -> "Row":
        """Rows of modules that give plain mappings with `ours_ms` and `peer_ms`."""
        if isinstance(row, Row):
            return row
        named = {"ours": row.get("ours", row.get("ours_ms"))}
        named |= {"theirs": row.get("theirs", row.get("peer_ms"))}
        texts = {k: str(row[k]) for k in ("what", "peer", "goal", "unit", "note") if k in row}
        return cls(**texts, **{k: v if v is None else float(v) for k, v in named.items()})


def interleaved(
    jobs: Mapping[str, Callable[[], Any]], rounds: int = ROUNDS
) -> dict[str, Timing]:
    """Time some jobs in turns, so that a noisy minute hits all of them.

    Args:
        jobs: name -> what to do.
        rounds: timed rounds; one more goes before them untimed.

    Returns:
        Name -> CPU time of this process, on one thread.
    """
    import torch

    taken: dict[str, list[float]] = {name: [] for name in jobs}
    with _one_thread(torch):
        for turn in range(rounds + 1):
            names = list(jobs) if turn % 2 else list(jobs)[::-1]
            for name in names:
                began = time.process_time()
                jobs[name]()
                if turn:
                    taken[name].append(time.process_time() - began)
    return {name: Timing(statistics.median(t), min(t), rounds) for name, t in taken.items()}


def once(job: Callable[[], Any]) -> tuple[Any, float]:
    """What a long job gives, and its CPU seconds on one thread."""
    import torch

    with _one_thread(torch):
        began = time.process_time()
        result = job()
        return result, time.process_time() - began


def child_cpu(command: list[str], rounds: int = ROUNDS) -> Timing:
    """CPU time of a command, its own and its children's."""
    taken = []
    for turn in range(rounds + 1):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{command} ended with {process.returncode}.")
        if turn:
            taken.append(usage.ru_utime + usage.ru_stime)
    return Timing(statistics.median(taken), min(taken), rounds)


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def not_installed(row: Row) -> Row:
    """The row of a peer that is missing."""
    return Row(row.what, row.peer, goal=row.goal, note="not measured: peer is not installed")


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Peers print and draw progress bars."""
    with (
        Path(os.devnull).open("w", encoding="utf-8") as sink,
        contextlib.redirect_stdout(sink),
        contextlib.redirect_stderr(sink),
    ):
        yield


def machine() -> dict[str, str]:
    """Where and when the figures come from."""
    versions = []
    for name in _VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": f"{os.getloadavg()[0]:.1f}",
        "versions": ", ".join(versions),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


@contextlib.contextmanager
def _one_thread(torch: Any) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
