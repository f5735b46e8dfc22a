"""Processes of one group: the numbers of one process, the same bits on all, errors on all."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import lossatlas as la
from distributed import pair, processes, trio
from distributed.problems import (
    CE,
    batches,
    by_batches,
    flat,
    network,
    normalized,
    numbers,
    other_derivatives,
    other_products,
    recalibrated,
    souped,
)
from lossatlas.errors import ArgumentError
from lossatlas.objective import Moments

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return processes.run(pair.CHECKS, 2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return processes.run(trio.CHECKS, 3, tmp_path_factory.mktemp("three"))


@pytest.fixture(scope="module")
def alone():
    return numbers(la.Objective(network(), CE, batches()))


def same_everywhere(ranks, check):
    """What all processes found, to the last bit."""
    first, *others = (rank[check] for rank in ranks)
    assert "failed" not in first, first
    for other in others:
        assert other == first
    return first


def agree(found, truth):
    for name in ("value", "stderr", "skewness", "doubled"):
        assert found[name] == pytest.approx(truth[name], rel=1e-6, abs=1e-7)
    for name in ("map", "map_stderr", "leverage", "gradient"):
        np.testing.assert_allclose(found[name], truth[name], rtol=1e-6, atol=5e-7)
    assert found["samples"] == truth["samples"]
    assert sorted(found["losses"]) == pytest.approx(sorted(truth["losses"]), rel=1e-6)
    assert found["model"] == truth["model"]
    assert found["unused"] == []


def agree_in_curvature(found, truth, *, products):
    agree(found, truth)
    bound = found["bounds"][0] + truth["bounds"][0] + products * abs(truth["top"][0])
    assert abs(found["top"][0] - truth["top"][0]) <= bound
    error = 3 * math.hypot(found["trace_error"], truth["trace_error"])
    assert abs(found["trace"] - truth["trace"]) <= error + products * abs(truth["trace"])


@pytest.mark.parametrize("check", ["data_parallel", "empty_share"])
def test_shares_of_data_give_the_numbers_of_all(two, alone, check):
    agree_in_curvature(same_everywhere(two, check), alone, products=1e-6)


def test_a_sharded_model_gives_the_numbers_of_the_whole_one(two, alone):
    found = same_everywhere(two, "fsdp")
    agree_in_curvature(found, alone, products=1e-6)
    assert found["engine"] == "in_place"
    assert found["restored"]
    first, second, third = batches()
    truth = other_derivatives(la.Objective(network(), CE, [first, third, second]))
    for name, expected in truth.items():
        np.testing.assert_allclose(found["others"][name], expected, rtol=1e-6, err_msg=name)
    assert any(told.startswith("gathered: passed") for told in found["checked"])
    assert not any("another function" in told for told in found["checked"])
    assert found["hooks"] > 0
    assert found["recalibrated"].startswith('ArgumentError: `mode="recalibrated"`')
    first = la.Objective(network(), CE, batches()[:1]).value()
    assert found["part"] == pytest.approx(first, rel=1e-6)


def test_a_sharded_model_is_differenced_where_whole_weights_are_another_model(two, alone):
    found = same_everywhere(two, "sharded_by_differences")
    assert any("gives another value" in told for told in found["other"])
    assert found["top"][0] == pytest.approx(alone["top"][0], abs=alone["bounds"][0] + 1e-4)
    first, second, third = batches()
    whole = la.Objective(network(), CE, [first, third, second])
    for kind, product in other_products(whole).items():
        close = 1e-4 * np.abs(product).max()
        np.testing.assert_allclose(found["others"][kind], product, atol=close, err_msg=kind)
    top, bound = found["gauss_newton"]
    options = {"top": 1, "bottom": 0, "density": False, "curvature": "gauss_newton"}
    assert abs(top - la.spectrum(whole, tolerance=1e-6, **options).top[0]) <= bound < 0.01
    for name in ("outputs", "losses"):
        assert any(told.startswith(f"{name}: passed") for told in found["checked"])
    assert any("differences of gradients" in told for told in found["checked"])
    assert found["trace"] == pytest.approx(alone["trace"], rel=1e-4)


def test_second_derivatives_of_passes_in_half_precision_are_those_of_the_weights(two, alone):
    found = same_everywhere(two, "half_precision")
    assert found["top"] == pytest.approx(alone["top"], rel=1e-6)
    assert any(told.startswith("gathered: passed to") for told in found["checked"])
    # The numbers say that they are of another function than values and maps.
    assert any("of its passes in bfloat16" in told for told in found["said"])
    assert any("float32, which is another function" in told for told in found["said"])
    assert not found["by_differences"]


def test_what_reads_single_batches_is_given_those_of_all_processes(two):
    found = same_everywhere(two, "single_batches")
    first, second, third = batches()
    # In the order of the processes.
    truth = by_batches(la.Objective(network(), CE, [first, third, second]))
    for name, expected in truth.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-7, err_msg=name)


def test_running_statistics_are_those_of_all_data(two):
    truth = recalibrated(la.Objective(normalized(), CE, batches(), mode="recalibrated"))
    for found in same_everywhere(two, "statistics"):
        for name, expected in truth.items():
            np.testing.assert_allclose(
                found[name], expected, rtol=2e-6, atol=1e-6, err_msg=name
            )


def test_an_average_is_measured_with_the_statistics_of_all_data(two):
    truth, found = (
        souped(la.Objective(normalized(), CE, batches())),
        same_everywhere(two, "soups"),
    )
    assert truth["anew"] != pytest.approx(truth["loss"], rel=1e-3)
    for name, expected in truth.items():
        np.testing.assert_allclose(found[name], expected, rtol=2e-6, atol=1e-6, err_msg=name)


def test_a_monitor_reads_a_shared_objective_together_and_others_on_one_process(two):
    first, second = (found["monitored"] for found in two)
    steps, values = first["together"]
    assert steps == second["together"][0]
    assert steps[0] == 2
    np.testing.assert_array_equal(values, second["together"][1])
    whole = la.Objective(network(), CE, batches()).evaluate().value
    assert values[0][0] == pytest.approx(whole, rel=1e-6)
    assert first["first"][1][0][0] == pytest.approx(whole, rel=1e-6)
    assert second["first"][0] == []


def test_weights_that_are_gathered_before_do_not_matter(two, alone):
    agree(same_everywhere(two, "sharded_as_one"), alone)


def test_values_in_place_are_those_of_the_plain_loop_to_the_last_bit(two):
    objective = la.Objective(network(), CE, batches())
    plane = la.random_plane(objective, seed=3)
    options = {"points": 5, "span": 0.5, "adaptive": False, "engine": "plain"}
    plain = la.map_plane(objective, plane, **options)
    np.testing.assert_allclose(two[0]["fsdp"]["map"], plain.values, rtol=1e-14)


def test_layers_spread_over_processes_give_the_numbers_of_whole_ones(two):
    found = same_everywhere(two, "tensor_parallel")
    truth = numbers(la.Objective(network(8), CE, batches()))
    agree_in_curvature(found, truth, products=1e-6)
    others = other_derivatives(la.Objective(network(8), CE, batches()))
    for name, expected in others.items():
        np.testing.assert_allclose(found["others"][name], expected, rtol=1e-6, err_msg=name)
    assert abs(found["own_code"] - truth["top"][0]) <= found["bounds"][0] + 1e-3
    assert any("whole weights cannot be put into the model" in c for c in found["checked"])
    assert found["other_data"].startswith("RankError: the first batches differ")


@pytest.mark.parametrize("check", ["one_share_of_three", "shares_of_three"])
def test_three_processes(three, alone, check):
    agree(same_everywhere(three, check), alone)


def test_pairs_and_means_of_batches(two):
    found = same_everywhere(two, "weighted_means")

    def pairs(model, batch):
        losses = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        return la.Weighted(losses * (1 + batch[1]), 1.0 + batch[1])

    def mean(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    for loss in (pairs, mean):
        objective = la.Objective(network(), loss, batches())
        here = objective.evaluate()
        truth = [here.value, here.stderr, here.skewness, here.samples]
        truth += flat(objective.gradient())
        np.testing.assert_allclose(found[loss.__name__], truth, rtol=1e-6, atol=1e-7)


def test_a_model_in_data_parallel_sends_nothing_and_has_the_same_plane(two):
    model = network()
    model.insert(1, nn.BatchNorm1d(7))
    objective = la.Objective(model, CE, batches())
    land = la.map_plane(objective, la.random_plane(objective, seed=3), points=3, span=0.5)
    found = same_everywhere(two, "wrapped")
    assert found["value"] == pytest.approx(objective.value(), rel=1e-6)
    np.testing.assert_allclose(found["map"], land.values, rtol=1e-6)


def test_controllers_of_a_sharded_model_read_what_those_of_a_whole_one_do(two):
    readings, probe, refused = same_everywhere(two, "controllers")
    truth, values = pair.trained(network())
    assert len(readings) == len(truth) > 2
    found, expected = np.array(readings, float), np.array(truth, float)
    np.testing.assert_allclose(found[:, :2], expected[:, :2], rtol=2e-3, atol=1e-6)
    # Distances are extrapolated from some coordinates, here from those of one process.
    np.testing.assert_allclose(found[:, 2], expected[:, 2], rtol=0.3)
    np.testing.assert_allclose(np.array(probe), np.array(values), rtol=1e-4, atol=1e-6)
    assert refused.startswith("ArgumentError: the weights are sharded (FSDP2)")
    assert "GrowthPolicy or RegimePolicy" in refused


def test_measuring_leaves_no_trace_on_a_training(two):
    plain, measured = same_everywhere(two, "training_goes_on")
    assert plain == measured


def test_without_a_group_it_is_said_that_a_number_is_of_one_share(two):
    (told,) = same_everywhere(two, "says_that_it_is_a_share")
    assert "this objective has no `group=`" in told


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("other_weights", "RankError: the weights differ between rank 0 and rank 1"),
        ("other_model", "RankError: the parameters that move differ"),
        ("other_data", "RankError: the batches of rank 1 are of another kind"),
        ("other_seed", "RankError: the maps that are asked for differ"),
        ("no_data", "DataError: no process of the group has a batch"),
        ("other_part", "RankError: the batches of a part differ between rank 0 and rank 1"),
        ("map_points", "RankError: the maps that are asked for differ"),
        ("joblib", "ArgumentError: `executor` must be 'serial'"),
    ],
)
def test_what_is_refused_on_all_processes(two, case, words):
    for rank in two:
        assert rank["what_is_refused"][case].startswith(words)


@pytest.mark.parametrize(
    "case", ["spectrum_seed", "spectrum_names", "trace_seed", "sharpness_seed", "other_point"]
)
def test_processes_that_measure_at_other_points_are_told(two, case):
    for rank in two:
        told = rank["what_is_refused"][case]
        assert told.startswith("RankError: rank 0 and rank 1 measure at different points"), told
        assert "the same seed, names and params" in told


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("other_seed", "RankError: the maps that are asked for differ"),
        ("other_direction", "RankError: rank 0 and rank 1 measure at different points"),
        ("other_data", "RankError: the batches of rank 1 are of another kind"),
        ("no_data", "DataError: no process of the group has a batch"),
    ],
)
def test_what_is_refused_of_sharded_models(two, case, words):
    for rank in two:
        assert rank["what_is_refused_of_shards"][case].startswith(words)


@pytest.mark.parametrize("case", ["fails_on_one", "fails_later"])
def test_an_error_of_one_process_is_told_to_all(two, case):
    first, second = (rank["what_is_refused"][case] for rank in two)
    assert first.startswith("RankError: rank 1 of 2 failed (LossError")
    assert "a broken image" in first
    assert second.startswith("LossError: `loss` failed (ValueError: a broken image")


def test_a_resumed_map_has_the_same_bits_and_repeats_nothing(two):
    found = same_everywhere(two, "resumed")
    assert found["same"]
    # 49 points less a chunk of 16, and three to choose the engine and to know the run again.
    assert found["passes"] == 33 + 3


def test_a_command_that_is_started_twice_writes_once(two):
    first, second = (dict(rank["command_line"]) for rank in two)
    assert first.pop("printed") > 0 == second.pop("printed")
    assert first == second
    assert first["samples"] == 60
    assert {"report.html", "survey.nc"} <= set(first["files"])
    assert len(first["top"]) >= 1
    assert "runs in one process, and torchrun started 2" in first["refused"]


def test_an_interrupt_restores_the_shards(two):
    assert same_everywhere(two, "an_error_restores_the_shards") == [True, True]


def test_a_group_needs_processes():
    with pytest.raises(ArgumentError, match=r"`group` (needs an initialized|must be a) "):
        la.Objective(network(), CE, batches(), group=object())


def test_a_pass_that_fails_on_one_process_ends_on_all_at_once(two):
    (told, seconds), (own, _) = (rank["fails_in_a_sharded_pass"] for rank in two)
    assert told.startswith("RankError: rank 1 of 2 failed (LossError: `loss` failed")
    assert seconds < processes.PATIENCE / 4
    assert own.startswith("LossError: `loss` failed (ValueError: a broken image")


def test_a_failure_on_one_of_three_processes_is_told_to_the_others(three):
    for name, (own, _, same) in three[2]["fails_in_a_pass"].items():
        assert own.startswith("LossError: `loss` failed (ValueError: a broken image")
        for rank in three[:2]:
            told, waited, same_there = rank["fails_in_a_pass"][name]
            assert told.startswith("RankError: rank 2 of 3 failed (LossError: `loss` failed")
            assert waited < processes.PATIENCE / 4
            assert same
            assert same_there


def test_a_killed_process_is_an_error_on_the_others_and_weights_come_back(three):
    for rank in three[:2]:
        told, _, restored = rank["one_is_killed"]
        assert told.startswith("a process of the group ended")
        assert restored
    assert "one_is_killed" not in three[2]


def test_sums_of_parts_are_the_sums_of_all():
    drawn = np.random.default_rng(0)
    values, weights = drawn.normal(5, 2, (2, 12)), drawn.uniform(0.5, 3, (2, 12))
    for paired in (False, True):
        whole, parts = Moments(2), [Moments(2) for _ in range(3)]
        for k in range(12):
            one = slice(k, k + 1)
            for moments in (whole, parts[k % 3]):
                if paired:
                    moments.add_pairs(values[:, one] * weights[:, one], weights[:, one])
                else:
                    moments.add(values[:, one], 1.0 + k % 2)
        first = Moments(2)
        for part in parts:
            first.merge(part)
        for name in ("mean", "stderr", "effective", "skewness"):
            np.testing.assert_allclose(
                getattr(first, name)(), getattr(whole, name)(), rtol=1e-9
            )
        assert (first.leverage() >= whole.leverage() - 1e-12).all()
        assert torch.isfinite(torch.from_numpy(first.leverage())).all()
