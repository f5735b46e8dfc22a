import numpy as np

from lossatlas import forecast, io
from lossatlas.forecast import Curve
from reference.forecast_cases import TRUTH, made_up, small_schedules

LAW = forecast.MultiPowerLaw()


def test_a_fit_comes_back_whole(tmp_path):
    rates = small_schedules()
    names = ("constant", "cosine", "two-step")
    curves = [made_up(LAW, TRUTH, rates[n], n, 1e-3, i, every=50) for i, n in enumerate(names)]
    fitted = forecast.fit(LAW, curves)
    again = io.load(fitted.save(tmp_path / "fit.nc"))
    assert again.law == fitted.law
    assert again.parameters == fitted.parameters
    for key in ("left_out", "doubled", "scores", "flat", "warnings", "objective", "provenance"):
        assert getattr(again, key) == getattr(fitted, key), key
    assert again.predict(rates["linear"]).final == fitted.predict(rates["linear"]).final


def test_points_and_notes_come_back(tmp_path):
    size = np.geomspace(1e6, 1e9, 12)
    curve = Curve(np.arange(1, 13), 1.8 + 400 * size**-0.35, size=size, tokens=1e9, group="g")
    fitted = forecast.fit(forecast.ChinchillaLaw(tokens=False), curve)
    again = io.load(fitted.save(tmp_path / "fit.nc"))
    assert again.law == fitted.law
    assert again.curves[0].group == "g"
    np.testing.assert_array_equal(again.curves[0].size, size)
    logged = Curve(np.arange(10, 200, 10), np.linspace(3, 2, 19), np.linspace(1, 0.5, 19))
    fitted = forecast.fit(forecast.PowerLaw(), logged, check=False)
    again = io.load(fitted.save(tmp_path / "notes.nc"))
    assert again.curves[0].notes == fitted.curves[0].notes != ()
