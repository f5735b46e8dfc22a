"""Trainings side by side: what is kept, how they are paired, what the page says of them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib import pyplot as plt

from lossatlas import store
from lossatlas.errors import ArgumentError
from lossatlas.plots.trainings import traces_figure
from lossatlas.report import render
from lossatlas.steering import DecisionLog, DecisionRecord, GrowthPolicy, Reading
from lossatlas.studies.compare import Problem, Training, Trainings, parse_recipe, train_recipes
from lossatlas.studies.compare.summary import interval, rows
from lossatlas.training import load_dataset

RECIPES = ("adamw", "adamw+average", "adamw+topology+interval=2", "topoadamw+interval=2")


@pytest.fixture(scope="module")
def problem():
    data = load_dataset("digits", examples=160)
    pieces = (data.take(100), data.take(130).skip(100), data.skip(130))
    return Problem(*pieces, model="mlp(6)", batch_size=20, warmup=0)


@pytest.fixture(scope="module")
def found(problem):
    return train_recipes(problem, RECIPES, steps=8, rates=[1e-3, 1e-2], seeds=2)


def test_recipes_that_differ_in_their_reading_share_a_training(found):
    assert len(found.trainings) == 3 * 2 * 2
    raw, average = (found.training(name, 1e-2, 0) for name in RECIPES[:2])
    assert raw is average
    assert (
        found.scores("adamw+average", 1e-2, "test loss")[0]
        == (raw.scores["average"]["test loss"][0])
    )
    assert parse_recipe("adamw + constant+average").trained == "adamw"


def test_a_training_survives_its_row_and_the_file(found, tmp_path):
    run = found.trainings[-1]
    odd = replace(run, losses=(math.inf, 0.1), recipe="adamw")
    assert Training.from_array(odd.to_array()) == odd
    assert np.isfinite(odd.to_array()).all()
    loaded = store.load(store.save(found, tmp_path / "t.nc"))
    assert isinstance(loaded, Trainings)
    assert repr(loaded.trainings) == repr(found.trainings)
    assert loaded.provenance == found.provenance


def test_the_drop_in_probes_as_the_controller_does_and_watching_changes_nothing(found):
    plain, steered, drop_in = (found.training(name, 1e-2, 1) for name in RECIPES[1:])
    assert steered.losses == plain.losses == drop_in.losses
    assert found.measure == "accuracy"
    assert math.isnan(drop_in.steering)
    assert found.steering(RECIPES[0]) == 0


def test_decisions_fall_after_the_patience(problem):
    quick = replace(problem, batch_size=2)
    names = ("adamw+topology+interval=3", "topoadamw+interval=3")
    found = train_recipes(quick, names, steps=56, seeds=1)
    ours, drop_in = (found.log(name) for name in names)
    assert ours.column("step").tolist() == [51, 54]
    assert drop_in.column("step").tolist() == [51, 54]
    assert drop_in.column("sharpness").tolist() == ours.column("sharpness").tolist()


def test_differences_are_paired_and_told_in_rows(found):
    made = rows(found)
    gap = made[1].difference
    by_hand = found.tuned("adamw+average", "test accuracy") - found.tuned(
        "adamw", "test accuracy"
    )
    assert gap.mean == pytest.approx(by_hand.mean())
    assert made[0].difference is None
    assert made[1].untuned.pairs == 2
    assert made[0].overhead == (1.0, 1.0, 1.0)
    mean, low, high = interval(np.array([1.0, 3.0]))
    assert (mean, high - mean) == (2.0, pytest.approx(12.706, abs=1e-3))
    assert low == pytest.approx(2 * mean - high)


def test_a_training_that_diverges_is_counted_and_left_out(problem):
    found = train_recipes(problem, ["adamw", "sgd"], steps=4, rates=[1e30], seeds=2)
    row = rows(found)[1]
    assert row.diverged == 2
    assert row.score == pytest.approx(0.1)
    assert row.loss_difference is None
    page = render(found)
    assert "2 trainings of 2 did not stay finite" in page


def test_the_page_says_what_can_be_said(found, problem):
    page = render(found)
    assert "Against adamw" in page
    assert "3 intervals of 95 % stand side by side" in page
    alone = train_recipes(problem, ["adamw+climb"], steps=5, seeds=1)
    page = render(alone)
    assert "One seed: nothing here says" in page
    assert "initial step" in page


def test_processes_give_the_same(problem):
    settings = {"steps": 3, "seeds": 2}
    one, two = (
        train_recipes(problem, ["adamw"], executor=name, **settings)
        for name in ("serial", "joblib")
    )
    assert [run.losses for run in one.trainings] == [run.losses for run in two.trainings]


def test_bad_settings_are_named(problem):
    with pytest.raises(ArgumentError, match="got 'sgd' twice"):
        train_recipes(problem, ["sgd", "sgd"], steps=1)
    with pytest.raises(ArgumentError, match="at least one"):
        train_recipes(problem, [], steps=1)
    with pytest.raises(ArgumentError, match="`keep` is for a single training"):
        train_recipes(problem, ["sgd"], steps=1, keep={})
    with pytest.raises(ArgumentError, match="steps"):
        train_recipes(problem, ["sgd"], steps=0)


def test_decisions_are_drawn_with_their_reasons():
    def record(step, scale, *, failed=False):
        seen = Reading(step=step, loss=0.5, loss_error=0.1, scale=(1.0,))
        return DecisionRecord(seen, (1.0,), "<i>why</i>", (scale,), (scale * 0.1,), failed)

    rises = [record(1, 1.0), record(2, 20.0), record(3, 2.0), record(4, 2.0, failed=True)]
    log = DecisionLog(tuple(rises))
    ax = log.plot()
    assert ax.get_yscale() == "log"
    assert ax.lines[0].get_ydata().tolist() == [1.0, 20.0, 2.0, 2.0]
    plt.close(ax.figure)
    figure = log.plot(backend="plotly")
    assert [trace.name for trace in figure.data[1:]] == ["up", "same", "down", "no reading"]
    assert "<i>" not in figure.data[1].text[0]
    assert "loss 0.50 ± 0.10" in figure.data[1].text[0]
    empty = DecisionLog(())
    assert len(empty.plot().collections) == 0
    plt.close("all")
    assert log.replay(GrowthPolicy())


def test_traces_hold_all_trainings():
    trace = np.array([[1.0, 2.0, np.nan], [3.0, 4.0, np.nan]])
    figure = traces_figure(["a"], [trace], "loss")
    assert list(figure.data[1].y) == [2.0, 3.0]
    assert list(figure.data[0].y) == [3.0, 4.0, 2.0, 1.0]
