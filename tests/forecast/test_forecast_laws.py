"""Every law against its slow twin, and its derivatives against differences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossatlas import forecast
from lossatlas.errors import ArgumentError, DataError
from lossatlas.forecast import Curve, schedules
from lossatlas.forecast.law import falls
from reference import forecast_laws as twin
from reference.forecast_cases import TRUTH, small_schedules

SCHEDULES = small_schedules(steps=300, warmup=20)
SCHEDULES["wsd-s"] = schedules.wsd_s(300, 1e-3, [150], 0.3, "linear", min_ratio=0, warmup=20)
SCHEDULES["to zero"] = schedules.wsd(300, 1e-3, 100, "linear", warmup=20)
STEPS = np.array([25, 40, 90, 151, 160, 220, 299, 300])

POINTS = {"size": np.geomspace(1e6, 1e9, 8), "tokens": np.geomspace(3e8, 1e10, 8)[::-1],
          "source": np.linspace(2.0, 4.0, 8)}  # fmt: skip
CASES = [
    (forecast.MultiPowerLaw(), TRUTH),
    (forecast.MultiPowerLaw(warmup_drops=True), TRUTH),
    (forecast.AnnealingLaw(0.99), [2.6, 0.9, 0.5, 3.0]),
    (forecast.LinearLRLaw(), [2.6, 0.9, 0.5, 80.0]),
    (forecast.PowerLaw(), [2.6, 0.9, 0.5]),
    (forecast.BrokenPowerLaw(), [3.0, 80.0, 0.3, 0.05, 0.4]),
    (forecast.ChinchillaLaw(), [1.8, 400.0, 0.35, 2000.0, 0.37]),
    (forecast.ChinchillaLaw(tokens=False), [1.8, 400.0, 0.35]),
    (forecast.KaplanLaw(), [1.5, 1e8, 0.3, 1e9, 0.4]),
    (forecast.ShiftedPowerLaw(), [0.9, 1.1, 1.2, 0.8]),
]
IDS = [f"{law.name}{len(values)}" for law, values in CASES]


def curve(rates=None):
    return Curve(STEPS, np.linspace(4, 3, STEPS.size), rates, **POINTS)


@pytest.mark.parametrize("name", SCHEDULES)
def test_multi_power_law_agrees_with_its_formula(name):
    rates = SCHEDULES[name]
    steps = STEPS[rates.size >= STEPS]
    run = Curve(steps, np.linspace(4, 3, steps.size), rates)
    exact = twin.multi_power(TRUTH, rates, steps, run.inputs.warmup)
    found = forecast.MultiPowerLaw().predict(TRUTH, run.inputs)
    # A rate that passes through zero and rises again bends the kernel inside a merged span.
    np.testing.assert_allclose(found, exact, atol=2e-3 if name == "wsd-s" else 5e-5)
    final, _ = forecast.MultiPowerLaw().final(TRUTH, rates)
    last = twin.multi_power(TRUTH, rates, [rates.size], run.inputs.warmup)
    assert final == pytest.approx(float(last[0]), abs=1e-10)


@pytest.mark.parametrize("name", SCHEDULES)
def test_annealing_law_agrees_with_its_formula(name):
    rates = SCHEDULES[name]
    run = curve(rates)
    values = np.array([2.6, 0.9, 0.5, 3.0])
    exact = twin.annealing(values, 0.99, rates, STEPS, run.inputs.warmup)
    law = forecast.AnnealingLaw(0.99)
    np.testing.assert_allclose(law.predict(values, run.inputs), exact, rtol=1e-12)
    last = twin.annealing(values, 0.99, rates, [rates.size], run.inputs.warmup)
    assert law.final(values, rates)[0] == pytest.approx(float(last[0]))


@pytest.mark.parametrize(("law", "values"), CASES, ids=IDS)
def test_jacobians_are_exact(law, values):
    values = np.asarray(values, dtype=float)
    features = law.features(curve(SCHEDULES["cosine"]).inputs)
    _, jacobian = law.evaluate(values, features)
    for i, value in enumerate(values):
        up, down = values.copy(), values.copy()
        up[i], down[i] = value * (1 + 1e-6), value * (1 - 1e-6)
        slope = (law.evaluate(up, features)[0] - law.evaluate(down, features)[0]) / (
            2e-6 * value
        )
        np.testing.assert_allclose(jacobian[:, i], slope, rtol=2e-5, atol=1e-7 / value)


@pytest.mark.parametrize(("law", "values"), CASES[:5], ids=IDS[:5])
def test_derivatives_by_the_rates_are_exact(law, values):
    # A rising start and a strictly falling rest: no nudge turns a step into warm-up.
    rates = np.concatenate([np.linspace(0.2, 1, 5), np.linspace(0.95, 0.1, 15) ** 2]) * 1e-2
    values = np.asarray(values, dtype=float)
    loss, gradient = law.final(values, rates)
    assert loss == pytest.approx(
        float(law.predict(values, Curve([1, 20], [2.0, 1.0], rates).inputs)[-1]), abs=6e-4
    )
    for i in (4, 5, 9, 15, 18, 19):
        up, down = rates.copy(), rates.copy()
        up[i] += 1e-9
        down[i] -= 1e-9
        slope = (law.final(values, up)[0] - law.final(values, down)[0]) / 2e-9
        assert gradient[i] == pytest.approx(slope, rel=1e-4, abs=1e-4)


@given(st.integers(1, 40), st.floats(0.2, 0.9))
def test_the_warm_up_is_no_fall(warmup, factor):
    rates = np.concatenate([schedules.ramp(warmup, 1.0), np.ones(10), np.full(10, factor)])
    run = Curve([1, rates.size], [2.0, 1.0], rates)
    change = falls(run.inputs)
    assert change.sum() == pytest.approx(1 - factor)
    assert np.count_nonzero(change) == 1
    counted = falls(run.inputs, with_warmup=True)
    assert counted.sum() == pytest.approx(-factor)


@given(st.floats(0.1, 0.9), st.integers(1, 5))
def test_a_power_of_the_sum_does_not_feel_split_updates(share, times):
    rates = small_schedules(steps=200, warmup=10)["cosine"]
    parts = [share**k * (1 - share) for k in range(times)]
    parts.append(1 - sum(parts))
    split = np.outer(rates, parts).ravel()
    law, values = forecast.PowerLaw(), np.array([2.0, 1.0, 0.5])
    whole = law.predict(values, Curve([50, 200], [2.0, 1.0], rates).inputs)
    fine = np.array([50, 200]) * (times + 1)
    np.testing.assert_allclose(
        law.predict(values, Curve(fine, [2.0, 1.0], split).inputs), whole
    )


def test_what_a_law_needs_is_named():
    bare = Curve([1, 2, 3], [3.0, 2.0, 1.0], name="a")
    with pytest.raises(
        DataError, match="`lr` of curve 'a' is missing and MultiPowerLaw needs it"
    ):
        forecast.fit(forecast.MultiPowerLaw(), bare)
    with pytest.raises(DataError, match="`size` of curve 'a' is missing"):
        forecast.fit(forecast.ChinchillaLaw(), bare)
    with pytest.raises(ArgumentError, match="`decay` must lie between 0 and 1"):
        forecast.AnnealingLaw(1.5)


def test_the_law_of_widths_is_the_chinchilla_law_without_tokens():
    size = np.geomspace(1e6, 1e9, 12)
    curve = forecast.points(1.8 + 400 * size**-0.35, size=size)
    found = forecast.fit(forecast.ChinchillaLaw(tokens=False), curve).parameters
    assert found == pytest.approx({"E": 1.8, "A": 400.0, "alpha": 0.35}, rel=1e-3)


def test_a_translated_law_predicts_the_other_set():
    grids = np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6))
    size, tokens = (grid.ravel() for grid in grids)
    base = {"E": 1.5, "A": 1e8, "alpha": 0.3, "B": 1e9, "beta": 0.4}
    shift = {"K": 0.8, "kappa": 1.2, "E0": 1.5, "E1": 0.9}
    law = forecast.KaplanLaw()
    here = law.predict(list(base.values()), forecast.points(size, size, tokens).inputs)
    other = shift["K"] * (here - 1.5) ** shift["kappa"] + shift["E1"]
    told = forecast.translate(base, shift)
    there = law.predict(list(told.values()), forecast.points(size, size, tokens).inputs)
    np.testing.assert_allclose(there, other)
    found = forecast.fit(
        forecast.ShiftedPowerLaw(), forecast.points(other, source=here), fixed={"E0": 1.5}
    )
    assert found.parameters == pytest.approx(shift, rel=1e-3)
    with pytest.raises(ArgumentError, match="fixed"):
        forecast.translate(base, shift | {"E0": 1.0})
