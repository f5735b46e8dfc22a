"""Symmetries keep every loss, whatever the model is made of."""

import copy

import pytest
import torch
from networks import NAMES, cnn, network, objective, pictures
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import StructureError, SymmetryError
from lossatlas.weights import symmetries

# Sizes of the groups that must be found, those within heads once a head.
EXPECTED = {
    "mlp": [8, 12],
    "cnn": [6, 8],
    "grouped": [3, *[4] * 3, *[8] * 3],
    "gated": [6, 7, 10],
    "zero padded": [2, 2, 4, 8],
    "experts": [9, 9],
    "u-net": [6, 8, 8],
    "split heads": [*[4] * 9, 16, 24],
    "unbound heads": [*[4] * 9, 16, 24],
    "selected heads": [*[4] * 9, 16, 24],
    "lstm": [8, 12, 12],
    "gru": [8, 12, 12],
    "encoder": [*[4] * 18, 16, 24, 24],
}


def state_of(model):
    floats = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
    return {k: v.detach().clone() for k, v in floats.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_random_element_of_all_groups_keeps_every_loss(name):
    task = objective(name)
    found = symmetries(task)
    assert sorted(group.size for group in found.groups) == EXPECTED[name]
    assert found.moved > {"experts": 0.6, "u-net": 0.6}.get(name, 0.95)
    before = task.example_losses()
    model = task.model
    state = found.apply(state_of(model), found.random(seed=7))
    twin = network(name)
    twin.load_state_dict(state, strict=False)
    after = la.Objective(twin, task.loss, task.batches).example_losses()
    assert (before - after).abs().max() <= 1e-5 * before.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_half_of_a_group_is_no_symmetry(name):
    # The proof must bite: an element that misses one of its places changes losses.
    task = objective(name)
    found = symmetries(task)
    bites = []
    for number, group in enumerate(found.groups):
        state = {k: v.detach().clone() for k, v in task.params.items()}
        move = found.random(seed=3)[number]
        if torch.equal(move.map, torch.arange(group.size)):
            continue
        moved = found.apply(state, [move])
        first = next(p.tensor for p in group.places if p.tensor in state)
        changed = task.example_losses({**moved, first: state[first]}) - task.example_losses()
        bites.append(bool(changed.abs().max() > 1e-5))
    # Units that are dead on these few examples do not tell.
    assert sum(bites) >= 0.75 * len(bites)


def test_permutations_keep_every_bit_and_rotations_say_their_kind():
    task = objective("split heads")
    found = symmetries(task)
    kinds = {group.size: group.kind for group in found.groups if group.within is None}
    assert kinds == {16: "permutation", 4: "permutation", 24: "permutation"}
    inner = [group for group in found.groups if group.within is not None]
    assert {group.kind for group in inner} == {"orthogonal"}
    assert {group.within[1] for group in inner} == {0, 1, 2, 3}
    only = [m for m in found.random() if m.map.ndim == 1]
    state = {k: v.bfloat16() for k, v in task.params.items()}
    moved = found.apply(state, only)
    for name, value in state.items():
        assert torch.equal(moved[name].flatten().sort().values, value.flatten().sort().values)


@pytest.mark.parametrize("name", ["mlp", "cnn", "gated"])
def test_training_goes_on_alike_where_the_state_of_the_optimizer_moves_along(name):
    batches = [(x.double(), y) for x, y in pictures()]
    model = network(name).double()
    task = la.Objective(model, la.supervised(F.cross_entropy), batches)
    found = symmetries(task)
    assert {group.kind for group in found.groups} == {"permutation"}
    element = found.random(seed=5)

    def trained(model, optimizer):
        for x, y in batches * 2:
            optimizer.zero_grad()
            F.cross_entropy(model.eval()(x), y).backward()
            optimizer.step()

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    trained(model, optimizer)
    twin = network(name).double()
    twin.load_state_dict(found.apply(state_of(model), element), strict=False)
    other = torch.optim.AdamW(twin.parameters(), lr=1e-3)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for key in ("exp_avg", "exp_avg_sq"):
        moments = {n: optimizer.state[v][key] for n, v in model.named_parameters()}
        moved = found.apply(moments, element)
        for n, value in twin.named_parameters():
            other.state[value][key] = moved[n]
    trained(model, optimizer)
    trained(twin, other)
    expected = found.apply(state_of(model), element)
    for n, value in state_of(twin).items():
        assert torch.allclose(value, expected[n], rtol=1e-7, atol=1e-9), n


def test_running_statistics_move_with_their_channels():
    task = objective("cnn")
    found = symmetries(task)
    places = {p.tensor for group in found.groups for p in group.places}
    assert {"1.running_mean", "1.running_var"} <= places
    with pytest.raises(StructureError, match=r"no '0\.bias'"):
        found.apply({"0.weight": task.params["0.weight"]}, found.random())


def test_what_a_batch_does_not_use_is_held_and_said():
    found = symmetries(objective("experts"))
    reasons = {(name, axis): why for name, axis, why in found.held}
    assert reasons["experts.2.0.weight", 0] == "not used by this batch"
    places = {p.tensor for group in found.groups for p in group.places}
    assert not any(name.startswith("experts.2") for name in places)


def test_frozen_parameters_stay():
    found = symmetries(objective("mlp", params=["1.*"]))
    assert not found.groups
    assert ("1.weight", 0, "not a parameter of the objective") in found.held


def test_equal_sizes_are_not_taken_for_equal_axes():
    # Batch, width and classes are all five.
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5))
    batch = (torch.randn(5, 5), torch.arange(5))
    found = symmetries(la.Objective(model, la.supervised(F.cross_entropy), [batch]))
    assert [str(group) for group in found.groups] == [
        "permutation of 5: 0.weight, axis 0; 0.bias, axis 0; 2.weight, axis 1"
    ]


