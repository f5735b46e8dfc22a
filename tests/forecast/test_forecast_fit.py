import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lossatlas import forecast
from lossatlas.errors import ArgumentError, DataError, UnknownNameError
from lossatlas.forecast import Curve
from lossatlas.forecast.identifiability import parameter_errors
from lossatlas.forecast.solver import FitSettings, HuberObjective, solve
from reference import forecast_laws as twin
from reference.forecast_cases import TRUTH, made_up, small_schedules

LAW = forecast.MultiPowerLaw()
SCHEDULES = small_schedules()


def family(noise=0.0, names=("constant", "cosine", "two-step", "linear"), **kwargs):
    return [
        made_up(LAW, TRUTH, SCHEDULES[name], name, noise, seed=i, **kwargs)
        for i, name in enumerate(names)
    ]


@pytest.fixture(scope="module")
def noisy():
    return forecast.fit(LAW, family(1e-3))


def test_exact_curves_give_the_parameters_back():
    found = forecast.fit(LAW, family(), prior=False, check=False)
    # The sum of merged falls is exact to 1e-5 and made the curves too.
    np.testing.assert_allclose(found.values, TRUTH, rtol=2e-2)
    assert found.objective < 1e-9


@pytest.mark.parametrize(
    ("law", "values"),
    [
        (forecast.AnnealingLaw(0.99), [2.6, 0.9, 0.5, 3.0]),
        (forecast.LinearLRLaw(), [2.6, 0.9, 0.5, 80.0]),
        (forecast.PowerLaw(), [2.6, 0.9, 0.5]),
    ],
)
def test_other_laws_too(law, values):
    curves = [made_up(law, values, rates, name) for name, rates in SCHEDULES.items()]
    found = forecast.fit(law, curves, check=False)
    np.testing.assert_allclose(found.values, values, rtol=1e-4)


def test_an_outlier_hardly_moves_the_fit():
    curves = family(1e-4)
    spoilt = curves[0].loss.copy()
    spoilt[30] *= 1.5
    curves[0] = Curve(curves[0].step, spoilt, curves[0].lr, name="constant")
    found = forecast.fit(LAW, curves, check=False)
    truth = family()[1]
    np.testing.assert_allclose(LAW.predict(found.values, truth.inputs), truth.loss, rtol=1e-3)


@settings(max_examples=5)
@given(st.floats(0.1, 10.0), st.permutations(range(4)))
def test_the_unit_of_the_loss_and_the_order_of_curves_are_irrelevant(unit, order):
    curves = family(1e-3, every=100)
    other = [
        Curve(curves[i].step, unit * curves[i].loss, curves[i].lr, name=curves[i].name)
        for i in order
    ]
    first = forecast.fit(LAW, curves, check=False)
    second = forecast.fit(LAW, other, check=False)
    question = SCHEDULES["long"]
    np.testing.assert_allclose(
        second.predict(question, steps=[3000]).loss,
        unit * first.predict(question, steps=[3000]).loss, rtol=1e-5,
    )  # fmt: skip


def test_a_curve_logged_twice_as_often_counts_the_same():
    often = [made_up(LAW, TRUTH, SCHEDULES["constant"], "often", every=4)]
    rarely = [made_up(forecast.PowerLaw(), [2.9, 0.7, 0.5], SCHEDULES["cosine"], "rarely")]
    law = forecast.PowerLaw()
    ends = [
        forecast.fit(law, [*rarely, *c], check=False).predict(SCHEDULES["long"], steps=[3000])
        for c in (often, family()[:1])
    ]
    assert ends[0].loss == pytest.approx(ends[1].loss, rel=3e-3)


def test_the_objective_is_the_huber_loss_of_the_logs(noisy):
    residual = np.concatenate(
        [np.log(LAW.predict(noisy.values, c.inputs) / c.loss) for c in noisy.curves]
    )
    assert noisy.objective == pytest.approx(twin.huber(residual, 1e-3).sum(), rel=1e-9)


def test_the_end_point_is_a_minimum():
    problem = LAW.problem(family(1e-3))
    objective = HuberObjective(LAW, problem, 1e-3, True, {})
    found = forecast.fit(LAW, family(1e-3), check=False)
    best = objective.at(np.log(found.values))
    rng = np.random.default_rng(0)
    for _ in range(20):
        nudge = rng.standard_normal(7)
        assert objective.at(np.log(found.values) + 1e-3 * nudge) >= best - 1e-9


def test_left_out_curves_are_forecast_by_the_others(noisy):
    assert [row.name for row in noisy.left_out] == ["constant", "cosine", "two-step", "linear"]
    assert max(row.error for row in noisy.left_out) < 0.01
    rest = [c for c in family(1e-3) if c.name != "cosine"]
    alone = forecast.fit(LAW, rest, check=False)
    truth = family(1e-3)[1]
    final = np.log(LAW.predict(alone.values, truth.inputs)[-1] / truth.loss[-1])
    assert noisy.left_out[1].final == pytest.approx(final, abs=1e-4)


