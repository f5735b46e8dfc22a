"""`suggest_lr(lr=...)`: is a rate that somebody uses too high?"""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import ArgumentError
from lossatlas.steering.held_out import divide_data
from lossatlas.steering.judged_rate import JudgedRate
from lossatlas.steering.short_runs import optimizer_builder, train_along, unit_losses
from lossatlas.training import load_dataset


@pytest.fixture(scope="module")
def batches():
    return load_dataset("digits", examples=480).batches(32)


def make_objective(batches, *, norm=False):
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(16)] if norm else []
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), *middle, nn.ReLU(), nn.Linear(16, 10)
    )
    return la.Objective(model, la.supervised(F.cross_entropy), batches)


# Rates that a practitioner would call hopeless or usual for digits.
RATES = {"sgd": (1e-6, 0.2, 20.0), "adamw": (1e-7, 0.05, 10.0)}
WANTED = ("lower than needed", "within the range", "too high")


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("optimizer", sorted(RATES))
def test_rates_that_are_known_to_be_low_good_and_high_are_told_apart(batches, optimizer, norm):
    for rate, verdict in zip(RATES[optimizer], WANTED, strict=True):
        objective = make_objective(batches, norm=norm)
        found = la.suggest_lr(objective, optimizer, lr=rate, updates=60, horizon=120)
        assert found.verdict == verdict, (rate, found.headline())
        said = found.headline()
        assert said.startswith("A learning rate of ")
        assert f"is {verdict}" in said
        assert said == found.sentences()[0]
        assert "for a training of 120 updates" in said


def test_a_high_rate_that_does_not_blow_up_is_too_high_by_its_loss(batches):
    # Normalization layers keep the loss finite at rates that learn nothing.
    found = la.suggest_lr(make_objective(batches, norm=True), "adamw", lr=2.0, updates=60)
    assert math.isfinite(found.judged.loss)
    assert found.verdict == "too high"
    assert " above the best of the others (95 % interval [" in found.headline()


def test_the_run_is_a_plain_one_and_takes_no_part_in_the_search(batches):
    plain = la.suggest_lr(make_objective(batches), "sgd", updates=20)
    found = la.suggest_lr(make_objective(batches), "sgd", lr=0.03, updates=20)
    assert replace(found, judged=None, gradients=plain.gradients) == plain
    assert found.gradients == plain.gradients + 20
    data = divide_data(make_objective(batches), 20)
    warm = np.minimum(np.arange(1, 21) / 2, 1)
    shape = warm * np.minimum(1, (20 - np.arange(20)) / 19)
    build = optimizer_builder("sgd", data.training)
    ends = [
        unit_losses(data.judge, train_along(data.training, build, rate * shape)[1])
        for rate in (0.03, plain.rates[plain.losses.argmin()])
    ]
    gap = ends[0] - ends[1]
    assert found.judged.loss == pytest.approx(ends[0].mean())
    assert found.judged.gap == pytest.approx(gap.mean())
    assert found.judged.gap_error == pytest.approx(gap.std(ddof=1) / math.sqrt(len(gap)))


def test_it_is_in_rows_json_picture_and_files(batches, tmp_path):
    found = la.suggest_lr(make_objective(batches), "sgd", lr=5.0, updates=20)
    assert any("final loss at 5 above the best" in row[0] for row in found.rows())
    told = found.summary()
    assert (told["given_lr"], told["verdict"]) == (5.0, "too high")
    json.dumps(told)
    figure = found.figures()[0]
    assert "The diamond is the run at the given rate" in figure.caption
    assert "given rate" in [trace.name for trace in figure.plotly().data]
    assert la.load(found.save(tmp_path / "lr.nc")) == found


def test_the_verdict_is_modest_where_the_run_is_not_told_apart(batches):
    found = la.suggest_lr(make_objective(batches), "sgd", updates=20)
    near = JudgedRate(found.high * 1.1, 0.5, 0.001, 0.01, found.units)
    said = replace(found, judged=near).headline()
    assert "is probably too high: the best rate lies probably between" in said
    assert "which is within its error" in said


