"""Running statistics go with their weights: a checkpoint has the loss it had."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas import curvature
from lossatlas.errors import ArgumentError, StructureError
from lossatlas.landscape.request import ESTIMATED_ANEW

RATE = {"rtol": 1e-6, "atol": 0}


def network(conv=False):
    if conv:
        first, norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        return nn.Sequential(first, norm, nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))


def trained(seed, count=3, conv=False):
    """State dicts along a training, and the loss of each evaluated by torch alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network(conv)
        inputs = 3 * torch.randn(60, *((1, 4, 4) if conv else (6,))) + 1
        targets = torch.randint(0, 3, (60,))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        states, losses = [], []
        for _ in range(count):
            for _ in range(5):
                model.train()
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
            states.append(copy.deepcopy(model.state_dict()))
            model.eval()
            with torch.no_grad():
                losses.append(F.cross_entropy(model(inputs), targets).item())
    batches = [(inputs[:40], targets[:40]), (inputs[40:], targets[40:])]
    return model, batches, states, losses


def objective_of(model, batches, **options):
    return la.Objective(model, la.supervised(F.cross_entropy), batches, **options)


def without(state):
    return {n: v for n, v in state.items() if "running" not in n and "num_batches" not in n}


@pytest.mark.parametrize("conv", [False, True], ids=["linear", "conv"])
def test_the_value_of_a_state_dict_is_that_of_the_checkpoint(conv):
    model, batches, states, losses = trained(0, conv=conv)
    objective = objective_of(model, batches)
    before = copy.deepcopy(model.state_dict())
    for state, loss in zip(states, losses, strict=True):
        assert objective.value(state) == pytest.approx(loss, rel=1e-6)
        # The slow twin: the model itself with the checkpoint loaded.
        other = network(conv)
        other.load_state_dict(state)
        fresh = objective_of(other, batches)
        assert objective.value(state) == pytest.approx(fresh.value(), rel=1e-7)
        gradient, twin = objective.gradient(state), fresh.gradient()
        assert all(torch.allclose(gradient[n], twin[n], atol=1e-7) for n in twin)
        assert torch.allclose(objective.example_losses(state), fresh.example_losses())
    after = model.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before)


