"""Run the simulations of coverage, keep what came: `python run.py [draws] [part of a name]`."""

import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2] / "tests"))

from reference.curvature_coverage import SIMULATIONS  # noqa: E402

RESULTS = HERE / "results.json"


def main(draws, wanted):
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name, simulate in SIMULATIONS.items():
        if wanted not in name:
            continue
        started = time.monotonic()
        rows = simulate(draws)
        found[name] = {
            "draws": draws,
            "seconds": round(time.monotonic() - started, 1),
            "coverage": {
                key: {"held": hits, "known": known, "share": round(hits / max(known, 1), 3)}
                for key, (hits, known, _) in rows.items()
            },
        }
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400, " ".join(sys.argv[2:]))
