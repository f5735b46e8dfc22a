import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from lossatlas.errors import (
    ArgumentError,
    MissingDependencyError,
    UnknownNameError,
    WorkerError,
)
from lossatlas.executor import Joblib, Ray, executors, get_executor
from lossatlas.executor.executors import PATIENCE, with_leases

PIECES = [np.full((1, 1), float(number)) for number in range(6)]


class Gone(Exception):
    pass


def dying(marker: Path, every_time=False):
    """Work whose process is killed at piece 3, the first time or always."""

    def start():
        def work(piece):
            if piece[0, 0] == 3 and (every_time or not marker.exists()):
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return piece**2

        return work

    return start


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


def test_an_unknown_executor_is_named():
    with pytest.raises(UnknownNameError, match="did you mean 'joblib'"):
        get_executor("joblip")


def test_ray_that_is_missing_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"lossatlas\[ray\]"):
        get_executor("ray")


@pytest.fixture(scope="module")
def ray():
    """A cluster of two processors; starting one may fail on a busy machine."""
    module = pytest.importorskip(
        "ray", reason="Ray is not installed: pip install lossatlas[ray]"
    )
    for attempt in range(3):
        try:
            module.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
            break
        except Exception as error:
            module.shutdown()
            if attempt == 2:
                pytest.skip(f"Ray does not start here: {error}")
            time.sleep(2)
    yield module
    module.shutdown()


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_bits_in_order(ray):
    def start():
        import torch

        return lambda piece: torch.full((1, 5), piece[0, 0]).exp().cumsum(1).double().numpy()

    there = np.concatenate(list(Ray().run(start, PIECES)))
    here = np.concatenate([start()(piece) for piece in PIECES])
    assert there.tobytes() == here.tobytes()


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_a_killed_worker_of_ray_loses_nothing(ray, tmp_path):
    results = list(Ray().run(dying(tmp_path / "killed"), PIECES))
    assert (tmp_path / "killed").exists()
    np.testing.assert_array_equal(np.concatenate(results)[:, 0], np.arange(6.0) ** 2)


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_named_errors_come_through_ray(ray):
    def start():
        def work(piece):
            raise ArgumentError("`piece` cannot be served.")

        return work

    with pytest.raises(ArgumentError, match="cannot be served"):
        list(Ray().run(start, PIECES))


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_the_work_is_sent_to_ray_once_for_many_calls(ray, tmp_path):
    def start():
        (tmp_path / f"{time.monotonic_ns()}").touch()
        return lambda piece: piece

    executor = Ray(workers=2)
    for _ in range(3):
        np.testing.assert_array_equal(
            np.concatenate(list(executor.run(start, PIECES))), np.concatenate(PIECES)
        )
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ArgumentError, match="`gpus`: 4 a worker are asked for"):
        list(Ray(gpus=4).run(start, PIECES))


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
