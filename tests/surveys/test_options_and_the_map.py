"""Options that ask for more numbers, for news or for other hands do not move the map."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import lossatlas as la

OPTIONS = {
    "accuracy": {"metrics": {"accuracy": la.accuracy}},
    "a large metric": {"metrics": {"large": lambda m, b: 1e6 + m(b[0]).sum(1)}},
    "instruments": {"instruments": "gradient"},
    "progress": {"progress": lambda done, total, label: None},
    "title": {"title": "another"},
    "joblib": {"executor": "joblib"},
    "resume": {"resume": "map.sqlite"},
}


def objective(dtype=torch.float64, middle=nn.LayerNorm):
    # Metrics see one point at a time, so a network of linear layers alone takes another engine
    # for them; with a normalization it does not.
    torch.manual_seed(1)
    layers = nn.Linear(6, 8), middle(8), nn.Tanh(), nn.Linear(8, 3)
    model = nn.Sequential(*layers).to(dtype)
    inputs = torch.randn(200, 6, dtype=dtype)
    targets = (inputs @ torch.randn(6, 3, dtype=dtype)).argmax(1)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return la.Objective(model, la.supervised(functional.cross_entropy), [(inputs, targets)])


@pytest.fixture(scope="module")
def plain():
    return la.survey(objective(), points=9).landscape


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_the_map_is_the_same_to_the_last_bit(plain, name, tmp_path):
    options = dict(OPTIONS[name])
    if "resume" in options:
        options["resume"] = tmp_path / options["resume"]
    found = la.survey(objective(), points=9, **options).landscape
    assert found.engine == plain.engine
    for first, second in zip(found.axes, plain.axes, strict=True):
        assert first.tobytes() == second.tobytes()
    np.testing.assert_array_equal(found.computed, plain.computed)
    assert found.values.tobytes() == plain.values.tobytes()
    assert found.stderr.tobytes() == plain.stderr.tobytes()
    assert found.leverage.tobytes() == plain.leverage.tobytes()


def test_the_span_hears_the_loss_alone():
    lands = []
    for metrics in ({}, OPTIONS["a large metric"]["metrics"], OPTIONS["accuracy"]["metrics"]):
        problem = objective(torch.float32, nn.Identity)
        plane = la.random_plane(problem)
        lands.append(la.map_plane(problem, plane, span="auto", points=21, metrics=metrics))
    assert lands[0].axes[0][-1] == la.suggest_span(problem, plane).span
    assert {land.engine for land in lands} == {"stacked", "batched"}
    for land in lands[1:]:
        np.testing.assert_array_equal(land.axes, lands[0].axes)
        np.testing.assert_array_equal(land.computed, lands[0].computed)
        np.testing.assert_allclose(land.values, lands[0].values, rtol=1e-5)