def test_an_operation_without_a_rule_holds_what_it_touches():
    class Sorted(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.second(torch.fft.fft(self.first(x)).real)

    batch = (torch.randn(4, 3), torch.randn(4, 2))
    found = symmetries(la.Objective(Sorted(), la.supervised(F.mse_loss), [batch]))
    assert not found.groups
    assert "_fft_r2c" in found.unknown
    assert "_fft_r2c" in " ".join(found.sentences())


def test_a_constant_that_is_added_is_not_rotated():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.second(self.first(x) + 1.0)

    batch = (torch.randn(4, 3), torch.randn(4, 2))
    found = symmetries(la.Objective(Shifted(), la.supervised(F.mse_loss), [batch]))
    assert [group.kind for group in found.groups] == ["permutation"]
    linear = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 2))
    found = symmetries(la.Objective(linear, la.supervised(F.mse_loss), [batch]))
    assert [group.kind for group in found.groups] == ["orthogonal"]


def test_what_the_trace_cannot_see_is_found_by_the_proof():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x):
            hidden = torch.relu(self.first(x))
            # A number read out of a tensor leaves the trace.
            return self.second(hidden) * float(self.first.weight.data.numpy()[0].sum())

    batch = (torch.randn(4, 3), torch.randn(4, 2))
    task = la.Objective(Hidden(), la.supervised(F.mse_loss), [batch], check=False)
    with pytest.raises(SymmetryError, match=r"permutation of 6: first\.weight, axis 0"):
        symmetries(task)
    assert symmetries(task, verify=False).groups


def test_results_are_stored_and_leave_no_trace(tmp_path):
    model = cnn()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    found = symmetries(la.Objective(model, la.supervised(F.cross_entropy), pictures()))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.backends.mkldnn.enabled
    again = la.load(found.save(tmp_path / "symmetries.nc"))
    assert again == found
    assert again.groups[0].places == found.groups[0].places
    assert len(repr(found)) <= 400
    assert found.random(1)[0].map.tolist() == again.random(1)[0].map.tolist()
    assert "groups of symmetries" in found.sentences()[0]
