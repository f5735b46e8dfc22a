import pytest


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    # A table folds what is wider than the terminal, and paths of temporary folders are long.
    monkeypatch.setenv("COLUMNS", "400")
