import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import (
    ArgumentError,
    MissingDependencyError,
    ResumeError,
    UnknownNameError,
)
from lossatlas.recipes import (
    AVERAGES,
    SCORES,
    Runs,
    TrainingSetup,
    effect_size,
    paired,
    parse_recipe,
    recipe,
    run_recipe,
    train_recipes,
    training,
    verdict,
)
from lossatlas.recipes.losses import training_loss
from lossatlas.steering import SAM, PolynomialAverage
from lossatlas.steering.penalties import sasp_penalty
from lossatlas.training import build_model, load_dataset
from lossatlas.training.plan import Plan


def part(data, start, stop):
    return replace(data, inputs=data.inputs[start:stop], targets=data.targets[start:stop])


@pytest.fixture(scope="module")
def setup():
    data = load_dataset("digits")
    pieces = (part(data, 0, 200), part(data, 200, 300), part(data, 300, 400))
    return TrainingSetup(*pieces, model="mlp(8)", batch_size=25, warmup=3)


@pytest.fixture(scope="module")
def found(setup):
    return train_recipes(
        setup,
        ["adamw", "adamw+cosine", "adamw+growth"],
        steps=[4, 8],
        rates=[1e-3, 1e-1],
        seeds=2,
        only={"adamw+growth": [1e-3]},
        averages=["ema", "average-4"],
    )


def test_recipes_are_read():
    recipe = parse_recipe("sgd + wsd + sasp=0.01 + momo + decay=0.1")
    assert recipe.optimizer == "sgd"
    assert (recipe.needs_horizon, recipe.controller) == ("wsd", "momo")
    assert recipe.penalties == {"sasp": 0.01}
    assert recipe.setting("decay", 0.0) == 0.1
    assert parse_recipe("adamw").needs_horizon is None


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("adamv", UnknownNameError, "did you mean 'adam"),
        ("adamw+cosin", UnknownNameError, "did you mean 'cosine'"),
        ("adamw+cosine+wsd", ArgumentError, "several schedules"),
        ("adamw+momo+edge", ArgumentError, "several controllers"),
        ("topoadamw+growth", ArgumentError, "take adamw"),
        ("adamw+sasp", ArgumentError, "needs a number"),
        ("adamw+sasp=-1", ArgumentError, "must give a number >= 0"),
        ("adamw+sasp=much", ArgumentError, "must give a number >= 0"),
    ],
)
def test_recipes_that_cannot_be_are_named(text, error, message):
    with pytest.raises(error, match=message):
        parse_recipe(text)


def test_a_recipe_is_parsed_once(setup, monkeypatch):
    read = []
    part_of = recipe._part

    def counting(text, word):
        read.append(word)
        return part_of(text, word)

    monkeypatch.setattr(recipe, "_part", counting)
    found = train_recipes(setup, ["sgd+average", "sgd+cosine"], steps=2, seeds=2)
    found.sentences()
    assert read == ["average", "cosine"]
    assert parse_recipe(found.recipes[0]) is found.recipes[0]


def test_every_training_that_was_asked_for_is_there(found):
    assert len(found.runs) == 2 * (2 + 2 * 2 + 1)
    assert found.rates_of("adamw") == (1e-3, 1e-1)
    assert found.rates_of("adamw+growth") == (1e-3,)
    with pytest.raises(ArgumentError, match=r"no run of 'adamw\+growth' at rate 0.1"):
        found.run("adamw+growth", 1e-1, 0)
    for run in found.runs:
        assert run.scores.shape == (len(run.horizons), 2 + 2, len(SCORES), 2)
        assert (run.seconds > 0).all()
        assert run.weights == ("raw", "average", "ema", "average-4")
    assert set(AVERAGES) == {"average", "ema", *(f"average-{g}" for g in (0, 4, 64)), "bank"}


def test_schedules_that_need_the_horizon_are_trained_for_each(found):
    last = [found.run("adamw+cosine", 1e-3, 0, h) for h in (4, 8)]
    assert [run.horizons for run in last] == [(4,), (8,)]
    # Three updates of warm-up, then half a cosine over the rest of each horizon.
    ends = [1e-3 * (1 + math.cos(math.pi * done)) / 2 for done in (0.0, 4 / 5)]
    assert [float(run.rates[-1]) for run in last] == pytest.approx(ends)
    plain = found.run("adamw", 1e-3, 0)
    assert plain.horizons == (4, 8)
    assert plain.rates[-1] == 1e-3


