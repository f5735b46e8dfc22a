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
    assert "Memory ran out once; from then on" in " ".join(notes)
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


def test_a_sharded_map_without_memory_is_a_named_error_on_all(two):
    first, second = (rank["maps_without_memory"]["sharded"] for rank in two)
    assert first.startswith("RankError: a process of the group is gone")
    assert second.startswith("RankError: memory ran out on a process of a sharded model")


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
