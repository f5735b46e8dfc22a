import os
import signal

import pytest

from lossatlas.studies.inits.generate import generate
from lossatlas.studies.inits.label import label
from lossatlas.studies.inits.problem import load_subject
from lossatlas.studies.inits.settings import InitsSettings
from lossatlas.studies.inits.surrogates import fit_surrogates, training

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
def test_a_killed_stage_goes_on_with_the_same_bits(tmp_path, stage):
    subject = load_subject(settings_in(tmp_path))
    lines = []

    def count(line):
        lines.append(line)
        if len(lines) == 2:
            die()

    killed(lambda: stage(settings_in(tmp_path / "a"), subject, progress=count))
    again, fresh = [], []
    found = stage(settings_in(tmp_path / "a"), subject, progress=again.append)
    whole = stage(settings_in(tmp_path / "b"), subject, progress=fresh.append)
    values = "losses" if stage is generate else "values"
    assert getattr(found, values).tobytes() == getattr(whole, values).tobytes()
    assert found.candidates == whole.candidates
    # What was finished before the kill was not done again.
    assert len(again) < len(fresh)


def test_a_surrogate_killed_in_the_middle_of_its_training_goes_on(tmp_path, monkeypatch):
    subject = load_subject(settings_in(tmp_path))
    pairs = generate(settings_in(tmp_path), subject)
    monkeypatch.setattr(training, "EVERY", 0.0)
    epochs = []

    def dying_error(*given):
        epochs.append(1)
        return die() if len(epochs) == 4 else error(*given)

    error = training._error
    with monkeypatch.context() as patch:
        patch.setattr(training, "_error", dying_error)
        killed(lambda: fit_surrogates(settings_in(tmp_path / "a"), subject, pairs))
    assert (tmp_path / "a" / "surrogate.flat.resume").exists()

    def counting_error(*given):
        epochs.append(1)
        return error(*given)

    monkeypatch.setattr(training, "_error", counting_error)
    found = fit_surrogates(settings_in(tmp_path / "a"), subject, pairs)
    # Three of six epochs were done; the other network has six of its own.
    assert len(epochs) == 3 + 6
    whole = fit_surrogates(settings_in(tmp_path / "b"), subject, pairs)
    assert found.predictions.tobytes() == whole.predictions.tobytes()
    assert found.near.tobytes() == whole.near.tobytes()
    assert found.history["flat"].tobytes() == whole.history["flat"].tobytes()
    assert not list((tmp_path / "a").glob("surrogate.*.resume"))
