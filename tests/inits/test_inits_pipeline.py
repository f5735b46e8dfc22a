from dataclasses import replace

import pytest
import yaml

from lossatlas import io
from lossatlas.errors import FileError, UnknownNameError
from lossatlas.inits import evaluation, figures
from lossatlas.inits.paths import FILES, path_of
from lossatlas.inits.pipeline import REMEMBERED, run, run_stage
from lossatlas.inits.settings import STAGES, InitsSettings
from lossatlas.inits.surrogates import Surrogates

SMALL = {
    "model": "mlp(4)",
    "examples": 160,
    "probe": 32,
    "generate": {"samples": 40},
    "surrogate": {
        "kinds": ["statistics", "subspace"],
        "epochs": 2,
        "anchors": 2,
        "points": 8,
    },
    "label": {"samples": 18, "budgets": [1, 2], "orders": 2},
    "quality": {
        "planes": 1,
        "points": 5,
        "scattered": 30,
        "folds": 2,
        "resamples": 10,
        "epochs": 2,
    },
}


def settings_in(folder):
    return InitsSettings.model_validate({**SMALL, "out": folder})


@pytest.fixture
def few_models(monkeypatch):
    """Two models instead of seventy, and no pictures: others test those."""

    def few(features, how):
        names = features.group("topology")
        return {"mean / ridge": ((), "ridge"), "topology / ridge": (names, "ridge")}

    monkeypatch.setattr(evaluation, "make_models", few)
    monkeypatch.setattr(figures, "draw", lambda settings, **_: [settings.out / "a.png"])


def untimed(path):
    """Everything in a file but the measured seconds."""
    result = io.load(path)
    if isinstance(result, Surrogates):
        return replace(result, seconds=0 * result.seconds, true_seconds=0.0)
    return result


@pytest.mark.usefixtures("few_models")
def test_the_sum_of_the_stages_is_the_run(tmp_path):
    together, apart = settings_in(tmp_path / "run"), settings_in(tmp_path / "stages")
    done = run(together)
    assert [each.stage for each in done] == list(STAGES)
    for stage in STAGES:
        run_stage(apart, stage)
    for name in FILES:
        assert untimed(path_of(together, name)) == untimed(path_of(apart, name)), name
    # Nothing is left but what the stages are said to write.
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert written == {*FILES.values(), REMEMBERED}
    again = run(together, 1)
    assert [each.fresh for each in again] == [False, False]
    assert again[0].result.candidates == done[0].result.candidates


def test_a_stage_without_its_file_says_which_command_makes_it(tmp_path):
    settings = settings_in(tmp_path)
    for stage, maker in (("fit-surrogate", "generate"), ("fit-quality", "label")):
        with pytest.raises(FileError, match=f"make it first: lossatlas inits {maker} "):
            run_stage(settings, stage)


def test_files_of_other_settings_are_neither_used_nor_written_over(tmp_path):
    settings = settings_in(tmp_path)
    before = run_stage(settings, "generate").paths[0].read_bytes()
    other = settings.model_copy(update={"seed": 1})
    with pytest.raises(FileError, match="seed is 0 there, 1 here"):
        run_stage(other, "generate")
    with pytest.raises(FileError, match="seed is 0 there, 1 here"):
        run_stage(other, "fit-surrogate")
    assert path_of(settings, "generate").read_bytes() == before


def test_what_was_told_is_remembered(tmp_path):
    run_stage(settings_in(tmp_path), "generate")
    told = yaml.safe_load((tmp_path / REMEMBERED).read_text())
    assert InitsSettings(**told, out=tmp_path) == settings_in(tmp_path)
    assert "figures" not in told


def test_unknown_stages_and_parts(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'label'"):
        run_stage(settings_in(tmp_path), "lable")
    with pytest.raises(UnknownNameError, match="'1', '2'; got '3'"):
        run(settings_in(tmp_path), 3)
