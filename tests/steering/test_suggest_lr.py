import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import ArgumentError
from lossatlas.steering.short_runs import (
    optimizer_builder,
    train_along,
    training_objective,
    unit_losses,
)
from lossatlas.training import load_dataset


@pytest.fixture(scope="module")
def batches():
    return load_dataset("digits", examples=320).batches(32)


def make_model(norm=False):
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(16)] if norm else []
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), *middle, nn.ReLU(), nn.Linear(16, 10))


def make_objective(batches, **options):
    return la.Objective(make_model(**options), la.supervised(F.cross_entropy), batches)


@pytest.fixture(scope="module")
def suggested(batches):
    return la.suggest_lr(make_objective(batches), "adamw", updates=40, horizon=160)


def plain_run(batches, optimizer, rates, norm=False):
    """A training loop as everybody writes it."""
    model = make_model(norm)
    made = optimizer(model.parameters(), float(rates[0]))
    losses = []
    for at, rate in enumerate(rates):
        for group in made.param_groups:
            group["lr"] = float(rate)
        inputs, targets = batches[at % len(batches)]
        made.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        made.step()
        losses.append(loss.item())
    return np.array(losses), model


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("norm", [False, True])
def test_a_short_run_is_a_plain_training(batches, name, norm):
    objective = training_objective(make_objective(batches, norm=norm), 100)
    build = optimizer_builder(name, objective)
    rates = np.linspace(0.05, 0.001, 25)
    losses, weights = train_along(objective, build, rates)
    expected, model = plain_run(batches, build, rates, norm)
    np.testing.assert_allclose(losses, expected, rtol=2e-4)
    for key, value in model.named_parameters():
        torch.testing.assert_close(weights[key], value.detach(), rtol=1e-3, atol=2e-4)


def test_the_range_test_and_the_runs_leave_no_trace(batches):
    objective = make_objective(batches, norm=True)
    before = {key: value.clone() for key, value in objective.model.state_dict().items()}
    state = torch.get_rng_state()
    la.suggest_lr(objective, "sgd", updates=10)
    for key, value in objective.model.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(p.grad is None for p in objective.model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_suggestion_is_near_the_best_of_a_grid(batches):
    objective = make_objective(batches)
    found = la.suggest_lr(objective, "sgd", updates=40, validation=objective)
    build = optimizer_builder("sgd", objective)
    warm = np.minimum(np.arange(1, 41) / 4, 1)
    shape = warm * np.minimum(1, (40 - np.arange(40)) / 37)
    part = training_objective(objective, 100)
    kept = part.part([b for at, b in enumerate(part.batches, 1) if at % 5])
    losses = {}
    for rate in 2.0 ** np.arange(-8, 2):
        run, weights = train_along(kept, build, rate * shape)
        losses[rate] = objective.value(weights) if np.isfinite(run).all() else math.inf
    best = min(losses, key=losses.get)
    assert found.low <= best <= found.high
    assert found.losses.min() <= losses[best] * 1.2
    assert best / 3 <= found.lr <= best * 3


def test_the_numbers_belong_together(suggested):
    assert suggested.low <= suggested.lr <= suggested.high
    assert (np.diff(suggested.rates) > 0).all()
    assert suggested.gaps.min() == 0
    assert suggested.gap_errors[suggested.gaps.argmin()] == 0
    assert suggested.gradients >= 40 * len(suggested.rates)
    assert suggested.test.falls_at < suggested.test.diverges_at
    assert suggested.optimizer == "AdamW"


def labeled(seed, *, random, optimizer="adamw", norm=False):
    """A suggestion for digits with their labels, or with labels that say nothing."""
    data, drawn = load_dataset("digits"), torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(data), generator=drawn)[:480]
    targets = data.targets[chosen]
    if random:
        targets = torch.randint(0, 10, (480,), generator=drawn)
    batches = list(zip(data.inputs[chosen].split(32), targets.split(32), strict=True))
    return la.suggest_lr(make_objective(batches, norm=norm), optimizer, updates=30)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_random_labels_are_seen_and_labels_that_can_be_learned_are_not_taken_for_them(
    optimizer,
):
    null = [labeled(seed, random=True, optimizer=optimizer) for seed in range(12)]
    real = [labeled(seed, random=False, optimizer=optimizer) for seed in range(12)]
    assert sum(not found.helps for found in null) >= 9
    assert all(found.helps for found in real)
    said = next(found for found in null if not found.helps).sentences()[0]
    assert said.startswith("No rate is seen to help: the best of")
    assert "96 held-out examples" in said
    assert all(found.headline().startswith("Start") for found in real)


