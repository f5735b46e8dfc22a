"""Results of the room: numbers with errors, sentences, pictures, files; and its registry."""

import importlib
import inspect
import math
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt

from lossatlas import forecast, io
from lossatlas.cli.forecast import _LAW as HELP_ON_LAWS
from lossatlas.errors import ArgumentError
from lossatlas.forecast import Curve, schedules
from lossatlas.forecast.live import LiveForecast
from lossatlas.report.page import render
from lossatlas.result import Result
from lossatlas.text import interval_text
from reference.forecast_cases import TRUTH, made_up, small_schedules

LAW = forecast.MultiPowerLaw()
RATES = small_schedules()
GUIDE = Path(__file__).parents[2] / "docs/guide/forecast.md"


def _bent():
    step = np.unique(np.geomspace(100, 100_000, 300).astype(int))
    empty = Curve(step, np.linspace(2, 1, step.size))
    loss = forecast.BrokenPowerLaw().predict([4.0, 6000.0, 0.2, 0.02, 0.3], empty.inputs)
    return Curve(step, loss)


def _reading():
    live = LiveForecast(np.ones(200))
    for step in range(1, 120):
        live.update(step, 9.0 if step == 90 else 2 + step**-0.5)
    return live.read()


@pytest.fixture(scope="module")
def results():
    names = ("constant", "cosine", "two-step")
    curves = [made_up(LAW, TRUTH, RATES[n], n, 1e-3, i, every=50) for i, n in enumerate(names)]
    fit = forecast.fit(LAW, curves)
    truth = made_up(LAW, TRUTH, RATES["linear"], "linear")
    loss = np.append(np.linspace(3, 2, 99), 9.0)
    found = [
        curves[0], fit, fit.predict(truth).with_measured(truth),
        fit.optimize_schedule(500, 1e-3), fit.what_if(curves[0].until(1200), [1300, 1500]),
        forecast.spikes(np.arange(100), loss), forecast.deceleration(_bent()), _reading(),
    ]  # fmt: skip
    return {type(result).__name__: result for result in found}


KINDS = ("Curve", "Deceleration", "Fit", "LiveReading", "Prediction", "SchedulePlan", "Spikes",
         "WhatIf")  # fmt: skip


def test_every_exported_result_is_among_them(results):
    exported = [getattr(forecast, name) for name in forecast.__all__]
    found = {c.__name__ for c in exported if isinstance(c, type) and issubclass(c, Result)}
    assert found == set(KINDS) == set(results)


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_back_from_a_file_as_it_was(results, kind, tmp_path):
    before = results[kind]
    after = io.load(before.save(tmp_path / "result.nc"))
    assert after == before
    assert after.sentences() == before.sentences()


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_have_an_error_or_a_reason_and_the_text_is_short(results, kind):
    result = results[kind]
    for estimate in result.estimates():
        assert estimate.name
        assert math.isfinite(estimate.error) or estimate.why_no_error
    assert len(repr(result)) <= 400
    assert result.sentences()
    assert all(line[-1] == "." for line in result.sentences())


@pytest.mark.parametrize("kind", KINDS)
def test_every_picture_is_drawn_by_both_backends(results, kind):
    result = results[kind]
    for figure in result.figures():
        ax = result.plot(figure.name)
        drawn = sum(len(line.get_xdata()) for line in ax.lines)
        drawn += sum(len(c.get_offsets()) for c in ax.collections)
        page = result.plot(figure.name, backend="plotly")
        assert drawn > 0
        assert sum(len(trace.x) for trace in page.data) > 0
        assert figure.alt
        plt.close(ax.figure)
    assert result.figures()


def test_the_interval_of_the_final_loss_is_that_of_the_forecast(results):
    prediction = results["Prediction"]
    final, measured = prediction.estimates()
    low, high = final.interval(prediction.level)
    assert (low, high) == pytest.approx(prediction.final[1:], rel=1e-4)
    assert measured.value == prediction.measured.loss[-1]
    with pytest.raises(ArgumentError, match="must be a Curve"):
        prediction.with_measured(3)


def test_a_forecast_says_its_interval_first_and_how_it_was_measured(results):
    told, fit = results["Prediction"], results["Fit"]
    _, low, high = told.final
    first, how, *_ = told.sentences()
    assert first.endswith(f"90 % interval {interval_text(low, high)}.")
    assert "backtest: each of 3 curves" in how
    said = " ".join(fit.sentences())
    assert (
        "Backtest: each of 3 curves was held back and forecast by a fit to the others" in said
    )
    half = max(int(curve.step[-1]) for curve in fit.curves) // 2
    assert f"a fit to the updates up to {half:,} alone forecasts" in said
    words = " ".join([said, *told.sentences(), *map(str, fit.estimates())])
    assert "without bound" not in words
    assert not re.search(r"\d%", words)