@pytest.mark.parametrize("conv", [False, True], ids=["linear", "conv"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_plane_through_checkpoints_has_their_losses(conv, count):
    model, batches, states, losses = trained(1, count, conv)
    objective = objective_of(model, batches)
    plane = la.plane_through(*states)
    for place, loss in zip(plane.landmarks["checkpoints"], losses, strict=True):
        assert objective.value(plane.point(place)) == pytest.approx(loss, rel=2e-6)
    if count == 2:
        line = la.map_plane(objective, plane, span=[(0.0, 1.0)], points=5, adaptive=False)
        np.testing.assert_allclose(line.values[[0, -1]], losses, **RATE)
        assert line.engine == "plain"
        assert any("interpolated between the checkpoints" in note for note in line.notes)


def test_points_between_have_interpolated_statistics():
    model, batches, (one, two), _ = trained(2, 2)
    objective = objective_of(model, batches)
    plane = la.plane_through(one, two)
    line = la.map_plane(objective, plane, span=[(0.0, 1.0)], points=5, adaptive=False)
    for k, share in enumerate(np.linspace(0, 1, 5)):
        other = network()
        between = {n: torch.lerp(one[n].float(), two[n].float(), share) for n in one}
        other.load_state_dict(between)
        assert line.values[k] == pytest.approx(objective_of(other, batches).value(), rel=1e-5)


def test_beyond_the_checkpoints_variances_stay_positive():
    model, batches, (one, two), _ = trained(3, 2)
    two["1.running_var"] = one["1.running_var"] / 100
    plane = la.plane_through(one, two)
    line = la.map_plane(objective_of(model, batches), plane, span=[(-1.0, 3.0)], points=9)
    assert line.finite.all()
    floor = torch.minimum(one["1.running_var"], two["1.running_var"])
    assert torch.equal(plane.point([3.0])["1.running_var"], floor)


@pytest.mark.parametrize("engine", ["auto", "plain", "folded"])
def test_every_engine_that_serves_the_maps_uses_the_statistics_of_the_checkpoint(engine):
    model, batches, states, losses = trained(4, 2, conv=True)
    objective = objective_of(model, batches)
    around = la.random_plane(objective, origin=states[0], seed=1)
    land = la.map_plane(objective, around, points=3, adaptive=False, engine=engine)
    assert land.engine == ("folded" if engine == "auto" else engine)
    assert land.values[1, 1] == pytest.approx(losses[0], rel=1e-6)
    other = network(conv=True)
    other.load_state_dict(states[0])
    twin = objective_of(other, batches)
    same = la.map_plane(twin, la.random_plane(twin, seed=1), points=3, adaptive=False)
    np.testing.assert_allclose(land.values, same.values, **RATE)


def test_an_engine_that_cannot_move_buffers_is_refused_by_name():
    model, batches, states, _ = trained(4, 2, conv=True)
    objective = objective_of(model, batches)
    with pytest.raises(ArgumentError, match=r"folded.*buffers change from point to point"):
        la.map_plane(objective, la.plane_through(*states), points=3, engine="folded")


def test_a_comparison_has_the_losses_of_both_checkpoints():
    model, batches, states, losses = trained(5, 2)
    objective = objective_of(model, batches)
    found = la.compare(objective, *states, points=5, span=0.2)
    np.testing.assert_allclose(found.line.values[[0, -1]], losses, **RATE)
    ends = [found.first.values[2, 2], found.second.values[2, 2]]
    np.testing.assert_allclose(ends, losses, **RATE)
    assert not any("have no running statistics" in note for note in found.first.notes)
    # What came out before statistics were taken along.
    bare = la.compare(objective, *map(without, states), points=5, span=0.2)
    assert abs(bare.first.values[2, 2] - losses[0]) > 1e-4
    for land in (bare.first, bare.second, bare.line):
        assert sum("have no running statistics" in note for note in land.notes) == 1


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_survey_shows_the_losses_of_its_checkpoints(count):
    model, batches, states, losses = trained(6, count)
    objective = objective_of(model, batches)
    found = la.survey(
        objective, checkpoints=states, points=5, span=0.3, instruments="similarity"
    )
    np.testing.assert_allclose(found.landscape.landmark_values["trajectory"], losses, **RATE)
    bare = la.survey(objective, checkpoints=[*map(without, states)], points=5, span=0.3)
    assert sum("have no running statistics" in note for note in bare.notes) == 1


def test_recalibrated_statistics_do_not_depend_on_what_the_states_hold():
    model, batches, states, _ = trained(7, 2)
    objective = objective_of(model, batches, mode="recalibrated")
    whole = la.compare(objective, *states, points=3, span=0.2, adaptive=False)
    bare = la.compare(objective, *map(without, states), points=3, span=0.2, adaptive=False)
    np.testing.assert_array_equal(whole.line.values, bare.line.values)
    assert whole.line.notes == bare.line.notes
    assert [note for note in bare.line.notes if "statistics" in note] == [ESTIMATED_ANEW]


def test_statistics_in_one_checkpoint_only_are_refused():
    model, batches, (one, two), _ = trained(8, 2)
    objective = objective_of(model, batches)
    with pytest.raises(StructureError, match=r"checkpoint 2 has no"):
        la.compare(objective, one, without(two))
    with pytest.raises(StructureError, match=r"checkpoint 1 has no running statistics"):
        la.plane_through(without(one), two)
    with pytest.raises(StructureError, match=r"no entry '1.running_vax'.*'1.running_var'"):
        objective.value(one | {"1.running_vax": torch.ones(5)})
    with pytest.raises(StructureError, match=r"'1.running_var' has shape"):
        objective.value(one | {"1.running_var": torch.ones(4)})


def test_frozen_parameters_and_tied_names_of_a_state_dict_are_taken():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 6)
            self.head.weight = self.body.weight
            self.register_buffer("table", torch.arange(3))

        def forward(self, x):
            return self.head(self.body(x).relu())

    _, batches, _, _ = trained(0, 1)
    model, other = Net(), Net()
    objective = objective_of(model, batches, params="body.*")
    assert objective.value(model.state_dict()) == objective.value()
    twin = objective_of(other, batches)
    assert objective.value(other.state_dict()) == pytest.approx(twin.value(), rel=1e-7)
    plane = la.plane_through(model.state_dict(), other.state_dict())
    line = la.map_plane(objective, plane, span=[(0.0, 1.0)], points=3)
    ends = [objective.value(), twin.value()]
    np.testing.assert_allclose(line.values[[0, -1]], ends, **RATE)


def test_a_training_keeps_the_statistics_with_its_checkpoints():
    from lossatlas.training import train

    model, batches, _, _ = trained(9, 1)
    run = train(model, batches, steps=6, keep=3, lr=0.2)
    objective = objective_of(model, batches)
    assert "1.running_mean" in run.checkpoints[0]
    assert objective.value(run.checkpoints[-1]) == objective.value()
    found = la.survey(objective, checkpoints=run.checkpoints, points=3, span=0.2)
    assert found.landscape.landmark_values["trajectory"][-1] == objective.value()


INSTRUMENTS = {
    "spectrum": lambda o, p: curvature.spectrum(o, 1, 1, params=p, density=False).top[0],
    "noise": lambda o, p: curvature.gradient_noise(o, p).scatter.value,
    "zero sum": lambda o, p: curvature.zero_sum_gradients(o, p).overall.value,
    "plasticity": lambda o, p: curvature.plasticity(o, tasks=1, steps=3, params=p).value.value,
    "ball": lambda o, p: curvature.average_sharpness(o, 0.1, directions=3, params=p).value,
    "roughness": lambda o, p: curvature.roughness(o, 2, points=5, params=p).mean.value,
}


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_instruments_use_the_statistics_of_the_state_dict(name):
    model, batches, states, _ = trained(10, 2)
    other = network()
    other.load_state_dict(states[0])
    measure = INSTRUMENTS[name]
    found = measure(objective_of(model, batches), states[0])
    twin = measure(objective_of(other, batches), None)
    assert found == pytest.approx(twin, rel=1e-5)


def test_half_of_the_statistics_of_a_layer_is_refused():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    batch = (torch.randn(8, 3), torch.randn(8, 4))
    objective = la.Objective(model, la.supervised(torch.nn.functional.mse_loss), [batch])
    state = model.state_dict()
    del state["1.running_var"]
    with pytest.raises(StructureError, match=r"'1\.running_mean' and no '1\.running_var'"):
        objective.value(state)
