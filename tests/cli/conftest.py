import inspect

import pytest

from lossatlas.report.film import write_film


@pytest.fixture
def short_films(monkeypatch):
    """Films of two frames, however `write_film` was imported where it is called."""
    defaults = inspect.unwrap(write_film).__kwdefaults__
    for name, value in {"seconds": 0.5, "rate": 4, "width": 160}.items():
        monkeypatch.setitem(defaults, name, value)
