"""`lossatlas survey --objective FILE.py:make`: batches, losses and models of any kind."""

import json

import pytest
import torch
from safetensors.torch import save_file

import lossatlas as la
from cli.test_survey_command import call

MINE = """
import torch
from torch import nn
import lossatlas as la

torch.manual_seed(0)


class Flow(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.eye(2)), nn.Parameter(torch.ones(2))

    def forward(self, batch):
        z = (batch["x"] - self.shift) @ self.scale
        return 0.5 * (z**2).sum(1) - torch.linalg.slogdet(self.scale)[1]


def loss(model, batch):
    return model(batch)


def dicts():
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    return la.Objective(Flow(), loss, [{"x": x}])


def classes():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 4, generator=draw), torch.randint(0, 3, (40,), generator=draw)
    model = nn.Linear(4, 3)
    nn.init.ones_(model.weight)
    return la.Objective(model, la.supervised(nn.functional.cross_entropy), [(x, y)])


def fails():
    return {}["missing"]


def argument(data):
    return data


def other():
    return nn.Linear(1, 1)


def stream():
    while True:
        yield torch.ones(4, 2), torch.zeros(4).long()


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        return stream()


def endless():
    return la.Objective(
        nn.Linear(2, 2),
        la.supervised(nn.functional.cross_entropy),
        torch.utils.data.DataLoader(Endless(), batch_size=None),
    )
"""
QUICK = ["--points", "5", "--span", "0.5", "--out", "o"]


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def surveyed(monkeypatch, capsys, *arguments):
    code, out, error = call(monkeypatch, capsys, "survey", *QUICK, "--json", *arguments)
    assert code == 0, error
    return json.loads(out), error


def test_dict_batches_and_an_own_loss_without_accuracy(monkeypatch, capsys):
    found, error = surveyed(monkeypatch, capsys, "--objective", "mine.py:dicts")
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    loss = found["estimates"]["loss_at_the_weights"]["value"]
    assert loss == pytest.approx(0.5 * ((x - 1) ** 2).sum(1).mean().item(), rel=1e-5)
    assert not any("accuracy" in name for name in found["estimates"])
    assert "accuracy is left out: " in error
    assert found["title"] == "mine.py:dicts"
    assert found["settings"]["objective"] == "mine.py:dicts"
    assert la.load("o/survey.nc").title == "mine.py:dicts"


def test_accuracy_stays_where_it_fits_and_weights_are_loaded(monkeypatch, capsys):
    save_file(
        {"weight": torch.ones(3, 4), "bias": torch.tensor([0.0, 9.0, 0.0])}, "w.safetensors"
    )
    found, error = surveyed(
        monkeypatch, capsys, "w.safetensors", "--objective", "mine.py:classes"
    )
    draw = torch.Generator().manual_seed(0)
    torch.randn(40, 4, generator=draw)
    share = (torch.randint(0, 3, (40,), generator=draw) == 1).float().mean().item()
    assert found["estimates"]["accuracy_at_the_weights"]["value"] == pytest.approx(share)
    assert "left out" not in error


def test_two_checkpoints_are_compared(monkeypatch, capsys):
    for name, value in (("a", 0.5), ("b", 1.5)):
        save_file(
            {"scale": torch.eye(2), "shift": torch.full((2,), value)}, f"{name}.safetensors"
        )
    files = "a.safetensors", "b.safetensors"
    found, _ = surveyed(monkeypatch, capsys, *files, "--objective", "mine.py:dicts")
    assert found["title"] == "mine.py:dicts, two checkpoints"
    assert found["estimates"]["barrier"]["value"] == 0
    assert found["first"]["loss"] < found["second"]["loss"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine.py:fails"], "'mine.py:fails' failed (KeyError: 'missing' in mine.py, line"),
        (["mine.py:argument"], "missing 1 required positional argument: 'data'"),
        (["mine.py:other"], "must return a lossatlas.Objective; got Linear"),
        (["mine.py:endless"], "did not end after 1,000 batches"),
        (["mine.py:nothing"], "has no 'nothing'"),
        (["nowhere.py:make"], "there is no file 'nowhere.py'"),
        (["mine"], "must look like 'package.module:name'"),
        (["mine.py:dicts", "--model", "mlp(4)"], "`model` and `objective` say the same thing"),
        (["mine.py:dicts", "--mode", "train"], "`mode` and `objective` say the same thing"),
        (["mine.py:dicts", "--set", "train.steps=3"], "`train.steps` trains on `data`"),
    ],
)  # fmt: skip
def test_bad_input_names_the_users_file_and_line(
    monkeypatch, capsys, place, arguments, message
):
    code, out, error = call(
        monkeypatch, capsys, "survey", *QUICK, "-q", "--objective", *arguments
    )
    assert (code, out) == (2, "")
    assert error.count("\n") == 1
    assert message in error
    assert not list(place.glob("**/*.nc"))


@pytest.mark.parametrize("name", ["stream", "Endless"])
def test_data_that_never_end_are_named(monkeypatch, capsys, name):
    code, _, error = call(monkeypatch, capsys, "survey", *QUICK, "--data", f"mine.py:{name}")
    assert code == 2
    assert "--objective mine.py:make" in error
