"""Predictions of quality: no leak, a planted effect found, a null not, closed forms."""

from functools import partial

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import Ridge

from lossatlas import io
from lossatlas.errors import ArgumentError, DataError, UnknownNameError
from lossatlas.inits import regressors, scores
from lossatlas.inits.candidates import Candidate
from lossatlas.inits.evaluation import (
    Scoring,
    evaluate,
    halving_plans,
    halving_regret,
)
from lossatlas.inits.features import Features, feature_sets, set_cost
from lossatlas.inits.labels import Labels
from lossatlas.inits.regressors import PENALTIES, REGRESSORS, Scaler, boosted, network, ridge
from lossatlas.inits.scores import Draws
from lossatlas.inits.validation import make_folds, make_splits, out_of_fold

FAST = Scoring(resamples=60, shuffles=399, regressors=(), epoch_cost=10.0, group=8)
SEED = 0


def recipes(count=90, schemes=("a", "b", "c")):
    source = np.random.default_rng(SEED)
    scales = np.where(
        np.arange(count) // len(schemes) % 2, 1.0, source.uniform(0.5, 1.5, count)
    )
    return tuple(
        Candidate(schemes[k % len(schemes)], float(scales[k]), k) for k in range(count)
    )


def study(effect=0.0, count=90, noise=0.02):
    """Losses that follow the scale, and `effect` times the first topological feature."""
    source = np.random.default_rng(SEED + 1)
    candidates = recipes(count)
    scale = np.array([c.scale for c in candidates])
    topology, plain = source.standard_normal((count, 6)), source.standard_normal((count, 4))
    names = (*(f"t{k}" for k in range(6)), *(f"s{k}" for k in range(4)), "scale", "norm")
    groups = ("topology",) * 6 + ("statistics",) * 4 + ("baseline",) * 2
    values = np.column_stack([topology, plain, scale, scale**2])
    cost = dict(zip(names, (11.0,) * 10 + (0.0, 0.0), strict=True))
    truth = np.exp(-scale + effect * topology[:, 0] + 0.1 * source.standard_normal(count))
    shape = (4, count, 3, 2)
    measured = truth[None, :, None, None] * np.exp(noise * source.standard_normal(shape))
    labels = Labels(candidates, (1, 5), (0, 1, 2), measured, np.zeros(shape[1:], dtype=bool))
    return Features(names, groups, values, cost), labels


@pytest.fixture(scope="module")
def planted():
    return evaluate(*study(effect=0.5), FAST)


def test_a_planted_effect_is_found_in_every_split(planted):
    for split in planted.splits:
        value, lower, upper = planted.score(split, "topology / ridge")
        assert lower <= value <= upper
        assert lower > 0.3
        assert planted.p_of(split, "topology / ridge") == pytest.approx(0.0025)
        assert planted.gain(split, "scheme + scale + topology / ridge", "scheme + scale")[1] > 0
        row = planted.feature_p[planted.splits.index(split)]
        assert row[planted.features.index("t0")] < 0.05
        assert row[planted.features.index("s0")] > 0.05


def test_what_is_not_there_is_not_found():
    found = evaluate(*study(effect=0.0), FAST)
    for split in found.splits:
        assert found.p_of(split, "topology / ridge") > 0.05
    # Scale decides, and within a cell of equal scale nothing does.
    assert found.score("pooled", "scheme + scale / ridge")[0] > 0.7
    assert found.score("scale-matched", "scheme + scale / ridge")[0] == 0
    assert found.score("pooled", "mean / ridge")[0] == 0


