"""Run the study: `python docs/studies/widths/run.py [--quick]`.

Writes results.json, the figures and README.md beside this file; about half an hour on one
core. What is done is kept in parts/, so that a run that was stopped goes on.
"""

import argparse
import json
from pathlib import Path

import page
from width_study import RATES, sharpness_consistency

from lossatlas.training import load_dataset

HERE = Path(__file__).parent
FAMILIES = ("mup", "ntk", "standard")


def main() -> None:
    """Measure, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small, to try it out")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of what is written")
    asked = parser.parse_args()
    (asked.out / "parts").mkdir(parents=True, exist_ok=True)
    study = sharpness_consistency(
        load_dataset("digits", examples=256, normalize="standardized"),
        FAMILIES,
        widths=(16, 32) if asked.quick else (16, 32, 64, 128, 256),
        rates=RATES[6:10] if asked.quick else RATES,
        seeds=2 if asked.quick else 5,
        resume=asked.out / "parts" / f"widths{'-quick' if asked.quick else ''}.sqlite",
        progress=True,
    )
    # Widths at which a limit would show, at two rates.
    wide = sharpness_consistency(
        load_dataset("digits", examples=512, normalize="standardized"),
        ("mup", "ntk"),
        widths=(16, 32) if asked.quick else (64, 256, 768),
        rates=(5.0, 10.0),
        seeds=2,
        resume=asked.out / "parts" / f"wide{'-quick' if asked.quick else ''}.sqlite",
        progress=True,
    )
    page.draw(study, asked.out)
    results = page.results(study) | {"wide": page.wide_results(wide)}
    (asked.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (asked.out / "README.md").write_text(page.text(study, results))


if __name__ == "__main__":
    main()
