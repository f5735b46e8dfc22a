"""Networks with BatchNorm: every function measures each with its own running statistics."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas import weights
from lossatlas.errors import StructureError
from lossatlas.landscape.request import ESTIMATED_ANEW, NO_STATISTICS
from lossatlas.objective.point import State
from lossatlas.surveys import compare, survey_along
from lossatlas.weights import (
    align,
    align_many,
    choose,
    compare_merges,
    connect,
    edit_curve,
    factors,
    merge,
    repair,
    sensitivity,
    soup,
)
from lossatlas.weights.merge import shares_of
from lossatlas.weights.statistics import running_statistics, statistics_between


class Normed(nn.Module):
    """Two norm layers, a tied readout, a frozen parameter and a buffer of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6)
        self.second, self.again = nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.third = nn.Linear(6, 6, bias=False)
        self.third.weight = self.second.weight
        self.head = nn.Linear(6, 3)
        self.frozen = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        x = self.again(self.third(self.second(x))).relu()
        return self.scale * self.head(x) + self.frozen


def data(seed=9, batches=3):
    draw = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(20, 4, generator=draw) + 1, torch.randint(3, (20,), generator=draw))
        for _ in range(batches)
    ]


def fresh(seed=7):
    torch.manual_seed(seed)
    return Normed()


def trained(start, seed, steps=25):
    """A state dict after some steps, with statistics that lag behind its weights."""
    model = fresh()
    model.load_state_dict(start)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.05)
    for x, y in data(seed, steps):
        optimizer.zero_grad()
        F.cross_entropy(model(seed * x + seed), y).backward()
        optimizer.step()
    with torch.no_grad():
        model.scale += 0.01 * seed
        model.frozen += 0.01 * seed
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def states():
    base = trained(fresh(1).state_dict(), 1)
    return [base, trained(base, 2), trained(base, 3)]


def objective(mode="eval"):
    # What the model holds is none of the networks.
    return la.Objective(fresh(), la.supervised(F.cross_entropy), data(), mode=mode)


def plain(state, model=None):
    """The loss of a state dict by a plain loop."""
    model = model or fresh()
    model.load_state_dict(state, strict=True)
    model.eval()
    with torch.no_grad():
        rows = [F.cross_entropy(model(x), y, reduction="none") for x, y in data()]
    return float(torch.cat(rows).mean())


def anew(state):
    """A state dict with statistics that are plain means over the batches."""
    model = fresh()
    model.load_state_dict(state)
    for layer in (model.norm, model.again):
        layer.reset_running_stats()
        layer.momentum = None
    model.train()
    with torch.no_grad():
        for x, _ in data():
            model(x)
    return {name: value.clone() for name, value in model.state_dict().items()}


def mean(*states):
    return {
        name: sum(s[name] for s in states) / len(states)
        if value.is_floating_point()
        else states[0][name]
        for name, value in states[0].items()
    }


def close(value):
    return pytest.approx(value, rel=1e-5, abs=1e-6)


def test_the_losses_tell_whose_statistics_were_used(states):
    own = plain(states[1])
    for other in (states[0], states[2], fresh().state_dict(), anew(states[1])):
        assert abs(plain({**states[1], **statistics(other)}) - own) > 1e-3


def statistics(state):
    return {name: value for name, value in state.items() if "running" in name}


def test_five_ways_give_one_loss_for_one_checkpoint(states):
    task = objective()
    own = [plain(state) for state in states]
    path = connect(task, *states[:2], points=3)
    assert path.loss[[0, -1]].tolist() == close(own[:2])
    merged = compare_merges(task, *states, methods=["average"])
    assert [merged.losses[n].value for n in ("base", "expert 1", "expert 2")] == close(own)
    assert [loss.value for loss in choose(task, *states, averages=False).losses] == close(own)
    pair = compare(task, *states[:2], points=5, span=0.1, adaptive=False)
    assert pair.line.values[[0, -1]].tolist() == close(own[:2])
    centers = [float(land.values[2, 2]) for land in (pair.first, pair.second)]
    assert centers == close(own[:2])
    assert [task.evaluate(state).value for state in states] == close(own)
    along = survey_along(task, states, points=3)
    assert [found.loss.value for found in along] == close(own)