def test_a_rate_that_cannot_be_judged_is_said_to_be_so(batches):
    found = la.suggest_lr(make_objective(batches), "sgd", lr=0.1, updates=20)
    flat = replace(found, gain=replace(found.gain, value=-0.1))
    assert flat.verdict == "not known"
    assert "cannot be judged, as no rate is seen to help" in flat.headline()
    assert flat.sentences()[1].startswith("No rate is seen to help")
    lost = replace(flat, judged=replace(flat.judged, loss=math.inf))
    assert lost.verdict == "too high"


def test_sentences_name_the_optimizer_with_its_momentum(batches):
    named = {
        "SGD with momentum 0.9": la.suggest_lr(make_objective(batches), "sgd", updates=10),
        "SGD without momentum": la.suggest_lr(
            make_objective(batches), "sgd", momentum=0.0, updates=10
        ),
    }
    for name, found in named.items():
        assert found.optimizer == name
        assert found.headline().startswith(f"Start {name} at a peak learning rate of")
    objective = make_objective(batches)
    own = torch.optim.SGD(objective.model.parameters(), lr=1.0, momentum=0.5, nesterov=True)
    assert (
        "SGD with Nesterov momentum 0.5" in la.suggest_lr(objective, own, updates=10).headline()
    )
    with pytest.raises(ArgumentError, match="`momentum` is that of optimizer='sgd'"):
        la.suggest_lr(objective, "adamw", momentum=0.9, updates=10)
    with pytest.raises(ArgumentError, match="`lr`"):
        la.suggest_lr(objective, "sgd", lr=0.0, updates=10)


def test_the_command_judges_a_rate(capsys, tmp_path):
    from lossatlas.cli.app import cli

    arguments = [
        "lr",
        "--examples",
        "320",
        "--updates",
        "10",
        "--optimizer",
        "sgd",
        "--lr",
        "30",
    ]
    arguments += ["--momentum", "0.5", "-o", str(tmp_path)]
    cli.main(arguments, standalone_mode=False)
    said = "A learning rate of 30 for SGD with momentum 0.5 is too high: a short run of 10 "
    assert said in capsys.readouterr().out
    assert said in (tmp_path / "lr.html").read_text()
    cli.main([*arguments[:-2], "--json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    assert (told["verdict"], told["given_lr"]) == ("too high", 30.0)


def test_runs_that_start_from_ruined_weights_or_learn_nothing_say_so(batches):
    objective = make_objective(batches)
    fresh = la.suggest_lr(objective, "sgd", updates=20)
    assert not any("constant prediction" in said for said in fresh.sentences())
    with torch.no_grad():
        for parameter in objective.model.parameters():
            parameter.mul_(30)
    ruined = la.suggest_lr(objective, "sgd", lr=1.0, updates=20)
    said = ruined.sentences()
    assert said[2].startswith("The runs start at a loss of ")
    assert "an earlier training may have ruined these weights" in said[2]
    assert not ruined.learns
    assert ruined.verdict == "not known"
    assert "cannot be judged, as no short run ends below the loss of a constant" in said[0]
    assert any("20 updates are too few here to learn more than" in each for each in said)
    assert fresh.learns


def test_initial_weights_are_not_called_ruined_where_targets_are_far_from_zero():
    inputs = torch.randn(160, 3, generator=torch.Generator().manual_seed(0))
    targets = 20 + inputs[:, :1]
    batches = list(zip(inputs.split(16), targets.split(16), strict=True))
    torch.manual_seed(1)
    objective = la.Objective(nn.Linear(3, 1), la.supervised(F.mse_loss), batches)
    found = la.suggest_lr(objective, "sgd", updates=10)
    assert found.chance.loss > 100 * found.chance.constant
    assert not any("ruined" in said for said in found.sentences())
