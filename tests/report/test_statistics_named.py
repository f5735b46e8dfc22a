"""Pages of models with batch statistics say with which of them each number was measured."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.report.page import page_of


def surveyed(*layers, mode="eval"):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), *layers, nn.ReLU(), nn.Linear(8, 3))
    batches = [(torch.randn(32, 4), torch.randint(3, (32,))) for _ in range(2)]
    objective = la.Objective(model, la.supervised(F.cross_entropy), batches, mode=mode)
    return la.survey(objective, points=3, span=0.3, curvature=True, lr=0.1)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("eval", "running"), ("train", "batch"), ("recalibrated", "recalibrated")],
)
def test_each_card_names_its_statistics(mode, kind):
    page = page_of(surveyed(nn.BatchNorm1d(8), mode=mode))
    cards = [card for section in page.sections for card in section.cards]
    told = {card.question: card.value for card in (*cards, *page.questions)}
    of_rate = next(value for question, value in told.items() if "rate" in question)
    # The optimizer steps on the loss with batch statistics, whatever the map shows.
    expected = "running" if mode == "recalibrated" else "batch"
    assert of_rate.endswith(f"with {expected} statistics")
    others = [v for q, v in told.items() if "urvature" in v or "harp" in q]
    assert others
    assert all(value.endswith(f"with {kind} statistics") for value in others)
    lead = next(section.lead for section in page.sections if section.key == "map")
    assert f"Normalization layers use {kind} statistics on the map" in lead


def test_a_model_without_statistics_needs_no_such_words():
    page = page_of(surveyed())
    cards = [card for section in page.sections for card in section.cards]
    assert not any("statistics" in card.value for card in (*cards, *page.questions))
