"""How often the intervals of simple forecasts hold the truth, on 200 short trainings.

`python docs/studies/forecast/simple.py`: about 40 minutes on one core. Writes simple.json, from
which the guide takes its table. Logs and measured forecasts are kept in parts/, so that a run
that was stopped goes on where it was. Needs mnist, cifar10-jpeg and tinyshakespeare beside the
checkout (shared/data).
"""

import json
import logging
from pathlib import Path

import numpy as np
import short_runs

from lossatlas import forecast
from lossatlas.errors import AtlasError
from lossatlas.forecast.choice import simple_fit
from lossatlas.forecast.own_schedule import own_schedule

HERE = Path(__file__).parent
LOGS, MEASURED = HERE / "parts" / "short", HERE / "parts" / "simple.jsonl"
HORIZONS, LEVEL = (1.3, 2.0, 4.0), 0.9
# Runs up to this number chose the factor of the intervals, the others had no say in it.
LAST_FITTED = 106
END, FEWEST = 1 / 16, 4  # share of the updates, and losses, that show where a run ended
SHORTEST = 12  # losses of a log that is forecast from
WIDE = 8.0
_log = logging.getLogger("study")


def main():
    """Train, forecast, write."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    LOGS.mkdir(parents=True, exist_ok=True)
    for number in range(short_runs.RUNS):
        run = short_runs.setup(number)
        if not (LOGS / f"{run.name}.csv").exists():
            _log.info("training %s", run.name)
            short_runs.train(run, LOGS)
    rows = measured()
    every = [row for row in rows if row["half"] is not None]
    fitted, others = (
        [row for row in every if (row["run"] <= LAST_FITTED) == chosen]
        for chosen in (True, False)
    )
    falling = [row for row in every if row["falls"]]
    results = {
        "level": LEVEL,
        "fitted": summary(fitted),
        "others": summary(others)
        | {f"{h:g}": summary([r for r in others if r["horizon"] == h]) for h in HORIZONS},
        "falling": {
            "forecasts": len(falling),
            "ended_lower": mean(row["error"] > 0 for row in falling),
        },
    }
    (HERE / "simple.json").write_text(json.dumps(results, indent=1) + "\n")


def measured():
    """One row a run and horizon; those that were measured before are read."""
    rows = [json.loads(line) for line in MEASURED.open()] if MEASURED.exists() else []
    done = {(row["run"], row["horizon"]) for row in rows}
    for path in sorted(LOGS.glob("*.csv")):
        number = int(path.name.partition("_")[0])
        for horizon in HORIZONS:
            if (number, horizon) in done:
                continue
            rows.append({"run": number, "horizon": horizon} | one(path, horizon))
            with MEASURED.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    return rows


def one(path, horizon):
    """The forecast of the end of a run from its first part, in log loss."""
    try:
        curve = forecast.read_csv(path)
        known = curve.until(int(int(curve.step[-1]) / horizon))
        fit = simple_fit(known) if known.step.size >= SHORTEST else None
    except AtlasError:
        fit = None
    if fit is None:
        return {"half": None, "error": None, "falls": False}
    late = curve.step > (1 - END) * curve.step[-1]
    late[-FEWEST:] = True
    truth = float(np.median(np.log(curve.loss[late])))
    expected = float(np.log(fit.law.predict(fit.values, curve.inputs)[-1]))
    half = float(fit.errors.half_width(LEVEL, np.array([horizon]), np.array([1.0]))[0])
    falls = path.stem.split("_")[2] in {"cosine", "linear"}
    return {
        "half": half if np.isfinite(half) else None,
        "error": expected - truth,
        "falls": falls and own_schedule(known).end is not None,
    }


def summary(rows):
    """How many forecasts, the share held, and how wide the intervals are."""
    half, error = (np.array([row[key] for row in rows]) for key in ("half", "error"))
    factor = np.exp(2 * half)
    return {
        "runs": len({row["run"] for row in rows}),
        "forecasts": len(rows),
        "held": round(float(np.mean(np.abs(error) <= half)), 4),
        "median_factor": round(float(np.median(factor)), 3),
        "wide": round(float(np.mean(factor > WIDE)), 4),
        "off_half": round(float(np.expm1(np.quantile(np.abs(error), 0.5))), 4),
        "off_tenth": round(float(np.expm1(np.quantile(np.abs(error), 0.9))), 4),
    }


def mean(values):
    """A share."""
    return round(float(np.mean(list(values))), 4)


if __name__ == "__main__":
    main()
