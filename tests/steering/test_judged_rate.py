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
from lossatlas.steering.lr_scaling import equivalent_rate
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
WANTED = ("lower than needed", "indistinguishable", "too high")


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("optimizer", sorted(RATES))
def test_rates_that_are_known_to_be_low_good_and_high_are_told_apart(batches, optimizer, norm):
    for rate, verdict in zip(RATES[optimizer], WANTED, strict=True):
        objective = make_objective(batches, norm=norm)
        found = la.suggest_lr(objective, optimizer, lr=rate, updates=60, horizon=120)
        # Normalization layers keep the loss finite at rates that learn little.
        is_high = verdict == "too high" and found.verdict == "higher than needed"
        assert found.verdict == verdict or (norm and is_high), (rate, found.headline())
        said = found.headline()
        assert said.startswith("A peak learning rate of ")
        assert f"is {found.verdict}" in said
        assert said == found.sentences()[0]
        assert "for a training of 120 updates" in said


def test_a_high_rate_that_does_not_blow_up_is_judged_by_its_loss(batches):
    # Normalization layers keep the loss finite at rates that learn little.
    found = la.suggest_lr(make_objective(batches, norm=True), "adamw", lr=2.0, updates=60)
    assert math.isfinite(found.judged.loss)
    assert found.verdict == "higher than needed"
    assert "a short run of 60 updates at this rate ended " in found.headline()
    assert "the best peak rate for runs of this length (95 % interval [" in found.headline()


def test_the_run_is_a_plain_one_and_takes_no_part_in_the_search(batches):
    plain = la.suggest_lr(make_objective(batches), "sgd", updates=20)
    found = la.suggest_lr(make_objective(batches), "sgd", lr=0.03, updates=20)
    assert replace(found, judged=None, gradients=plain.gradients) == plain
    assert found.gradients == plain.gradients + 40
    data = divide_data(make_objective(batches), 20)
    warm = np.minimum(np.arange(1, 21) / 2, 1)
    shape = warm * np.minimum(1, (20 - np.arange(20)) / 19)
    build = optimizer_builder("sgd", data.training)
    ends = [
        unit_losses(data.judge, train_along(data.training, build, rate * shape)[1])
        for rate in (0.03, plain.lr)
    ]
    gap = ends[0] - ends[1]
    assert (found.judged.peak, found.judged.reference) == (0.03, plain.lr)
    assert found.judged.loss == pytest.approx(ends[0].mean())
    assert found.judged.start == pytest.approx(data.judge.value())
    assert found.judged.gap == pytest.approx(gap.mean())
    assert found.judged.gap_error == pytest.approx(gap.std(ddof=1) / math.sqrt(len(gap)))


def test_it_is_in_rows_json_picture_and_files(batches, tmp_path):
    found = la.suggest_lr(make_objective(batches), "sgd", lr=5.0, updates=20)
    assert any("final loss at 5 above the best run's" in row[0] for row in found.rows())
    told = found.summary()
    assert (told["given_lr"], told["verdict"]) == (5.0, "too high")
    json.dumps(told)
    figure = found.figures()[0]
    assert "The diamond is the run at the given rate" in figure.caption
    assert "given rate" in [trace.name for trace in figure.plotly().data]
    assert la.load(found.save(tmp_path / "lr.nc")) == found


def test_the_verdict_is_modest_where_the_run_is_not_told_apart(batches):
    found = la.suggest_lr(make_objective(batches), "sgd", updates=20)
    high = found.high * 1.1
    near = JudgedRate(high, 0.5, 2.3, high, found.lr, 0.5, 0.001, 0.01, found.units)
    said = replace(found, judged=near).headline()
    assert "is probably higher than needed: the best rate probably lies between" in said
    assert said.endswith("which does not show it.")


def test_a_rate_inside_the_range_of_the_best_is_not_called_good(batches):
    # The range holds the best rate; a run may show that a rate in it is worse.
    found = la.suggest_lr(make_objective(batches), "sgd", updates=20)
    for inside, side in ((found.high * 0.99, "higher"), (found.low * 1.01, "lower")):
        run = JudgedRate(inside, 0.9, 2.3, inside, found.lr, 0.5, 0.4, 0.05, found.units)
        judged = replace(found, judged=run)
        assert judged.verdict == f"{side} than needed"
        assert "not every rate in it is good" in " ".join(judged.sentences())
        noise = replace(found, judged=replace(run, gap_error=0.4))
        slight = replace(found, judged=replace(run, gap=0.01, gap_error=0.0001))
        assert noise.verdict == slight.verdict == "indistinguishable"


def test_runs_of_another_length_are_compared_at_equivalent_rates(batches):
    # Between powers 0 and 3/4 of the length nothing is known.
    for rate, horizon, peak in (
        (0.5, 1600, 0.5),  # higher rates are no better in longer trainings
        (0.1, 1600, 0.1),
        (0.05, 1600, 0.1),  # a power between 0 and 3/4
        (0.001, 1600, 0.008),  # power 3/4
        (0.01, 100, 0.01),
    ):
        assert equivalent_rate(rate, 0.1, 100, horizon) == pytest.approx(peak)
    assert equivalent_rate(2.4, 0.1, 160, 10) == pytest.approx(0.3)
    assert equivalent_rate(0.01, 0.1, 160, 10) == 0.01
    objective = make_objective(batches)
    for lr in (0.15, 0.1):
        long = la.suggest_lr(objective, "sgd", lr=lr, updates=20, horizon=2_000)
        assert long.judged.reference == pytest.approx(long.lr * 10)
    said = long.headline()
    assert not long.judged.is_compared
    assert long.verdict == "indistinguishable"
    assert "runs of 20 updates cannot tell which is better for 2,000" in said
    assert "`updates` up to the 2,000 of the training" in " ".join(long.sentences())


