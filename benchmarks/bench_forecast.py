"""Forecasts: how long fits take, how low they get, and how they do on curves never seen."""

import json
import sys
from pathlib import Path

import harness
import numpy as np
from harness import Row

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from lossatlas import forecast
from reference import forecast_cases as real

# CPU seconds of the reference fit of each size, as its logs and our notes have them.
_REFERENCE_SECONDS = {"25M": 151.0, "100M": 350.0}
_REFERENCE_OBJECTIVE = {"25M": 2.91e-4, "100M": 2.81e-4}
_LOWEST = {"25M": "<= 1.45e-4", "100M": "<= 2.3e-5"}
_SCHEDULE = {"25M": "<= 3.1485", "100M": "<= 2.7925"}
_STORED = {"25M": 3.1496773, "100M": 2.7941368}


def rows() -> list[Row]:
    """Every figure that the room has promised, where the curves are at hand.

    Returns:
        Rows of seconds, objectives, errors and coverages; one that says so without the curves.
    """
    if not real.CURVES.is_dir():
        return [*_power(), Row("other forecasts", note="not measured: no shared/ with curves")]
    sizes = [row for size in real.SIZES for row in _size(size)]
    return [*sizes, *_bends(), *_points(), *_power()]


def _size(size: str) -> list[Row]:
    law = forecast.MultiPowerLaw()
    train, unseen = real.runs(size, real.TRAIN), real.runs(size, real.TEST)
    plain, spent = harness.once(lambda: forecast.fit(law, train, prior=False, check=False))
    fit, checked = harness.once(lambda: forecast.fit(law, train))
    every = forecast.fit(law, train + unseen, check=False)
    annealing, quick = harness.once(
        lambda: forecast.fit(forecast.AnnealingLaw(0.999), train, check=False)
    )
    r2, mae = _unseen(fit, unseen)
    bare, _ = _unseen(annealing, unseen)
    reference = "reference fit (AdamW)"
    return [
        Row(f"{size}: fit of three curves, CPU time", reference, spent,
            _REFERENCE_SECONDS[size], "s", "<= 3 s"),
        Row(f"{size}: the same with prior, leave-one-out and horizon", ours=checked, unit="s",
            goal="<= 3 s"),
        Row(f"{size}: training objective", reference, plain.objective,
            _REFERENCE_OBJECTIVE[size], "", _LOWEST[size]),
        Row(f"{size}: six unseen curves, R2", ours=r2, unit="", goal=">= 0.997",
            note=f"{r2:.4f}"),
        Row(f"{size}: six unseen curves, mean absolute error", ours=mae, unit="",
            goal="<= 0.0045"),
        Row(f"{size}: all nine curves, R2", ours=every.r2, unit="", goal=">= 0.999",
            note=f"{every.r2:.4f}"),
        Row(f"{size}: all nine curves, mean absolute error", ours=every.mae, unit="",
            goal="<= 0.003"),
        Row(f"{size}: annealing law, CPU time", ours=quick, unit="s", goal="<= 0.5 s"),
        Row(f"{size}: annealing law, R2 on the unseen", ours=bare, unit="", goal=">= 0.9975",
            note=f"{bare:.4f}"),
        *_coverage(size, fit, unseen),
        *_schedules(size),
    ]  # fmt: skip


def _unseen(fit: forecast.Fit, curves: list[forecast.Curve]) -> tuple[float, float]:
    found = [real.metrics(c, fit.law.predict(fit.values, c.inputs))[:2] for c in curves]
    r2, mae = np.mean(found, axis=0)
    return float(r2), float(mae)


def _coverage(size: str, fit: forecast.Fit, curves: list[forecast.Curve]) -> list[Row]:
    ends = [(c.loss[-1], *fit.predict(c).final[1:]) for c in curves]
    share = 100 * np.mean([low <= loss <= high for loss, low, high in ends])
    width = 50 * np.mean([(high - low) / loss for loss, low, high in ends])
    return [
        Row(f"{size}: 90 % intervals that hold the final loss", ours=float(share), unit="%",
            goal=">= 80 %", note=f"six unseen curves; half a width is {width:.2f} %")
    ]  # fmt: skip


def _schedules(size: str) -> list[Row]:
    law = forecast.MultiPowerLaw()
    named = dict(zip(law.parameters, real.PUBLISHED[size], strict=True))
    known = forecast.Fit.from_parameters(law, named)
    plan, spent = harness.once(lambda: known.optimize_schedule(24_000, 3e-4, warmup=2160))
    return [
        Row(f"{size}: best schedule under the published parameters", "stored schedule",
            plan.free_loss, _STORED[size], "", _SCHEDULE[size],
            f"{plan.free_loss:.4f} against {_STORED[size]:.4f}; plain cooldown: "
            f"{plan.wsd_shape}, {plan.wsd_decay} steps, {plan.wsd_loss:.4f}"),
        Row(f"{size}: its search, CPU time", ours=spent, unit="s", goal="< 5 s"),
    ]  # fmt: skip


def _bends() -> list[Row]:
    stored = json.loads((real.CURVES / "zsl_bnsl_fit.json").read_text())
    worst = slowest = 0.0
    for found in stored.values():
        step, loss = (np.array(found["smoothed_loss"][key]) for key in "xy")
        step[1:] += np.diff(step) == 0
        curve = forecast.Curve(step[step > 100], loss[step > 100])
        law = forecast.BrokenPowerLaw()
        fit, spent = harness.once(lambda c=curve, m=law: forecast.fit(m, c, check=False))
        bend = found["bnsl_seg2"]["x"][0]
        worst = max(worst, abs(fit.parameters["t_d"] / bend - 1))
        slowest = max(slowest, spent)
    what = f"broken power law on {len(stored)} curves"
    return [
        Row(f"{what}: largest error of t_d", ours=100 * worst, unit="%", goal="<= 0.01 %"),
        Row(f"{what}: slowest fit, CPU time", ours=slowest, unit="s", goal="< 0.1 s"),
    ]


class _Searched(forecast.PowerLaw):
    # The same law, minimized by a search from many starts as laws without a profile are.
    def profile(self, *_: object) -> None:
        return None


def _power() -> list[Row]:
    step = 10 * np.arange(1, 1001)
    noise = np.exp(0.002 * np.random.default_rng(0).standard_normal(step.size))
    curve = forecast.Curve(step, (2 + 3 * step**-0.5) * noise)
    found = []
    for check, goal in ((True, "<= 10 ms"), (False, "")):
        laws = (forecast.PowerLaw(), _Searched())
        times = [
            [harness.once(lambda m=law, c=check: forecast.fit(m, curve, check=c))[1]
             for law in laws]
            for _ in range(15)
        ]  # fmt: skip
        ours, theirs = (1e3 * np.median(times, axis=0)).tolist()
        what = "power law, 1,000 points" + ("" if check else ", check=False") + ", CPU time"
        found.append(Row(what, "a search from many starts", ours, theirs, "ms", goal))
    return found


def _points() -> list[Row]:
    fit = forecast.fit(forecast.ChinchillaLaw(), real.chinchilla(drop=5), check=False)
    published = {"E": 1.8172, "alpha": 0.3478, "beta": 0.3658}
    return [
        Row(
            f"Chinchilla points: {name}",
            "published replication",
            fit.parameters[name],
            value,
            "",
        )
        for name, value in published.items()
    ]


if __name__ == "__main__":
    for row in rows():
        print(row.what, row.ours, row.unit, row.goal, row.reached, row.note)
