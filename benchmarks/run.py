"""Run the benchmarks and write what they measured: `python benchmarks/run.py [NAME ...]`.

Names are those of the files, `map` for bench_map.py; none means all. Figures of earlier runs
stay in the results until their benchmark runs again.
"""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
JSON, MARKDOWN = HERE / "RESULTS.json", HERE / "RESULTS.md"


def main() -> int:
    """Parse the command line, run, print and write.

    Returns:
        The exit code: 0 unless a name is unknown.
    """
    known = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    options = _options(known)
    unknown = [name for name in options.names if name not in known]
    if unknown:
        print(
            f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}.", file=sys.stderr
        )
        return 2
    if options.quick:
        os.environ["LOSSATLAS_BENCH_QUICK"] = "1"
        print("Small sizes: the goals below are those of the full ones.")
    for name in options.names or known:
        result = _run(name)
        _show(name, result["rows"])
        if not options.quick:
            # Read as late as this: another run may have written meanwhile.
            _write(dict(sorted((_earlier() | {name: result}).items())))
    return 0


def _options(known: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(known)}; all by default")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that it runs; writes nothing"
    )
    return parser.parse_args()


def _run(name: str) -> dict[str, Any]:
    # Before any module that imports torch: OpenMP reads the settings that harness makes.
    harness = importlib.import_module("harness")
    machine = harness.machine()
    rows = importlib.import_module(f"bench_{name}").rows()
    return {"machine": machine, "rows": [harness.Row.from_any(row).to_dict() for row in rows]}


def _earlier() -> dict[str, Any]:
    return json.loads(JSON.read_text(encoding="utf-8")) if JSON.exists() else {}


def _show(name: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n{name}")
    for row in rows:
        cells = _cells(row)
        print("  " + cells[0])
        print("      " + " · ".join(cell for cell in cells[1:] if cell))
    sys.stdout.flush()


def _write(results: dict[str, Any]) -> None:
    _replace(JSON, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    parts = ["# Results", _HEAD]
    for name, result in results.items():
        machine = result["machine"]
        parts += [f"## {name}", _machine(machine), _table(result["rows"])]
    _replace(MARKDOWN, "\n\n".join(parts) + "\n")


_HEAD = (
    "Written by `make bench`; do not edit. CPU time of one process on one thread, passive "
    "OpenMP waits, medians of interleaved rounds. Each section has date and packages of "
    "its run; names in its rows are those of that day (`TopologyLR` is `LandscapeLR` now, "
    "`ClimbPolicy` `GrowthPolicy`, `ValleyAverage` `PolynomialAverage`)."
)


def _machine(machine: dict[str, str]) -> str:
    return (
        f"{machine['date']}; {machine['processor']}, {machine['cores']} cores, "
        f"{machine['system']}, Python {machine['python']}, "
        f"load {machine['load']} at the start; {machine['versions']}."
    )


def _table(rows: list[dict[str, Any]]) -> str:
    head = "| what | ours | against | theirs | ratio | goal | reached | note |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        what, ours, peer, theirs, ratio, goal, reached, note = _cells(row)
        cells = (what, ours, peer, theirs, ratio, goal, reached, note)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    unit = row["unit"]
    reached = {True: "yes", False: "**no**", None: ""}[row["reached"]]
    ratio = "" if row["ratio"] is None else f"{row['ratio']:,.3g}x"
    return (
        row["what"],
        _figure(row["ours"], unit),
        row["peer"],
        _figure(row["theirs"], unit),
        ratio,
        row["goal"],
        reached,
        row["note"],
    )


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    whole = f"{value:,.0f}" if value >= 1000 or unit == "points" else f"{value:.3g}"
    return whole if unit == "points" else f"{whole} {unit}"


def _replace(path: Path, text: str) -> None:
    # A run that is stopped never leaves half a table.
    partial = path.with_suffix(path.suffix + ".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
