"""When a survey says that its weights are no better than guessing."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import lossatlas as la
from lossatlas.io import Provenance
from lossatlas.result import Estimate
from lossatlas.surveys.alerts import alerts
from plots.sample_landscapes import line_map
from report.sample_surveys import survey_of


def told(loss, accuracy, *, share=0.95, constant=None, balanced=None):
    """What a survey of a two-class problem says first; a share of the labels is one class."""
    settings = {"chance": {"share": share, "classes": 2}}
    settings |= {} if constant is None else {"constant_loss": constant}
    metrics = {"accuracy": Estimate(accuracy, 0.005, samples=2000)}
    if balanced is not None:
        metrics["balanced accuracy"] = Estimate(balanced, 0.01, samples=2000)
    found = survey_of(line_map())
    loss = Estimate(loss, 0.005, samples=2000, sample_unit="examples")
    return alerts(
        replace(found, loss=loss, metrics=metrics, provenance=Provenance(settings=settings))
    )


ENTROPY = -(0.95 * math.log(0.95) + 0.05 * math.log(0.05))


@pytest.mark.parametrize(
    ("loss", "accuracy", "balanced", "is_at_chance"),
    [
        # Calibrated, and never sure enough of the rare class to name it.
        (0.8 * ENTROPY, 0.95, None, False),
        (1.2 * ENTROPY, 0.95, 0.7, False),
        # Names more than the common class, with too much confidence.
        (1.2 * ENTROPY, 0.98, None, False),
        (1.01 * ENTROPY, 0.95, None, True),
        (1.01 * ENTROPY, 0.95, 0.505, True),
        (0.7, 0.4, None, True),
    ],
)
def test_one_measure_above_guessing_is_enough(loss, accuracy, balanced, is_at_chance):
    said = told(loss, accuracy, constant=ENTROPY, balanced=balanced)
    assert len(said) == is_at_chance
    assert not said or "at chance: accuracy" in said[0]


def test_without_a_constant_the_accuracy_decides():
    assert len(told(0.1, 0.95)) == 1
    assert told(0.1, 0.97) == ()


def imbalanced(slope):
    """A one-weight logistic model of a rare class, whose best threshold names it never."""
    x = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    odds = x[:, 0] - 4.0
    y = (torch.rand(4000, generator=torch.Generator().manual_seed(1)) < odds.sigmoid()).long()
    model = torch.nn.Linear(1, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0], [slope]]))
        model.bias.copy_(torch.tensor([0.0, -4.0]))
    objective = la.Objective(model, la.supervised(F.cross_entropy), [(x, y)])
    return objective, float((y == 0).double().mean())


@pytest.mark.parametrize(("slope", "is_at_chance"), [(1.0, False), (-1.0, True)])
def test_a_calibrated_model_of_a_rare_class_is_no_guess(slope, is_at_chance):
    objective, share = imbalanced(slope)
    found = la.survey(objective, points=3, span=0.1, metrics={"accuracy": la.accuracy})
    assert found.metrics["accuracy"].value == pytest.approx(share, abs=0.002)
    settings = found.provenance.settings | {"chance": {"share": share, "classes": 2}}
    found = replace(found, provenance=replace(found.provenance, settings=settings))
    assert any("at chance" in text for text in alerts(found)) == is_at_chance