def test_groups_are_left_out_together():
    curves = family(1e-3)
    twins = [*curves[:2], *family(2e-3, names=("linear", "linear"), group="pair")]
    found = forecast.fit(LAW, twins)
    assert {row.group for row in found.left_out} == {"constant", "cosine", "pair"}
    assert found.errors.groups == 3
    assert [row.name for row in found.left_out][2:] == ["linear [3]", "linear [4]"]


def test_one_schedule_is_said_not_to_identify_the_law():
    found = forecast.fit(LAW, family(1e-3, names=("constant",)))
    assert (
        "from which MultiPowerLaw cannot tell what another schedule would do"
        in found.warnings[0]
    )
    assert any("no run lowers its learning rate" in line for line in found.warnings)
    same = forecast.fit(
        LAW, [*family(1e-3, names=("cosine",)), *family(2e-3, names=("cosine",))]
    )
    assert "all curves follow one schedule" in same.warnings[0]
    assert any(": one run determines " in line for line in found.sentences())
    assert any(": 2 runs of one schedule determine " in line for line in same.sentences())
    for fit in (found, same):
        assert any(
            "Those of other schedules are a guess until" in line for line in fit.sentences()
        )
        assert len(" ".join(fit.sentences())) < 700


def test_flat_directions_are_named():
    found = forecast.fit(LAW, family(1e-3, names=("constant", "cosine")), check=False)
    assert found.flat
    assert any("the curves do not determine" in line for line in found.warnings)
    assert found.flat[0].spread >= found.flat[-1].spread
    (table,) = (t for t in found.tables() if t.title.startswith("Changes of parameters"))
    assert len(table.rows) == len(found.flat)
    assert not any("do not determine" in line for line in found.sentences())


def test_other_units_peaks_sizes_and_limits_are_warned_of():
    curves = family(1e-3)
    bits = Curve(curves[0].step, curves[0].loss * 20, curves[0].lr, name="odd")
    lines = forecast.fit(LAW, [*curves, bits], check=False).warnings
    assert any("'odd' are 20 times those of the others" in line for line in lines)
    loud = Curve(curves[0].step, curves[0].loss, 2 * curves[0].lr, name="loud", size=2.0)
    sized = Curve(curves[1].step, curves[1].loss, curves[1].lr, size=1.0)
    lines = forecast.fit(forecast.PowerLaw(), [sized, loud], check=False).warnings
    assert any("peak rates differ" in line for line in lines)
    assert any("2 model sizes" in line for line in lines)
    log = Curve(np.arange(1, 400), 5 - 0.5 * np.log(np.arange(1, 400)), np.ones(400))
    lines = forecast.fit(forecast.PowerLaw(), log, check=False).warnings
    assert any("ended at the lower limit of its range" in line for line in lines)


def test_known_parameters_stay_fixed():
    found = forecast.fit(LAW, family(1e-3), fixed={"beta": 0.5, "gamma": 0.5}, check=False)
    assert found.parameters["beta"] == found.parameters["gamma"] == 0.5
    with pytest.raises(UnknownNameError, match="did you mean 'gamma'"):
        forecast.fit(LAW, family(), fixed={"gama": 0.5})


def test_nothing_to_fit_is_named():
    with pytest.raises(ArgumentError, match="at least one curve"):
        forecast.fit(LAW, [])
    short = Curve([150, 180, 200], [3.0, 2.9, 2.8], SCHEDULES["constant"])
    with pytest.raises(ArgumentError, match="more points than MultiPowerLaw"):
        forecast.fit(LAW, short)
    warm = Curve([10, 50, 99], [3.0, 2.9, 2.8], SCHEDULES["constant"])
    with pytest.raises(DataError, match="0 points after its warm-up of 100 updates"):
        forecast.fit(LAW, warm)
    with pytest.raises(ArgumentError, match="`huber` must be > 0"):
        forecast.fit(LAW, family(), huber=-1)


def test_the_best_law_is_chosen_by_left_out_curves():
    annealing = forecast.AnnealingLaw(0.99)
    curves = [
        made_up(annealing, [2.6, 0.9, 0.5, 3.0], SCHEDULES[name], name, 1e-4, every=100)
        for name in ("constant", "cosine", "two-step")
    ]
    laws = [forecast.PowerLaw(), annealing, forecast.ChinchillaLaw()]
    best = forecast.fit_best(curves, laws)
    assert best.law == annealing
    assert [row.law.split("(")[0] for row in best.alternatives] == [
        "AnnealingLaw", "PowerLaw", "ChinchillaLaw",
    ]  # fmt: skip
    assert "`size`" in best.alternatives[-1].note
    alone = forecast.fit_best(curves[:1], laws[:2])
    assert alone.alternatives[0].error == alone.verdict.error
    with pytest.raises(DataError, match="no law could be fitted"):
        forecast.fit_best(curves, laws[2:])


