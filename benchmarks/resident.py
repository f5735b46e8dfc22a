"""Resident memory of a process of its own: Linux's /proc."""

import json
import subprocess
import sys
from pathlib import Path

from lossatlas.memory import release_memory

KNOWN = Path("/proc/self/clear_refs").exists()


def measured(script: str, way: str) -> dict[str, float]:
    """What `python script way` prints as its last line, JSON."""
    done = subprocess.run(
        [sys.executable, script, way], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def start_watching() -> int:
    """Give freed memory back, set the peak to what is resident now, and say what that is."""
    release_memory()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return status("VmRSS")


def status(field: str) -> int:
    """A line of /proc/self/status in bytes: VmRSS is now, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
