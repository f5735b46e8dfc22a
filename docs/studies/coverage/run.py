"""Run the study: `python docs/studies/coverage/run.py [--quick]`.

Writes results.json and README.md beside this file; some minutes on one core.
"""

import argparse
import json
from pathlib import Path

import measure
import page

HERE = Path(__file__).parent


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100 samples, to try it out")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of what is written")
    requested = parser.parse_args()
    requested.out.mkdir(parents=True, exist_ok=True)
    replicates = 100 if requested.quick else 3000
    results = {"replicates": replicates, "rows": measure.rows(replicates)}
    (requested.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (requested.out / "README.md").write_text(page.text(results))


if __name__ == "__main__":
    main()
