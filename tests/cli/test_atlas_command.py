"""`lossatlas atlas`, and `survey --along` that makes what it shows."""

import json

import pytest
import safetensors.torch
import torch

import lossatlas as la
from cli.test_survey_command import call
from lossatlas.cli.shared_options import in_order
from lossatlas.report.page import page_of
from lossatlas.training import build_model
from lossatlas.training.datasets import load_dataset
from report.sample_comparisons import valleys
from report.test_atlas import head, training

pytestmark = pytest.mark.usefixtures("short_films")
DATA = ["--examples", "100", "--model", "mlp(4)", "--quiet", "--json"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Three checkpoints of a model that goes straight on, then turns."""
    folder = tmp_path_factory.mktemp("run")
    model = build_model("mlp(4)", load_dataset("digits", examples=100), seed=0)
    generator = torch.Generator().manual_seed(1)
    state, files = model.state_dict(), []
    for step in (5, 10, 200):
        moved = {n: 0.1 * torch.randn(v.shape, generator=generator) for n, v in state.items()}
        state = {name: value + moved[name] for name, value in state.items()}
        files.append(folder / f"step-{step}.safetensors")
        safetensors.torch.save_file(state, files[-1])
    return files


def test_an_atlas_of_folders_with_a_film(tmp_path, monkeypatch, capsys):
    for k, survey in enumerate(training()[:2]):
        survey.save(tmp_path / "run" / f"{k}.nc")
    valleys().save(tmp_path / "comparison.nc")
    out, film = tmp_path / "atlas.html", tmp_path / "film.gif"
    code, printed, _ = call(
        monkeypatch, capsys, "atlas", tmp_path / "run", tmp_path / "comparison.nc",
        "--title", "Wells", "--out", out, "--film", film, "--json",
    )  # fmt: skip
    assert code == 0
    found = json.loads(printed)
    assert found["runs"] == {"run": [0, 100]}
    assert found["other_results"] == 1
    assert found["files"] == {"atlas": str(out), "film": str(film)}
    assert "Two checkpoints" in out.read_text(encoding="utf-8")
    assert film.read_bytes()[:4] == b"GIF8"
    assert call(monkeypatch, capsys, "atlas")[0] == 2


def test_runs_are_called_by_their_trainings(tmp_path, monkeypatch, capsys):
    survey = training()[0]
    for name in ("sgd", "adam"):
        survey.save(tmp_path / name / "surveys" / "0.nc")
    valleys().save(tmp_path / "comparison.nc")
    files = [tmp_path / name / "surveys" for name in ("sgd", "adam")]
    code, printed, _ = call(
        monkeypatch, capsys, "atlas", *files, tmp_path / "comparison.nc", "--out",
        tmp_path / "two.html",
    )  # fmt: skip
    assert code == 0
    assert "2 surveys, 1 other result" in " ".join(printed.split())
    page = (tmp_path / "two.html").read_text(encoding="utf-8")
    assert [run["name"] for run in head(page)["runs"]] == ["sgd", "adam"]
    assert page.index("All surveys</h2>") < page.index("Numbers of the other results</h2>")


def test_a_survey_along_a_training_goes_on_where_it_stopped(
    checkpoints, tmp_path, monkeypatch, capsys
):
    arguments = ["survey", "--along", *checkpoints, *DATA, "--points", "5", "--out", tmp_path]
    code, printed, error = call(monkeypatch, capsys, *arguments)
    assert code == 0, error
    found = json.loads(printed)
    assert [row["step"] for row in found["surveys"]] == [5, 10, 200]
    page = (tmp_path / "atlas.html").read_text(encoding="utf-8")
    (run,) = head(page)["runs"]
    assert (run["steps"], run["one_grid"]) == ([5, 10, 200], True)
    frames = head(page)["frames"]
    assert [frame["place"] for frame in frames] == [0, 1, 2]
    last = tmp_path / "surveys" / "00000200.nc"
    kept = la.load(tmp_path / "surveys" / "00000010.nc")
    last.unlink()
    stamp = (tmp_path / "surveys" / "00000010.nc").stat().st_mtime_ns
    code, printed, _ = call(monkeypatch, capsys, *arguments, "--resume")
    assert json.loads(printed)["surveys"] == found["surveys"]
    assert (tmp_path / "surveys" / "00000010.nc").stat().st_mtime_ns == stamp
    assert last.is_file()
    # The map of a checkpoint holds its own loss where it lies.
    assert kept.provenance.settings["step"] == 10
    assert call(monkeypatch, capsys, "survey", "--along", checkpoints[0], *DATA)[0] == 2
    code, _, error = call(monkeypatch, capsys, *arguments)
    assert (code, "--fresh replaces all" in error) == (2, True)
    code, _, error = call(monkeypatch, capsys, *arguments, "--plane", "eigen")
    assert (code, "`plane` has no effect along a training" in error) == (2, True)


def test_a_survey_along_a_training_that_was_stopped_says_what_continues_it(
    checkpoints, tmp_path, monkeypatch, capsys
):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lossatlas.cli.along.write_atlas", stop)
    arguments = ["survey", "--along", *checkpoints, *DATA, "--points", "3", "--out", tmp_path]
    code, _, error = call(monkeypatch, capsys, *arguments)
    assert (code, "the same command with --resume continues" in error) == (130, True)


def test_a_foreign_page_is_not_replaced_unasked(checkpoints, tmp_path, monkeypatch, capsys):
    (tmp_path / "atlas.html").write_text("mine")
    arguments = ["survey", "--along", *checkpoints, *DATA, "--points", "5", "--out", tmp_path]
    code, _, error = call(monkeypatch, capsys, *arguments)
    assert (code, "atlas.html' would be overwritten" in error) == (2, True)
    training()[0].save(tmp_path / "run" / "0.nc")
    for extra in ([], ["--film", tmp_path / "atlas.html"]):
        code, _, error = call(
            monkeypatch,
            capsys,
            "atlas",
            tmp_path / "run",
            "--out",
            tmp_path / "atlas.html",
            *extra,
        )
        assert (code, "would be overwritten" in error) == (2, True)
    assert (tmp_path / "atlas.html").read_text() == "mine"


def test_checkpoints_are_taken_by_the_numbers_in_their_names(tmp_path):
    first, second, last = (tmp_path / name for name in ("a-1.pt", "a-2.pt", "b-10.pt"))
    # As a shell lists them, and as a person does.
    for given in ((first, last, second), (first, second, last)):
        assert in_order(given) == ((first, second, last), [1, 2, 10])
    for odd in (tmp_path / "last.pt", tmp_path / "other-1.pt"):
        assert in_order((last, odd, first)) == ((last, odd, first), [0, 1, 2])


def test_an_untrained_model_and_figures_of_its_survey(tmp_path, monkeypatch, capsys):
    arguments = ["survey", *DATA, "--points", "5", "--out", tmp_path, "--figures", "svg,pdf"]
    arguments += ["--film", tmp_path / "turn.gif"]
    code, printed, error = call(monkeypatch, capsys, *arguments)
    assert code == 0, error
    alerts = page_of(la.load(tmp_path / "survey.nc")).alerts
    assert "untrained" in alerts[0]
    assert len(list((tmp_path / "figures").glob("*.svg"))) >= 5
    assert json.loads(printed)["files"]["figures"] == str(tmp_path / "figures")
    assert (tmp_path / "turn.gif").read_bytes()[:4] == b"GIF8"
    # The same run in a terminal begins as its page does, and says it once.
    plain = [part for part in arguments if part not in ("--json", "--quiet")]
    code, printed, error = call(monkeypatch, capsys, *plain)
    assert code == 0, error
    assert printed.startswith("\n".join(alerts) + "\n")
    assert printed.count(alerts[0]) == 1