def test_parameters_carry_the_errors_of_their_logarithms(results):
    fit = results["Fit"]
    rows = {row.name: row for row in fit.parameter_errors}
    parameters = [each for each in fit.estimates() if each.name in rows]
    assert [each.name for each in parameters] == list(LAW.parameters)
    assert all(each.is_minor for each in parameters)
    for estimate in parameters:
        row = rows[estimate.name]
        assert estimate.value == fit.parameters[estimate.name]
        if row.reason:
            assert estimate.why_no_error == row.reason
        else:
            assert estimate.stderr == pytest.approx(row.stderr * estimate.value)


def test_warnings_that_differ_in_names_only_are_said_once():
    step, lr = np.arange(10, 400, 10), np.linspace(1e-3, 5e-4, 39)
    runs = [Curve(step, 2 + a * step**-0.5, lr, name=f"run {a}") for a in (3, 4, 5)]
    said = [s for s in forecast.fit(forecast.PowerLaw(), runs).sentences() if "interp" in s]
    assert len(said) == 1
    assert said[0].endswith("; the same holds for 2 more.")


@pytest.mark.parametrize(("name", "law"), forecast.LAWS.items())
def test_a_law_of_the_registry_is_exported_explained_and_stored(name, law, tmp_path):
    assert getattr(forecast, law.__name__) is law
    assert law.__name__ in forecast.__all__
    assert law.__name__ in GUIDE.read_text(encoding="utf-8")
    assert name in HELP_ON_LAWS
    values = dict.fromkeys(law().parameters, 1.0)
    fit = forecast.Fit.from_parameters(law(), values)
    assert io.load(fit.save(tmp_path / "fit.nc")) == fit


def test_every_shape_of_the_registry_makes_a_schedule():
    for shape in schedules.SHAPE_NAMES:
        assert schedules.wsd(20, 1.0, 10, shape, min_ratio=0.1)[-1] == pytest.approx(0.1)


@pytest.mark.parametrize(
    "name", [f"{room.__name__}.{name}" for room in (forecast,) for name in room.__all__]
)
def test_every_exported_function_and_class_has_an_example(name):
    module, _, attribute = name.rpartition(".")
    exported = getattr(importlib.import_module(module), attribute)
    if callable(exported):
        assert ">>>" in inspect.getdoc(inspect.unwrap(exported))


STEPS = np.arange(20, 1001, 20)
COSINE = schedules.cosine(1000, 1e-3, warmup=20)


def one_run(law, rates=COSINE, runs=1):
    loss = 2 + 0.05 * np.cumsum(rates)[STEPS - 1] ** -0.5
    noise = np.random.default_rng(0).normal(1, 1e-4, (runs, STEPS.size))
    curves = [forecast.Curve(STEPS, loss * each, rates, name=f"r{i}")
              for i, each in enumerate(noise)]  # fmt: skip
    return forecast.fit(law, curves)


@pytest.mark.parametrize("law", [forecast.PowerLaw(), forecast.LinearLRLaw()])
@pytest.mark.parametrize("runs", [1, 3])
def test_another_schedule_than_that_of_the_fitted_runs_is_a_guess_everywhere(law, runs):
    fit = one_run(law, runs=runs)
    assert not fit.predict(COSINE).guess
    for other in (np.full(1000, 1e-3), schedules.cosine(2000, 1e-3, warmup=20), 2 * COSINE):
        told = fit.predict(other)
        assert told.guess
        assert np.isnan(told.lower[-1])
        assert told.sentences()[0].startswith("A guess: the expected loss at step ")
        assert "It is a guess because the schedule is not that of the " in told.sentences()[1]
        assert told.to_dict()["guess"] == told.guess
        assert told.title.startswith("Guess at ")
        assert told.estimates()[0].name == "final loss (a guess)"
        assert "<h1" in (page := render(told, title="x"))
        assert "A guess: the expected loss" in page.partition('class="verdict"')[2][:200]


def test_what_a_decay_does_is_a_guess_where_no_run_shows_one():
    fit = one_run(forecast.LinearLRLaw(), np.full(1000, 1e-3))
    assert not fit.predict(np.full(2000, 1e-3)).guess
    answer = fit.what_if(fit.curves[0], 1000)
    assert answer.sentences()[0].startswith("What a decay does is a guess: the schedule is not")
    assert answer.estimates()[0].name.endswith("(a guess)")
    plan = fit.optimize_schedule(500, 1e-3)
    assert plan.sentences()[0].startswith("This ranking is a guess: the fitted run has one sch")
    live = forecast.LiveForecast(COSINE, history=fit.curves, law=forecast.LinearLRLaw())
    for step in STEPS[:30]:
        live.update(int(step), 2.5 - step / 1e4)
    assert "a guess: the schedule is not that of" in live.read().sentences()[0]


def test_two_schedules_make_no_guess():
    held = one_run(forecast.LinearLRLaw(), np.full(1000, 1e-3)).curves
    both = forecast.fit(
        forecast.LinearLRLaw(), [*one_run(forecast.LinearLRLaw()).curves, *held]
    )
    assert not both.predict(schedules.wsd(1000, 1e-3, 0.2)).guess
