import cloudpickle
import numpy as np
import pytest
import torch

from executor.workers import PIECES, dying
from lossatlas.errors import (
    ArgumentError,
    MissingDependencyError,
    UnknownNameError,
    WorkerError,
)
from lossatlas.executor import Joblib, executors, get_executor
from lossatlas.executor.executors import PATIENCE, with_leases
from lossatlas.executor.parcel import pack


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


def test_more_copies_than_the_memory_holds_are_refused_before_anything_runs(monkeypatch):
    data = np.zeros(10**5)

    def start():
        return lambda piece: piece * data.sum()

    monkeypatch.setattr(executors, "free_memory", lambda device: 5 * data.nbytes)
    with pytest.raises(ArgumentError, match=r"4 processes hold .* use Joblib\(workers=2\)"):
        Joblib(4).run(start, PIECES)
    monkeypatch.setattr(executors, "free_memory", lambda device: data.nbytes)
    with pytest.raises(ArgumentError, match="use executor='serial'"):
        Joblib(1).run(start, PIECES)
