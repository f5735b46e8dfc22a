"""What goes wrong on one process, or between two: a named error on both, no number, no wait."""

import numpy as np
import pytest

from distributed import faults, processes

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return processes.run(faults.CHECKS, 2, tmp_path_factory.mktemp("faults"))


def test_no_call_gives_a_number_after_its_group_is_destroyed(two):
    for rank in two:
        told = rank["destroyed"]
        assert len(told) == 4 * 6 + 3 * 2
        for name, words in told.items():
            assert words.startswith("RankError: "), f"{name}: {words}"
            assert "destroyed" in words


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("meta", "ModelError: Sequential has parameters or buffers on the meta device"),
        ("half_meta", "ModelError: Sequential has parameters or buffers on the meta device"),
        ("meta_buffers", "ModelError: Sequential has parameters or buffers on the meta device"),
        ("meta_shards", "ModelError: FSDPSequential has parameters or buffers on the meta"),
        ("meta_layers", "ModelError: Sequential has parameters or buffers on the meta device"),
        ("mode", "UnknownNameError: `mode` must be one of"),
        ("params", "UnknownNameError: `params`: no parameter is called"),
        ("loss", "ArgumentError: `loss` must be callable"),
        ("model", "ArgumentError: `model` must be a torch.nn.Module"),
        ("batches", "ArgumentError: `batches` must be a list"),
    ],
)
def test_bad_input_of_one_process_is_told_to_all_at_once(two, case, words):
    (told, waited), (own, _) = (rank["on_one_only"][case] for rank in two)
    assert own.startswith(words)
    assert told.startswith("RankError: ")
    assert "rank 1" in told
    assert words in told
    assert waited < faults.LIMIT / 2


@pytest.mark.parametrize("engine", ["batched", "plain"])
def test_a_map_goes_on_with_fewer_points_where_one_process_lacks_memory(two, engine):
    first, second = (rank["maps_without_memory"][engine] for rank in two)
    for name in ("whole", "once", "again"):
        assert first[name] == second[name]
    (values, notes), (truth, none) = first["once"], first["whole"]
    np.testing.assert_allclose(values, truth, rtol=1e-6)
    assert "Memory ran out once; after that" in " ".join(notes)
    assert not any("Memory" in note for note in none)


@pytest.mark.parametrize("engine", ["batched", "plain"])
def test_a_map_that_lacks_memory_twice_is_a_named_error_and_goes_on_later(two, engine):
    (told, words, of_memory), (own, *_) = (
        rank["maps_without_memory"][engine]["twice"] for rank in two
    )
    assert (told, own, of_memory) == ("RankMemoryError", "OutOfMemoryError", True)
    assert words.startswith("rank 1 of 2 failed (OutOfMemoryError")
    again, whole = (two[0]["maps_without_memory"][engine][n] for n in ("again", "whole"))
    np.testing.assert_allclose(again[0], whole[0], rtol=1e-6)


@pytest.mark.parametrize("kind", ["sharded", "layers"])
def test_a_map_of_a_sharded_model_goes_on_with_fewer_points_on_all(two, kind):
    first, second = (rank["maps_without_memory"][kind] for rank in two)
    assert first["once"] == second["once"]
    (values, notes), (truth, none) = first["once"], first["whole"]
    assert values == truth
    assert "Memory ran out once; after that" in " ".join(notes)
    assert not any("Memory" in note for note in none)
    (told, words, of_memory), (own, *_) = first["twice"], second["twice"]
    assert (told, own, of_memory) == ("RankMemoryError", "OutOfMemoryError", True)
    assert words.startswith("rank 1 of 2 failed (OutOfMemoryError")


@pytest.mark.parametrize("name", ["value", "gradient", "map", "trace"])
@pytest.mark.parametrize("kind", ["sharded", "layers"])
def test_a_failure_in_a_pass_is_told_to_those_who_wait_in_it_and_all_go_on(two, kind, name):
    (told, waited, same), (own, _, same_there) = (
        rank["fails_in_a_pass"][f"{kind} {name}"] for rank in two
    )
    assert own.startswith("LossError: `loss` failed (ValueError: a broken image")
    assert told.startswith("RankError: rank 1 of 2 failed (LossError: `loss` failed")
    assert waited < faults.LIMIT / 4
    assert same
    assert same_there


def test_memory_that_lacks_for_a_sum_is_told_before_anything_is_sent(two):
    first, second = (rank["fails_in_a_sum"]["before"] for rank in two)
    assert first["said"][0] == "RankMemoryError"
    assert second["said"][0] == "OutOfMemoryError"
    assert first["again"] == first["before"] == second["again"]


def test_memory_that_runs_out_within_a_sum_is_told_to_those_who_wait_in_it(two):
    first, second = (rank["fails_in_a_sum"]["within"] for rank in two)
    assert first["said"][0] == "RankMemoryError"
    assert first["said"][1].startswith("rank 1 of 2 failed (OutOfMemoryError")
    assert second["said"][0] == "OutOfMemoryError"
    assert first["seconds"] < faults.LIMIT / 4
    # Nothing that is sent over this group would be what the others wait for.
    for rank in (first, second):
        assert rank["again"][0] == "RankMemoryError"
        assert "rank 1 of 2 failed" in rank["again"][1]


def test_a_process_that_dies_in_a_pass_is_missed_by_those_who_wait_in_it(tmp_path):
    first, second = processes.run([faults.killed_in_a_pass], 2, tmp_path)
    told, waited = first["killed_in_a_pass"]
    assert second == {}
    assert told.startswith("RankError: a process of the group ended")
    assert "rank 1 no longer runs" in told
    assert waited < processes.PATIENCE / 2


@pytest.mark.parametrize("kind", ["product", "basis"])
@pytest.mark.parametrize("name", ["trace", "norm", "spectrum"])
def test_curvature_goes_on_in_a_smaller_basis_on_all(two, name, kind):
    first, second = (rank["curvature_without_memory"][name][kind] for rank in two)
    assert first == second
    found = first
    assert "memory ran out" in found[-1]
    whole = two[0]["curvature_without_memory"][name]["whole"]
    if name == "spectrum":
        bounds = np.array(found[1]) + np.array(whole[1])
        assert (np.abs(np.array(found[0]) - np.array(whole[0])) <= bounds).all()
    else:
        assert abs(found[0] - whole[0]) <= 5 * found[1] + 0.1 * abs(whole[0])


@pytest.mark.parametrize("name", ["trace", "norm", "spectrum"])
def test_curvature_that_lacks_memory_twice_is_a_named_error_on_all(two, name):
    (told, _, of_memory), (own, *_) = (
        rank["curvature_without_memory"][name]["twice"] for rank in two
    )
    assert (told, own, of_memory) == ("RankMemoryError", "OutOfMemoryError", True)
