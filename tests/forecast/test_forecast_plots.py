import numpy as np
import pytest
from matplotlib import pyplot as plt

from lossatlas import forecast
from reference.forecast_cases import TRUTH, made_up, small_schedules

LAW = forecast.MultiPowerLaw()
RATES = small_schedules()


@pytest.fixture(scope="module")
def fitted():
    names = ("constant", "cosine", "two-step")
    return forecast.fit(LAW, [made_up(LAW, TRUTH, RATES[n], n, 1e-3, every=50) for n in names])


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_curves_show_points_and_lines(fitted):
    ax = fitted.plot("curves")
    # Points and a line a run, and the forecast of the longest.
    assert len(ax.lines) == 7
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), fitted.curves[0].loss)
    assert {t.get_text() for t in ax.get_legend().get_texts()} == {
        "constant", "cosine", "two-step", "forecast", "90 % interval",
    }  # fmt: skip


def test_a_band_is_drawn_where_there_is_one(fitted):
    told = fitted.predict(RATES["linear"])
    truth = made_up(LAW, TRUTH, RATES["linear"], "linear")
    ax = told.with_measured(truth).plot()
    assert len(ax.patches) == 1
    assert ax.get_title("left").startswith(f"Forecast at 2,000: {told.final[0]:.4f} [")
    bare = forecast.Fit.from_parameters(LAW, fitted.parameters).predict(RATES["linear"])
    assert not bare.plot().patches


def test_residuals_are_in_percent(fitted):
    ax = fitted.plot("residuals")
    curve = fitted.curves[0]
    expected = 100 * np.log(curve.loss / LAW.predict(fitted.values, curve.inputs))
    np.testing.assert_allclose(ax.lines[1].get_ydata(), expected)


def test_schedules_are_drawn_on_given_axes(fitted):
    _, ax = plt.subplots()
    plan = fitted.optimize_schedule(500, 1e-3)
    assert plan.plot(ax=ax) is ax
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), plan.wsd)
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), plan.free)