def test_the_rate_of_false_alarms_is_the_level():
    features, labels = study(count=150)
    split = make_splits(labels.candidates, 5)[0]
    values, truth = features.of(features.group("topology")), np.log(labels.quality(5))
    folds = np.random.default_rng(3)
    draws = np.stack([folds.permutation(truth) for _ in range(1200)], axis=1)
    made = out_of_fold(ridge, values, draws, split)
    found = scores.spearman(draws.T, made.T, split.ranked)
    alarms = sum(scores.p_value(value, found[200:]) <= 0.05 for value in found[:200])
    low, high = stats.binom.ppf((0.005, 0.995), 200, 0.05)
    assert low <= alarms <= high
    centered = make_splits(labels.candidates, 5)[2]
    cells = scores.shuffles(centered.blocks, 1200, seed=1)
    made = out_of_fold(ridge, values, truth[cells].T, centered)[centered.taking]
    found = scores.spearman(
        truth[cells][:, centered.taking], made.T, centered.ranked[centered.taking]
    )
    # Predictions of nothing lean to no side.
    assert abs(found.mean()) < 4 * found.std() / 1200**0.5
    alarms = sum(scores.p_value(value, found[200:]) <= 0.05 for value in found[:200])
    assert low <= alarms <= high


@pytest.mark.parametrize("name", REGRESSORS)
def test_nothing_of_a_held_out_row_reaches_its_prediction(name, monkeypatch):
    monkeypatch.setattr(regressors, "TREES", (2, 4))
    features, labels = study(effect=0.5, count=48)
    truth = np.log(labels.quality(5))
    fit = partial(network, epochs=2) if name == "network" else REGRESSORS[name]
    for split in make_splits(labels.candidates, 2):
        expected = out_of_fold(fit, features.values, truth, split)
        test = np.flatnonzero(split.fold == 1)
        values, spoilt = features.values.copy(), truth.copy()
        # Labels of the fold, and features of all but one of its rows, become absurd.
        spoilt[test] = 1e6 * np.arange(len(test))
        values[test[1:]] = -1e9
        made = out_of_fold(fit, values, spoilt, split)
        assert made[test[0]] == expected[test[0]]
        assert not np.array_equal(made, expected)


def test_a_scaler_that_sees_the_held_out_fold_would_be_caught():
    features, labels = study(count=60)
    split = make_splits(labels.candidates, 3)[0]
    fold = make_folds(features.values, split)[0]
    honest = Scaler.fit(features.values[fold.train])
    leaky = Scaler.fit(features.values)
    assert np.array_equal(honest.apply(features.values[fold.test]), fold.outside)
    assert not np.array_equal(leaky.apply(features.values[fold.test]), fold.outside)


def test_ridge_is_the_ridge_with_the_least_error_by_cross_validation():
    source = np.random.default_rng(0)
    x, rows = source.standard_normal((40, 5)), source.standard_normal((7, 5))
    y = x @ source.standard_normal((5, 2)) + source.standard_normal((40, 2))
    made = ridge(x, y, rows)
    for k in range(2):
        errors = []
        for penalty in PENALTIES:
            model = Ridge(alpha=penalty).fit(x, y[:, k])
            hat = x - x.mean(0)
            trace = (
                np.trace(hat @ np.linalg.solve(hat.T @ hat + penalty * np.eye(5), hat.T)) + 1
            )
            rest = ((y[:, k] - model.predict(x)) ** 2).sum()
            errors.append((rest / (1 - trace / 40) ** 2, penalty))
        best = Ridge(alpha=min(errors)[1]).fit(x, y[:, k])
        assert made[:, k] == pytest.approx(best.predict(rows), rel=1e-8)
        assert ridge(x, y[:, k], rows) == pytest.approx(made[:, k], rel=1e-12)


def test_trees_and_the_network_learn_what_is_no_line():
    source = np.random.default_rng(0)
    x = source.uniform(-1, 1, (160, 2))
    y = np.abs(x[:, 0])
    for regressor in (boosted, partial(network, epochs=60)):
        made = regressor(x[:120], y[:120], x[120:], 0)
        assert np.corrcoef(made, y[120:])[0, 1] > 0.7


def test_scaling_keeps_order_and_serves_missing_and_constant_columns():
    train = np.array([[1.0, 5.0, np.nan], [2.0, 5.0, 1.0], [2.0, 5.0, 3.0], [9.0, 5.0, np.inf]])
    scaler = Scaler.fit(train)
    made = scaler.apply(np.array([[0.0, 7.0, np.nan], [2.0, 5.0, 2.0], [99.0, 1.0, 3.0]]))
    assert made[0, 0] == -made[2, 0] < 0 == pytest.approx(made[1, 0])
    assert (made[:, 1] == 0).all()
    assert made[0, 2] == made[1, 2]  # a missing number stands at the median


