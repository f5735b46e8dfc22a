"""`lossatlas train` as a user types it: one training, comparisons, stops, bad input."""

import json
import sys

import numpy as np
import pytest
import torch
from test_survey_command import call

import lossatlas as la
from lossatlas.cli.train import TrainingSettings, setup_of, split
from lossatlas.recipes import train as engine
from lossatlas.training import build_model, load_dataset
from lossatlas.training.checkpoints import load_weights

SMALL = ("--examples", "120", "--steps", "12", "--model", "mlp(6)", "--quiet")
TEN = ("--examples", "10")


def train(monkeypatch, capsys, *arguments):
    return call(monkeypatch, capsys, "train", *SMALL, *arguments)


def test_a_comparison_is_one_object_a_file_and_a_page(monkeypatch, capsys, tmp_path):
    recipes = "adamw,adamw+cosine,adamw+growth,adamw+sasp=0.01"
    arguments = ("--compare", recipes, "--seeds", 2, "--lr", "1e-3,1e-2", "--out", tmp_path)
    code, text, error = train(monkeypatch, capsys, *arguments, "--json", "--title", "<b>&")
    assert code == 0, error
    found = json.loads(text)
    assert [row["recipe"] for row in found["recipes"]] == recipes.split(",")
    assert (found["seeds"], found["steps"], found["rates"]) == (2, 12, [1e-3, 1e-2])
    other = found["recipes"][2]
    assert other["difference"]["pairs"] == other["untuned"]["pairs"] == 2
    assert other["difference"]["lower"] < other["difference"]["upper"]
    assert other["decisions"] == 4
    assert other["reasons"]["initial step"] == 1
    assert 0 < other["steering"] < 1
    assert len(other["overhead"]) == 3
    loaded = la.load(tmp_path / "trainings.nc")
    assert np.mean(loaded.tuned("adamw+growth", "test accuracy")) == other["score"]
    page = (tmp_path / "trainings.html").read_text()
    assert "&lt;b&gt;&amp;" in page
    assert "initial step" in page
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "training.json",
        "trainings.html",
        "trainings.nc",
    ]


def test_the_table_is_for_people(monkeypatch, capsys, tmp_path):
    arguments = ("--compare", "adamw,sgd", "--seeds", 2, "--out", tmp_path, "--lr", "0.1,0.01")
    code, text, _ = train(monkeypatch, capsys, *arguments)
    assert code == 0
    for word in ("adamw, ", "±", "points above adamw", "CPU time", "all rates", "report"):
        assert word in text


def test_one_training_leaves_weights_that_score_as_it_says(monkeypatch, capsys, tmp_path):
    arguments = ("--recipe", "adamw+regime+interval=4", "--out", tmp_path, "--lr", "0.01")
    code, text, error = train(monkeypatch, capsys, *arguments)
    assert code == 0, error
    for word in ("test accuracy", "over examples", "weights, raw", "average.safetensors"):
        assert word in text
    loaded = la.load(tmp_path / "trainings.nc")
    run = loaded.runs[0]
    settings = TrainingSettings(examples=120, model="mlp(6)")
    setup = setup_of(settings)
    for name, file in (("raw", "weights"), ("average", "average")):
        model = load_weights(
            build_model("mlp(6)", setup.train), tmp_path / f"{file}.safetensors"
        )
        right = (model.eval()(setup.test.inputs).argmax(1) == setup.test.targets).float()
        assert run.score(name, "test accuracy")[0] == pytest.approx(right.mean().item())


@pytest.mark.parametrize("task", ["regression", "language"])
def test_other_tasks_are_compared_by_their_loss(monkeypatch, capsys, tmp_path, task):
    if task == "regression":
        x = np.random.default_rng(0).normal(size=(80, 3)).astype("float32")
        np.savez(tmp_path / "d.npz", x=x, y=x.sum(1))
        data, model, extra = f"npz:{tmp_path}/d.npz", "mlp(4)", "sgd+sasp=0.01"
    else:
        (tmp_path / "t.txt").write_text("to be or not to be, that is the question. " * 30)
        data, model, extra = (
            f"text:{tmp_path}/t.txt#block=8",
            "chargpt(layers=1,width=8)",
            "sgd",
        )
    recipes = f"adamw,{extra}"
    code, text, error = call(
        monkeypatch,
        capsys,
        *("train", "--data", data, "--model", model, "--compare", recipes, "--seeds", 2),
        *("--steps", 5, "--json", "--quiet", "--out", tmp_path / "o"),
    )
    assert code == 0, error
    found = json.loads(text)
    assert found["measure"] == "test loss"
    assert found["recipes"][0]["score"] == found["recipes"][0]["loss"] > 0


