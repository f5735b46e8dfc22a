"""What holds for tests and for the examples of docstrings."""

import os

# Threads of workers and of the processes they start would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import random
import tempfile
from collections.abc import Iterator
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch


def _seed(name: str) -> None:
    random.seed(crc32(name.encode()))
    np.random.seed(crc32(name.encode()))  # noqa: NPY002 - what others' code draws from
    torch.manual_seed(crc32(name.encode()))


# A test draws the same numbers alone, in any order and on any worker: its own name is the seed,
# and that of a fixture is its own too, since which test sets it up depends on the workers.
_seed("import")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Draw from the name of the test."""
    _seed(item.nodeid)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: Any) -> None:
    """Draw from the name of the fixture."""
    _seed(f"{fixturedef.baseid}::{fixturedef.argname}")


@pytest.fixture(autouse=True, scope="session")
def _temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove what examples and hostile calls write when the run ends."""
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("files"))
    yield
    tempfile.tempdir = before
