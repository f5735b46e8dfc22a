from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch
from torch import nn

from executor.workers import PIECES, dying
from lossatlas.errors import (
    ArgumentError,
    MissingDependencyError,
    UnknownNameError,
    WorkerError,
)
from lossatlas.executor import Joblib, executors, get_executor
from lossatlas.executor.executors import PATIENCE, with_leases
from lossatlas.executor.parcel import pack, packed_size
from lossatlas.executor.worker_memory import worker_bytes


class Gone(Exception):
    pass


def test_pieces_of_the_dead_are_put_back_and_nothing_is_done_twice():
    begun = []

    def attempt(pieces):
        for piece in pieces:
            begun.append(int(piece[0, 0]))
            if begun.count(2) == 1 and piece[0, 0] == 2:
                raise Gone
            yield piece**2

    results = list(with_leases(attempt, iter(PIECES), (Gone,)))
    np.testing.assert_array_equal(np.concatenate(results)[:, 0], np.arange(6.0) ** 2)
    assert begun == [0, 1, 2, 2, 3, 4, 5]


def test_workers_that_die_again_and_again_are_a_named_error():
    attempts = []

    def attempt(pieces):
        attempts.append(next(pieces))
        raise Gone
        yield

    with pytest.raises(WorkerError, match=r"died 3 times .*serial"):
        list(with_leases(attempt, PIECES, (Gone,)))
    assert len(attempts) == PATIENCE


def test_other_errors_come_through():
    def attempt(pieces):
        raise ArgumentError("no")
        yield

    with pytest.raises(ArgumentError, match="no"):
        list(with_leases(attempt, PIECES, (Gone,)))


def test_a_killed_process_of_joblib_loses_nothing(tmp_path):
    results = list(Joblib(2).run(dying(tmp_path / "killed"), PIECES))
    assert (tmp_path / "killed").exists()
    np.testing.assert_array_equal(np.concatenate(results)[:, 0], np.arange(6.0) ** 2)


def test_one_process_of_joblib_is_this_one():
    def start():
        return lambda piece: piece + 1

    assert list(Joblib(1).run(start, [1, 2, 3])) == [2, 3, 4]


def test_memory_that_tensors_share_is_sent_once():
    model = torch.nn.Sequential(torch.nn.Linear(50, 50), torch.nn.BatchNorm1d(50))
    model[0].bias.requires_grad_(False)
    tied = model[0].weight
    views = {"a": tied.detach(), "b": tied.detach().T, "c": tied.detach()[3:, 1]}
    odd = [torch.zeros(0), torch.ones(2, 3).to_sparse(), torch.ones(3, dtype=torch.bfloat16)]
    whole = model, tied, views, odd, torch.ones(2).requires_grad_()
    parcel = pack(whole)
    assert len(parcel) < 1.5 * tied.nbytes
    again, same, seen, others, leaf = cloudpickle.loads(parcel)
    assert same is again[0].weight
    assert (same.requires_grad, again[0].bias.requires_grad) == (True, False)
    assert leaf.requires_grad
    assert isinstance(again[0].bias, torch.nn.Parameter)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    for name, view in views.items():
        assert torch.equal(seen[name], view)
        assert seen[name].untyped_storage().data_ptr() == same.untyped_storage().data_ptr()
    for found, value in zip(others, odd, strict=True):
        assert torch.equal(found.to_dense(), value.to_dense())
        assert found.dtype == value.dtype


def test_tensors_of_a_parcel_are_like_those_of_torch():
    sent = [torch.arange(n, dtype=kind) for n in (0, 3, 1001) for kind in (torch.int8, None)]
    for value, found in zip(sent, cloudpickle.loads(pack(sent)), strict=True):
        assert torch.equal(found, value)
        assert found.data_ptr() % 64 == 0
        found.add_(1)
        assert torch.equal(found, value + 1)
        grown = found.resize_(2 * len(value) + 5)
        assert torch.equal(grown[: len(value)], value + 1)
        value.resize_(2 * len(value) + 5)


def test_an_unknown_executor_is_named():
    with pytest.raises(UnknownNameError, match="did you mean 'joblib'"):
        get_executor("joblip")


def test_ray_that_is_missing_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"lossatlas\[ray\]"):
        get_executor("ray")


DATA = np.zeros(10**5)


def summed():
    return lambda piece: piece + DATA.sum()


def test_more_copies_than_the_memory_holds_are_refused_before_anything_runs(monkeypatch):
    each = worker_bytes(packed_size(summed), 0)
    monkeypatch.setattr(executors, "free_memory", lambda device: int(2.5 * each))
    with pytest.raises(ArgumentError, match=r"4 processes need .* use Joblib\(workers=2\)"):
        Joblib(4).run(summed, PIECES)
    monkeypatch.setattr(executors, "free_memory", lambda device: each // 2)
    for workers in (2, -1):
        monkeypatch.setattr("joblib.effective_n_jobs", lambda asked: 2)
        with pytest.raises(ArgumentError, match="use executor='serial'"):
            Joblib(workers).run(summed, PIECES)


@pytest.mark.parametrize("fitting", [2, 1])
def test_fewer_processes_than_cores_are_started_where_memory_lacks(
    monkeypatch, fitting, caplog
):
    each = worker_bytes(packed_size(summed), 0)
    monkeypatch.setattr("joblib.effective_n_jobs", lambda asked: 5)
    monkeypatch.setattr(executors, "free_memory", lambda device: int((fitting + 0.5) * each))
    executor = Joblib()
    plan = executor.plan(packed_size(summed))
    assert plan.count == fitting
    assert plan.each == (each if fitting > 1 else 0)
    np.testing.assert_array_equal(np.concatenate(list(executor.run(summed, PIECES))),
                                  np.concatenate(PIECES))  # fmt: skip
    assert executor.note.startswith("5 processes need")
    assert executor.note in caplog.text


def test_work_that_says_what_it_takes_is_counted(monkeypatch):
    class Work:
        memory = 10**9

        def __call__(self):
            return lambda piece: piece

    monkeypatch.setattr(executors, "free_memory", lambda device: 10**9)
    with pytest.raises(ArgumentError, match="2 processes need"):
        Joblib(2).run(Work(), PIECES)


def test_the_size_of_a_parcel_is_known_without_making_it():
    tied = torch.ones(300, 300)
    for value in ((tied, tied[3:], tied.T), np.ones(10**5), nn.Linear(9, 200), ["a"] * 10**4):
        assert packed_size(value) == pytest.approx(len(pack(value)), rel=0.01, abs=200)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_a_process_holds_what_is_counted():
    # Of its own when it works, which is less than when it starts.
    def start():
        held = torch.ones(2**23)

        def work(piece):
            lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
            kept = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}
            return kept["Private_Clean"] + kept["Private_Dirty"] + 0 * len(held)

        return work

    counted = worker_bytes(0, 2**25)
    for private in Joblib(2).run(start, [1, 2]):
        assert 0.3 * counted < private < 1.5 * counted
