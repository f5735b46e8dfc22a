"""`lossatlas inits` as a user types it: five stages, two halves, a ranking, bad input."""

import csv
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_survey_command import call

from lossatlas import io
from lossatlas.inits.problem import load_problem
from lossatlas.inits.settings import InitsSettings
from lossatlas.io import Ledger

SCRIPTS = Path(__file__).parents[2] / "scripts"
SMALL = (
    "--model", "mlp(4)", "--examples", "100", "--quiet", "--set", "probe=20",
    "--set", "generate.samples=60", "--set", "surrogate.kinds=['subspace']",
    "--set", "surrogate.anchors=1", "--set", "surrogate.points=8",
    "--set", "label.samples=24", "--set", "label.budgets=[1,2]",
    "--set", "label.orders=2", "--set", "label.schemes=['normal','orthogonal']",
    "--set", "quality.regressors=[]", "--set", "quality.folds=2", "--set", "quality.planes=1",
    "--set", "quality.points=3", "--set", "quality.radii=[0.5]",
    "--set", "quality.scattered=20", "--set", "quality.resamples=10",
)  # fmt: skip


# What a ranking takes of them: subject and trainings.
RANKED = (
    *SMALL[:7],
    *(f"--set={setting}" for setting in SMALL if setting.startswith("label.")),
)


def inits(monkeypatch, capsys, *arguments):
    return call(monkeypatch, capsys, "inits", *arguments)


def values(found):
    return {name: entry["value"] for name, entry in found["estimates"].items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("inits")


def test_stages_one_by_one_remember_what_they_were_told(monkeypatch, capsys, folder):
    where = ("--out", folder)
    code, text, error = inits(monkeypatch, capsys, "generate", *where, *SMALL, "--json")
    assert code == 0, error
    found = json.loads(text)
    assert found["fresh"]
    assert (values(found)["samples"], values(found)["losses_not_finite"]) == (60, 0)
    # The settings are those that the folder remembers.
    code, text, error = inits(monkeypatch, capsys, "fit-surrogate", *where, "--json")
    assert code == 0, error
    found = json.loads(text)
    # A predictor of one initialization says nothing of the others.
    assert "subspace_pooled" not in values(found)
    assert values(found)["cost_true_losses"] > 0
    code, text, error = inits(monkeypatch, capsys, "label", *where)
    assert code == 0, error
    assert "24 candidates were trained in 96 runs; 0 diverged." in " ".join(text.split())
    assert "labels.nc" in text.replace("\n", "")


def test_the_second_half_scores_and_draws(monkeypatch, capsys, folder):
    monkeypatch.setattr("lossatlas.inits.figures.draw", lambda *a, **k: [folder / "x"])
    code, text, error = inits(
        monkeypatch, capsys, "run", "--stage", 2, "--out", folder, *SMALL, "--json"
    )
    assert code == 0, error
    found = json.loads(text)
    assert list(found) == ["label", "fit-quality", "figures", "files", "settings"]
    scored = found["fit-quality"]["estimates"]
    assert {"pooled_topology", "leave_scheme_out_topology"} <= set(scored)
    assert len(scored["pooled_topology"]["interval"]) == 2
    code, text, error = inits(monkeypatch, capsys, "fit-quality", "--out", folder)
    assert code == 0
    assert "is done already" in error
    assert "pooled: scheme + scale" in text


def test_a_ranking_says_how_far_to_trust_it(monkeypatch, capsys, tmp_path):
    code, text, error = inits(
        monkeypatch, capsys, "rank", "--candidates", 12, "--out", tmp_path, *RANKED, "--json"
    )
    assert code == 0, error
    found = json.loads(text)
    assert len(found["ranking"]) == 12
    assert all(len(row["interval"]) == 2 for row in found["ranking"])
    # Eight for the calibration; finalists of the halving may be others.
    assert 8 <= sum(row["measured"] for row in found["ranking"]) < 12
    name = "rank_correlation_of_short_and_long_training"
    low, high = found["estimates"][name]["interval"]
    assert -1 <= low <= values(found)[name] <= high <= 1
    assert len(found["sentences"]) == 6
    assert "test examples of digits" in found["sentences"][-1]


def test_a_ranking_of_eight_is_measured_and_leaves_files(monkeypatch, capsys, tmp_path):
    call_ = ("rank", "--candidates", 8, "--weights", 3, "--out", tmp_path, *RANKED)
    code, text, error = inits(monkeypatch, capsys, *call_, "--json")
    assert code == 0, error
    found = json.loads(text)
    assert "rank_correlation_of_short_and_long_training" not in values(found)
    assert found["sentences"][0] == "All candidates were trained; the order is measured."
    losses = [row["expected_loss"] for row in found["ranking"]]
    assert losses == sorted(losses)
    written = {"best", "candidate-2", "candidate-3"}
    assert set(found["files"]) == {"ranking", "table", "report"} | written
    assert "hold for one order of the data" in " ".join(found["sentences"])
    with Path(found["files"]["table"]).open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [float(row["loss_expected"]) for row in rows] == losses
    assert {row["trained"] for row in rows} == {"True"}
    ranking = io.load(found["files"]["ranking"])
    assert ranking.expected.tolist() == losses
    best = ranking.candidates[0]
    problem = load_problem(InitsSettings(model="mlp(4)", examples=100, probe=20, out=tmp_path))
    drawn = problem.initializer.draw(best)
    stored = load_file(found["files"]["best"])
    assert stored.keys() == problem.model.state_dict().keys()
    assert all(torch.equal(stored[name], drawn[name]) for name in drawn)
    for k, name in enumerate(("best", "candidate-2", "candidate-3")):
        stored = load_file(found["files"][name])
        again = problem.weights(ranking.candidates[k])
        assert stored.keys() == again.keys()
        assert all(torch.equal(stored[key], again[key]) for key in stored)
    code, text, _ = inits(monkeypatch, capsys, *call_)
    assert code == 0
    assert "8 of 8 candidates are shown; ranking.csv holds all." in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit-surrogate",), "make it first: lossatlas inits generate --out"),
        (("fit-quality",), "make it first: lossatlas inits label --out"),
        (("figures",), "make it first: lossatlas inits label --out"),
        (("generate", "--set", "generate.schemes={'xavier_normel': 1}"), "xavier_normal"),
        (("label", "--set", "label.schemes=['lsuw']"), "did you mean 'lsuv'"),
        (("label", "--set", "label.budgets=[2,1]"), "growing numbers of epochs"),
        (("label", "--set", "label.lr=1e30"), "diverged; lower the learning rate"),
        (("generate", "--n-samples", 3), "generate.samples"),
        (("generate", "--device", "nope"), "`device`: 'nope' cannot be used"),
        (("generate", "--device", "cuda:99"), "available: 'cpu'"),
        (("generate", "--set", "generate.scales=[nan,1]"), "generate.scales"),
        (("generate", "--set", "generate.noise=.inf"), "generate.noise"),
        (("label", "--set", "label.scales=[2,1]"), "goes up from 0 or more"),
        (("generate", "--executor", "slurm"), "executor"),
        (("run", "--stage", 3), "`stage` must be one of '1', '2'; got '3'"),
        (("rank", "--candidates", 2), "`candidates` must be a whole number >= 8"),
        (("rank", "--set", "label.lr=1e30"), "trainings diverged"),
    ],
    ids=str,
)
def test_bad_input_is_one_sentence(monkeypatch, capsys, tmp_path, arguments, message):
    first, *rest = arguments
    code, text, error = inits(
        monkeypatch, capsys, first, "--out", tmp_path,
        *(RANKED if first == "rank" else SMALL), *rest, "--json",
    )  # fmt: skip
    assert code == 2
    assert text == ""
    assert message in error
    assert "Traceback" not in error