def test_the_gain_is_a_plain_difference(batches):
    objective = make_objective(batches)
    found = la.suggest_lr(objective, "sgd", updates=20, validation=objective)
    best = float(found.rates[found.losses.argmin()])
    assert found.gain.value == pytest.approx(objective.value() - found.losses.min())
    assert found.gain.samples == found.units == 320
    assert best > 0
    flat = replace(found, gain=replace(found.gain, value=-0.1))
    assert "raises the loss on 320 held-out examples by 0.1" in flat.headline()


def test_another_model_to_judge_is_named_before_the_runs(batches):
    other = la.Objective(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), la.supervised(F.cross_entropy), batches
    )
    with pytest.raises(ArgumentError, match="`validation` must be of the same model"):
        la.suggest_lr(make_objective(batches), validation=other, updates=10)


def test_a_longer_training_gets_a_lower_rate(batches, suggested):
    short = la.suggest_lr(make_objective(batches), "adamw", updates=40)
    assert suggested.lr == pytest.approx(short.lr / 2)
    assert suggested.low == pytest.approx(short.low / 4**0.75)
    assert suggested.high == pytest.approx(short.high / 4**0.25)
    assert suggested.passes == 16


def test_many_passes_over_the_data_lower_the_low_end_alone(batches, suggested):
    often = la.suggest_lr(make_objective(batches), "adamw", updates=40, horizon=640)
    assert often.passes == 64
    assert often.lr == pytest.approx(suggested.lr / 2)
    assert often.high == pytest.approx(suggested.high / 4**0.25)
    assert often.low == pytest.approx(suggested.low / 4**0.75 / 2)
    assert any("64 passes" in sentence for sentence in often.sentences())
    assert not any("passes over" in sentence for sentence in suggested.sentences())


def test_a_stream_without_a_length_is_counted(batches):
    class Stream:
        def __iter__(self):
            return iter(batches)

    objective = la.Objective(make_model(), la.supervised(F.cross_entropy), Stream())
    assert la.suggest_lr(objective, "sgd", updates=10, horizon=30).passes == 3


