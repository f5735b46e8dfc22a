"""Results of the room: numbers with errors, sentences, pictures, files; and its registry."""

import importlib
import inspect
import math
from pathlib import Path

import pytest
import torch
from matplotlib import pyplot as plt

import lossatlas as la
from lossatlas import io, steering
from lossatlas.cli.train import _RECIPE as HELP_ON_RECIPES
from lossatlas.recipes.recipe import CONTROLLERS
from lossatlas.result import Result
from lossatlas.steering import (
    POLICIES,
    DecisionLog,
    DecisionRecord,
    NoisePolicy,
    Reading,
    penalties,
    read_probe,
)

GUIDE = Path(__file__).parents[2] / "docs/guide/steering.md"


def _log():
    seen = [
        Reading(step, loss=2.0 / step, loss_error=0.1, noise=((1.0, 0.5),), model={"beta": 0.9})
        for step in range(1, 5)
    ]
    rows = [DecisionRecord(r, (1.5,), "flat", (1.5**r.step,), (0.1,)) for r in seen]
    failed = DecisionRecord(Reading(9), (1.0,), "probe failed: x", (1.0,), (0.1,), True)
    return DecisionLog((*rows, failed))


def _probe():
    w = torch.nn.Parameter(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    return read_probe(lambda: (w @ torch.eye(4)).square().sum(1), [w])


def _choice():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    average = steering.PolynomialAverage(model)
    average.update()
    return average.best(lambda shown: shown.weight.item())


def _suggested():
    data = [(torch.eye(4), torch.arange(4))] * 5
    loss = la.supervised(torch.nn.functional.cross_entropy)
    return la.suggest_lr(la.Objective(torch.nn.Linear(4, 4), loss, data), "sgd", updates=10)


RESULTS = {
    "AverageChoice": _choice,
    "DecisionLog": _log,
    "ProbeReading": _probe,
    "Reading": lambda: _log().records[0].reading,
    "SuggestedLR": _suggested,
}


def test_every_exported_result_is_among_them():
    exported = [getattr(steering, name) for name in steering.__all__]
    found = {c.__name__ for c in exported if isinstance(c, type) and issubclass(c, Result)}
    assert found == set(RESULTS)


@pytest.mark.parametrize("make", RESULTS.values(), ids=RESULTS)
def test_it_comes_back_explains_and_is_short(make, tmp_path):
    before = make()
    after = io.load(before.save(tmp_path / "result.nc"))
    assert after == before
    assert after.sentences() == before.sentences()
    assert all(line[-1] == "." for line in before.sentences())
    assert len(repr(before)) <= 400
    for estimate in before.estimates():
        assert estimate.name
        assert math.isfinite(estimate.error) or estimate.why_no_error


def test_a_log_is_drawn_by_both_backends():
    log = _log()
    ax, page = log.plot(), log.plot(backend="plotly")
    assert ax.lines[0].get_ydata().tolist() == list(page.data[0].y)
    assert "2.00 ± 0.10" in page.data[1].text[0]
    plt.close("all")


def test_a_log_says_how_the_scale_moved():
    first, reasons, failed = _log().sentences()
    assert first == (
        "5 decisions moved the scale of the rate between 1 and 5.062; it ended at 1."
    )
    assert reasons == "The most frequent reasons: flat (4)."
    assert failed == "1 probe failed."
    assert DecisionLog(()).sentences() == ("No decision was made.",)
    still = DecisionLog(_log().records[:1])
    assert still.sentences()[0].startswith("1 decision left the scale of the rate at ")


@pytest.mark.parametrize(("name", "make"), POLICIES.items())
def test_a_policy_of_the_registry_is_exported_explained_and_offered(name, make):
    policy = make()
    kind = type(policy).__name__
    assert getattr(steering, kind) is type(policy)
    assert f"`{kind}`" in GUIDE.read_text(encoding="utf-8")
    assert name in CONTROLLERS
    assert name in HELP_ON_RECIPES
    assert policy.needs <= {"probe", "edge", "noise", "model", "distance"}
    state, decision = policy.start(), None
    if not policy.needs & {"model"}:
        state, decision = policy.decide(state, Reading(3, loss=1.0, scale=(1.0,)))
        assert decision.factors(1)[0] >= 0


def test_every_exported_policy_is_in_the_registry():
    kinds = {type(make()) for make in POLICIES.values()}
    named = {
        n for n in steering.__all__ if n.endswith(("Policy", "Cooldown")) and n != "Policy"
    }
    assert {kind.__name__ for kind in kinds} == named
    assert NoisePolicy in kinds


@pytest.mark.parametrize(
    "name",
    [f"{room.__name__}.{name}" for room in (steering, penalties) for name in room.__all__],
)
def test_every_exported_function_and_class_has_an_example(name):
    module, _, attribute = name.rpartition(".")
    exported = getattr(importlib.import_module(module), attribute)
    if callable(exported):
        assert ">>>" in inspect.getdoc(inspect.unwrap(exported))
