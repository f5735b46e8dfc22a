"""The measurements of the study: every number of the page comes from here."""

import functools
import itertools
import sys
from pathlib import Path

import numpy as np
from scipy.stats import norm, t

sys.path.insert(0, str(Path(__file__).parents[3] / "tests"))

from lossatlas import forecast
from lossatlas.forecast import Curve, schedules
from lossatlas.forecast.validation import (
    CALIBRATION,
    FARTHEST,
    FitSettings,
    doubled_horizon,
    error_model,
    score,
)
from reference import forecast_cases as real
from reference.forecast_laws import structured_sgd

NAMES = real.TRAIN + real.TEST
LAWS = {
    "multi-power": forecast.MultiPowerLaw(),
    "annealing 0.999": forecast.AnnealingLaw(0.999),
    "linear in the rate": forecast.LinearLRLaw(),
}
LEVEL = 0.9


def training_sets(quick):
    """All sets of three to eight of the nine runs."""
    sets = [s for k in range(3, 9) for s in itertools.combinations(NAMES, k)]
    return sets[:6] if quick else sets


def nested(size, label, *, quick):
    """Intervals from inside the training curves, scored on curves never used.

    Leaving one curve out of a set is a fit to a smaller set, so every set is fitted once. The
    intervals are those of `forecast.fit(...).predict(...)`, up to the start of the iteration.
    """
    curves = {name: real.run(size, name) for name in NAMES}
    law = LAWS[label]
    recipe = FitSettings(law, law.huber)
    after = {n: c.select(c.step > c.inputs.warmup) for n, c in curves.items()}

    @functools.cache
    def fitted(names):
        solution = recipe.solve([after[n] for n in names])
        return solution.values, recipe.metric(solution, [after[n] for n in names])

    def row(names, name):
        values, metric = fitted(names)
        longest = max(int(after[n].step[-1]) for n in names)
        return score(law, values, after[name], name, name, longest=longest, metric=metric)

    out = []
    for train in training_sets(quick):
        left = tuple(row(tuple(n for n in train if n != name), name) for name in train)
        doubled = doubled_horizon(recipe, [after[n] for n in train], fitted(train)[0])
        errors = error_model(left, doubled)
        tests = []
        for name in NAMES:
            if name in train:
                continue
            told = row(train, name)
            half = float(errors.half_width(LEVEL, told.horizon, told.leverage))
            tests.append({
                "curve": name, "horizon": told.horizon, "error": told.final,
                "leverage": told.leverage, "covered": bool(abs(told.final) <= half),
                "half_width": half,
            })  # fmt: skip
        out.append({
            "size": size, "law": label, "train": train, "tests": tests,
            "falling": sum(not name.startswith("constant") for name in train),
            "final": [r.final for r in left], "rms": [r.rms for r in left],
            "leverage": [r.leverage for r in left], "doubled": [r.error for r in doubled],
        })  # fmt: skip
    return out


def rules(found):
    """Other rules for the same left-out errors, so that a reader sees what was chosen among."""
    tail = (1 + LEVEL) / 2

    def student(errors, spread=None):
        k = len(errors)
        spread = 1 + 1 / k if spread is None else spread
        return t.ppf(tail, k) * np.sqrt(np.mean(np.square(errors)) * spread)

    def beyond(row, test):
        doubled = np.sqrt(np.mean(np.square(row["doubled"]))) if row["doubled"] else 0.0
        return norm.ppf(tail) * doubled * np.log2(max(test["horizon"], 1))

    def larger(row):
        return np.maximum(np.abs(row["final"]), row["rms"])

    def leveraged(row, test):
        unit = np.array(row["final"]) / np.sqrt(1 + np.minimum(row["leverage"], FARTHEST))
        return np.hypot(student(unit, 1 + test["leverage"]), beyond(row, test))

    table = {
        "normal, final errors": lambda row, _: (
            norm.ppf(tail) * np.sqrt(np.mean(np.square(row["final"])))
        ),
        "Student, final errors": lambda row, _: student(row["final"]),
        "Student, final or typical, horizon (until 0.1)": lambda row, test: np.hypot(
            student(larger(row)), beyond(row, test)
        ),
        "Student, final errors, leverage, horizon": leveraged,
        f"the same, {CALIBRATION} times as wide (ours)": lambda row, test: (
            CALIBRATION * leveraged(row, test)
        ),
    }
    out = []
    for law in LAWS:
        for name, rule in table.items():
            for size in real.SIZES:
                pairs = [
                    (abs(test["error"]) <= (half := rule(row, test)), half)
                    for row in found if row["law"] == law and row["size"] == size
                    for test in row["tests"]
                ]  # fmt: skip
                hits, halves = zip(*pairs, strict=True)
                out.append({"law": law, "rule": name, "size": size, "tests": len(hits),
                            "coverage": float(np.mean(hits)),
                            "half_width": float(np.median(halves))})  # fmt: skip
    return out