def test_the_same_seed_is_the_same_training(setup, found):
    again = run_recipe(setup, "adamw", 1e-3, 1, [4, 8], averages=["ema", "average-4"])
    kept = found.run("adamw", 1e-3, 1)
    assert np.array_equal(again.scores, kept.scores, equal_nan=True)
    assert np.array_equal(again.losses, kept.losses)


def test_a_horizon_on_the_way_is_the_end_of_a_shorter_training(setup, found):
    short = run_recipe(setup, "adamw", 1e-3, 0, 4)
    assert short.score("average", "test loss") == found.run("adamw", 1e-3, 0).score(
        "average", "test loss", 4
    )


def test_rates_are_chosen_on_validation_examples(found):
    tables = [found.scores("adamw", lr, "valid accuracy")[:, 0] for lr in found.rates]
    best = found.rates[int(np.argmax([table.mean() for table in tables]))]
    assert found.best_rate("adamw") == best
    chosen = found.tuned("adamw", "test accuracy", weights="ema", horizon=4)
    rate = found.best_rate("adamw", weights="ema", horizon=4)
    by_hand = [found.run("adamw", rate, s).score("ema", "test accuracy", 4)[0] for s in (0, 1)]
    assert chosen.tolist() == by_hand
    assert found.best_rate("adamw+growth") == 1e-3
    guess = found.untuned("adamw+growth", "test accuracy")
    assert np.array_equal(guess, found.tuned("adamw+growth", "test accuracy"))
    assert found.difference("adamw+growth", "test accuracy").samples == 2


def test_runs_are_saved_to_the_last_bit(found, tmp_path):
    loaded = la.load(found.save(tmp_path / "c.nc"))
    assert isinstance(loaded, Runs)
    assert loaded == found


def test_a_stopped_comparison_goes_on_where_it_was(setup, tmp_path, pieces_run):
    options = {"steps": 4, "rates": [1e-2], "seeds": 2, "resume": tmp_path / "r.sqlite"}
    told = []
    with pytest.raises(KeyboardInterrupt):
        train_recipes(setup, ["adamw", "sgd"], progress=_stop_after(2, told), **options)
    assert told[0] == (1, 4, "adamw, rate 0.01, seed 0, updates 4")
    resumed = train_recipes(setup, ["adamw", "sgd"], **options)
    assert len(pieces_run) == 4
    options.pop("resume")
    whole = train_recipes(setup, ["adamw", "sgd"], **options)
    assert [run.scores.tobytes() for run in resumed.runs] == [
        run.scores.tobytes() for run in whole.runs
    ]
    with pytest.raises(ResumeError, match="another run: batch_size differ"):
        train_recipes(
            replace(setup, batch_size=20), ["adamw"], steps=4, resume=tmp_path / "r.sqlite"
        )


def _stop_after(count, told):
    def progress(*part):
        told.append(part)
        if len(told) == count:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("name", ["adamw+regime", "adamw+momo", "adamw+edge", "topoadamw"])
def test_controllers_train(setup, name):
    run = run_recipe(setup, name, 1e-2, 0, 6)
    assert np.isfinite(run.scores).all()
    assert len(run.losses) == 6


def test_a_run_that_diverges_scores_chance(setup):
    run = run_recipe(setup, "sgd", 1e30, 0, [4, 8])
    assert run.score("raw", "test accuracy")[0] == pytest.approx(0.1)
    assert math.isinf(run.score("raw", "test loss", 8)[0])
    assert run.diverged_at is not None