def test_the_schedule_that_rates_are_for_is_said(batches):
    said = " ".join(la.suggest_lr(make_objective(batches), "sgd", updates=10).sentences())
    assert "Rates are peak rates, the highest of a schedule" in said
    assert "At a constant rate the best is usually lower." in said


def test_weights_that_a_rate_damages_are_told_by_the_loss_before_the_run(batches):
    found = la.suggest_lr(make_objective(batches), "sgd", updates=20)
    run = JudgedRate(9.0, 0.7, 0.3, 9.0, found.lr, 0.2, 0.5, 0.05, found.units)
    assert replace(found, judged=run).verdict == "too high"
    assert "took the loss from 0.3 to 0.7;" in replace(found, judged=run).headline()
    assert replace(found, judged=replace(run, loss=0.29)).verdict == "higher than needed"


def test_the_command_and_python_agree_from_the_same_weights(tmp_path, capsys):
    from lossatlas.cli.app import cli
    from lossatlas.training import build_model

    data = load_dataset("digits", examples=320)
    model = build_model("mlp(8)", data, seed=3)
    objective = la.Objective(model, la.supervised(F.cross_entropy), data.batches(32))
    found = la.suggest_lr(objective, "sgd", updates=10, seed=3)
    options = {"model": "mlp(8)", "examples": 320, "batch-size": 32, "updates": 10, "seed": 3}
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    arguments = ["lr", "--optimizer", "sgd", "--json", *arguments]
    cli.main(arguments, standalone_mode=False)
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert (told["low"], told["lr"], told["high"]) == (found.low, found.lr, found.high)
    assert "initial weights of --seed 3" in shown.err


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
    said = (
        "A peak learning rate of 30 for SGD with momentum 0.5 is too high: a short run of 10 "
    )
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


def scalar_loss(batches, seed=0, *, zero=False):
    """Rows whose loss is one number a batch."""
    torch.manual_seed(seed)
    model = nn.Linear(5, 3)
    if zero:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
    return la.Objective(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), batches)


def table(seed, *, random=False):
    """Inputs with labels that follow from them, or with random ones."""
    drawn = torch.Generator().manual_seed(seed)
    inputs = torch.randn(256, 5, generator=drawn)
    noise = torch.randn(256, 3, generator=drawn)
    return inputs, (noise if random else inputs[:, :3] + 0.5 * noise).argmax(1)


def test_a_single_batch_mean_certifies_no_help():
    for random in (True, False):
        for seed in range(6):
            objective = scalar_loss([table(seed, random=random)], zero=True)
            result = la.suggest_lr(objective, "sgd", updates=10)
            assert (result.units, result.helps) == (1, False)
            assert "a single unit has no standard error" in result.gain.why_no_error
            said = result.headline()
            if result.gain.value > 0:
                assert said.startswith("Whether any rate helps is not known: ")
                assert "a loss that returns one number per example would show" in said
                assert "To try one, start SGD" in said
            assert "probably" not in " ".join(result.sentences())
    unknown = replace(result, gain=replace(result.gain, value=math.nan))
    assert not unknown.helps
    one_example = replace(result, gain=replace(result.gain, sample_unit="examples"))
    assert "lowers the loss on 1 held-out example by" in one_example.headline()
    assert "more held-out examples (`validation=`) would show" in one_example.headline()


def test_a_single_batch_mean_judges_a_rate_only_where_no_error_is_needed():
    objective = scalar_loss([table(1)])
    verdicts = ("not known", "not known", "not known", "too high")
    for lr, verdict in zip((0.02, 0.1, 3.0, 3000.0), verdicts, strict=True):
        result = la.suggest_lr(objective, "sgd", lr=lr, updates=30)
        assert result.verdict == verdict, result.headline()
        if verdict == "not known":
            assert "the losses on 1 held-out batch have no standard error" in result.headline()
    run = JudgedRate(9.0, 1.6, 1.0, 9.0, result.lr, 0.5, 1.1, math.nan, 1)
    assert not run.is_worse
    assert replace(result, judged=run).verdict == "too high"
    assert "the best rate may lie between" in replace(result, judged=run).headline()
    assert replace(result, judged=replace(run, loss=1.4)).verdict == "not known"
    lower = replace(run, lr=result.low / 9, peak=result.low / 9)
    assert replace(result, judged=lower).verdict == "not known"


@pytest.mark.parametrize("count", [2, 7, 10])
def test_several_batch_means_give_an_error(count):
    inputs, targets = table(0)
    chunks = zip(inputs.tensor_split(count), targets.tensor_split(count), strict=True)
    objective = scalar_loss(list(chunks))
    result = la.suggest_lr(objective, "sgd", lr=0.1, updates=10)
    assert result.units == (2 if count == 10 else count)
    assert result.gain.stderr > 0
    assert result.helps == (result.gain.interval()[0] > 0)
    # Two means hardly show anything; seven show that labels can be learned.
    assert result.helps or count != 7
    assert (result.verdict == "not known") == (not result.helps)


def test_batches_of_scalar_losses_that_are_too_small_to_divide_stay_whole():
    inputs, targets = table(0)
    batches = list(zip(inputs[:54].split(9), targets[:54].split(9), strict=True))
    data = divide_data(scalar_loss(batches), 10)
    assert data.held_out
    assert [len(batch[0]) for batch in data.judge.batches] == [9]
    assert len(list(data.training.batches)) == 5
