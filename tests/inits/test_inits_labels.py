import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lossatlas import io
from lossatlas.errors import (
    ArgumentError,
    DataError,
    FileError,
    ModelError,
    ResumeError,
    UnknownNameError,
)
from lossatlas.executor import Joblib
from lossatlas.inits.candidates import Candidate
from lossatlas.inits.labels import MEASURES, _groups, label, label_candidates, reliability
from lossatlas.inits.paths import load_stage, path_of
from lossatlas.inits.problem import load_problem
from lossatlas.inits.samples import base_recipes, generate
from lossatlas.inits.settings import InitsSettings
from lossatlas.objective import Objective
from lossatlas.training import build_model, train

SMALL = {
    "model": "mlp(6)",
    "examples": 200,
    "probe": 64,
    "generate": {"samples": 120, "chunk": 50},
    "label": {"samples": 8, "budgets": [1, 2], "orders": 2, "together": 5},
}

BARE = """
import torch
from torch import nn


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(64))

    def forward(self, x):
        return (self.scale * x.flatten(1))[:, :10]


def make():
    return Bare()
"""


def settings_in(folder, **changes):
    merged = {**SMALL, "out": folder, **changes}
    return InitsSettings.model_validate(merged)


def test_losses_of_pairs_are_those_of_the_objective(tmp_path):
    settings = settings_in(tmp_path)
    problem = load_problem(settings)
    pairs = generate(settings, problem)
    assert len(pairs) == 120
    objective = Objective(problem.model, problem.loss, [problem.probe], mode="eval")
    for index in (0, 57, 119):
        value = objective.value(problem.initializer.draw(pairs.candidates[index]))
        assert value == pytest.approx(pairs.losses[index], rel=1e-5)


def test_recipes_follow_the_shares_scales_and_noise(tmp_path):
    plan = {"samples": 4000, "schemes": {"normal": 0.75, "uniform": 0.25}, "noise": 0.2}
    base = base_recipes(settings_in(tmp_path, generate=plan))
    assert len(base) == 3600
    assert np.mean([c.scheme == "normal" for c in base]) == pytest.approx(0.75, abs=0.03)
    scales = np.array([c.scale for c in base])
    assert scales.min() >= 0.5
    assert scales.max() <= 1.5
    noise = np.array([c.noise for c in base])
    assert np.mean(noise > 0) == pytest.approx(0.9, abs=0.02)
    assert noise[noise > 0].mean() == pytest.approx(0.2, abs=0.01)
    assert len({c.seed for c in base}) == 3600


def test_mixtures_come_from_the_better_pairs(tmp_path):
    settings = settings_in(tmp_path)
    pairs = generate(settings, load_problem(settings))
    losses = dict(zip(pairs.candidates, pairs.losses, strict=True))
    mixed = [c for c in pairs.candidates if c.parents]
    assert len(mixed) == 12
    bound = np.quantile(pairs.losses[:108], 0.3)
    assert all(2 <= len(c.parents) <= 4 for c in mixed)
    assert all(losses[parent] <= bound for c in mixed for parent in c.parents)


def test_pairs_come_back_from_disk(tmp_path):
    settings = settings_in(tmp_path)
    pairs = generate(settings, load_problem(settings))
    io.save(pairs, path_of(settings, "generate"))
    back = load_stage(settings, "generate")
    assert back.candidates == pairs.candidates
    assert back.losses.tobytes() == pairs.losses.tobytes()
    assert back.provenance == pairs.provenance


