"""How often the intervals of parameters cover the truth.

`python docs/studies/forecast/parameters.py`: a few minutes on one core. Writes parameters.json.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[3] / "tests"))

from reference.forecast_recovery import CASES, recovery

DRAWS = 100


def main():
    """Simulate and write."""
    rows = []
    for name, (law, *_) in CASES.items():
        for noise in (0.001, 0.01):
            errors, held = recovery(name, noise, DRAWS)
            for i, parameter in enumerate(law.parameters):
                known = held[~np.isnan(held[:, i]), i]
                rows.append({
                    "law": name, "noise": noise, "parameter": parameter,
                    "intervals": int(known.size),
                    "held": float(known.mean()) if known.size else None,
                    "bias": round(float(np.median(errors[:, i])), 5),
                    "deviation": round(float(np.std(errors[:, i])), 5),
                })  # fmt: skip
    held = [row["held"] for row in rows if row["intervals"] > DRAWS / 2]
    out = {"draws": DRAWS, "held": float(np.mean(held)), "least": min(held), "rows": rows}
    Path(__file__).with_suffix(".json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
