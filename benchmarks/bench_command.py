"""How long the command takes to say what it can do."""

import sys
from pathlib import Path

import harness
from harness import Row


def rows() -> list[Row]:
    """CPU time of `lossatlas --help` in a process of its own.

    Returns:
        One row.
    """
    script = Path(sys.executable).with_name("lossatlas")
    timing = harness.child_cpu([str(script), "--help"])
    note = f"least of {timing.rounds}: {timing.minimum:.2f} s"
    return [Row("`lossatlas --help`", ours=timing.median, unit="s", goal="< 0.5 s", note=note)]


if __name__ == "__main__":
    for row in rows():
        print(row, row.reached)