def test_labels_are_trainings_of_their_own(tmp_path):
    settings = settings_in(tmp_path)
    problem = load_problem(settings)
    labels = label(settings, problem)
    assert labels.values.shape == (len(MEASURES), 8, 2, 2)
    plan = settings.label
    for candidate, order, budget in ((0, 0, 1), (5, 1, 2)):
        model = build_model(settings.model, problem.train)
        model.load_state_dict(problem.initializer.draw(labels.candidates[candidate]))
        train(
            model,
            problem.train,
            epochs=budget,
            optimizer=lambda weights: torch.optim.SGD(
                weights, lr=plan.lr, momentum=0.9, weight_decay=plan.weight_decay
            ),
            batch_size=plan.batch_size,
            seed=order,
            schedule="cosine",
        )
        with torch.no_grad():
            outputs = model.eval()(problem.test.inputs)
        loss = float(torch.nn.functional.cross_entropy(outputs, problem.test.targets))
        right = float((outputs.argmax(1) == problem.test.targets).double().mean())
        assert labels.of(budget)[candidate, order] == pytest.approx(loss, rel=1e-4)
        found = labels.of(budget, "test accuracy")[candidate, order]
        assert found == pytest.approx(right, abs=1e-6)


def test_a_share_of_each_scheme_has_scale_one(tmp_path):
    plan = {"samples": 60, "matched": 0.5, "scales": [0.6, 1.4]}
    chosen = label_candidates(settings_in(tmp_path, label=plan))
    for scheme in ("xavier_uniform", "kaiming_uniform", "orthogonal"):
        scales = [c.scale for c in chosen if c.scheme == scheme]
        assert len(scales) == 20
        assert sum(scale == 1.0 for scale in scales) == 10
        assert all(0.6 <= scale <= 1.4 for scale in scales)
    assert len({c.seed for c in chosen}) == 60


def test_divergence_is_a_class_of_its_own(tmp_path):
    settings = settings_in(tmp_path)
    tame, wild = Candidate("normal", 1.0, 0), Candidate("normal", 1e20, 1)
    labels = label(settings, load_problem(settings), [tame, wild, tame])
    assert labels.diverged[:, 0, 0].tolist() == [False, True, False]
    assert np.isnan(labels.quality(1)[1])
    assert labels.finite(1).tolist() == [True, False, True]
    io.save(labels, path_of(settings, "label"))
    back = io.load(path_of(settings, "label"))
    assert back.values.tobytes() == labels.values.tobytes()
    assert back.candidates == labels.candidates
    assert (back.budgets, back.orders) == ((1, 2), (0, 1))


def test_workers_give_the_bits_of_one_process(tmp_path):
    problem = load_problem(settings_in(tmp_path))
    alone = label(settings_in(tmp_path / "a"), problem)
    spread = label(settings_in(tmp_path / "b"), problem, executor=Joblib(2))
    assert alone.values.tobytes() == spread.values.tobytes()


def test_reliability_is_the_share_of_the_candidates_own_variance():
    random = np.random.default_rng(0)
    own = random.normal(size=(4000, 1))
    found = reliability(own + 0.5 * random.normal(size=(4000, 3)))
    assert found.single == pytest.approx(1 / 1.25, abs=0.01)
    assert found.mean == pytest.approx(1 / (1 + 0.25 / 3), abs=0.01)
    assert found.lower < 1 / (1 + 0.25 / 3) < found.upper
    assert found.ceiling == pytest.approx(np.sqrt(found.mean))


def test_the_interval_of_the_reliability_covers_as_often_as_it_says():
    random = np.random.default_rng(1)
    truth = 1 / (1 + 1 / 3)
    inside = 0
    for _ in range(400):
        found = reliability(random.normal(size=(20, 1)) + random.normal(size=(20, 3)))
        inside += found.lower <= truth <= found.upper
    assert 0.92 <= inside / 400 <= 0.98


def test_reliability_needs_repeats_and_candidates():
    with pytest.raises(DataError, match=r"3 candidates .* 2 data orders; got 5 and 1"):
        reliability(np.ones((5, 1)))
    assert np.isnan(reliability(np.ones((5, 2))).mean)


def test_all_candidates_diverged(tmp_path):
    settings = settings_in(
        tmp_path, label=SMALL["label"] | {"scales": [1e25, 1e26], "matched": 0}
    )
    with pytest.raises(DataError, match=r"all 32 trainings diverged.*--set label\.lr"):
        label(settings, load_problem(settings))


