"""Run the study: `python docs/studies/forecast/run.py [--quick]`.

Writes results.json, the figures and README.md beside this file. Needs the curves beside the
checkout; about ten minutes on one core.
"""

import argparse
import json
import logging
import time
from pathlib import Path

import draw
import measure
import page

HERE = Path(__file__).parent
_log = logging.getLogger("study")


def main() -> None:
    """Measure, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few sets only, to try it out")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of what is written")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    asked.out.mkdir(parents=True, exist_ok=True)
    start = time.process_time()
    nested = measure.nested(asked.quick, _log.info)
    results = {
        "rules": measure.rules(nested),
        "bootstrap": measure.bootstrap(_log.info, resamples=5 if asked.quick else 40),
        "strangers": measure.strangers(asked.quick, _log.info),
        "priors": measure.priors(asked.quick, _log.info),
        "decays": measure.decays(_log.info),
        "nested": nested,
    }
    results["seconds"] = time.process_time() - start
    (asked.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    draw.predicted_and_measured(asked.out)
    draw.coverage_by_law(nested, asked.out)
    draw.cooldowns(asked.out)
    (asked.out / "README.md").write_text(page.text(results))


if __name__ == "__main__":
    main()