class Examples(torch.utils.data.IterableDataset):
    """Examples one after another; a DataLoader over it has no length."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        for inputs, targets in self.batches:
            yield from zip(inputs, targets, strict=True)


def test_a_loader_without_a_length_gives_the_passes_and_the_band_of_a_list(batches):
    loader = torch.utils.data.DataLoader(Examples(batches[:20]), batch_size=32)
    stream = la.Objective(make_model(), la.supervised(F.cross_entropy), loader)
    listed = make_objective(batches[:20])
    # More batches than the runs draw.
    few = [la.suggest_lr(each, "sgd", updates=10, horizon=1000) for each in (stream, listed)]
    assert [found.passes for found in few] == [1000 / len(batches[:20])] * 2
    assert few[0].low == pytest.approx(few[1].low)


def test_passes_that_are_not_known_are_said_where_they_matter(suggested):
    unknown = replace(suggested, horizon=1000, passes=math.nan)
    (said,) = (s for s in unknown.sentences() if "passes over" in s)
    assert "1,000 updates make is not known" in said
    assert "at most 20" in said
    assert unknown.low == suggested.low
    few = replace(suggested, horizon=100, passes=math.nan)
    assert not few._pass_reason()


def test_the_margin_is_the_quantile_that_the_study_gives():
    module = importlib.import_module("lossatlas.steering.lr_scaling")
    study = Path(module.__file__).parents[3] / "docs/studies/lr"
    if not study.exists():
        pytest.skip("the studies are beside a checkout only")
    place = importlib.util.spec_from_file_location("calibration", study / "calibration.py")
    calibration = importlib.util.module_from_spec(place)
    place.loader.exec_module(calibration)
    scores = calibration.scores(json.loads((study / "results.json").read_text()))
    margin = calibration.margin(scores)
    assert margin <= module.MARGIN < 1.01 * margin


def test_errors_of_gaps_are_paired(batches):
    objective = make_objective(batches)
    found = la.suggest_lr(objective, "sgd", updates=10, validation=objective)
    assert found.units == 320
    assert (found.gap_errors[np.isfinite(found.losses)] < 0.2).all()


def test_the_same_seed_gives_the_same_bits(batches, suggested):
    again = la.suggest_lr(make_objective(batches), "adamw", updates=40, horizon=160)
    assert again == suggested


def test_it_reads_and_survives_a_file(suggested, tmp_path):
    assert la.load(suggested.save(tmp_path / "lr.nc")) == suggested
    assert "peak learning rate" in suggested.headline()
    assert len(suggested.sentences()) == 7
    json.dumps(suggested.summary())
    assert suggested.plot().get_xscale() == "log"
    assert suggested.plot(backend="plotly").data


def test_every_rate_has_three_digits_and_one_spelling(suggested):
    found = replace(suggested, lr=0.019408, low=0.0023311, high=1.03214)
    shown, ends = found.estimates()[0].texts
    assert (shown, ends) == ("0.0194", "[0.00233, 1.03]")
    assert all(text in found.headline() for text in ("0.0194", "0.00233", "1.03"))
    assert "about as good" not in found.headline()


def test_the_reasons_name_what_was_scaled_and_the_limits_that_are_passed(suggested):
    lost = np.array([*suggested.losses[:-1], math.inf])
    edge = replace(suggested.edge, value=0.7)
    found = replace(suggested, lr=0.01, high=1e6, losses=lost, edge=edge)
    said = " ".join(found.sentences())
    assert "minimum at 0.02; for 160 updates that is multiplied by (40 / 160)^0.5" in said
    assert "one run diverged" in said
    assert "which is inside the range above" in said
    assert "The range goes beyond this limit" in said
    assert "goes beyond" not in " ".join(replace(found, high=0.5).sentences())


def test_the_picture_says_which_lengths_it_mixes_and_marks_diverged_runs(suggested):
    lost = np.array([*suggested.losses[:-1], math.inf])
    figure = replace(suggested, losses=lost).figures()[0]
    assert "short runs of 40 updates" in figure.caption
    assert "training of 160 updates" in figure.caption
    assert "diverged" in [trace.name for trace in figure.plotly().data]


def test_progress_counts_the_runs_that_will_be_made(batches):
    told = []
    found = la.suggest_lr(
        make_objective(batches), "sgd", updates=10, progress=lambda *step: told.append(step)
    )
    assert [done for done, *_ in told] == list(range(1, len(found.rates) + 1))
    assert told[-1][1] == len(found.rates)


def test_groups_keep_the_ratio_of_their_rates(batches):
    objective = make_objective(batches)
    first, *_, last = objective.model.parameters()
    mine = torch.optim.SGD([{"params": [first], "lr": 0.2}, {"params": [last]}], lr=0.1)
    copies = [value.clone() for value in objective.params.values()]
    made = optimizer_builder(mine, objective)(copies, 1.0)
    assert [group["lr"] for group in made.param_groups] == [1.0, 0.5]
    assert made.param_groups[0]["params"][0] is copies[0]
    assert made.param_groups[1]["params"][0] is copies[-1]


def test_means_of_batches_serve(batches):
    objective = la.Objective(
        make_model(), lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), batches
    )
    found = la.suggest_lr(objective, "sgd", updates=10)
    assert found.units == 2
    assert unit_losses(objective, objective.params).shape == (10,)


def test_second_moments_of_a_trained_adam_serve_where_examples_are_few():
    model = nn.Linear(3, 1)
    data = [(torch.randn(2, 3), torch.randn(2, 1)) for _ in range(3)]
    objective = la.Objective(model, la.supervised(F.mse_loss), data)
    fresh = la.suggest_lr(objective, "adamw", updates=10)
    assert "need 8 sets of examples" in fresh.edge.why_no_error
    assert not any(".." in sentence for sentence in fresh.sentences())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for inputs, targets in data:
        optimizer.zero_grad()
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()
    trained = la.suggest_lr(objective, optimizer, updates=10)
    assert trained.edge.value > 0


def test_a_loss_without_curvature_has_a_rate_and_a_reason():
    model = nn.Linear(3, 1)
    data = [(torch.randn(8, 3),) for _ in range(6)]
    objective = la.Objective(model, lambda m, b: F.softplus(m(b[0])).mean(), data)
    found = la.suggest_lr(objective, torch.optim.RMSprop, updates=10)
    assert math.isnan(found.edge.value)
    assert "RMSprop" in found.edge.why_no_error
    assert any("not known" in sentence for sentence in found.sentences())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimizer": "lion"}, "sgd, adam, adamw"),
        ({"optimizer": 3}, "optimizer of torch"),
        ({"updates": 5}, "updates"),
        ({"min_lr": 1.0, "max_lr": 0.1}, "min_lr"),
        ({"min_lr": 0.0}, "min_lr"),
        ({"horizon": 0}, "horizon"),
        ({"validation": 3}, "validation"),
        ({"optimizer": torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)}, "hold"),
        ({"optimizer": lambda params: None}, "optimizer"),
        ({"min_lr": 1e15, "max_lr": 1e16}, "diverged"),
    ],
)
def test_what_cannot_be_is_named(batches, options, said):
    objective = make_objective(batches[:2])
    with pytest.raises(ArgumentError, match=said):
        la.suggest_lr(objective, **{"updates": 10, **options})


def test_the_command(tmp_path, capsys):
    from lossatlas.cli.app import cli

    out = tmp_path / "lr"
    cli.main(
        ["lr", "--examples", "320", "--updates", "10", "--json", "-o", str(out)],
        standalone_mode=False,
    )
    told = json.loads(capsys.readouterr().out)
    assert told["low"] <= told["lr"] <= told["high"]
    assert la.load(out / "lr.nc").lr == told["lr"]
    page = (out / "lr.html").read_text()
    assert "Suggested learning rate" in page
    assert "Suggested_lr" not in page


def test_the_command_says_each_sentence_once(capsys):
    from lossatlas.cli.app import cli

    cli.main(["lr", "--examples", "320", "--updates", "10"], standalone_mode=False)
    told = "".join(capsys.readouterr())
    assert told.count("Start AdamW at a peak") == 1


def test_where_all_first_runs_diverge_the_search_goes_down():
    class Runs:
        def __init__(self):
            self.losses_at = {}

        def loss(self, rate):
            self.losses_at[rate] = None
            return math.inf if rate > 0.1 else abs(math.log2(rate / 0.02))

    module = importlib.import_module("lossatlas.steering.rate_search")
    nothing = np.zeros(1)
    test = module.RangeTest(nothing, nothing, nothing, nothing, 0.62, math.inf)
    runs = Runs()
    module.search_rates(runs, test, 1e-6, 10.0)
    assert min(runs.losses_at) < 0.02 < max(runs.losses_at) <= 10.0


def test_examples_of_few_batches_are_kept_apart():
    inputs = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    # Labels by chance can be learned by heart, and by no rate be foretold.
    targets = torch.randint(3, (60,), generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 3))
    objective = la.Objective(model, la.supervised(F.cross_entropy), [(inputs, targets)])
    found = la.suggest_lr(objective, "sgd", updates=40)
    assert found.held_out
    assert found.units == 12
    assert found.batch_size == 60
    assert found.losses.min() > 0.7


def test_runs_that_are_judged_where_they_train_say_so():
    batches = [(torch.eye(4), torch.arange(4))]
    objective = la.Objective(nn.Linear(4, 4), la.supervised(F.cross_entropy), batches)
    found = la.suggest_lr(objective, "sgd", updates=20)
    assert not found.held_out
    assert any("a rate that overfits looks good" in said for said in found.sentences())
    judged = la.suggest_lr(objective, "sgd", updates=20, validation=objective)
    assert judged.held_out
