import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from lossatlas import store
from lossatlas.errors import (
    ArgumentError,
    MissingDependencyError,
    ResumeError,
    UnknownNameError,
)
from lossatlas.steering.penalties import sasp_penalty
from lossatlas.studies.compare import (
    MEASURES,
    READINGS,
    Comparison,
    Problem,
    compare,
    optimizers,
    paired,
    parse_recipe,
    run_trial,
)
from lossatlas.studies.compare.losses import training_loss
from lossatlas.training import build_model, load_dataset


def part(data, start, stop):
    return replace(data, inputs=data.inputs[start:stop], targets=data.targets[start:stop])


@pytest.fixture(scope="module")
def problem():
    data = load_dataset("digits")
    pieces = (part(data, 0, 200), part(data, 200, 300), part(data, 300, 400))
    return Problem(*pieces, model="mlp(8)", batch_size=25, warmup=3)


@pytest.fixture(scope="module")
def found(problem):
    return compare(
        problem,
        ["adamw", "adamw+cosine", "adamw+climb"],
        horizons=[4, 8],
        rates=[1e-3, 1e-1],
        seeds=2,
        only={"adamw+climb": [1e-3]},
    )


def test_recipes_are_read():
    recipe = parse_recipe("sgd + wsd + sasp=0.01 + momo + decay=0.1")
    assert recipe.optimizer == "sgd"
    assert (recipe.told, recipe.controller) == ("wsd", "momo")
    assert recipe.penalties == {"sasp": 0.01}
    assert recipe.setting("decay", 0.0) == 0.1
    assert parse_recipe("adamw").told is None


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("adamv", UnknownNameError, "did you mean 'adam"),
        ("adamw+cosin", UnknownNameError, "did you mean 'cosine'"),
        ("adamw+cosine+wsd", ArgumentError, "several schedules"),
        ("adamw+momo+edge", ArgumentError, "several controllers"),
        ("topoadamw+climb", ArgumentError, "take adamw"),
        ("adamw+sasp", ArgumentError, "needs a number"),
        ("adamw+sasp=-1", ArgumentError, "must give a number >= 0"),
        ("adamw+sasp=much", ArgumentError, "must give a number >= 0"),
    ],
)
def test_recipes_that_cannot_be_are_named(text, error, message):
    with pytest.raises(error, match=message):
        parse_recipe(text)


def test_every_training_that_was_asked_for_is_there(found):
    assert found.values.shape == (3, 2, 2, 2, len(READINGS), len(MEASURES))
    missing = np.isnan(found.values).all((2, 3, 4, 5))
    assert missing.tolist() == [[False, False], [False, False], [False, True]]
    assert (found.seconds[0] > 0).all()


def test_schedules_are_told_each_horizon(found):
    assert found.final_rates[1, 0, 0].tolist() == pytest.approx([0.0, 0.0], abs=1e-9)
    assert found.final_rates[0, 0, 0].tolist() == [1e-3, 1e-3]


def test_the_same_seed_is_the_same_training(problem, found):
    again = run_trial(problem, parse_recipe("adamw"), 1e-3, 1, [4, 8])
    values = again[:, 1:-2].reshape(2, len(READINGS), len(MEASURES))
    assert np.array_equal(values, found.values[0, 0, 1])


def test_rates_are_chosen_on_validation_examples(found):
    valid = found.of("adamw", "raw", "valid accuracy")[:, :, 1].mean(1)
    assert found.best_rate("adamw", "raw", 8) == int(valid.argmax())
    chosen = found.tuned("adamw", "raw", 8)
    assert np.array_equal(chosen, found.of("adamw", "raw")[int(valid.argmax()), :, 1])
    assert found.best_rate("adamw+climb", "raw", 8) == 0
    guess = found.untuned("adamw+climb", "raw", 8)
    assert np.array_equal(guess, found.of("adamw+climb", "raw")[0, :, 1])
    gap = found.difference(("adamw", "raw"), ("adamw", "valley-16"), 8)
    assert gap.pairs == 2


def test_comparisons_are_saved(found, tmp_path):
    loaded = store.load(store.save(found, tmp_path / "c.nc"))
    assert isinstance(loaded, Comparison)
    assert np.array_equal(loaded.values, found.values, equal_nan=True)
    assert loaded.recipes == found.recipes
    assert loaded.provenance == found.provenance


def test_a_stopped_comparison_goes_on_where_it_was(problem, tmp_path, pieces_run):
    settings = {"horizons": [4], "rates": [1e-2], "seeds": 2, "resume": tmp_path / "r.sqlite"}
    lines = []
    with pytest.raises(KeyboardInterrupt):
        compare(problem, ["adamw", "sgd"], progress=_stop_after(2, lines), **settings)
    resumed = compare(problem, ["adamw", "sgd"], **settings)
    # The third had begun when the second was told.
    assert len(pieces_run) == 4
    settings.pop("resume")
    whole = compare(problem, ["adamw", "sgd"], **settings)
    assert np.array_equal(resumed.values, whole.values)
    with pytest.raises(ResumeError, match="another run"):
        compare(
            replace(problem, batch_size=20),
            ["adamw"],
            horizons=[4],
            resume=tmp_path / "r.sqlite",
        )


