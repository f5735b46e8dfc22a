"""Run the study: `python docs/studies/widths/run.py [--quick | --pages]`.

Writes results.json, the figures and README.md beside this file; about half an hour on one
core. What is done is kept in parts/, so that a run that was stopped goes on; `--pages` writes
README.md again from results.json.
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
    parser.add_argument("--pages", action="store_true", help="only write README.md again")
    asked = parser.parse_args()
    kept = asked.out / "results.json"
    if not asked.pages:
        kept.write_text(json.dumps(_measured(asked.out, asked.quick), indent=1) + "\n")
    (asked.out / "README.md").write_text(page.text(json.loads(kept.read_text())))


def _measured(out: Path, quick: bool) -> dict[str, object]:
    (out / "parts").mkdir(parents=True, exist_ok=True)
    study = sharpness_consistency(
        load_dataset("digits", examples=256, normalize="standardized"),
        FAMILIES,
        widths=(16, 32) if quick else (16, 32, 64, 128, 256),
        rates=RATES[6:10] if quick else RATES,
        seeds=2 if quick else 5,
        resume=out / "parts" / f"widths{'-quick' if quick else ''}.sqlite",
        progress=True,
    )
    # Widths at which a limit would show, at two rates.
    wide = sharpness_consistency(
        load_dataset("digits", examples=512, normalize="standardized"),
        ("mup", "ntk"),
        widths=(16, 32) if quick else (64, 256, 768),
        rates=(5.0, 10.0),
        seeds=2,
        resume=out / "parts" / f"wide{'-quick' if quick else ''}.sqlite",
        progress=True,
    )
    page.draw(study, out)
    return page.results(study) | {"wide": page.wide_results(wide)}


if __name__ == "__main__":
    main()
