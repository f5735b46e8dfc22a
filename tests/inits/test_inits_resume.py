import os
import signal

import pytest

from lossatlas.inits import predictors
from lossatlas.inits.labels import label
from lossatlas.inits.problem import load_problem
from lossatlas.inits.samples import generate
from lossatlas.inits.settings import InitsSettings
from lossatlas.inits.surrogates import fit_surrogates

SMALL = {
    "model": "mlp(6)",
    "examples": 200,
    "probe": 64,
    "generate": {"samples": 120, "chunk": 30},
    "label": {"samples": 6, "budgets": [1, 2], "orders": 2, "together": 4},
    "surrogate": {"epochs": 6, "widths": [16, 8], "batch_size": 32, "anchors": 2, "points": 8},
}


def settings_in(folder):
    return InitsSettings.model_validate({**SMALL, "out": folder})


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def killed(job):
    """Run a job in a process of its own, which must die by SIGKILL."""
    child = os.fork()
    if not child:
        try:
            job()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize("stage", [generate, label])
def test_a_killed_stage_goes_on_with_the_same_bits(tmp_path, stage, pieces_run):
    problem = load_problem(settings_in(tmp_path))
    lines = []

    def count(*told):
        lines.append(told)
        if len(lines) == 2:
            die()

    killed(lambda: stage(settings_in(tmp_path / "a"), problem, progress=count))
    found = stage(settings_in(tmp_path / "a"), problem)
    again = len(pieces_run)
    whole = stage(settings_in(tmp_path / "b"), problem)
    values = "losses" if stage is generate else "values"
    assert getattr(found, values).tobytes() == getattr(whole, values).tobytes()
    assert found.candidates == whole.candidates
    # What was finished before the kill was not done again.
    assert again < len(pieces_run) - again


def test_a_surrogate_killed_in_the_middle_of_its_training_goes_on(tmp_path, monkeypatch):
    problem = load_problem(settings_in(tmp_path))
    pairs = generate(settings_in(tmp_path), problem)
    monkeypatch.setattr(predictors, "EVERY", 0.0)
    epochs = []

    def dying_error(*given):
        epochs.append(1)
        return die() if len(epochs) == 4 else error(*given)

    error = predictors._error
    with monkeypatch.context() as patch:
        patch.setattr(predictors, "_error", dying_error)
        killed(lambda: fit_surrogates(settings_in(tmp_path / "a"), problem, pairs))
    assert (tmp_path / "a" / "surrogate.flat.resume").exists()

    def counting_error(*given):
        epochs.append(1)
        return error(*given)

    monkeypatch.setattr(predictors, "_error", counting_error)
    found = fit_surrogates(settings_in(tmp_path / "a"), problem, pairs)
    # Three of six epochs were done; the other network has six of its own.
    assert len(epochs) == 3 + 6
    whole = fit_surrogates(settings_in(tmp_path / "b"), problem, pairs)
    assert found.predictions.tobytes() == whole.predictions.tobytes()
    assert found.near.tobytes() == whole.near.tobytes()
    assert found.history["flat"].tobytes() == whole.history["flat"].tobytes()
    assert not list((tmp_path / "a").glob("surrogate.*.resume"))