def _stop_after(count, lines):
    def progress(*told):
        lines.append(told)
        if len(lines) == count:
            raise KeyboardInterrupt

    return progress


def test_processes_give_the_same(problem):
    settings = {"horizons": [3], "rates": [1e-2], "seeds": 2}
    serial, parallel = (
        compare(problem, ["adamw"], executor=e, **settings) for e in ("serial", "joblib")
    )
    assert np.array_equal(serial.values, parallel.values)


@pytest.mark.parametrize("recipe", ["adamw+topology", "adamw+momo", "adamw+edge", "topoadamw"])
def test_controllers_train(problem, recipe):
    table = run_trial(problem, parse_recipe(recipe), 1e-2, 0, [6])
    assert table.shape == (1, 1 + len(READINGS) * len(MEASURES) + 2)
    assert np.isfinite(table).all()


def test_a_run_that_diverges_scores_chance(problem):
    table = run_trial(problem, parse_recipe("sgd"), 1e30, 0, [4, 8])
    assert table[1, 1] == pytest.approx(0.1)
    assert math.isnan(table[1, 3])


def test_optimizers_that_are_missing_are_named(problem, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(optimizers.importlib, "import_module", missing)
    with pytest.raises(MissingDependencyError, match="pip install pytorch_optimizer"):
        run_trial(problem, parse_recipe("prodigy"), 1.0, 0, [4])


def losses_of(problem, text):
    model = build_model(problem.model, problem.train, seed=0)
    batch = (problem.train.inputs[:20], problem.train.targets[:20])
    loss = training_loss(parse_recipe(text), model)(model, batch)
    grads = torch.autograd.grad(loss, list(model.parameters()))
    return model, batch, loss.detach(), grads


def test_penalties_of_recipes_are_those_of_the_library(problem):
    model, (x, y), total, _ = losses_of(problem, "sgd+sasp=0.1+l2=0.2")
    features = model[:-1](x)
    logits = model(x)
    squares = sum(p.square().sum() for p in model.parameters())
    truth = F.cross_entropy(logits, y) + 0.1 * sasp_penalty(logits, features) + 0.1 * squares
    torch.testing.assert_close(total, truth.detach())


def test_sam_is_the_gradient_uphill(problem):
    model, (x, y), _, grads = losses_of(problem, "sgd+sam=0.5")
    plain = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    length = torch.stack([g.square().sum() for g in plain]).sum().sqrt()
    with torch.no_grad():
        for p, g in zip(model.parameters(), plain, strict=True):
            p.add_(0.5 * g / length)
    truth = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    for a, b in zip(grads, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("part_", ["smoothing=0.1", "spectral=0.01", "sbmp=0.1", "noise=0.2"])
def test_other_penalties_train(problem, part_):
    _, _, plain, _ = losses_of(problem, "sgd")
    _, _, total, _ = losses_of(problem, f"sgd+{part_}")
    assert total.isfinite()
    assert total != plain


@pytest.mark.parametrize("part_", ["cvp=0.01", "cwd=0.1"])
def test_gated_decays_hang_on_the_optimizer(problem, part_):
    plain = run_trial(problem, parse_recipe("sgd+decay=0"), 0.1, 0, [4])
    decayed = run_trial(problem, parse_recipe(f"sgd+decay=0+{part_}"), 0.1, 0, [4])
    assert decayed[0, 3] != plain[0, 3]


def test_intervals_are_those_of_student():
    drawn = np.random.default_rng(0)
    a, b = drawn.normal(1, 1, 8), drawn.normal(0, 1, 8)
    got = paired(a, b)
    truth = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (got.lower, got.upper) == pytest.approx((truth.low, truth.high))
    assert got.effect == pytest.approx((a - b).mean() / (a - b).std(ddof=1))
    assert paired([1.0, 2.0], [0.0, 5.0]).verdict == "not told apart"
    assert paired([0.0, 1.0, 2.0], [5.0, 6.0, 7.5]).verdict == "lower"
    assert math.isnan(paired([1.0], [0.0]).lower)
    with pytest.raises(ArgumentError, match="one length"):
        paired([1.0], [1.0, 2.0])
    with pytest.raises(ArgumentError, match="diverged"):
        paired([1.0, math.nan], [1.0, 2.0])


def test_bad_settings_are_named(problem):
    with pytest.raises(ArgumentError, match="growing"):
        compare(problem, ["sgd"], horizons=[4, 4])
    with pytest.raises(ArgumentError, match="`rates`"):
        compare(problem, ["sgd"], horizons=[4], rates=[0.0])
    with pytest.raises(ArgumentError, match="`only`"):
        compare(problem, ["sgd"], horizons=[4], rates=[0.1], only={"sgd": [0.2]})
    with pytest.raises(ArgumentError, match="`seeds`"):
        compare(problem, ["sgd"], horizons=[4], seeds=0)
