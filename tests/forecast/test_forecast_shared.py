"""The published figures, on the real curves beside the checkout."""

import json
import time

import numpy as np
import pytest

from lossatlas import forecast
from reference.forecast_cases import (
    CURVES,
    PUBLISHED,
    SIZES,
    TEST,
    TRAIN,
    chinchilla,
    metrics,
    needs_curves,
    run,
    runs,
    schedule,
)

pytestmark = needs_curves


def seconds(work):
    start = time.process_time()
    found = work()
    return found, time.process_time() - start


@pytest.fixture(scope="module")
def fits():
    return {size: forecast.fit(forecast.MultiPowerLaw(), runs(size, TRAIN)) for size in SIZES}


def test_schedules_are_those_of_the_files():
    for name in TRAIN + TEST:
        logged = forecast.read_csv(CURVES / "mpl_100M" / f"{name}.csv")
        np.testing.assert_allclose(
            schedule(name)[logged.step - 1], logged.lr[logged.step - 1], rtol=1e-12
        )


@pytest.mark.parametrize(
    ("size", "published"),
    [
        ("25M", (0.9988, 0.00376, 0.00465, 0.00110, 0.00409)),
        ("100M", (0.9983, 0.00435, 0.00592, 0.00142, 0.00583)),
    ],
)
def test_published_parameters_give_the_published_metrics(size, published):
    law = forecast.MultiPowerLaw(warmup_drops=True)
    found = np.mean(
        [metrics(c, law.predict(PUBLISHED[size], c.inputs)) for c in runs(size, TEST)], axis=0
    )
    unit = np.array([1e-4, 1e-5, 1e-5, 1e-5, 1e-5])
    assert (np.abs(np.round(found / unit) - np.round(published / unit)) <= 1).all()


@pytest.mark.parametrize(("size", "loss"), [("25M", 3.1496773), ("100M", 2.7941368)])
def test_stored_schedules_have_the_stored_losses(size, loss):
    stored = np.load(CURVES / f"optimized_{size}.npy", allow_pickle=False)
    # The stored rates leave the warm-up out and count its area as half the peak a step.
    rates = np.concatenate([3e-4 * (np.arange(2160) + 0.5) / 2160, stored])
    assert forecast.MultiPowerLaw().final(np.array(PUBLISHED[size]), rates)[0] == pytest.approx(
        loss, abs=1e-6
    )


@pytest.mark.parametrize(("size", "objective"), [("25M", 1.45e-4), ("100M", 2.3e-5)])
def test_three_curves_reach_a_lower_minimum_than_the_reference(size, objective):
    law, curves = forecast.MultiPowerLaw(), runs(size, TRAIN)
    found, spent = seconds(lambda: forecast.fit(law, curves, prior=False, check=False))
    assert found.objective <= objective
    assert spent <= 3


@pytest.mark.parametrize("size", SIZES)
def test_three_curves_forecast_the_six_others(size, fits):
    unseen = [
        metrics(c, fits[size].law.predict(fits[size].values, c.inputs))
        for c in runs(size, TEST)
    ]
    r2, mae, *_ = np.mean(unseen, axis=0)
    assert r2 >= 0.997
    assert mae <= 0.0045


@pytest.mark.parametrize("size", SIZES)
def test_all_nine_curves_fit_closely(size):
    found = forecast.fit(forecast.MultiPowerLaw(), runs(size, TRAIN + TEST), check=False)
    assert found.r2 >= 0.9990
    assert found.mae <= 0.0030


@pytest.mark.parametrize(("size", "published"), [("25M", 0.9979), ("100M", 0.9978)])
def test_annealing_law(size, published):
    curves = runs(size, TRAIN)
    found, spent = seconds(
        lambda: forecast.fit(forecast.AnnealingLaw(0.999), curves, check=False)
    )
    r2 = np.mean(
        [metrics(c, found.law.predict(found.values, c.inputs))[0] for c in runs(size, TEST)]
    )
    assert r2 == pytest.approx(published, abs=3e-4)
    assert spent <= 0.5


@pytest.mark.parametrize(("size", "goal"), [("25M", 3.1485), ("100M", 2.7925)])
def test_schedules_are_better_than_the_stored_ones(size, goal):
    law = forecast.MultiPowerLaw()
    known = forecast.Fit.from_parameters(
        law, dict(zip(law.parameters, PUBLISHED[size], strict=True))
    )
    plan, spent = seconds(lambda: known.optimize_schedule(24_000, 3e-4, warmup=2160))
    assert plan.free_loss <= goal
    assert plan.free_loss <= min(row.loss for row in plan.table)
    assert law.final(known.values, plan.free)[0] == pytest.approx(plan.free_loss, abs=1e-12)
    assert spent < 5


def test_broken_power_law_repeats_the_published_bends():
    for name, stored in json.loads((CURVES / "zsl_bnsl_fit.json").read_text()).items():
        step, loss = (np.array(stored["smoothed_loss"][key]) for key in "xy")
        # One curve counts its last point twice; here it is given twice, one update apart.
        step[1:] += np.diff(step) == 0
        curve = forecast.Curve(step[step > 100], loss[step > 100])
        (bend, end), (level, last) = stored["bnsl_seg2"]["x"], stored["bnsl_seg2"]["y"]
        slope = -np.log(last / level) / np.log(end / bend)
        law = forecast.BrokenPowerLaw()
        found, spent = seconds(
            lambda law=law, curve=curve: forecast.fit(law, curve, check=False)
        )
        assert round(found.parameters["t_d"]) == round(bend), name
        assert found.parameters["L_d"] == pytest.approx(level, abs=5e-4)
        assert found.parameters["r_d"] == pytest.approx(slope, abs=5e-5)
        assert spent < 0.2, name  # 0.04 to 0.08 s on a quiet machine


def test_chinchilla_points():
    found = forecast.fit(forecast.ChinchillaLaw(), chinchilla(drop=5)).parameters
    assert found["E"] == pytest.approx(1.817, abs=0.002)
    assert found["alpha"] == pytest.approx(0.347, abs=0.002)
    assert found["beta"] == pytest.approx(0.367, abs=0.003)


@pytest.mark.parametrize("size", SIZES)
def test_intervals_cover_the_final_losses_of_unseen_curves(size, fits):
    hits = []
    for name in TEST:
        truth = run(size, name)
        _, lower, upper = fits[size].predict(truth).final
        hits.append(lower <= truth.loss[-1] <= upper)
        assert upper - lower < 0.03 * truth.loss[-1]
    assert np.mean(hits) >= 0.8


def test_one_schedule_is_refused_an_interval():
    lone = forecast.fit(forecast.MultiPowerLaw(), run("25M", "cosine_24000"))
    assert any("one schedule" in line for line in lone.warnings)
    told = lone.predict(schedule("wsd_20000_24000"))
    assert np.isnan(told.lower).all()
    assert "at least 3" in told.reason
