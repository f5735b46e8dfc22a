"""Every policy and every average under AMP, accumulation, compile, resume, DDP and FSDP2."""

import copy
import importlib
import math

import pytest
import torch
from spread import (
    AVERAGES,
    HALF,
    RECIPES,
    STEPS,
    Training,
    ddp,
    ddp_recipes,
    ddp_sam,
    fsdp2,
    fsdp2_recipes,
    fsdp2_refusals,
    fsdp2_sam,
    network,
    own_batches,
    plain,
    recipe_trained,
    sam_trained,
    sharpness_aware,
    weights_of,
)

from distributed import processes
from lossatlas.steering import POLICIES

_known = {}


def plainly(policy):
    if policy not in _known:
        _known[policy] = Training(policy).go(0, STEPS).found()
    return _known[policy]


def assert_close(ours, theirs, rel=1e-4, atol=1e-5):
    assert ours["failed"] == theirs["failed"] == []
    assert len(ours["scales"]) == len(theirs["scales"]) > 0
    for first, second in zip(ours["scales"], theirs["scales"], strict=True):
        assert first == pytest.approx(second, rel=rel)
    assert ours["weights"] == pytest.approx(theirs["weights"], rel=rel, abs=atol)
    for name in AVERAGES:
        assert ours["averages"][name] == pytest.approx(
            theirs["averages"][name], rel=rel, abs=atol
        )


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("way", ["accumulation", "compile"])
def test_it_decides_as_the_plain_loop(policy, way):
    assert_close(Training(policy, way).go(0, STEPS).found(), plainly(policy))


@pytest.mark.parametrize("policy", POLICIES)
def test_mixed_precision_changes_the_last_digits_only(policy):
    found = Training(policy, "amp").go(0, STEPS).found()
    assert_close(found, plainly(policy), rel=0.2, atol=0.02)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_resumed_training_has_the_same_bits(policy):
    first = Training(policy).go(0, HALF)
    second = Training(policy)
    parts = ("model", "optimizer", "controller")
    for name in parts:
        state = copy.deepcopy(getattr(first, name).state_dict())
        getattr(second, name).load_state_dict(state)
    for name, average in second.averages.items():
        average.load_state_dict(copy.deepcopy(first.averages[name].state_dict()))
    assert second.go(HALF, STEPS).found() == plainly(policy)


@pytest.mark.parametrize("name", AVERAGES)
def test_one_update_that_is_not_finite_does_not_spoil_an_average(name):
    model = network()
    average = AVERAGES[name](model)
    average.update()
    good = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    with pytest.warns(UserWarning, match="not finite"):
        average.update()
    with torch.no_grad():
        for p, kept in zip(model.parameters(), good, strict=True):
            p.copy_(kept)
    average.update()
    assert all(map(math.isfinite, weights_of(average)))
    assert weights_of(average) == pytest.approx([v for p in good for v in plain(p)])


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two processes found, started once for all checks."""
    checks = [ddp, ddp_recipes, ddp_sam, own_batches]
    # Asked of the module itself: torch.distributed knows it only once somebody has imported it.
    if hasattr(importlib.import_module("torch.distributed.fsdp"), "fully_shard"):
        checks += [fsdp2, fsdp2_recipes, fsdp2_sam, fsdp2_refusals]
    return processes.run(checks, 2, tmp_path_factory.mktemp("spread"))


def both(found, name):
    first, second = (each.get(name) for each in found)
    if first is None:
        pytest.skip("FSDP2 came with torch 2.6")
    assert "failed" not in first, first["failed"]
    assert first == second
    return first


@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
def test_two_processes_decide_and_average_as_one(found, way):
    first = both(found, way)
    assert set(first) == set(POLICIES) - ({"edge"} if way == "fsdp2" else set())
    for policy, ours in first.items():
        # Every process has the whole batch, so that gradients are those of one.
        assert_close(ours, plainly(policy), rel=1e-3, atol=1e-4)


def assert_trained_alike(ours, name, rel, atol):
    alone = recipe_trained(name)
    assert ours["count"] == alone["count"] == STEPS
    for what in ("weights", "average"):
        assert ours[what] == pytest.approx(alone[what], rel=rel, abs=atol)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("way", ["accumulation", "compile", "amp"])
def test_a_recipe_trains_as_the_plain_loop(name, way):
    rough = {"rel": 0.2, "atol": 0.02} if way == "amp" else {"rel": 1e-4, "atol": 1e-5}
    assert_trained_alike(recipe_trained(name, way), name, **rough)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
def test_two_processes_train_a_recipe_as_one(found, name, way):
    ours = both(found, f"{way}_recipes")[name]
    assert_trained_alike(ours, name, rel=1e-3, atol=1e-4)


def test_sharpness_aware_steps_of_shards_are_those_of_the_whole_model(found):
    ours, alone = both(found, "fsdp2_sam"), sharpness_aware(network())
    for name in ours:
        assert ours[name] == pytest.approx(alone[name], rel=1e-4, abs=1e-5)
    assert ours["losses"][0] != ours["losses"][1]


@pytest.mark.parametrize(("m", "pieces"), [("None", None), ("rank", 4)])
def test_sharpness_aware_steps_of_two_processes_move_as_one_or_each(found, m, pieces):
    ours, alone = both(found, "ddp_sam")[m], sam_trained(network(), pieces)
    assert ours == pytest.approx(alone, rel=1e-4, abs=1e-5)


def test_sharpness_aware_steps_of_a_compiled_model_are_the_same():
    model = network()
    ours = sam_trained(model, run=torch.compile(model, backend="eager"))
    assert ours == pytest.approx(sam_trained(network()), rel=1e-5, abs=1e-6)


def test_what_shards_cannot_serve_is_named(found):
    edge, regime = both(found, "fsdp2_refusals")
    assert "no second derivatives" in edge
    assert "`model` must be given" in regime


def test_every_rank_takes_the_decision_of_the_first(found):
    ours = both(found, "own_batches")
    assert ours["watch"]["weights"] == ours[""]["weights"]
    assert ours["steer"]["weights"] != ours[""]["weights"]
    assert len(ours["steer"]["log"]) == 3