def calibration(found):
    """The factor that makes 90 % intervals hold 90 %, had it been chosen at each size."""
    out = {}
    for size in real.SIZES:
        picked = [
            [(abs(test["error"]), test["half_width"] / CALIBRATION)
             for row in found if row["law"] == law and row["size"] == size
             for test in row["tests"]]
            for law in LAWS
        ]  # fmt: skip
        factors = np.linspace(0.8, 1.6, 81)
        held = [
            np.mean([np.mean([e <= f * h for e, h in pairs]) for pairs in picked])
            for f in factors
        ]
        out[size] = float(factors[np.argmin(np.abs(np.array(held) - LEVEL))])
    return out


def coverage(found, keep, law=None):
    """Share of covered final losses and median half width among some tests."""
    picked = [
        test for row in found if law in {None, row["law"]} for test in row["tests"]
        if keep(row, test)
    ]  # fmt: skip
    if not picked:
        return {"tests": 0, "coverage": None, "half_width": None}
    return {
        "tests": len(picked),
        "coverage": float(np.mean([test["covered"] for test in picked])),
        "half_width": float(np.median([test["half_width"] for test in picked])),
    }


def bootstrap(*, quick, block=15):
    """The counter-example: intervals from resampled residuals of the three training curves."""
    out = []
    for size in real.SIZES:
        train, law = real.runs(size, real.TRAIN), forecast.MultiPowerLaw()
        fit = forecast.fit(law, train, check=False)
        rng = np.random.default_rng(0)
        ends = {name: [] for name in real.TEST}
        tests = {name: real.run(size, name) for name in real.TEST}
        for _ in range(5 if quick else 40):
            shaken = [_shaken(fit, curve, rng, block) for curve in fit.curves]
            again = forecast.fit(law, shaken, check=False)
            for name, truth in tests.items():
                ends[name].append(law.predict(again.values, truth.inputs)[-1])
        for name, truth in tests.items():
            low, high = np.quantile(ends[name], [0.05, 0.95])
            out.append({
                "size": size, "curve": name, "half_width": float(np.log(high / low) / 2),
                "covered": bool(low <= truth.loss[-1] <= high),
            })  # fmt: skip
    return out