METHODS = ["average", "task_arithmetic:scale=0.7", "ties", "dare", "slerp", "stock", "search"]


@pytest.mark.parametrize("mode", ["eval", "recalibrated", "train"])
@pytest.mark.parametrize("method", METHODS)
def test_a_merge_is_written_whole_and_has_the_loss_that_was_printed(
    method, mode, states, tmp_path
):
    task = objective(mode)
    name, _, scale = method.partition(":scale=")
    options = {"scale": float(scale)} if scale else {}
    found = merge(task, *states, method=name, tune=task, **options)
    save_file(found.state_dict(), tmp_path / "merged.safetensors")
    written = load_file(tmp_path / "merged.safetensors")
    model = fresh()
    model.load_state_dict(written, strict=True)
    assert torch.equal(model.third.weight, found.params["second.weight"])
    if mode != "train":
        assert plain(written) == close(found.loss.value)
        assert la.Objective(model, task.loss, data()).value() == close(found.loss.value)
    assert task.value(found.params) == close(found.loss.value)
    variances = [value for name, value in written.items() if name.endswith("running_var")]
    assert all(bool((value > 0).all()) for value in variances)
    if mode == "recalibrated":
        fitting = statistics(anew(written))
        assert all(torch.allclose(written[n], v, atol=1e-5) for n, v in fitting.items())
    assert la.load(found.save(tmp_path / "m.nc")) == found


def test_an_average_has_averaged_statistics_in_mode_eval(states):
    task = objective()
    found, several = merge(task, *states), compare_merges(task, *states, methods=["average"])
    expected = mean(*states[1:])
    assert found.loss.value == close(plain(expected))
    assert several.losses["average"].value == close(plain(expected))
    for name, value in found.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, expected[name], atol=1e-6), name
    own = {
        name: plain(state) for name, state in zip(("base", "expert 1"), states, strict=False)
    }
    for name, loss in own.items():
        assert found.against[name].value == close(plain(expected) - loss)
    # What the statistics do to the loss is said, and measured.
    text = " ".join(found.sentences())
    assert "with its own running statistics, and a merged network with an average" in text
    assert f"the loss is {plain(anew(expected)):.2f}" in text
    assert f"the loss of the average is {plain(anew(expected)):.2f}" in " ".join(
        several.sentences()
    )


def test_in_mode_recalibrated_all_are_estimated_anew_and_it_is_said(states):
    task = objective("recalibrated")
    expected, own = plain(anew(mean(*states[1:]))), [plain(anew(s)) for s in states]
    several = compare_merges(task, *states, methods=["average"])
    assert several.losses["average"].value == close(expected)
    assert [several.losses[n].value for n in several.networks] == close(own)
    averaged = soup(task, *states[1:])
    assert averaged.loss.value == close(expected)
    assert plain(averaged.state_dict()) == close(expected)
    chosen = choose(task, *states, sharpness=False)
    assert [loss.value for loss in chosen.losses[:3]] == close(own)
    path = connect(task, *states[:2], points=3)
    assert path.loss[[0, -1]].tolist() == close(own[:2])
    for found in (several, averaged, chosen, path, merge(task, *states)):
        assert ESTIMATED_ANEW in found.sentences()
    assert ESTIMATED_ANEW in la.survey(task, points=3, span=0.1).notes


def test_a_soup_and_means_of_neighbors_have_mean_statistics(states, tmp_path):
    task = objective()
    found = soup(task, *states)
    assert found.loss.value == close(plain(mean(*states)))
    assert plain(found.state_dict()) == close(found.loss.value)
    single = min(plain(state) for state in states)
    assert found.against["best single"].value == close(found.loss.value - single)
    assert la.load(found.save(tmp_path / "s.nc")) == found
    chosen = choose(task, *states, sharpness=False)
    pairs = [plain(mean(*states[k : k + 2])) for k in range(2)]
    assert [loss.value for loss in chosen.losses[3:]] == close(pairs)
    assert "means of neighbors with an average" in chosen.sentences()[-1]
    assert "means" not in choose(task, *states, averages=False).sentences()[-1]


def test_sharpness_is_that_of_each_network(states):
    found = choose(objective(), *states, averages=False)
    for state, sharpness in zip(states, found.sharpness, strict=True):
        model = fresh()
        model.load_state_dict(state)
        alone = choose(
            la.Objective(model, la.supervised(F.cross_entropy), data()), state, averages=False
        )
        assert sharpness.value == close(alone.sharpness[0].value)


