import inspect
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# A table folds what is wider than the terminal, and paths of temporary folders are long.
os.environ["COLUMNS"] = "400"

import pytest
import torch
from hypothesis import HealthCheck, settings

# How long it takes to draw says more about the machine than about a test.
_SLOW = [HealthCheck.too_slow]
settings.register_profile("fast", deadline=None, max_examples=25, suppress_health_check=_SLOW)
settings.register_profile(
    "nightly", deadline=None, max_examples=500, suppress_health_check=_SLOW
)
settings.load_profile(os.environ.get("LOSSATLAS_HYPOTHESIS", "fast"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def pieces_run(monkeypatch):
    """The pieces of work that the serial executor runs, in order."""
    from lossatlas.executor import Serial

    pieces, run = [], Serial.run

    def counting(self, start, given):
        def noted():
            for piece in given:
                pieces.append(piece)
                yield piece

        return run(self, start, noted())

    monkeypatch.setattr(Serial, "run", counting)
    return pieces


@pytest.fixture
def short_films(monkeypatch):
    """Films of two frames, however `write_film` was imported where it is called."""
    from lossatlas.report.film import write_film

    defaults = inspect.unwrap(write_film).__kwdefaults__
    for name, value in {"seconds": 0.5, "rate": 4, "width": 160}.items():
        monkeypatch.setitem(defaults, name, value)
