"""Run the study: `python docs/studies/certainty/run.py [--quick]`.

Writes results.json and README.md beside this file; a quarter of an hour on one core. Rows that
are done are kept in parts/, and a run that was stopped goes on from there.
"""

import argparse
import json
import logging
from pathlib import Path

import measure
import noise
import page

HERE = Path(__file__).parent
_log = logging.getLogger("study")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="ten maps a row, to try it out")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of what is written")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    maps = 10 if asked.quick else 200
    parts = asked.out / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    rows = []
    for kind in noise.KINDS | noise.HELD_OUT | noise.BEYOND:
        for count in noise.COUNTS:
            kept = parts / f"{kind}-{count}-{maps}.json"
            if not kept.exists():
                kept.write_text(json.dumps(measure.row(kind, count, maps)))
                _log.info("%s, %d examples", kind, count)
            rows.append(json.loads(kept.read_text()))
    (asked.out / "results.json").write_text(json.dumps(rows) + "\n")
    (asked.out / "README.md").write_text(page.text(rows))


if __name__ == "__main__":
    main()
