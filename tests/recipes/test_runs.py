"""Trainings side by side: what is kept, how they are paired, what the page says of them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib import pyplot as plt

import lossatlas as la
from lossatlas.io import from_bytes, to_bytes
from lossatlas.linalg.estimators import mean_of
from lossatlas.plots import canvas, web
from lossatlas.recipes import Runs, TrainingSetup, parse_recipe, train_recipes
from lossatlas.recipes.charts import curves_chart, intervals_chart
from lossatlas.report import render
from lossatlas.report.trainings import runs_page
from lossatlas.result import Estimate
from lossatlas.steering import DecisionLog, DecisionRecord, GrowthPolicy, Reading
from lossatlas.text import MINUS
from lossatlas.training import load_dataset

RECIPES = ("adamw", "adamw+average", "adamw+regime+interval=2", "topoadamw+interval=2")


@pytest.fixture(scope="module")
def setup():
    data = load_dataset("digits", examples=160)
    pieces = (data.take(100), data.take(130).skip(100), data.skip(130))
    return TrainingSetup(*pieces, model="mlp(6)", batch_size=20, warmup=0)


@pytest.fixture(scope="module")
def found(setup):
    return train_recipes(setup, RECIPES, steps=8, rates=[1e-3, 1e-2], seeds=2)


def test_recipes_that_differ_in_the_weights_they_read_share_a_run(found):
    assert len(found.runs) == 3 * 2 * 2
    raw, average = (found.run(name, 1e-2, 0) for name in RECIPES[:2])
    assert raw is average
    assert (
        found.scores("adamw+average", 1e-2, "test loss")[0, 0]
        == raw.score("average", "test loss")[0]
    )
    assert parse_recipe("adamw + constant+average").trained == "adamw"


def test_differences_over_all_rates_are_said_with_their_verdict(found):
    said = [s for s in found.sentences() if s.startswith("Averaged over all rates")]
    assert len(said) == len(RECIPES) - 1
    for row, sentence in zip(found.summaries()[1:], said, strict=True):
        assert row.interval_text(row.untuned) in sentence
        assert sentence.endswith((" higher.", " lower.", " indistinguishable."))
    table = runs_page(found).sections[0].tables[0]
    assert table.head[-1] == "difference over all rates"
    assert table.rows[1][-1].split(" ", 1)[1] in {"higher", "lower", "indistinguishable"}


def test_the_page_of_one_recipe_has_no_empty_columns(setup):
    alone = train_recipes(setup, RECIPES[:1], steps=2, rates=[1e-3], seeds=1)
    table = runs_page(alone).sections[0].tables[0]
    assert table.head == ("recipe", "rate", "test accuracy", "test loss")
    assert all(table.rows[0])


def test_one_seed_has_no_empty_columns_and_signs_are_alike(setup, found):
    once = train_recipes(setup, RECIPES[:2], steps=2, rates=[1e-3], seeds=1)
    table = runs_page(once).sections[0].tables[0]
    assert table.head[-1] == "difference"
    assert all(table.rows[1])
    cells = " ".join(
        cell for row in runs_page(found).sections[0].tables[0].rows for cell in row
    )
    assert "[-" not in cells


def test_runs_survive_bytes_and_the_file(found, tmp_path):
    run = found.runs[-1]
    odd = replace(run, losses=np.array([math.inf, math.nan, 0.1]), recipe="adamw")
    assert from_bytes(to_bytes(odd)) == odd
    loaded = la.load(found.save(tmp_path / "t.nc"))
    assert isinstance(loaded, Runs)
    assert loaded == found
    assert loaded.log(RECIPES[2]) == found.log(RECIPES[2])


def test_the_drop_in_probes_as_the_controller_does_and_watching_changes_nothing(found):
    plain, steered, drop_in = (found.run(name, 1e-2, 1) for name in RECIPES[1:])
    assert steered.losses.tolist() == plain.losses.tolist() == drop_in.losses.tolist()
    assert found.measure == "accuracy"
    assert math.isnan(drop_in.steering)
    assert found.summaries()[0].steering == 0


@pytest.fixture(scope="module")
def steered(setup):
    quick = replace(setup, batch_size=2)
    names = ("adamw+regime+interval=3", "topoadamw+interval=3")
    return train_recipes(quick, names, steps=56, seeds=2)


def test_decisions_fall_after_the_patience(steered):
    ours, drop_in = map(steered.log, steered.names)
    assert ours.column("step").tolist() == [51, 54]
    assert drop_in.column("step").tolist() == [51, 54]
    assert drop_in.column("sharpness").tolist() == ours.column("sharpness").tolist()


def test_differences_are_paired_and_summed_up(found):
    made = found.summaries()
    gap = made[1].difference
    ours, first = (found.tuned(name, "test accuracy") for name in ("adamw+average", "adamw"))
    gaps = ours - first
    assert gap.value == pytest.approx(gaps.mean())
    # Two seeds have 15 standard errors.
    reach = 15 * gaps.std(ddof=1) / math.sqrt(2)
    assert gap.interval()[1] - gap.value == pytest.approx(reach)
    assert made[0].difference is None
    assert made[1].untuned.samples == 2
    assert made[0].overhead == (1.0, 1.0, 1.0)
    assert made[0].score.value == found.tuned("adamw", "test accuracy").mean()


def test_a_run_that_diverges_is_counted_and_left_out(setup):
    found = train_recipes(setup, ["adamw", "sgd"], steps=4, rates=[1e30], seeds=2)
    row = found.summaries()[1]
    assert row.diverged == 2
    assert row.score.value == pytest.approx(0.1)
    assert row.loss_difference is None
    assert found.sentences()[-1] == "sgd: 2 trainings of 2 did not stay finite."
    assert "2 trainings of 2 did not stay finite" in render(found)
    assert all(e.why_no_error for e in found.estimates() if math.isnan(e.error))


def test_runs_explain_themselves(found, steered):
    names = [figure.name for figure in steered.figures()]
    logs = [f"decisions {name}" for name in steered.names]
    assert names == ["scores", "differences", "loss", "rate", *logs]
    for figure in steered.figures():
        ax = figure.matplotlib(None)
        assert ax.has_data()
        plt.close(ax.figure)
        assert len(figure.plotly().data) > 0
        assert figure.caption
        assert figure.alt
    shown = {e.name: e for e in found.estimates()}
    assert shown[f"adamw+average {MINUS} adamw: test accuracy"].samples == 2
    assert len(repr(found)) <= 400
    assert found.to_frame().shape[0] == len(found.estimates())
    assert found.headline().endswith(".")


def test_the_page_says_what_can_be_said(found, setup):
    page = render(found)
    assert "Against adamw" in page
    assert "3 intervals of 95\N{NO-BREAK SPACE}% stand side by side" in page
    alone = train_recipes(setup, ["adamw+growth"], steps=5, seeds=1)
    page = render(alone)
    assert "One seed: nothing here says" in page
    assert "initial step" in page


def test_every_question_of_the_page_has_an_answer(found, steered, setup):
    lost = train_recipes(setup, ["adamw", "sgd"], steps=4, rates=[1e30], seeds=2)
    for shown in (found, steered, lost):
        cards = runs_page(shown).questions
        assert all(card.value and card.sentences for card in cards)
    assert cards[-1].value == "no: 4 of 4 did not"
    assert cards[-1].mark == "alarm"


def test_the_head_of_the_page_names_every_recipe(setup):
    names = ["adamw", "sgd", "adam", "adamw+average", "adamw+cosine"]
    page = runs_page(train_recipes(setup, names, steps=2, rates=[1e-3], seeds=1))
    assert [tile.label for tile in page.sections[0].tiles][:-1] == names


def test_the_table_for_latex_says_which_recipe_is_better(found, setup):
    text = found.to_latex()
    rows = [line for line in text.splitlines() if line.startswith(RECIPES)]
    assert len(rows) == len(RECIPES)
    head = r"recipe & rate & test accuracy & difference & 95 \% interval & verdict \\"
    assert head in text
    assert "standard error over the 2 seeds" in text
    assert "difference to adamw, seed by seed, in points; 95" in text
    for row, line in zip(found.summaries()[1:], rows[1:], strict=True):
        assert f" & {row.lr:g} & " in line
        assert line.endswith(rf"& {row.verdict} \\")
    assert "-" not in "".join(rows).replace("$-$", "")
    assert "over all rates" in found.to_latex(minor=True)
    once = train_recipes(setup, RECIPES[:1], steps=2, rates=[1e-3], seeds=1).to_latex()
    assert "standard error over the examples" in once
    assert "difference" not in once


def test_processes_give_the_same(setup):
    settings = {"steps": 3, "seeds": 2}
    serial, parallel = (
        train_recipes(setup, ["adamw"], executor=name, **settings)
        for name in ("serial", "joblib")
    )
    assert [r.losses.tobytes() for r in serial.runs] == [
        r.losses.tobytes() for r in parallel.runs
    ]


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
    chart = curves_chart(["a"], [trace], "loss", smooth=False)
    figure = web.draw(chart)
    assert list(figure.data[1].y) == [2.0, 3.0]
    assert list(figure.data[0].y) == [3.0, 4.0, 2.0, 1.0]
    ax = canvas.draw(chart)
    assert ax.lines[0].get_ydata().tolist() == [2.0, 3.0]
    plt.close(ax.figure)
    assert (
        web.draw(curves_chart(["a"], [np.full((2, 3), np.nan)], "loss", smooth=True)).data == ()
    )


def test_both_backends_draw_the_same_intervals():
    values = [np.array([0.9, 1.1]), np.array([2.0, np.nan])]
    chart = intervals_chart(["a", "<b>$"], values, "Scores", "score", zero=True)
    figure, ax = web.draw(chart), canvas.draw(chart)
    low, high = mean_of(values[0]).interval()
    for x in (figure.data[3].x, ax.lines[3].get_xdata()):
        assert list(x) == [1.0, 2.0]
    for x in (figure.data[4].x, ax.lines[4].get_xdata()):
        assert list(x) == pytest.approx([low, high])
    assert "<b>" not in figure.layout.yaxis.ticktext[1]
    assert list(figure.data[3].text)[1] == "2"
    plt.close(ax.figure)


def test_few_seeds_say_how_wide_they_make_an_interval(found):
    two = replace(found, seeds=(0, 1))
    assert "2 seeds make an interval reach 12.7 standard errors" in " ".join(two.notes)
    row = found.summaries()[0]
    assert "effect" not in runs_page(found).sections[0].tables[0].head
    assert any("2 seeds make" in s for s in runs_page(found).sections[0].sentences)
    alike = replace(row, measure="accuracy", score=Estimate(0.7375, 0.0, samples=2))
    assert alike.score_text == "73.75 % for every seed"