@pytest.mark.parametrize("method", ["fisher", "ota", "regmean"])
def test_importances_are_those_of_experts_with_their_statistics(method, states):
    def task(state):
        model = fresh()
        model.load_state_dict(state)
        return la.Objective(model, la.supervised(F.cross_entropy), data())

    loaded = [task(state) for state in states[1:]]
    at_home = merge(objective(), *states, method=method, objectives=loaded)
    abroad = merge(objective(), *states, method=method, objectives=[objective()] * 2)
    for name, value in at_home.params.items():
        assert torch.allclose(value, abroad.params[name], atol=1e-5), name


def test_paths_repairs_edits_and_alignments_take_each_with_its_own(states):
    task, (base, one, _) = objective(), states
    path = connect(task, base, one, points=3)
    middle = path.at.tolist().index(0.5)
    assert path.loss[middle] == close(plain(mean(base, one)))
    assert path.params_at(0.0)["norm.running_mean"].equal(base["norm.running_mean"])
    moved = [n for n in task.params if n in base]
    chord = sum(float((one[n] - base[n]).double().square().sum()) for n in moved) ** 0.5
    assert path.chord == pytest.approx(chord)
    repaired = connect(task, base, one, points=3, repair="norms")
    assert repaired.loss[[0, -1]].tolist() == close([plain(base), plain(one)])
    at = repaired.at.tolist().index(0.5)
    assert repaired.loss[at] == close(plain(anew(mean(base, one))))
    assert "networks between them with statistics estimated anew" in repaired.sentences()[-1]
    half = mean(base, one)
    fixed = repair(task, half, base, one, 0.5).params
    half |= fixed
    assert task.value(fixed) == close(plain(half | {"third.weight": half["second.weight"]}))
    pruned = sensitivity(task, "prune:0.5", layers="head", params=base)
    cut = pruned.layers[0].measured.value
    small = copy.deepcopy(base)
    flat = small["head.weight"].abs().flatten().argsort(stable=True)
    small["head.weight"].view(-1)[flat[: len(flat) // 2]] = 0
    assert cut == close(plain(small) - plain(base))
    curve = edit_curve(task, factors(task, params=base), "head", keep=[0.5, 1.0], params=base)
    assert curve.loss[-1] == close(plain(base))
    assert curve.loss[0] == close(plain({**base, **curve.params(0.5)}))
    for found in (pruned, curve):
        assert "running statistics of the unchanged network" in found.sentences()[-1]


def stretched(mode="eval"):
    """Two networks of one function whose interpolated statistics fit no point in between."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(400, 1, generator=draw)
    y = x + 0.1 * torch.randn(400, 1, generator=draw)
    layers = nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, eps=1e-12, momentum=None)
    model = nn.Sequential(*layers)
    found = []
    for weight in (1.0, 3.0):
        model[1].reset_running_stats()
        with torch.no_grad():
            model[0].weight.fill_(weight)
            model.train()(x)
        found.append({name: value.clone() for name, value in model.state_dict().items()})

    def loss(model, batch):
        return (model(batch[0]) - batch[1]).square().sum(1)

    return la.Objective(model.eval(), loss, [(x, y)], mode=mode), found


def test_a_barrier_of_stale_statistics_is_not_called_one(tmp_path):
    task, ends = stretched()
    path = connect(task, *ends, points=5)
    assert path.profile.is_certain
    assert path.anew.excess.barrier.value < 1e-12
    assert path.is_barrier_certain is False
    assert connect(stretched("recalibrated")[0], *ends, points=5).is_barrier_certain is False
    pair = compare(task, *ends, points=5, span=0.1, adaptive=False)
    assert pair.verdict.is_certain is False
    for found, said in ((path, path.sentences()[0]), (pair, pair.headline())):
        start = f"The loss rises by {path.profile.barrier_text} on the straight line with "
        start += "interpolated running statistics, and "
        assert said.startswith(start)
        assert said.endswith(": no barrier between the networks themselves.")
        assert said in found.sentences()
        assert not any("The loss barrier" in text for text in found.sentences())
        rows = {row[0]: row[1:] for row in found.rows()}
        names = [name for name in rows if name.startswith("barrier")]
        assert names == ["barrier", "barrier, statistics measured anew"]
        back = la.load(found.save(tmp_path / f"{found.__kind__}.nc"))
        assert back.verdict.headline() == found.verdict.headline()


def swapped(mode="eval"):
    """Two networks with their units in another order, one with larger inputs of its norms."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 1))
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(300, 2, generator=draw)
    first = {name: value.clone() for name, value in model.state_dict().items()}
    first["0.weight"], first["3.weight"] = torch.eye(2), torch.tensor([[1.0, -1.0]])
    first["0.bias"], first["3.bias"] = torch.zeros(2), torch.zeros(1)
    second = dict(first)
    second["0.weight"] = 3 * first["0.weight"].flip(0)
    second["3.weight"] = first["3.weight"].flip(1)
    second["1.running_var"] = 9 * first["1.running_var"]
    model.load_state_dict(first)
    y = model.eval()(x).detach()
    y = y + 0.1 * torch.randn(300, 1, generator=draw)

    def loss(model, batch):
        return (model(batch[0]) - batch[1]).square().sum(1)

    return la.Objective(model, loss, [(x, y)], mode=mode), (first, second)


def test_the_barrier_with_statistics_measured_anew_is_that_of_mode_recalibrated():
    task, ends = swapped()
    path = connect(task, *ends, points=5)
    twin = connect(swapped("recalibrated")[0], *ends, points=5)
    places = sorted({0.0, 0.25, 0.5, 0.75, 1.0, path.where})
    assert path.anew.excess.at.tolist() == places
    shared = [(k, twin.at.tolist().index(t)) for k, t in enumerate(places) if t in twin.at]
    assert len(shared) >= 5
    for k, at in shared:
        assert path.anew.excess.value[k] == close(twin.excess[at])
        assert path.anew.excess.stderr[k] == close(twin.excess_stderr[at])
    assert twin.anew is None
    for other in (
        connect(swapped("train")[0], *ends, points=3),
        connect(task, *ends, points=3, repair="norms"),
    ):
        assert other.anew is None


def test_a_barrier_of_the_networks_is_given_with_both_statistics():
    task, ends = swapped()
    found = connect(task, *ends, points=5)
    assert found.is_barrier_certain
    said = found.sentences()[0]
    height = found.anew.excess.barrier_text
    start = f"The loss barrier on the straight line is {height} with statistics measured anew "
    assert said.startswith(start)
    rise = f"(the loss rises by {found.profile.barrier_text} with interpolated running"
    assert rise in said
    bare = State(task.params, {})
    assert statistics_between(task, [bare]) == "the running statistics of the model"


def test_where_statistics_cannot_be_measured_anew_the_barrier_is_no_verdict():
    task, ends = stretched()
    rows = [tuple(part[k : k + 1] for part in task.batches[0]) for k in range(40)]
    path = connect(la.Objective(task.model, task.loss, rows), *ends, points=5)
    assert path.profile.is_certain
    assert path.is_barrier_certain is None
    said = "with statistics measured anew it is not known: running statistics cannot be"
    assert said in path.sentences()[0]


def test_alignments_measure_each_with_its_own(states):
    task, (base, one, two) = objective(), states
    found = align(task, base, one, starts=1)
    ends = (plain(base) + plain(one)) / 2
    assert found.before.value == close(plain(mean(base, one)) - ends)
    assert task.value(found.params) == close(plain(one))
    every = align_many(task, base, one, two, starts=1)
    assert every.before.value == close(
        plain(mean(*states)) - sum(plain(state) for state in states) / 3
    )


def test_statistics_of_another_network_are_never_used_unsaid(states):
    task = objective()
    bare = [{n: state[n] for n in task.params} for state in states]
    for found in (
        merge(task, *bare),
        compare_merges(task, *bare, methods=["ties"]),
        soup(task, *bare),
        choose(task, *bare, sharpness=False),
        connect(task, *bare[:2], points=3),
    ):
        assert NO_STATISTICS in found.sentences()
    mixed = states[0], bare[1]
    for call in (
        lambda: merge(task, *mixed),
        lambda: compare_merges(task, *mixed),
        lambda: soup(task, *mixed),
        lambda: choose(task, *mixed),
        lambda: connect(task, *mixed),
        lambda: align_many(task, *mixed),
        lambda: align(task, *mixed),
        lambda: repair(task, bare[0], *mixed, 0.5),
        lambda: compare(task, *mixed),
    ):
        with pytest.raises(StructureError):
            call()
    # Also where statistics are all that a state dict has beside parameters.
    plain_net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    small = la.Objective(plain_net, la.supervised(F.cross_entropy), data())
    pair = {n: v.clone() for n, v in plain_net.state_dict().items()}, small.params
    for function in (merge, compare_merges, soup, choose, connect, align_many, align):
        with pytest.raises(StructureError):
            function(small, *pair)


def test_what_equals_the_model_in_one_network_belongs_to_it_all_the_same(states):
    # The model holds the base: only the expert differs from it in the frozen parameter.
    model = fresh()
    model.load_state_dict(states[0])
    task = la.Objective(model, la.supervised(F.cross_entropy), data())
    assert soup(task, *states[:2]).loss.value == close(plain(mean(*states[:2])))
    path = connect(task, *states[:2], points=3)
    assert path.loss[[0, -1]].tolist() == close([plain(s) for s in states[:2]])


def test_whole_numbers_that_differ_have_no_average(states):
    class Counted(Normed):
        def __init__(self):
            super().__init__()
            self.register_buffer("order", torch.arange(3))

    points = [{**state, "order": torch.arange(3) + k} for k, state in enumerate(states)]
    task = la.Objective(Counted(), la.supervised(F.cross_entropy), data())
    for function in (merge, soup, choose, connect):
        with pytest.raises(StructureError, match="'order' holds whole numbers"):
            function(task, *points[:2])
    # A choice needs no averages.
    with pytest.raises(StructureError, match=r"averages=False \(--no-averages\)"):
        choose(task, *points[:2])
    alone = choose(task, *points[:2], averages=False, sharpness=False)
    assert len(alone.names) == 2


def test_no_norm_layer_no_word():
    model = nn.Sequential(nn.Linear(4, 3))
    task = la.Objective(model, la.supervised(F.cross_entropy), data())
    point = task.params
    other = {name: value + 0.1 for name, value in point.items()}
    found = merge(task, point, other, other)
    assert not found.notes
    assert found.params.keys() == point.keys() == found.state_dict().keys()
    assert not connect(task, point, other, points=3).notes


def test_statistics_are_plain_means_of_those_of_the_batches(states):
    found = running_statistics(objective(), states[1])
    for name, value in statistics(anew(states[1])).items():
        assert torch.allclose(found[name], value, atol=1e-6)


def same_networks():
    """Calls whose result is one network or several, by name; each takes a task and states."""
    return {
        "merge": merge,
        "soup": soup,
        "greedy soup": lambda task, *states: soup(task, *states, greedy=True),
        "repair": lambda task, base, one, two: repair(task, mean(base, one), base, one, 0.5),
        "repair at an end": lambda task, base, one, two: repair(task, base, base, one, 0.0),
        "align": lambda task, base, one, two: align(task, base, one, starts=1),
        "align_many": lambda task, *states: align_many(task, *states, starts=1),
    }


@pytest.mark.parametrize("mode", ["eval", "recalibrated", "train"])
@pytest.mark.parametrize("name", same_networks())
def test_every_network_that_is_made_is_written_whole(name, mode, states):
    task = objective(mode)
    found = same_networks()[name](task, *states)
    several = isinstance(found.params, tuple)
    params = found.params if several else (found.params,)
    written = found.state_dicts() if several else (found.state_dict(),)
    assert len(written) == len(params)
    for point, state in zip(params, written, strict=True):
        model = fresh()
        model.load_state_dict(state, strict=True)
        assert torch.equal(model.third.weight, model.second.weight)
        again = la.Objective(model, task.loss, data(), mode=mode)
        assert again.value() == close(task.value(point))
        if mode != "train":
            assert plain(state) == close(task.value(point))
        if hasattr(found, "loss") and mode != "train":
            assert plain(state) == close(found.loss.value)


class TwiceNormed(nn.Module):
    """One norm layer under two names, and one buffer of two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6)
        self.again, self.head = self.norm, nn.Linear(6, 3)
        self.register_buffer("scale", torch.ones(()))
        self.head.register_buffer("scale", self.scale)

    def forward(self, x):
        return self.scale * self.head(self.again(self.norm(self.first(x)).relu()))


def twice_normed(mode):
    """A task and three networks."""
    torch.manual_seed(3)
    states, model = [], TwiceNormed()
    for seed in range(3):
        optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1)
        for x, y in data(seed, 10):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    torch.manual_seed(4)
    return la.Objective(
        TwiceNormed(), la.supervised(F.cross_entropy), data(), mode=mode
    ), states


@pytest.mark.parametrize("mode", ["eval", "recalibrated", "train"])
@pytest.mark.parametrize("given", ["state dicts", "one name each", "parameters"])
@pytest.mark.parametrize("name", same_networks())
def test_a_layer_with_two_names_is_written_under_both(name, given, mode):
    task, states = twice_normed(mode)
    if given == "parameters":
        states = [{n: state[n] for n in task.params} for state in states]
    if given == "one name each":
        # Files such as safetensors may keep any one name of a tensor.
        left_out = {n for n in states[0] if n.startswith("norm.")} | {"scale"}
        states = [{n: v for n, v in s.items() if n not in left_out} for s in states]
    found = same_networks()[name](task, *states)
    several = isinstance(found.params, tuple)
    params = found.params if several else (found.params,)
    written = found.state_dicts() if several else (found.state_dict(),)
    for point, state in zip(params, written, strict=True):
        model = TwiceNormed()
        model.load_state_dict(state, strict=True)
        for layer in ("running_mean", "running_var"):
            assert torch.equal(state[f"norm.{layer}"], state[f"again.{layer}"])
        again = la.Objective(model, task.loss, data(), mode=mode)
        assert again.value() == close(task.value(point))
        if hasattr(found, "loss") and mode != "train":
            assert plain(state, TwiceNormed()) == close(found.loss.value)


def test_every_result_that_holds_a_network_has_its_state_dict():
    held = [
        kind
        for kind in (getattr(weights, name) for name in weights.__all__)
        if isinstance(kind, type) and "params" in getattr(kind, "__dataclass_fields__", {})
    ]
    assert len(held) == 5
    for kind in held:
        assert hasattr(kind, "state_dict") or hasattr(kind, "state_dicts"), kind


OWN_SHARES = {
    "ties": {"density": 0.5},
    "dare": {"density": 0.5},
    "stock": {},
    "fisher": {},
    "ota": {"density": 0.5},
    "regmean": {},
}


@pytest.mark.parametrize("name", OWN_SHARES)
def test_statistics_of_a_merge_lie_between_those_of_the_networks(name, states):
    task = objective()
    found = merge(task, *states, method=name, objectives=[task] * 2, **OWN_SHARES[name])
    for key in statistics(states[0]):
        every = torch.stack([state[key] for state in states])
        low, high = every.amin(0), every.amax(0)
        slack = 1e-5 * every.abs().amax(0)
        mixed = found.params[key]
        assert bool((mixed >= low - slack).all() and (mixed <= high + slack).all())
        assert not key.endswith("running_var") or bool((mixed > 0).all())


@pytest.fixture(scope="module")
def nearly_equal():
    """A base and two experts with nearly equal weights and other statistics; the task."""
    torch.manual_seed(0)
    x = torch.randn(512, 6)
    y = (x @ torch.randn(6, 3) + 0.3 * torch.randn(512, 3)).argmax(1)
    model = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))

    def trained_on(inputs, labels, lr, steps):
        optimizer = torch.optim.SGD(model.train().parameters(), lr)
        for _ in range(steps):
            rows = torch.randint(0, len(inputs), (64,))
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[rows]), labels[rows]).backward()
            optimizer.step()
        return {name: value.clone() for name, value in model.state_dict().items()}

    networks = [
        trained_on(x, y, 0.05, 100),
        trained_on(x[:256], y[:256], 0.05, 150),
        trained_on(1.5 * x[256:] + 1, y[256:], 1e-4, 20),
    ]
    return la.Objective(model.eval(), la.supervised(F.cross_entropy), [(x, y)]), networks


@pytest.mark.parametrize("name", ["average", "slerp", "search", *OWN_SHARES])
def test_merges_of_nearly_equal_experts_lose_no_more_than_networks_do(name, nearly_equal):
    task, networks = nearly_equal
    own = [task.value(network) for network in networks]
    options = {**OWN_SHARES.get(name, {}), "objectives": [task] * 2, "tune": task}
    found = merge(task, *networks, method=name, **options)
    fitting = task.value({**found.params, **running_statistics(task, found.params)})
    assert 0.8 * fitting < found.loss.value < 1.05 * max(own)
    assert found.loss.value - fitting < 1.2 * max(
        loss - task.value({**network, **running_statistics(task, network)})
        for loss, network in zip(own, networks, strict=True)
    )


def changes(*rows):
    return [{"weight": torch.tensor([row])} for row in rows]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ([1.0, 0.0, 2.0], (1.0, 0.0)),
        ([0.0, 3.0, 1.0], (0.0, 1.0)),
        ([0.5, 1.5, 1.5], (0.5, 0.5)),
        ([0.2, 0.9, 0.7], (0.2, 0.3)),
        ([0.0, 0.0, 0.0], (0.0, 0.0)),
        # Outside of the mixtures: the nearest one.
        ([-1.0, 0.0, -2.0], (0.0, 0.0)),
    ],
)
def test_shares_of_mixtures_are_exact(change, expected):
    (merged,) = changes(change)
    deltas = changes([1.0, 0.0, 2.0], [0.0, 3.0, 1.0])
    assert shares_of(merged, deltas) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("distance", [1.0, 0.1, 1e-3, 1e-6])
@pytest.mark.parametrize("seed", range(4))
def test_shares_are_the_nearest_mixture_of_a_fine_grid(seed, distance):
    draw = np.random.default_rng(seed)
    first = draw.normal(size=30)
    second = first + distance * draw.normal(size=30)
    merged = draw.normal(size=2) @ [first, second] + 0.3 * draw.normal(size=30)
    steps = np.linspace(0, 1, 201)
    grid = np.array([(a, b) for a in steps for b in steps if a + b <= 1 + 1e-9])
    errors = np.square(merged - grid @ [first, second]).sum(1)
    # The penalty: k |r|^2 / n times the squared deviations from equal shares.
    spread = np.square(grid - grid.mean(1, keepdims=True)).sum(1)
    best = grid[(errors + 2 * errors.min() / 30 * spread).argmin()]
    tensors = [{"weight": torch.from_numpy(row)} for row in (merged, first, second)]
    assert shares_of(tensors[0], tensors[1:]) == pytest.approx(best, abs=0.008)


@pytest.mark.parametrize("method", ["ties", "dare", "task_arithmetic"])
def test_a_merge_that_changes_nothing_is_the_base_with_its_statistics(method, states):
    found = merge(objective(), *states, method=method, scale=0.0)
    for name, value in states[0].items():
        torch.testing.assert_close(found.state_dict()[name], value)


def test_statistics_of_a_model_stock_are_shrunk_to_the_base_as_its_weights_are():
    # One tensor, two experts: the mean times 2 cos / (1 + cos), by hand.
    first, second = torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 4.0]])
    ratio = 2 * 0.6 / 1.6
    change = {"weight": ratio * (first + second) / 2}
    shares = shares_of(change, [{"weight": first}, {"weight": second}])
    assert shares == pytest.approx([ratio / 2, ratio / 2])
    # At right angles nothing is left of the mean.
    nothing = shares_of({"weight": torch.zeros(1, 2)}, [{"weight": first}] * 2)
    assert nothing == pytest.approx((0.0, 0.0))


def test_experts_that_changed_alike_have_the_same_share():
    delta = {"weight": torch.tensor([[2.0, 1.0]])}
    assert shares_of(delta, [delta, delta]) == pytest.approx([0.5, 0.5])
    still = {"weight": torch.zeros(1, 2)}
    assert shares_of(still, [still, still]) == (0.5, 0.5)


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_an_end_of_a_great_circle_is_its_expert_with_its_statistics(states, t):
    merged = merge(objective(), *states, method="slerp", t=t)
    end = states[1 + int(t)]
    assert merged.loss.value == close(plain(end))
    for name, value in statistics(end).items():
        torch.testing.assert_close(merged.state_dict()[name], value)
