"""What holds for every exported result of instruments and surveys."""

import functools
import json
import math

import pytest
import torch
from matplotlib import pyplot as plt
from torch import nn

import lossatlas as la
from lossatlas import curvature, surveys
from lossatlas.result import Result

EXPORTED = {
    name: kind
    for room in (curvature, surveys)
    for name in room.__all__
    if isinstance(kind := getattr(room, name), type) and issubclass(kind, Result)
}


class Tokens(nn.Module):
    """A small pre-norm transformer that classifies rows of numbers."""

    def __init__(self):
        super().__init__()
        block = {"dropout": 0.0, "norm_first": True, "batch_first": True}
        self.inner = nn.Linear(4, 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 8, **block) for _ in range(2)
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        hidden = self.inner(x)[:, None]
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden[:, 0])


@functools.cache
def survey():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, inputs = Tokens(), torch.randn(60, 4)
    classes = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.3).long()
    loss = la.supervised(nn.functional.cross_entropy)
    # The learning coefficient asks for a minimum.
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), classes).backward()
        optimizer.step()
    objective = la.Objective(model, loss, [(inputs, classes)])
    points = [{n: v * (1 + k) for n, v in objective.params.items()} for k in (0.2, 0.1, 0.0)]
    options = {"points": 5, "span": 0.5, "plane": "random", "lr": 0.1, "title": "<i>x</i>"}
    found = la.survey(objective, instruments="all", checkpoints=points, **options)
    return found, curvature.diagonal(objective, limit=20, rows=5)


@functools.cache
def results():
    found, diagonal = survey()
    parts = [part for each in found.findings.values() for part in each.results.values()]
    whole = [
        each.about.reads(**each.results) for each in found.findings.values() if each.about.reads
    ]
    every = [found, diagonal, found.findings["sharpness"], *parts, *whole]
    return {type(each).__name__: each for each in every if isinstance(each, Result)}


def test_every_exported_result_is_looked_at():
    # Of comparisons see test_comparison.py.
    assert {*EXPORTED} - {"Comparison"} == {*results()}


@pytest.mark.parametrize("name", sorted({*EXPORTED} - {"Comparison"}))
def test_it_explains_draws_and_stores_itself(name, tmp_path):
    found = results()[name]
    assert len(repr(found)) <= 400
    assert repr(found).count("\n") <= 4
    estimates = found.estimates()
    assert estimates
    assert all(math.isfinite(e.error) or e.why_no_error for e in estimates)
    assert all(e.name for e in estimates)
    assert all(s.endswith(".") and "nan" not in s.split() for s in found.sentences())
    json.dumps(found.summary(), allow_nan=False)
    assert len(found.rows()) >= 1
    names = [figure.name for figure in found.figures()]
    assert names
    assert len(set(names)) == len(names)
    for figure in names:
        assert found.plot(figure).figure is not None
        assert found.plot(figure, backend="plotly").data
        plt.close("all")
    assert "<img src" in found._repr_html_()
    assert "<i>x</i>" not in found._repr_html_()
    assert la.load(found.save(tmp_path / "r.nc")) == found


def test_what_a_survey_says_is_what_its_instruments_say():
    found, _ = survey()
    assert all(not each.why_not for each in found.findings.values())
    told = found.summary()
    for name, each in found.findings.items():
        assert set(each.sentences()) <= set(found.sentences())
        assert set(each.estimates()) <= set(found.estimates())
        assert told["instruments"][name]["missing"] == dict(each.missing)
