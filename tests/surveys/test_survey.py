from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import cases
import lossatlas as la
from lossatlas.errors import ArgumentError, UnknownNameError
from lossatlas.surveys.extremes import Extremes
from plots.sample_landscapes import sample_map
from report.sample_surveys import survey_of


def trained(steps=30):
    case = cases.make(cases.mlp)
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1)
    points = []
    for k in range(steps):
        optimizer.zero_grad()
        case.loss(case.model, case.batches[k % 2]).backward()
        optimizer.step()
        points.append({n: p.detach().clone() for n, p in case.model.named_parameters()})
    return case, points


def test_a_survey_holds_everything_and_comes_back(tmp_path):
    case, points = trained()
    found = la.survey(
        case.objective(),
        checkpoints=points,
        metrics={"accuracy": la.accuracy},
        points=9,
        curvature=True,
        title="<b>mine</b>",
        min_share=None,
    )
    assert found.landscape.labels[0].startswith("PC 1")
    marks = found.landscape.landmark_values["trajectory"]
    assert marks[-1] == pytest.approx(found.loss.value)
    assert found.spectrum.top[0] > 0
    assert found.trace.value == pytest.approx(dense_trace(case), rel=0.1)
    assert found.certain_basins == found.tree.certain_count
    assert found.barriers.shape[0] == found.barriers.shape[1]
    back = la.load(found.save(tmp_path / "s.nc"))
    assert back.loss == found.loss
    assert back.metrics == found.metrics
    assert back.trace == found.trace
    assert back.title == found.title
    np.testing.assert_array_equal(back.spectrum.top, found.spectrum.top)
    np.testing.assert_array_equal(back.tree.basins, found.tree.basins)
    page = la.write_report(back, tmp_path / "r.html").read_text()
    assert "curvature up to" in page
    assert "<b>mine</b>" not in page
    assert "contains none of them" in page
    plain = la.survey(case.objective(), points=5)
    assert "too few examples to certify" in plain.tree.why_unknown
    assert plain.certain_basins == 0
    assert plain.tree.why_unknown in la.write_report(plain, tmp_path / "p.html").read_text()
    assert plain.spectrum is None
    assert la.load(plain.save(tmp_path / "p.nc")).spectrum is None


def dense_trace(case):
    names = list(dict(case.model.named_parameters()))
    shapes = [p.shape for p in case.model.parameters()]
    flat = torch.cat([p.detach().flatten() for p in case.model.parameters()])

    def loss(vector):
        pieces = vector.split([s.numel() for s in shapes])
        params = {n: p.view(s) for n, p, s in zip(names, pieces, shapes, strict=True)}
        total = sum(
            len(y) * F.cross_entropy(torch.func.functional_call(case.model, params, x), y)
            for x, y in case.batches
        )
        return total / sum(len(y) for _, y in case.batches)

    return torch.autograd.functional.hessian(loss, flat).trace().item()


def test_a_trajectory_is_marked_on_a_random_plane_too():
    case, points = trained(6)
    found = la.survey(case.objective(), plane="random", checkpoints=points, points=5)
    assert found.landscape.landmarks["trajectory"].shape == (6, 2)
    assert found.landscape.landmark_residuals["trajectory"][0] > 0.9


def test_own_planes_are_taken_as_they_are():
    objective = cases.make(cases.frozen).objective()
    plane = la.random_plane(objective, dimension=1, normalization="layer")
    found = la.survey(objective, plane=plane, span=0.5, points=9, connectivity="axis")
    assert found.landscape.values.shape == (9,)
    assert found.diagram.connectivity == "axis"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"plane": "rnadom"}, UnknownNameError, "did you mean 'random'"),
        ({"plane": "checkpoints"}, ArgumentError, "0 checkpoints"),
        ({"span": "wide"}, UnknownNameError, "`span` must be one of 'auto'"),
        ({"connectivity": "four"}, UnknownNameError, "`connectivity`"),
    ],
)
def test_bad_surveys_are_named_errors(options, error, message):
    with pytest.raises(error, match=message):
        la.survey(cases.make(cases.mlp).objective(), points=3, **options)


def test_the_lowest_point_is_compared_with_the_weights_on_the_same_examples():
    case, points = trained()
    objective = case.objective()
    found = la.survey(objective, checkpoints=points, points=9, min_share=None)
    land = found.landscape
    known = np.where(land.computed & land.finite, land.values, np.inf)
    at = np.unravel_index(known.argmin(), known.shape)
    where = [axis[k] for axis, k in zip(land.axes, at, strict=True)]
    there = land_plane(objective, points).point(where)
    gaps = (objective.example_losses(there) - objective.example_losses()).numpy()
    error = gaps.std(ddof=1) / np.sqrt(gaps.size)
    assert found.lowest.value == pytest.approx(gaps.mean(), abs=1e-9)
    assert found.lowest.stderr == pytest.approx(error, rel=1e-6)
    low, high = found.lowest.interval()
    # It allows for a choice among all computed points, so it is wider than the plain one.
    assert low < gaps.mean() - 2.2 * error < gaps.mean() + 2.2 * error < high
    assert found.lowest.sample_unit == "examples"


def land_plane(objective, points):
    from lossatlas.landscape.checkpoints import plane_of, states_of

    return plane_of(states_of(objective, points))


def test_weights_at_the_bottom_are_told_so():
    model = torch.nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
        model.bias.zero_()
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([[1.0], [2.0]])
    objective = la.Objective(model, la.supervised(F.mse_loss), [(x, y)])
    found = la.survey(objective, points=5, span=0.5)
    assert (found.lowest.value, found.lowest.stderr) == (0.0, 0.0)
    (row,) = (row for row in found.rows() if row[0].startswith("lowest computed point"))
    assert row[1:] == ("0 loss", "no computed point lies below the weights")
    assert found.rows()[0][2] == "the same for all 40 examples"


def test_an_interpolated_minimum_is_computed_before_the_weights_lie_above_it():
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    x = torch.ones(20, 1)
    y = 0.1 * torch.randn(20, 1, generator=torch.Generator().manual_seed(0))
    objective = la.Objective(model, la.supervised(F.mse_loss), [(x, y - y.mean())])
    plane = la.random_plane(objective, dimension=1, normalization="none")
    # The weights, at zero, are the minimum and lie between points of the grid.
    land = la.map_plane(objective, plane, span=[(-0.9, 1.1)], points=6)
    computed = np.ones(6, dtype=bool)
    computed[2] = False
    values = land.values.copy()
    values[2] = -1.0
    found = Extremes(objective, plane, replace(land, values=values, computed=computed)).lowest()
    assert found.value == pytest.approx(np.nanmin(land.values) - objective.value(), rel=1e-5)
    assert found.value > 0
    assert found.name.startswith("lowest computed point")


def test_certain_basins_are_counted_alike_everywhere():
    # Two valleys, one of which is cut by the edge of the map.
    x, y = np.meshgrid(*[np.linspace(-1, 1, 21)] * 2, indexing="ij")
    values = np.minimum((x + 0.5) ** 2, (x - 1) ** 2 + 0.1) + y**2
    land = sample_map(points=21, span=1.0, values=values, stderr=np.full((21, 21), 0.001))
    found = survey_of(land)
    assert found.tree.open_minima.size == 1
    assert found.certain_basins == found.tree.certain_count == 1
    assert "1 certain" in repr(found)
    assert found.summary()["topology"]["certain_basins"] == 1