def test_scores_are_those_of_scipy_within_blocks():
    source = np.random.default_rng(0)
    truth, made = source.random(30), source.random((2, 30))
    blocks = np.repeat([0, 1], [10, 20])
    for row, value in zip(made, scores.spearman(truth, made, blocks), strict=True):
        parts = [
            stats.spearmanr(truth[blocks == b], row[blocks == b]).statistic for b in (0, 1)
        ]
        assert value == pytest.approx((10 * parts[0] + 20 * parts[1]) / 30)
    tau = [stats.kendalltau(truth[blocks == b], made[0, blocks == b]).statistic for b in (0, 1)]
    assert scores.kendall(truth, made[0], blocks) == pytest.approx(
        (10 * tau[0] + 20 * tau[1]) / 30
    )
    assert scores.spearman(truth, np.zeros((1, 30)), blocks)[0] == 0
    assert scores.determination(truth, scores.block_means(truth, blocks), blocks) == 0
    assert scores.determination(truth, truth, blocks) == 1
    drawn = scores.resamples(blocks, 5, 0)
    assert (blocks[drawn] == blocks).all()
    assert (np.sort(scores.shuffles(blocks, 5, 0), axis=1) == np.arange(30)).all()


def test_regret_of_knowing_and_of_guessing():
    losses = np.arange(20.0)
    draws = Draws.make(np.zeros(20, dtype=np.int64), group=4)
    assert draws.regret(losses, losses) == (0, 0, 0)
    # Of 4 out of 0..19: the mean of all is 9.5, of the least (19 - 3) / 5 = 3.2.
    value, lower, upper = draws.regret(losses, np.zeros(20))
    assert value == pytest.approx(9.5 - 3.2, abs=0.4)
    assert lower < value < upper
    worst = draws.regret(losses, -losses, top=4)
    assert worst[0] == 0  # all four are trained
    lost = np.where(np.arange(20) == 19, np.inf, losses)
    assert np.isfinite(draws.regret(lost, -losses)).all()


def test_halving_counts_its_epochs_and_finds_what_early_losses_show():
    plans = {plan.name: plan for plan in halving_plans((1, 2, 4), 8, fresh=True)}
    assert plans["halving 8 x 1, 4 x 2, 2 x 4 epochs"].epochs == 8 + 8 + 8
    assert plans["train 8 x 4 epochs"].epochs == 32
    going = {plan.name: plan for plan in halving_plans((1, 2, 4), 8, fresh=False)}
    assert going["halving 8 x 1, 4 x 2, 2 x 4 epochs"].epochs == 8 + 4 + 4
    _, labels = study(noise=0.0, count=40)
    quality = labels.quality(5)
    draws = Draws.make(np.zeros(40, dtype=np.int64), group=8)
    for plan in halving_plans(labels.budgets, 8, fresh=True):
        assert halving_regret(labels, plan, quality, draws) == (0, 0, 0)


def test_holm_is_monotone_and_bounded():
    p = np.random.default_rng(0).random(20)
    adjusted = scores.holm(p)
    assert (adjusted >= p).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()
    assert adjusted.min() == pytest.approx(min(1.0, 20 * p.min()))


def test_splits_hold_out_what_they_say():
    candidates = recipes(90)
    pooled, schemes, matched = make_splits(candidates, 5)
    names = np.array([c.scheme for c in candidates])
    for fold in range(5):
        assert np.bincount(pooled.fold)[fold] == 18
        assert len(set(names[pooled.fold == fold])) == 3
    assert all(len(set(names[schemes.fold == k])) == 1 for k in range(3))
    scale = np.array([c.scale for c in candidates])
    assert (scale[matched.taking] == 1).all()
    assert matched.taking.sum() == (scale == 1).sum()
    assert [
        s.name for s in make_splits([Candidate("a", 1 + k / 99) for k in range(20)], 5)
    ] == ["pooled"]
    with pytest.raises(DataError, match=r"5 folds need at least 20 candidates.*got 19"):
        make_splits(candidates[:19], 5)


