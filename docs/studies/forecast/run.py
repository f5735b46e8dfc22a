"""Run the study: `python docs/studies/forecast/run.py [--quick | --pages]`.

Writes results.json, nested.csv, the figures and README.md beside this file. Needs the curves
beside the checkout; about half an hour on one core. Parts that are done are kept in
parts/; `--pages` writes README.md again from results.json.
"""

import argparse
import csv
import json
import logging
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
    parser.add_argument("--pages", action="store_true", help="only write README.md again")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    asked.out.mkdir(parents=True, exist_ok=True)
    if not asked.pages:
        _measure(asked)
    results = json.loads((asked.out / "results.json").read_text())
    (asked.out / "README.md").write_text(page.text(results))


def _measure(asked) -> None:
    nested = []
    for size in measure.real.SIZES:
        for law in measure.LAWS:
            nested += part(asked, f"nested-{size}-{law}", measure.nested, size, law)
    results = {
        "summary": page.summary(nested),
        "rules": measure.rules(nested),
        "calibration": measure.calibration(nested),
        "coverage": page.coverage_rows(nested),
        "bootstrap": part(asked, "bootstrap", measure.bootstrap),
        "strangers": part(asked, "strangers", measure.strangers),
        "priors": part(asked, "priors", measure.priors),
        "decays": part(asked, "decays", measure.decays),
    }
    (asked.out / "results.json").write_text(json.dumps(rounded(results), indent=1) + "\n")
    write_table(nested, asked.out / "nested.csv")
    draw.predicted_and_measured(asked.out)
    draw.coverage_by_law(nested, asked.out)
    draw.cooldowns(asked.out)


def part(asked, name, work, *arguments):
    """A part of the results; a run that died goes on with the first part that is missing."""
    kept = asked.out / "parts" / f"{name}.json"
    if not kept.exists():
        _log.info("%s ...", name)
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps(work(*arguments, quick=asked.quick)))
    return json.loads(kept.read_text())


def write_table(nested, path):
    """One line a forecast of the first law: what was fitted, how far off the forecast was."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["size", "law", "fitted", "forecast", "horizon", "error",
                         "half_width", "leverage", "covered"])  # fmt: skip
        for row in (row for row in nested if row["law"] == next(iter(measure.LAWS))):
            fitted = " ".join(str(measure.NAMES.index(name)) for name in row["train"])
            writer.writerows(
                [row["size"], row["law"], fitted, test["curve"], f"{test['horizon']:.3g}",
                 *(f"{test[k]:.3g}" for k in ("error", "half_width", "leverage")),
                 int(test["covered"])]
                for test in row["tests"]
            )  # fmt: skip


def rounded(value):
    """Six digits: shares of the page must not round twice."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