def test_no_finite_loss(tmp_path):
    plan = SMALL["generate"] | {"scales": [1e30, 1e38], "perturbed": 0}
    settings = settings_in(tmp_path, generate=plan)
    with pytest.raises(DataError, match=r"none of 108 .*generate\.scales"):
        generate(settings, load_problem(settings))


def test_unknown_schemes_are_named(tmp_path):
    problem = load_problem(settings_in(tmp_path))
    wrong = settings_in(tmp_path, generate={"schemes": {"kaimng_normal": 1.0}})
    with pytest.raises(UnknownNameError, match="did you mean 'kaiming_normal'"):
        generate(wrong, problem)
    with pytest.raises(UnknownNameError, match="did you mean 'orthogonal'"):
        label(settings_in(tmp_path, label={"schemes": ["ortogonal"]}), problem)


@pytest.mark.parametrize("shares", [{"normal": -1.0}, {"normal": 0.0}])
def test_shares_that_are_none(tmp_path, shares):
    settings = settings_in(tmp_path, generate={"schemes": shares})
    with pytest.raises(ArgumentError, match=r"generate\.schemes"):
        base_recipes(settings)


def test_budgets_must_grow(tmp_path):
    settings = settings_in(tmp_path, label={"budgets": [5, 2]})
    with pytest.raises(ArgumentError, match=r"label\.budgets.*\[5, 2\]"):
        label(settings, load_problem(settings))


def test_a_network_without_supported_layers(tmp_path):
    (tmp_path / "bare.py").write_text(BARE)
    settings = settings_in(tmp_path, model=f"{tmp_path / 'bare.py'}:make")
    for stage in (generate, label):
        with pytest.raises(ModelError, match="no supported layers"):
            stage(settings, load_problem(settings))


def test_a_missing_file_names_the_command(tmp_path):
    with pytest.raises(FileError, match="make it first: lossatlas inits generate --out"):
        load_stage(settings_in(tmp_path), "generate")
    with pytest.raises(FileError, match="lossatlas inits fit-quality"):
        load_stage(settings_in(tmp_path), "features")


def test_files_of_other_settings_are_refused(tmp_path):
    settings = settings_in(tmp_path)
    labels = label(settings, load_problem(settings))
    io.save(labels, path_of(settings, "label"))
    other = settings_in(tmp_path, label=SMALL["label"] | {"lr": 0.01})
    with pytest.raises(FileError, match=r"label\.lr is 0\.05 there, 0\.01 here"):
        load_stage(other, "label")
    # What labels do not depend on may change.
    free = settings_in(tmp_path, generate={"samples": 10}, executor="joblib")
    assert_close(load_stage(free, "label").values, labels.values, equal_nan=True)


def test_unfinished_work_of_other_settings_is_refused(tmp_path):
    settings = settings_in(tmp_path)
    problem = load_problem(settings)
    label(settings, problem)
    with pytest.raises(ResumeError, match="belongs to another run: label differ"):
        label(settings_in(tmp_path, label=SMALL["label"] | {"lr": 0.01}), problem)
    with pytest.raises(ResumeError, match="recipes"):
        label(settings, problem, [Candidate("normal", 1.0, s) for s in range(8)])


def test_a_test_set_that_leaves_nothing(tmp_path):
    with pytest.raises(ArgumentError, match="`probe`"):
        load_problem(settings_in(tmp_path, probe=1000))


def test_progress_says_what_was_trained_and_the_ledger_keeps_its_keys(tmp_path):
    settings, heard = settings_in(tmp_path), []
    label(settings, load_problem(settings), progress=lambda *told: heard.append(told))
    assert {text for *_, text in heard} == {
        "5 networks trained, 1 epoch",
        "1 network trained, 1 epoch",
        "5 networks trained, 2 epochs",
        "1 network trained, 2 epochs",
    }
    assert [done for done, *_ in heard] == list(range(1, len(heard) + 1))
    first = _groups(settings.label, 8)[0]
    assert first.name == "1 epochs from (0, 0) to (2, 0)"