def test_another_decay_that_forecasts_better_is_named():
    curves = [
        made_up(forecast.AnnealingLaw(0.99), [2.6, 0.9, 0.5, 3.0], SCHEDULES[name], name, 1e-4)
        for name in ("constant", "cosine", "two-step", "linear")
    ]
    far = forecast.fit(forecast.AnnealingLaw(0.9995), curves)
    near = forecast.fit(forecast.AnnealingLaw(0.99), curves)
    assert far.errors.scale > 10 * near.errors.scale
    assert far.warnings[0].startswith("AnnealingLaw(decay=0.99) forecasts left-out curves")
    assert not any("times better" in line for line in near.warnings)


def test_without_rates_the_power_law_is_taken():
    step = np.arange(20, 2000, 20)
    noise = [np.exp(1e-3 * np.random.default_rng(i).standard_normal(step.size)) for i in (0, 1)]
    curves = [
        Curve(step, (2 + step**-0.5) * wobble, name=f"{i}") for i, wobble in enumerate(noise)
    ]
    assert forecast.fit_best(curves).law == forecast.PowerLaw()


def test_a_point_law_leaves_out_points():
    size = np.geomspace(1e6, 1e9, 40)
    noise = np.exp(1e-3 * np.random.default_rng(0).standard_normal(40))
    curve = forecast.points((1.8 + 400 * size**-0.35) * noise, size=size)
    found = forecast.fit(forecast.ChinchillaLaw(tokens=False), curve)
    assert found.errors.groups == 10
    told = found.predict(size=[1e7, 2e9])
    assert (told.lower < 1.8 + 400 * np.array([1e7, 2e9]) ** -0.35).all()
    assert (told.upper > 1.8 + 400 * np.array([1e7, 2e9]) ** -0.35).all()


def power_curves(count, noise, points=(60, 300)):
    drawn = np.random.default_rng(9)
    for _ in range(count):
        step = np.arange(1, drawn.choice(points) + 1) * drawn.integers(1, 30)
        low, gain = 10 ** drawn.uniform(-1, 0.8), 10 ** drawn.uniform(0, 1.5)
        loss = low + gain * step ** -drawn.uniform(0.15, 1.2)
        spread = 10 ** drawn.uniform(*noise)
        yield Curve(step, loss * np.exp(spread * drawn.standard_normal(step.size)))


@pytest.mark.parametrize("huber", [1e-3, np.inf])
def test_a_power_law_needs_no_search(huber):
    settings = FitSettings(forecast.PowerLaw(), huber)
    for curve in power_curves(100, noise=(-4, -1.3)):
        objective = settings.objective([curve])
        searched = solve(objective, settings.law.starts(objective.problem))
        found = settings.solve([curve])
        assert found.penalized == pytest.approx(searched.penalized, rel=1e-6)
        noise = np.std(searched.residuals)
        np.testing.assert_allclose(found.residuals, searched.residuals, atol=0.05 * noise)


def test_a_power_law_has_the_intervals_of_a_search():
    settings = FitSettings(forecast.PowerLaw(), np.inf)
    for curve in power_curves(20, noise=(-4, -2), points=(300,)):
        objective, counts = settings.objective([curve]), [curve.step.size]
        searched = solve(objective, settings.law.starts(objective.problem))
        for a, b in zip(
            parameter_errors(objective, settings.solve([curve]), counts),
            parameter_errors(objective, searched, counts),
            strict=True,
        ):
            assert a.stderr == pytest.approx(b.stderr, rel=1e-2, nan_ok=True)
            assert a.reason == b.reason


@pytest.mark.parametrize("huber", [1e-3, np.inf])
@pytest.mark.parametrize("shape", ["rising", "flat with waves", "short", "two curves"])
def test_what_is_hardly_a_power_law_is_fitted_no_worse_than_by_a_search(shape, huber):
    settings = FitSettings(forecast.PowerLaw(), huber)
    for curve in power_curves(10, noise=(-3, -2), points=(60,)):
        step, loss = curve.step, curve.loss
        curves = {
            "rising": [Curve(step, loss[::-1])],
            "flat with waves": [Curve(step, 2 + 0.1 * np.sin(np.arange(60) / 7))],
            "short": [Curve(step[:5], loss[:5])],
            "two curves": [curve, Curve(step[:20], 1.1 * loss[:20])],
        }[shape]
        objective = settings.objective(curves)
        searched = solve(objective, settings.law.starts(objective.problem))
        # Rounding apart: five points can be met by the law.
        assert settings.solve(curves).penalized <= 1.0001 * searched.penalized + 1e-6


def test_a_power_law_with_a_known_parameter_is_searched():
    curve = Curve(np.arange(1, 200), 2 + 3 * np.arange(1, 200) ** -0.5)
    found = forecast.fit(forecast.PowerLaw(), curve, fixed={"alpha": 0.5}, check=False)
    np.testing.assert_allclose(found.values, [2, 3, 0.5], rtol=1e-6)