def test_a_stopped_comparison_goes_on(monkeypatch, capsys, tmp_path):
    arguments = ("--compare", "adamw,sgd", "--seeds", 2, "--json")
    trained = engine.run_recipe
    done = []

    def stopping(*given, **named):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(given[1])
        return trained(*given, **named)

    monkeypatch.setattr(engine, "run_recipe", stopping)
    code, _, error = train(monkeypatch, capsys, *arguments, "--out", tmp_path / "a")
    assert code == 130
    assert "--resume" in error
    done.clear()
    code, text, _ = train(monkeypatch, capsys, *arguments, "--out", tmp_path / "a", "--resume")
    assert code == 0
    assert len(done) == 1
    done.clear()
    monkeypatch.setattr(engine, "run_recipe", trained)
    code, whole, _ = train(monkeypatch, capsys, *arguments, "--out", tmp_path / "b")
    scores = [[row["score"] for row in json.loads(t)["recipes"]] for t in (text, whole)]
    assert scores[0] == scores[1]


BAD = [
    (["--compare", "adamw,adamw+cosin"], "did you mean 'cosine'"),
    (["--compare", "adamw,adamw"], "got 'adamw' twice"),
    (["--compare", "adamw", "--recipe", "sgd"], "not both"),
    (["--recipe", "adamw+sasp"], "needs a number"),
    (["--recipe", "adamw+growth=2"], "takes no number"),
    (["--recipe", "adamw+sasp=-1"], "must give a number >= 0"),
    (["--lr", "fast"], "`lr.0`"),
    (["--lr", "0"], "`lr.0`"),
    (["--epochs", "2"], "not both"),
    (["--seeds", "0"], "`seeds`"),
    (["--jobs", "0"], "`jobs`"),
    (["--loss", "mse", "--recipe", "adamw+smoothing=0.1"], "needs class indices"),
    (["--loss", "huber", "--recipe", "adamw+sasp=0.1"], "needs one of the losses"),
    (["--loss", "mse", "--recipe", "adamw+noise=0.1"], "needs inputs that are numbers"),
    (["--data", "digit"], "did you mean 'digits'"),
    (["--model", "mpl"], "did you mean 'mlp'"),
    (["--test", "nowhere:x"], "there is no module 'nowhere'"),
    (["--device", "warp:9"], "cannot be used"),
    (["--device", "cuda:99"], "`device`: 'cuda:99' cannot be used"),
    (["--set", "validd=0.1"], "did you mean 'valid'"),
    (["--set", "train.steps=9"], "no setting 'train.steps' (did you mean 'steps'?)"),
    (["--set", "valid=0.9"], "`valid`"),
    (["--out", "/dev/null/x"], "/dev/null/x"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda a: str(a)[:40])
def test_bad_input_is_one_sentence_and_exit_code_2(
    monkeypatch, capsys, tmp_path, arguments, message
):
    monkeypatch.chdir(tmp_path)
    code, out, error = train(monkeypatch, capsys, *arguments)
    assert (code, out) == (2, "")
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.glob("**/*.nc"))


def test_test_data_must_be_of_the_same_kind(monkeypatch, capsys, tmp_path):
    np.savez(tmp_path / "t.npz", x=np.zeros((12, 3), "float32"), y=np.zeros(12, "int64"))
    code, _, error = train(monkeypatch, capsys, "--test", f"npz:{tmp_path}/t.npz")
    assert code == 2
    assert "must be data like 'digits'" in error
    data = load_dataset("digits", examples=30)
    np.savez(tmp_path / "u.npz", x=data.inputs.numpy(), y=data.targets.numpy())
    out = ("--out", tmp_path / "o")
    code, _, error = train(monkeypatch, capsys, "--test", f"npz:{tmp_path}/u.npz", *out)
    assert code == 0, error


def test_a_text_is_split_where_it_ends():
    blocks = torch.arange(20).view(20, 1)
    data = la.training.dataset.Dataset(blocks, blocks, "t", "language", vocabulary=("a",) * 20)
    train_, valid, test = split(TrainingSettings(), data)
    joined = torch.cat([train_.inputs, valid.inputs, test.inputs])
    assert joined.equal(blocks)
    assert len(test) == 4
    assert "lossatlas.cli.train" in sys.modules