def _shaken(fit, curve, rng, block):
    law = fit.law.predict(fit.values, curve.inputs)
    residual = np.log(curve.loss / law)
    starts = rng.integers(0, residual.size - block, residual.size // block + 1)
    picked = np.concatenate([residual[s : s + block] for s in starts])[: residual.size]
    return Curve(curve.step, law * np.exp(picked), curve.lr, name=curve.name)


def strangers(*, quick):
    """The same rule on curves that had no say in it: SGD on structured features."""
    out = []
    spectra = [(1.0, 0.5), (1.2, 0.8), (0.8, 0.9), (1.5, 0.4), (1.1, 1.1), (0.9, 0.6)]
    for i, (a, b) in enumerate(spectra[:2] if quick else spectra):
        curves = _sgd_family(a, b, batch=(2, 8)[i % 2])
        for train in itertools.combinations(curves, 3):
            if sum(name != "constant" for name in train) < 2:
                continue
            known = [curves[name] for name in train]
            fit = forecast.fit(forecast.MultiPowerLaw(), known)
            for name, truth in curves.items():
                if name not in train:
                    loss, lower, upper = fit.predict(truth).final
                    end = truth.loss[-1]
                    out.append({
                        "a": a, "b": b, "curve": name, "covered": bool(lower <= end <= upper),
                        "error": float(np.log(loss / end)),
                        "half_width": float(np.log(upper / loss)),
                    })  # fmt: skip
    return out


def _sgd_family(a, b, batch, steps=1500, features=500):
    k = np.arange(1.0, features + 1)
    # Below the edge of stability of one-pass SGD with this batch.
    peak = 0.5 / (1 + (k ** (-2 * a)).sum() / batch)
    make = {
        "constant": schedules.constant(steps, peak),
        "cosine": schedules.cosine(steps, peak, 0.1),
        "two-step": np.repeat([peak, 0.3 * peak], steps // 2),
        "linear": schedules.wsd(steps, peak, 0.3, "linear", min_ratio=0.1),
        "sqrt": schedules.wsd(steps, peak, 0.2, "sqrt", min_ratio=0.1),
    }
    found = {}
    for name, rates in make.items():
        loss = structured_sgd(k ** (-2 * a), k ** (-2 * b), rates, batch, floor=0.5)
        step = np.unique(np.geomspace(30, steps, 100).astype(int))
        found[name] = Curve(step, loss[step - 1], rates, name=name)
    return found


def priors(*, quick):
    """How much the weak prior matters: unseen errors of triples without, with, and tighter."""
    out = []
    sets = training_sets(quick)
    triples = [s for s in sets if len(s) == 3][:: 1 if quick else 3]
    triples = [real.TRAIN, *(s for s in triples if s != real.TRAIN)]
    for size in real.SIZES:
        curves = {name: real.run(size, name) for name in NAMES}
        for label, settings in {
            "no prior": {"prior": False}, "prior (default)": {},
            "beta = gamma = 1/2 fixed": {"fixed": {"beta": 0.5, "gamma": 0.5}},
        }.items():  # fmt: skip
            maes = []
            for train in triples:
                fit = forecast.fit(
                    forecast.MultiPowerLaw(),
                    [curves[n] for n in train],
                    check=False,
                    **settings,
                )
                unseen = [curves[n] for n in NAMES if n not in train]
                told = [fit.law.predict(fit.values, curve.inputs) for curve in unseen]
                pairs = zip(told, unseen, strict=True)
                maes.append(np.mean([np.abs(loss - c.loss).mean() for loss, c in pairs]))
            out.append({"size": size, "setting": label, "official": float(maes[0]),
                        "median": float(np.median(maes)), "worst": float(np.max(maes)),
                        "sets": len(maes)})  # fmt: skip
    return out


def decays(*, quick):
    """'What if I decay now?' at step 20,000, with and without the shift to where the run is."""
    del quick
    out = []
    for size in real.SIZES:
        fit = forecast.fit(forecast.MultiPowerLaw(), real.runs(size, real.TRAIN))
        for name, shape in (
            ("wsd_20000_24000", "exponential"),
            ("wsdld_20000_24000", "linear"),
        ):
            truth = real.run(size, name)
            now = Curve(truth.step, truth.loss, truth.lr).until(20_000)
            told = fit.what_if(
                now, 20_000, decay=4000, shape=shape, min_ratio=real.END / real.PEAK
            )
            # The run was logged to step 23,904 only; the forecast of that step is compared.
            rates = told.decays[0].lr
            last = int(truth.step[-1])
            plain = fit.predict(rates, steps=[last]).final[0]
            shifted = plain * np.exp(told.offset)
            out.append({"size": size, "curve": name, "measured": float(truth.loss[-1]),
                        "plain": float(plain), "shifted": float(shifted),
                        "offset": told.offset})  # fmt: skip
    return out