def test_optimizers_that_are_missing_are_named(setup, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(training.importlib, "import_module", missing)
    with pytest.raises(MissingDependencyError, match="pip install pytorch_optimizer"):
        run_recipe(setup, "prodigy", 1.0, 0, 4)


def losses_of(setup, text):
    model = build_model(setup.model, setup.train, seed=0)
    batch = (setup.train.inputs[:20], setup.train.targets[:20])
    loss = training_loss(parse_recipe(text), model)(model, batch)
    grads = torch.autograd.grad(loss, list(model.parameters()))
    return model, batch, loss.detach(), grads


def test_penalties_of_recipes_are_those_of_the_library(setup):
    model, (x, y), total, _ = losses_of(setup, "sgd+sasp=0.1+l2=0.2")
    features = model[:-1](x)
    logits = model(x)
    squares = sum(p.square().sum() for p in model.parameters())
    truth = F.cross_entropy(logits, y) + 0.1 * sasp_penalty(logits, features) + 0.1 * squares
    torch.testing.assert_close(total, truth.detach())


@pytest.mark.parametrize("more", ["", "+interpolated"])
def test_sam_of_a_recipe_is_the_librarys(setup, more):
    kept = {}
    run_recipe(setup, f"sgd+sam=0.5{more}", 0.1, 0, 3, keep=kept)
    model = build_model(setup.model, setup.train, seed=0)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.0 if more else 0.9, weight_decay=setup.decay
    )
    sam, average = SAM(optimizer, 0.5), PolynomialAverage(model)
    own = [p.detach().clone() for p in model.parameters()]
    for step, (x, y) in enumerate(Plan(setup.train, setup.batch_size).walk(0, 0, 3), start=1):
        optimizer.param_groups[0]["lr"] = 0.1 * step / setup.warmup
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        with sam.perturbed():
            F.cross_entropy(model(x), y).backward()
        if not more:
            optimizer.step()
            continue
        with torch.no_grad():
            for p, z in zip(model.parameters(), own, strict=True):
                p.copy_(z)
            optimizer.step()
            average.update()
            own = [p.detach().clone() for p in model.parameters()]
            for p, mean in zip(model.parameters(), average.at(16).values(), strict=True):
                p.lerp_(mean, 0.9)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(kept["raw"][name], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("part_", ["smoothing=0.1", "spectral=0.01", "sbmp=0.1", "noise=0.2"])
def test_other_penalties_train(setup, part_):
    _, _, plain, _ = losses_of(setup, "sgd")
    _, _, total, _ = losses_of(setup, f"sgd+{part_}")
    assert total.isfinite()
    assert total != plain


@pytest.mark.parametrize("part_", ["cvp=0.01", "cwd=0.1"])
def test_gated_decays_are_registered_as_hooks(setup, part_):
    plain = run_recipe(setup, "sgd+decay=0", 0.1, 0, 4)
    decayed = run_recipe(setup, f"sgd+decay=0+{part_}", 0.1, 0, 4)
    assert decayed.score("raw", "test loss") != plain.score("raw", "test loss")


def test_intervals_are_those_of_student():
    drawn = np.random.default_rng(0)
    a, b = drawn.normal(1, 1, 8), drawn.normal(0, 1, 8)
    got = paired(a, b)
    truth = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert got.interval() == pytest.approx((truth.low, truth.high))
    assert effect_size(got) == pytest.approx((a - b).mean() / (a - b).std(ddof=1))
    assert verdict(paired([1.0, 2.0], [0.0, 5.0])) == "indistinguishable"
    assert verdict(paired([0.0, 1.0, 2.0], [5.0, 6.0, 7.5])) == "lower"
    assert math.isnan(paired([1.0], [0.0]).interval()[0])
    # Two accuracies on eight examples that differ by one example each.
    coarse = paired([0.5, 0.75], [0.375, 0.625])
    assert (coarse.value, verdict(coarse)) == (0.125, "indistinguishable")
    assert "all differences are the same" in coarse.why_no_error
    assert paired([1.0, 2.0], [1.0, 2.0]).interval() == (0.0, 0.0)
    with pytest.raises(ArgumentError, match="one length"):
        paired([1.0], [1.0, 2.0])
    with pytest.raises(ArgumentError, match="diverged"):
        paired([1.0, math.nan], [1.0, 2.0])


def test_bad_settings_are_named(setup):
    with pytest.raises(ArgumentError, match="growing"):
        train_recipes(setup, ["sgd"], steps=[4, 4])
    with pytest.raises(ArgumentError, match="`rates`"):
        train_recipes(setup, ["sgd"], steps=4, rates=[0.0])
    with pytest.raises(ArgumentError, match="`only`"):
        train_recipes(setup, ["sgd"], steps=4, rates=[0.1], only={"sgd": [0.2]})
    with pytest.raises(ArgumentError, match="`seeds`"):
        train_recipes(setup, ["sgd"], steps=4, seeds=0)
    with pytest.raises(UnknownNameError, match="did you mean 'ema'"):
        train_recipes(setup, ["sgd"], steps=4, averages=["emo"])
    with pytest.raises(ArgumentError, match="got 'sgd' twice"):
        train_recipes(setup, ["sgd", "sgd"], steps=1)
    with pytest.raises(ArgumentError, match="at least one"):
        train_recipes(setup, [], steps=1)
    with pytest.raises(ArgumentError, match="`keep` is for a single training"):
        train_recipes(setup, ["sgd"], steps=1, keep={})
    with pytest.raises(ArgumentError, match="`horizons` must be a whole number >= 1"):
        train_recipes(setup, ["sgd"], steps=0)


def test_a_device_that_is_not_there_is_named(setup):
    with pytest.raises(ArgumentError, match="`device`: 'nowhere' cannot be used"):
        run_recipe(setup, "sgd", 0.1, 0, 1, device="nowhere")