def test_files_of_other_settings_are_refused(monkeypatch, capsys, tmp_path):
    call_ = ("label", "--out", tmp_path, *SMALL, "--set", "label.samples=2")
    code, _, error = inits(monkeypatch, capsys, *call_)
    assert code == 0, error
    code, _, error = inits(monkeypatch, capsys, "label", "--n-samples", 3, "--out", tmp_path)
    assert code == 2
    assert "label.samples is 2 there, 3 here" in error


def test_the_remedy_for_trainings_that_diverged_leads_on(monkeypatch, capsys, tmp_path):
    call_ = ("label", "--out", tmp_path, *SMALL, "--set", "label.samples=2")
    code, _, error = inits(monkeypatch, capsys, *call_, "--set", "label.lr=1e30")
    assert code == 2
    assert "lower the learning rate" in error
    code, _, error = inits(monkeypatch, capsys, *call_, "--set", "label.lr=0.05")
    assert code == 0, error


def test_unfinished_work_of_other_settings_says_what_to_do(monkeypatch, capsys, tmp_path):
    with Ledger(tmp_path / "label.resume", {"study": "another"}):
        pass
    code, _, error = inits(monkeypatch, capsys, "label", "--out", tmp_path, *SMALL)
    assert code == 2
    assert "name another --out, or remove that file" in error


def test_stages_on_other_examples_are_not_mixed(monkeypatch, capsys, tmp_path):
    def write(seed):
        draw = np.random.default_rng(seed)
        inputs, targets = draw.normal(size=(100, 6)).astype("f4"), np.arange(100) % 3
        np.savez(tmp_path / "d.npz", x=inputs, y=targets)

    where = ("--out", tmp_path / "study", *SMALL, "--data", f"npz:{tmp_path / 'd.npz'}")
    write(0)
    code, _, error = inits(monkeypatch, capsys, "generate", *where)
    assert code == 0, error
    write(1)
    for stage in ("generate", "fit-surrogate"):
        code, _, error = inits(monkeypatch, capsys, stage, *where)
        assert code == 2
        assert "pairs.nc' was made from other examples" in error


@pytest.mark.parametrize(
    ("script", "given", "command"),
    [
        ("01_generate_init_data", "--n_samples", ["generate", "--n-samples"]),
        ("02_train_loss_predictor", "--epochs", ["fit-surrogate", "--epochs"]),
        ("03_generate_quality_data", "--n_samples", ["label", "--n-samples"]),
        ("04_train_quality_predictor", "--epochs", ["fit-quality", "--epochs"]),
        ("05_generate_figures", "--format", ["figures", "--format"]),
    ],
)
def test_published_flags_open_the_same_doors(monkeypatch, script, given, command):
    seen = []
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setattr("lossatlas.cli.app.main", lambda: seen.append(sys.argv))
    sys.modules.pop("door", None)
    monkeypatch.setattr(sys, "argv", [script, given, "png", "--out", "x"])
    runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
    sys.modules.pop("door", None)
    assert [argv[1:] for argv in seen] == [["inits", *command, "png", "--out", "x"]]


def test_a_ranking_shows_and_takes_the_settings_of_its_trainings_only(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    _, text, _ = call(monkeypatch, capsys, "inits", "rank", "--help")
    assert "label.lr" in text
    assert "generate.samples" not in text
    code, _, error = call(
        monkeypatch, capsys, "inits", "rank", "--set", "quality.points=3", "--out", "run"
    )
    assert (code, "no effect on this command" in error) == (2, True)
    assert not (tmp_path / "run").exists()
