"""What holds for tests and for the examples of docstrings."""

import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove what examples and hostile calls write when the run ends."""
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("files"))
    yield
    tempfile.tempdir = before
