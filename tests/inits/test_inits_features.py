"""Features of initializations: known barcodes, closed forms, slow twins."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call

from lossatlas.inits.barcodes import (
    cloud_numbers,
    graph_numbers,
    landscape_row,
    loss_numbers,
    plane_numbers,
)
from lossatlas.inits.candidates import Candidate
from lossatlas.inits.features import (
    Measure,
    Training,
    early_losses,
    joined,
    recipe_numbers,
    size_numbers,
    stacked,
)
from lossatlas.inits.neighborhood import LossSampler, Neighborhood, Sampling
from lossatlas.inits.problem import load_problem
from lossatlas.inits.proxies import derivatives, proxies
from lossatlas.inits.settings import InitsSettings
from lossatlas.io import Provenance
from lossatlas.objective import Objective, supervised
from lossatlas.training import Dataset, build_loss, build_model, initial_weights
from lossatlas.training.criteria import as_loss

SMALL = Sampling(planes=1, points=7, radii=(0.5, 1.0), scattered=60, dimensions=3, cloud=30)


def on_grid(function, points=21, half=1.5):
    axis = np.linspace(-half, half, points)
    return function(*np.meshgrid(axis, axis, indexing="ij"))


def test_a_bowl_has_one_basin_and_nothing_else():
    numbers = plane_numbers(on_grid(lambda x, y: 3 * x**2 + y**2))
    assert numbers["basins"] == 1
    for name in ("total", "longest", "entropy", "ridges", "saddle minimum", "center depth"):
        assert numbers[name] == 0
    assert numbers["betti"] == numbers["deepest share"] == 1


def test_a_double_well_has_a_bar_as_long_as_its_barrier():
    # Minima at x = -1 and 1, the saddle between them at x = 0 at height 1.
    def height(x, y):
        well = (x**2 - 1) ** 2
        return np.where(x > 0, 0.9 * well + 0.1, well) + y**2

    values = on_grid(height, 31)
    numbers = plane_numbers(values)
    assert numbers["basins"] == 2
    assert numbers["longest"] == pytest.approx(1.0 - 0.1, abs=1e-12)
    assert numbers["relative"] == pytest.approx(0.9 / np.ptp(values), rel=1e-12)
    assert numbers["center depth"] == pytest.approx(1.0 / np.ptp(values), rel=1e-12)


def test_a_ring_has_a_ridge_as_high_as_its_hill():
    values = on_grid(lambda x, y: (np.hypot(x, y) - 1) ** 2, 31)
    numbers = plane_numbers(values)
    assert numbers["ridges"] >= 1
    assert numbers["ridge relative"] == pytest.approx(1.0 / np.ptp(values), rel=0.02)


def test_rounding_is_no_basin_and_walls_are_left_out():
    source = np.random.default_rng(0)
    values = 2.3 + on_grid(lambda x, y: x**2 + y**2) + 1e-8 * source.standard_normal((21, 21))
    values[0, :3] = np.nan
    assert plane_numbers(values)["basins"] == 1


def test_scattered_points_of_a_double_well_hold_its_two_basins():
    source = np.random.default_rng(1)
    points = source.uniform(-1.5, 1.5, (600, 2))
    losses = (points[:, 0] ** 2 - 1) ** 2 + points[:, 1] ** 2
    assert graph_numbers(points, losses)["longest"] == pytest.approx(1.0, abs=0.15)
    bowl = graph_numbers(points, (points**2).sum(1))
    assert bowl["longest"] < 0.15 * np.ptp((points**2).sum(1))


def test_the_cloud_is_lifted_by_the_losses_of_its_own_points():
    # Two clouds that only the loss keeps apart: one bar much longer than the others.
    source = np.random.default_rng(2)
    points = source.standard_normal((40, 2))
    losses = np.where(points[:, 0] > 0, 1.0, 0.0) + 1e-3 * source.standard_normal(40)
    apart = cloud_numbers(points, 40 * losses)
    dealt = cloud_numbers(points, np.full(40, 1.0))
    assert apart["h0 longest"] > dealt["h0 longest"]
    assert dealt["h0 bars"] == apart["h0 bars"] == 39


def test_statistics_do_not_know_places_and_topology_does():
    source = np.random.default_rng(3)
    values = on_grid(lambda x, y: (x**2 - 1) ** 2 + y**2)
    dealt = source.permutation(values.ravel()).reshape(values.shape)
    here, there = (loss_numbers(v, 1.0) for v in (values, dealt))
    assert here == pytest.approx(there)
    assert plane_numbers(dealt)["basins"] > 5 * plane_numbers(values)["basins"]
    assert loss_numbers(np.full(4, np.nan), 1.0)["not finite"] == 1


def test_true_losses_are_those_of_the_objective():
    problem = load_problem(InitsSettings(examples=300, probe=64))
    params = initial_weights("mlp(32, 32)", problem.train, seeds=[0])[0]
    sampler = LossSampler(problem.objective(), SMALL)
    found = sampler.neighborhood(params)
    middle = found.planes[0, :, 3, 3]
    assert middle == pytest.approx(found.center, rel=1e-6)
    assert found.planes.shape == (1, 2, 7, 7)
    # The grids of two radii share the points where they meet: half of 1.0 is all of 0.5.
    assert found.planes[0, 0, 0, 3] == pytest.approx(
        problem.objective().value(shifted(params, 0, -0.5)), rel=1e-5
    )
    assert SMALL.losses == 2 * 49 + 60


def shifted(params, axis, step):
    from lossatlas.landscape.directions import RandomDirection

    way = RandomDirection(params, 0, axis, "filter", biases=False)
    return {name: value + step * way[name] for name, value in params.items()}


def test_the_same_row_twice_and_the_null_keeps_the_statistics():
    source = np.random.default_rng(4)
    found = Neighborhood(
        2.0, source.random((1, 2, 7, 7)), SMALL.ball(), source.random(SMALL.scattered)
    )
    first, second = (landscape_row(found, SMALL) for _ in "ab")
    assert first == second
    assert {group for group, _ in first} == {"topology", "null", "statistics"}


def pieces(members=3):
    model = build_model("mlp(4)", features=3, outputs=2, activation="tanh").double()
    weights = [
        {n: p.double() for n, p in one.items()}
        for one in initial_weights("mlp(4)", features=3, outputs=2, seeds=range(members))
    ]
    source = torch.Generator().manual_seed(0)
    inputs = torch.randn(20, 3, generator=source, dtype=torch.float64)
    return model, weights, (inputs, torch.arange(20) % 2)


def dense_hessian(model, loss, batch, params):
    def value(flat):
        split = torch.split(flat, [p.numel() for p in params.values()])
        named = {n: s.view_as(p) for (n, p), s in zip(params.items(), split, strict=True)}
        return nn.functional.cross_entropy(functional_call(model, named, batch[0]), batch[1])

    flat = torch.cat([p.flatten() for p in params.values()])
    return flat, torch.autograd.functional.jacobian(value, flat), hessian(value, flat)


def test_derivatives_of_many_are_those_of_each_dense_hessian():
    model, weights, batch = pieces()
    loss = supervised(build_loss("cross_entropy"))
    found = derivatives(model, loss, batch, stacked(weights))
    for index, params in enumerate(weights):
        flat, gradient, matrix = dense_hessian(model, loss, batch, params)
        image = matrix @ gradient
        expected = {
            "gradient norm": gradient.norm(),
            "SNIP": (flat * gradient).abs().sum(),
            "GraSP": -(flat * image).sum(),
            "gradient quotient": (image.abs() / (gradient.abs() + 1e-5)).mean(),
            "gradient curvature": gradient @ image / (gradient @ gradient),
        }
        for name, value in expected.items():
            assert found[name][index] == pytest.approx(float(value), rel=1e-6)
        largest = torch.linalg.eigvalsh(matrix).abs().max()
        assert abs(found["largest eigenvalue"][index]) == pytest.approx(float(largest), rel=0.1)
        error = (2 * (matrix**2).sum() / 8) ** 0.5
        assert abs(found["trace"][index] - float(matrix.trace())) < 4 * float(error)


def test_synflow_of_a_linear_chain_is_known():
    # One layer without bias, all weights w: R = sum |w|, and sum |w dR/dw| = R.
    model = nn.Sequential(nn.Linear(3, 2, bias=False))
    params = {"0.weight": torch.full((2, 3), -0.5)}
    batch = (torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(8))
    numbers = proxies(model, batch, params)
    assert numbers["SynFlow"] == pytest.approx(np.log(3.0))
    assert np.isnan(numbers["NASWOT"])  # there is no rectifier
    words = proxies(model, (torch.zeros(4, 3, dtype=torch.long), torch.zeros(4)), params)
    assert np.isnan(list(words.values())).all()


def test_naswot_counts_agreeing_codes():
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU())
    params = {"0.weight": torch.tensor([[1.0], [2.0]])}
    batch = (torch.tensor([[1.0], [-1.0]]), torch.zeros(2))
    # Codes 11 and 00: they agree nowhere with each other and on both units with themselves.
    assert proxies(model, batch, params)["NASWOT"] == pytest.approx(2 * np.log(3.0))


def test_recipes_and_sizes():
    recipe = recipe_numbers([Candidate("a", 2.0, 0), Candidate("b", 0.5, 1)])
    assert recipe["scheme a x scale"].tolist() == [2, 0]
    assert recipe["scale squared"].tolist() == [4, 0.25]
    sizes = size_numbers({"w": torch.ones(2, 3, 3), "b": torch.zeros(2, 3)})
    assert sizes["norm"].tolist() == [3, 3]
    assert set(sizes) == {"norm", "norm of w"}


def test_loss_after_a_step_is_that_of_a_step():
    problem = load_problem(InitsSettings(examples=200, probe=50))
    params = initial_weights("mlp(32, 32)", problem.train, seeds=[0, 1])
    training = Training(lr=0.1, batch_size=len(problem.train), after=(1,))
    found = early_losses(problem, params, training)
    whole = Objective(problem.model, problem.loss, problem.train.batches(len(problem.train)))
    for index, start in enumerate(params):
        slope = whole.gradient(start)
        after = {name: value - 0.1 * slope[name] for name, value in start.items()}
        expected = problem.objective().value(after)
        assert found["loss after 1 step"][index] == pytest.approx(expected, rel=1e-4)


def test_everything_is_gathered_with_its_cost():
    problem = load_problem(InitsSettings(model="mlp(8)", examples=200, probe=32))
    recipes = [Candidate("kaiming", 1.0, seed) for seed in range(3)]

    def parameters(candidate):
        return initial_weights("mlp(8)", problem.train, seeds=[candidate.seed])[0]

    measure = Measure(problem, parameters, SMALL, Training(after=(1, 3)))
    found = joined(measure.columns(), measure.table(recipes), recipes, Provenance())
    assert set(found.groups) == {"topology", "null", "statistics", "curvature", "baseline"}
    assert found.cost["basins at 1"] == SMALL.losses + 1
    assert found.cost["initial loss"] == 1
    assert found.cost["scale"] == 0
    assert found.cost["loss after 3 steps"] == 1 + 9 * 128 / 32
    assert len(found.values) == 3
    values = [problem.objective().value(parameters(r)) for r in recipes]
    assert found.of(["initial loss"])[:, 0].tolist() == values
    cheap = Measure(problem, parameters, SMALL, Training(after=(1,)), groups=("baseline",))
    names = [column.name for column in cheap.columns()]
    assert cheap.table(recipes).shape == (3, len(names))
    again = found.of(["SynFlow", "norm"])
    assert (
        cheap.table(recipes)[:, [names.index("SynFlow"), names.index("norm")]] == again
    ).all()


def test_regression_and_bare_losses_are_served():
    data = Dataset(torch.randn(40, 3), torch.randn(40, 1), "line", "regression")
    model = build_model("mlp(4)", data)
    found = derivatives(
        model,
        as_loss(None, "regression"),
        data.batches(40)[0],
        stacked(initial_weights("mlp(4)", data, seeds=[0])),
    )
    assert np.isfinite(found["trace"]).all()
