"""Run the study: `python docs/studies/imbalance/run.py [--quick | --pages]`.

Writes results.json, the figure and README.md beside this file; some minutes on one core.
`--pages` writes the figure and README.md again from results.json.
"""

import argparse
import json
import logging
from pathlib import Path

import measure
import page

HERE = Path(__file__).parent


def main() -> None:
    """Measure, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two seeds, to try it out")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of what is written")
    parser.add_argument("--pages", action="store_true", help="only draw and write again")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    asked.out.mkdir(parents=True, exist_ok=True)
    kept = asked.out / "results.json"
    if not asked.pages:
        rows = measure.rows(seeds=2 if asked.quick else 12)
        results = {"differences": measure.differences(rows), "rows": rows}
        kept.write_text(json.dumps(rounded(results)) + "\n")
    results = json.loads(kept.read_text())
    page.draw(results["rows"], asked.out)
    (asked.out / "README.md").write_text(page.text(results))


def rounded(value):
    """Five digits are more than any number of the study is worth."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