def test_costs_that_are_shared_count_once():
    features, _ = study()
    sets = feature_sets(features)
    assert set_cost(features, sets["topology"]) == 11
    assert set_cost(features, sets["statistics + topology"]) == 11
    assert set_cost(features, sets["scheme + scale"]) == 0


def lost(labels, rows):
    values, diverged = labels.values.copy(), labels.diverged.copy()
    values[:, rows] = np.nan
    diverged[rows] = True
    return Labels(labels.candidates, labels.budgets, labels.orders, values, diverged)


def test_divergence_is_a_class_of_its_own():
    features, labels = study(effect=0.5)
    rows = np.argsort(features.of(["scale"])[:, 0])[-8:]
    found = evaluate(features, lost(labels, rows), FAST)
    assert found.diverged == 8
    assert np.isnan(found.truth[rows]).all()
    assert np.isnan(found.predictions[0][:, rows]).all()
    assert found.divergence["scheme + scale"] > 0.9
    assert 0 <= found.divergence["statistics"] <= 1
    assert "8 of 90 candidates diverged" in found.notes[0]


def test_bad_labels_are_named():
    features, labels = study()
    with pytest.raises(DataError, match=r"all 90 candidates diverged.*label.lr"):
        evaluate(features, lost(labels, np.arange(90)), FAST)
    flat = Labels(
        labels.candidates,
        labels.budgets,
        labels.orders,
        np.full_like(labels.values, 2.0),
        labels.diverged,
    )
    with pytest.raises(DataError, match="is 2 for all 90 candidates"):
        evaluate(features, flat, FAST)
    with pytest.raises(DataError, match="5 folds need at least 20"):
        evaluate(features, lost(labels, np.arange(75)), FAST)
    with pytest.raises(ArgumentError, match="`budget` must be one of"):
        evaluate(features, labels, FAST.model_copy(update={"budget": 3}))
    part = Labels(
        labels.candidates[:5],
        labels.budgets,
        labels.orders,
        labels.values[:, :5],
        labels.diverged[:5],
    )
    with pytest.raises(DataError, match="features of 90 candidates do not go with labels of 5"):
        evaluate(features, part, FAST)


def test_a_result_comes_back_from_its_file(planted, tmp_path):
    again = io.load(io.save(planted, tmp_path / "quality.nc"))
    for name in ("scores", "gains", "predictions", "selection", "ceilings", "feature_p"):
        assert np.array_equal(getattr(again, name), getattr(planted, name), equal_nan=True)
    assert (again.models, again.choices, again.notes) == (
        planted.models,
        planted.choices,
        planted.notes,
    )
    with pytest.raises(UnknownNameError, match="`split` must be one of"):
        planted.score("random", "topology / ridge")


def test_the_ceiling_is_the_reliability_of_the_labels(planted):
    # Noise of 0.02 against a spread of 0.6: hardly anything is lost.
    for value, lower, upper in planted.ceilings:
        assert 0.98 < lower <= value <= upper <= 1


def test_choosing_by_a_good_predictor_costs_less_regret(planted):
    rows = dict(zip(planted.choices, planted.selection, strict=True))
    good, chance = rows["scheme + scale + topology / ridge"], rows["mean / ridge"]
    assert good[1] < 0.6 * chance[1]
    assert good[0] == 8 * 11
    assert rows["train 8 x 5 epochs"][0] == 8 * 5 * 10
    assert rows["train 8 x 5 epochs"][1] < 0.1 * chance[1]


def test_equal_recipes_are_in_one_fold():
    twice = [Candidate("a", 1.0, seed) for seed in range(12)] * 2
    twice += [Candidate("b", 2.0, 7)] * 5 + [
        Candidate("b", 2.0, seed) for seed in range(20, 30)
    ]
    for split in make_splits(twice, 4):
        for recipe in set(twice):
            copies = [k for k, candidate in enumerate(twice) if candidate == recipe]
            assert len(set(split.fold[copies])) == 1
    with pytest.raises(DataError, match="different recipes; got 1"):
        make_splits([Candidate("a", 1.0, 0)] * 20, 5)
