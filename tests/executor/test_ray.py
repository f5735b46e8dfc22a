"""Ray, where it is installed and starts: same bits, and nothing lost when something dies."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import cases
import lossatlas as la
from executor.workers import PIECES, dying
from lossatlas.errors import ArgumentError, WorkerError
from lossatlas.executor import Ray
from lossatlas.executor.executors import PATIENCE

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]


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


def test_ray_gives_the_same_bits_in_order(ray):
    def start():
        import torch

        return lambda piece: torch.full((1, 5), piece[0, 0]).exp().cumsum(1).double().numpy()

    there = np.concatenate(list(Ray().run(start, PIECES)))
    here = np.concatenate([start()(piece) for piece in PIECES])
    assert there.tobytes() == here.tobytes()


def test_a_killed_worker_of_ray_loses_nothing(ray, tmp_path):
    results = list(Ray().run(dying(tmp_path / "killed"), PIECES))
    assert (tmp_path / "killed").exists()
    np.testing.assert_array_equal(np.concatenate(results)[:, 0], np.arange(6.0) ** 2)


def test_named_errors_come_through_ray(ray):
    def start():
        def work(piece):
            raise ArgumentError("`piece` cannot be served.")

        return work

    with pytest.raises(ArgumentError, match="cannot be served"):
        list(Ray().run(start, PIECES))


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


def test_a_worker_without_memory_costs_the_pieces_in_work(ray, monkeypatch):
    get, begun = ray.get, []

    def scarce(promise):
        begun.append(promise)
        if len(begun) == 2:
            raise ray.exceptions.OutOfMemoryError("node 1 ran low on memory")
        return get(promise)

    monkeypatch.setattr(ray, "get", scarce)
    results = list(Ray(2).run(lambda: lambda piece: piece**2, PIECES))
    np.testing.assert_array_equal(np.concatenate(results)[:, 0], np.arange(6.0) ** 2)


def test_workers_that_have_no_memory_again_and_again_are_a_named_error(ray, monkeypatch):
    attempts = []

    def scarce(promise):
        attempts.append(promise)
        raise ray.exceptions.OutOfMemoryError("node 1 ran low on memory")

    monkeypatch.setattr(ray, "get", scarce)
    with pytest.raises(WorkerError, match="OutOfMemoryError"):
        list(Ray(2).run(lambda: lambda piece: piece, PIECES))
    assert len(attempts) == PATIENCE


def test_the_work_is_sent_to_ray_with_shared_memory_once(ray, monkeypatch):
    shared = torch.arange(10_000.0)
    views, sent, put = [shared, shared[:5000], shared.view(100, 100)], [], ray.put

    def counted(value, **options):
        sent.append(len(value))
        return put(value, **options)

    monkeypatch.setattr(ray, "put", counted)
    total = float(sum(view.sum() for view in views))

    def start():
        return lambda piece: piece + float(sum(view.sum() for view in views))

    results = list(Ray(2).run(start, PIECES))
    np.testing.assert_array_equal(np.concatenate(results), np.concatenate(PIECES) + total)
    assert sum(sent) < 1.5 * shared.nbytes


def test_a_dead_worker_is_dealt_no_further_pieces(ray, tmp_path):
    pieces, taken = [np.full((1, 1), float(number)) for number in range(40)], []

    def start():
        def work(piece):
            # The first piece lasts until its neighbor's worker is long dead and replaced.
            give_up = time.monotonic() + 60
            dead = tmp_path / "dead"
            if piece[0, 0] == 1 and not dead.exists():
                dead.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            first = piece[0, 0] == 0 and not (tmp_path / "again").exists()
            while first and time.monotonic() < give_up:
                time.sleep(0.1)
            return piece

        return work

    def counted():
        for piece in pieces:
            taken.append(piece)
            if len(taken) > 10:
                (tmp_path / "again").touch()
            yield piece

    executor = Ray(2)
    finished, deaths = executor._finished, []

    def watched(working):
        try:
            return finished(working)
        except BaseException:
            deaths.append(len(taken))
            (tmp_path / "again").touch()
            raise

    executor._finished = watched
    results = list(executor.run(start, counted()))
    np.testing.assert_array_equal(np.concatenate(results), np.concatenate(pieces))
    assert deaths
    assert deaths[0] <= 6


def test_a_slow_worker_holds_up_none_of_the_others(ray, tmp_path):
    pieces = [np.full((1, 1), float(number)) for number in range(10)]

    def start():
        def work(piece):
            # The first piece, and one that waits behind it, last until others did the rest.
            give_up = time.monotonic() + 120
            while piece[0, 0] == 0 and len(list(tmp_path.iterdir())) < 8:
                if time.monotonic() > give_up:
                    return -piece - 1
                time.sleep(0.01)
            (tmp_path / f"{int(piece[0, 0])}").touch()
            return piece

        return work

    done = np.concatenate(list(Ray(2).run(start, pieces)))
    np.testing.assert_array_equal(done, np.concatenate(pieces))


def test_an_adaptive_map_is_sent_to_ray_once(ray, monkeypatch):
    objective = cases.make(cases.mlp).objective()
    plane = la.random_plane(objective, seed=0)
    sent, put = [], ray.put

    def counted(value, **options):
        sent.append(value)
        return put(value, **options)

    monkeypatch.setattr(ray, "put", counted)
    land = la.map_plane(objective, plane, points=25, adaptive=True, executor=Ray(2))
    here = la.map_plane(objective, plane, points=25, adaptive=True)
    assert len(sent) == 1
    assert land.values.tobytes() == here.values.tobytes()


DRIVER = """
import sys, time
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
import cases, lossatlas as la
from lossatlas.executor import Ray
objective = cases.make(cases.mlp).objective()
la.map_plane(
    objective, la.random_plane(objective, seed=0), points=25, engine="plain",
    resume={ledger!r}, executor=Ray(2), progress=lambda *how: time.sleep({pause}),
).save({out!r})
"""


def test_a_killed_driver_of_ray_goes_on_where_it_was(ray, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    ledger, out = tmp_path / "run.resume", tmp_path / "land.nc"
    tests = str(Path(cases.__file__).parent)
    names = {"tests": tests, "ledger": str(ledger), "out": str(out)}

    def driver(pause):
        return subprocess.Popen([sys.executable, "-c", DRIVER.format(pause=pause, **names)])

    killed = driver(0.2)
    give_up = time.monotonic() + 300
    while _chunks(ledger) < 3 and killed.poll() is None and time.monotonic() < give_up:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    before = _chunks(ledger)
    assert before >= 3
    assert driver(0).wait(timeout=300) == 0
    assert _chunks(ledger) > before
    objective = cases.make(cases.mlp).objective()
    plane = la.random_plane(objective, seed=0)
    here = la.map_plane(objective, plane, points=25, engine="plain")
    assert la.load(out).values.tobytes() == here.values.tobytes()


def _chunks(ledger):
    try:
        with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as base:
            return base.execute("SELECT COUNT(*) FROM object").fetchone()[0]
    except sqlite3.Error:
        return 0
