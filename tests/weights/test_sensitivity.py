"""Sensitivity: predictions on quadratics, changes by hand, ranks."""

import math

import pytest
import torch
from networks import objective
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import ArgumentError, UnknownNameError
from lossatlas.weights import sensitivity


class Bowl(nn.Module):
    """A quadratic with a curvature of its own for each weight."""

    def __init__(self, curvatures):
        super().__init__()
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(4, 5, dtype=torch.float64)) for _ in curvatures
        )
        self.curvatures = curvatures
        self.middle = [w.detach().clone() for w in self.weights]


def bowl_loss(model, batch):
    parts = zip(model.curvatures, model.weights, model.middle, strict=True)
    return batch * sum(c * (w - m).square().sum() / 2 for c, w, m in parts)


def test_the_prediction_is_exact_for_even_curvature():
    model = Bowl([1.0, 10.0, 0.1, 3.0, 30.0])
    task = la.Objective(model, bowl_loss, [torch.ones(3, dtype=torch.float64)], check=False)
    found = sensitivity(task, lambda name, w: w + 0.1)
    for layer in found.layers:
        assert layer.predicted.value == pytest.approx(layer.measured.value)
        assert layer.distance == pytest.approx(0.1 * math.sqrt(20))
    assert found.rank_correlation.value == pytest.approx(1)
    assert found.rank_interval[0] > 0.9


def test_pruning_and_rounding_by_hand():
    kept = {}

    def keep(name, weight):
        kept[name] = weight
        return weight

    task = objective("mlp")
    sensitivity(task, keep)
    for change, check in (("prune:0.25", pruned), ("round:4", rounded)):
        found = sensitivity(task, change, probes=2)
        for layer in found.layers:
            weight = kept[layer.name]
            expected = float((check(weight) - weight).norm())
            assert layer.distance == pytest.approx(expected, rel=1e-5)
            point = dict(task.params) | {layer.name: check(weight)}
            rows = task.example_losses(point) - task.example_losses()
            assert layer.measured.value == pytest.approx(float(rows.mean()), abs=1e-6)
            assert layer.measured.stderr == pytest.approx(
                float(rows.std() / len(rows) ** 0.5), abs=1e-6
            )


def pruned(weight):
    threshold = weight.abs().flatten().sort().values[round(0.25 * weight.numel()) - 1]
    return torch.where(weight.abs() <= threshold, 0, weight)


def rounded(weight):
    step = float(weight.abs().max()) / 7
    return (weight / step).round() * step


def test_traces_and_ranks_agree_with_others():
    task = objective("mlp")
    found = sensitivity(task, "prune:0.5", probes=400)
    for layer in found.layers:
        trace = la.trace(task, names=layer.name, tolerance=0.02)
        assert abs(layer.trace.value - trace.value) < 4 * math.hypot(
            layer.trace.stderr, trace.stderr
        )
    rows = found.to_frame()
    expected = spearmanr(rows.predicted, rows.measured).statistic
    assert found.rank_correlation.value == pytest.approx(expected)
    assert math.isnan(found.rank_interval[0])
    wide = sensitivity(objective("encoder"), "prune:0.5", probes=2)
    assert -1 <= wide.rank_interval[0] < wide.rank_interval[1] <= 1


def test_it_is_stored_drawn_and_said(tmp_path):
    task = la.Objective(objective("mlp").model, la.supervised(F.cross_entropy),
                        objective("mlp").batches)  # fmt: skip
    found = sensitivity(task, "round:3", curvature="gauss_newton")
    assert la.load(found.save(tmp_path / "sensitivity.nc")) == found
    assert len(repr(found)) <= 400
    assert "Under round:3" in found.sentences()[0]
    assert len(found.plot().get_yticks()) == 3
    assert found.plot("prediction", backend="plotly").data
    assert found.plot(backend="plotly").data
    assert found == sensitivity(task, "round:3", curvature="gauss_newton")


def test_two_layers_have_no_rank_correlation_and_say_why():
    layers = nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)
    batch = torch.randn(9, 3), torch.arange(9) % 2
    loss = la.supervised(F.cross_entropy)
    found = sensitivity(la.Objective(nn.Sequential(*layers), loss, [batch]))
    assert found.sentences()[1] == (
        "How well curvature orders 2 weights is not known: fewer than three layers that differ."
    )
    assert f"{found.estimates()[0]}" == "not known"


def test_bad_arguments_are_named():
    task = objective("mlp")
    for change in ("prune", "prune:2", "round:1.5", "cut:3", "prune:nan"):
        with pytest.raises(ArgumentError, match="`change` must be 'prune:S'"):
            sensitivity(task, change)
    with pytest.raises(ArgumentError, match="shape"):
        sensitivity(task, lambda name, weight: weight[0])
    with pytest.raises(UnknownNameError, match="`curvature`"):
        sensitivity(task, curvature="fisher")
    with pytest.raises(UnknownNameError, match="`layers`"):
        sensitivity(task, layers="none")
    with pytest.raises(ArgumentError, match="`probes`"):
        sensitivity(task, probes=1)
