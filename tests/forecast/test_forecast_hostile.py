"""What is no number, no curve, no law or no log is named; nothing runs out of memory."""

import json

import numpy as np
import pytest

from lossatlas import forecast
from lossatlas.errors import ArgumentError, AtlasError, DataError, FileError
from lossatlas.forecast import Curve

STEP = np.arange(1, 101)
LOSS = 2 + STEP**-0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a", "b"], [2.0, 1.0]), "`step` must hold real numbers"),
        (([1, 2], ["x", "1"]), "`loss` must hold real numbers"),
        (([1, 2], [1 + 2j, 1.0]), "real numbers; got complex128"),
        (([1, 2], [[1], [1, 2]]), "rows of equal length"),
        ((np.array(["2020-01-01", "2020-01-02"], "M8[D]"), [2.0, 1.0]), "got datetime64"),
        (([1, 1e300], [2.0, 1.0]), "tokens or a time of day"),
        (([1, 10**13], [2.0, 1.0], 1e-3), "tokens or a time of day"),
        (([1, 2], [2e-320, 1e-320]), "take another unit"),
        (([1, 2], [2e300, 1e300]), "take another unit"),
        (([1, 2], [2.0, 1.0], "fast"), "`lr` must hold real numbers"),
        (([1, 2], [2.0, 1.0], 1e-3, "big"), "`size` must hold real numbers"),
    ],
)
def test_what_is_no_curve_is_named(arguments, message):
    with pytest.raises(DataError, match=message):
        Curve(*arguments)


@pytest.mark.parametrize("warmup", [-1, 1.5, "long"])
def test_a_warm_up_is_a_whole_number(warmup):
    with pytest.raises(ArgumentError, match="`warmup` must be a whole number"):
        Curve(STEP[4::10], LOSS[4::10], np.ones(10), warmup=warmup)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.longdouble])
def test_every_kind_of_number_becomes_a_double(dtype):
    curve = Curve(STEP.astype(np.int16), LOSS.astype(dtype)[::1], np.ones(200, bool)[::2])
    assert curve.loss.dtype == curve.lr.dtype == np.float64


def test_a_curve_keeps_nothing_of_the_caller():
    loss, rates = LOSS.copy(), np.ones(100)
    curve = Curve(STEP, loss, rates)
    loss[:] = rates[:] = np.nan
    assert np.isfinite(curve.loss).all()
    assert np.isfinite(curve.lr).all()


@pytest.mark.parametrize(
    ("law", "curves", "message"),
    [
        (None, [], "`law` must be a law"),
        ("power", [], "`law` must be a law"),
        (forecast.PowerLaw, [], "`law` must be a law"),
        (forecast.PowerLaw(), [LOSS], "`curves` must hold curves; got ndarray"),
    ],
)
def test_what_is_no_law_or_curve_is_refused(law, curves, message):
    known = curves or [Curve(STEP, LOSS, 1.0)]
    with pytest.raises(ArgumentError, match=message):
        forecast.fit(law, known)
    if not isinstance(law, forecast.PowerLaw):
        with pytest.raises(ArgumentError, match=message):
            forecast.fit_best(known, [law])


@pytest.mark.parametrize(
    "question",
    [
        lambda fit: fit.predict("soon"),
        lambda fit: fit.predict(np.ones(10), steps=[1.5]),
        lambda fit: fit.predict(np.ones(10), steps=[np.nan]),
        lambda fit: fit.predict(np.ones(10), steps=["a"]),
        lambda fit: fit.what_if(Curve(STEP, LOSS, 1.0), np.nan),
        lambda fit: fit.what_if(Curve(STEP, LOSS, 1.0), "now"),
        lambda fit: forecast.schedules.constant(10**13, 1.0),
        lambda fit: forecast.AnnealingLaw("slow"),
        lambda fit: forecast.LiveForecast(np.ones(9)).update(np.nan, 1.0),
        lambda fit: forecast.LiveForecast(np.ones(9)).update(1, None),
        lambda fit: forecast.spikes(["a"], ["b"]),
    ],
)
def test_questions_without_sense_are_named(question):
    fit = forecast.fit(forecast.PowerLaw(), Curve(STEP, LOSS, 1.0), check=False)
    with pytest.raises(AtlasError):
        question(fit)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[1]", FileError),
        ("[" * 100_000, FileError),
        ('{"log_history": [1, 2]}', AtlasError),
        ('{"log_history": [{"step": "a", "loss": 1}, {"step": null, "loss": 2}]}', AtlasError),
        ('{"log_history": [{"step": 1, "loss": null}, {"step": 2, "loss": 1}]}', DataError),
        ('{"log_history": [{"step": 1, "loss": [1]}, {"step": 2, "loss": 1}]}', DataError),
    ],
)
def test_damaged_trainer_states_are_named(tmp_path, text, error):
    (tmp_path / "trainer_state.json").write_text(text)
    with pytest.raises(error):
        forecast.read_trainer_state(tmp_path)


def test_a_rate_that_was_not_logged_is_interpolated(tmp_path):
    log = [{"step": i, "loss": 3 - i, "learning_rate": lr} for i, lr in ((1, None), (2, 0.5))]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    np.testing.assert_allclose(forecast.read_trainer_state(tmp_path).lr, [0.5, 0.5])


@pytest.mark.parametrize("text", ['{"a": 1}', "[[1, 2, 3], [1]]", "[]", "[[0, 1, NaN]]"])
def test_damaged_scalars_are_named(tmp_path, text):
    path = tmp_path / "scalars.json"
    path.write_text(text)
    with pytest.raises(DataError):
        forecast.read_tensorboard(path)


def test_scalars_of_rates_are_sorted(tmp_path):
    loss, rates = tmp_path / "loss.csv", tmp_path / "lr.csv"
    loss.write_text("Wall time,Step,Value\n0,1,3\n0,2,2\n")
    rates.write_text("Wall time,Step,Value\n0,2,3\n0,1,1\n")
    assert forecast.read_tensorboard(loss, rates).lr.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("step,loss\n1," + "9" * 200_000 + "\n2,1\n", FileError, "is not CSV"),
        ("step,loss,loss\n1,2,3\n2,1,2\n", DataError, "column 'loss' more than once"),
    ],
)
def test_tables_that_mislead_are_refused(tmp_path, text, error, message):
    path = tmp_path / "run.csv"
    path.write_text(text)
    with pytest.raises(error, match=message):
        forecast.read_csv(path)


def test_what_is_no_list_of_curves_is_named():
    with pytest.raises(ArgumentError, match="must be curves; got int"):
        forecast.fit(forecast.PowerLaw(), 3)


@pytest.mark.parametrize(
    "losses",
    [
        [10**400, 2, 1],
        ["3", "2", "1"],
        np.ma.masked_array([3.0, 2.0, 1.0], [False, True, False]),
        np.zeros(3, dtype=[("a", float)]),
    ],
)
def test_what_numpy_would_take_for_numbers_is_named(losses):
    with pytest.raises(DataError, match="`loss` must hold real numbers"):
        Curve([1, 2, 3], losses)
