"""Stages 4 and 5 and the everyday ranking, on a study of a few seconds."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from test_inits_resume import die, killed

from lossatlas import io
from lossatlas.errors import ArgumentError, DataError, FileError, LossError, ModelError
from lossatlas.inits import figures
from lossatlas.inits.candidates import Candidate
from lossatlas.inits.evaluation import fit_quality
from lossatlas.inits.features import Measure, measure_features
from lossatlas.inits.labels import label
from lossatlas.inits.paths import path_of
from lossatlas.inits.problem import load_problem
from lossatlas.inits.ranking import rank
from lossatlas.inits.settings import InitsSettings
from lossatlas.plots import canvas
from lossatlas.plots.inits import choice_chart, predicted_chart, scores_chart
from lossatlas.text import number

FAST = {
    "model": "mlp(8)",
    "examples": 160,
    "probe": 32,
    "label": {
        "samples": 30,
        "schemes": ("orthogonal", "normal"),
        "budgets": (1, 2),
        "orders": 2,
        "batch_size": 60,
        "matched": 0.8,
    },
    "quality": {
        "planes": 1,
        "points": 5,
        "radii": (0.5,),
        "scattered": 30,
        "folds": 3,
        "resamples": 20,
        "regressors": (),
    },
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    settings = InitsSettings(**FAST, out=tmp_path_factory.mktemp("study"))
    problem = load_problem(settings)
    labels = label(settings, problem)
    io.save(labels, path_of(settings, "label"))
    return settings, problem, labels


@pytest.fixture(scope="module")
def scored(study):
    settings, problem, labels = study
    features = measure_features(settings, problem, labels)
    io.save(features, path_of(settings, "features"))
    quality = fit_quality(settings, problem, labels, features)
    io.save(quality, path_of(settings, "fit-quality"))
    return features, quality


def test_killed_features_go_on_with_the_same_bits(study, scored, tmp_path, monkeypatch):
    settings, problem, labels = study
    elsewhere, table = settings.model_copy(update={"out": tmp_path}), Measure.table
    seen = []

    def dying(self, candidates):
        seen.append(len(candidates))
        return die() if len(seen) == 2 else table(self, candidates)

    with monkeypatch.context() as patch:
        patch.setattr(Measure, "table", dying)
        killed(lambda: measure_features(elsewhere, problem, labels))
    monkeypatch.setattr(Measure, "table", lambda s, c: (seen.append(len(c)), table(s, c))[1])
    again = measure_features(elsewhere, problem, labels)
    assert seen == [15]  # the first piece was not computed again
    assert np.array_equal(again.values, scored[0].values, equal_nan=True)
    assert again.names == scored[0].names


def test_estimates_name_every_split_and_what_it_costs(scored):
    quality = scored[1]
    rows = {row.name: row for row in quality.estimates()}
    assert not rows["pooled: scheme + scale"].is_minor
    for row in rows.values():
        assert row.ends or row.why_no_error or row.stderr == 0
    splits = {name.partition(": ")[0] for name, row in rows.items() if "passes" in row.meaning}
    assert splits == {"pooled", "leave-scheme-out", "scale-matched", "regret"}
    assert not rows["regret: train 30 x 2 epochs"].meaning.endswith(" 0 passes")
    value, lower, upper = quality.score("pooled", "norm / ridge")
    assert rows["pooled: norm"].interval() == (lower, upper)
    assert rows["pooled: norm"].value == value
    assert quality.sentences()[0].startswith("Pooled: the best prediction")


def test_every_result_is_stored_told_and_drawn(study, scored, tmp_path):
    ranking = rank(study[0].model_copy(update={"out": tmp_path}), 8, problem=study[1])
    assert ranking.trust is ranking.calibration is None
    said = " ".join([*ranking.sentences(), *map(str, ranking.estimates())])
    assert f"{len(study[1].test)} test examples of {study[0].data}" in said
    assert " x 1," not in said
    twelve = rank(study[0].model_copy(update={"out": tmp_path / "b"}), 12, problem=study[1])
    every = (study[2], *scored, ranking, twelve, twelve.trust, twelve.calibration)
    for result in (*every, study[2].reliability(2)):
        assert io.load(result.save(tmp_path / "result.nc")) == result
        assert len(repr(result)) <= 400
        assert result.estimates()
        assert all(sentence.endswith(".") for sentence in result.sentences())
        for figure in result.figures():
            assert result.plot(figure.name).has_data()
            assert result.plot(figure.name, backend="plotly").data
            plt.close("all")


def test_tables_for_work_of_ones_own(study, scored):
    labels = study[2].table()
    assert len(labels) == 30 * 2 * 2
    row = labels.iloc[-1]
    assert (row["candidate"], row["order"], row["epochs"]) == (29, 1, 2)
    assert row["test loss"] == study[2].of(2)[29, 1]
    assert scored[0].table()["norm"].tolist() == scored[0].of(["norm"])[:, 0].tolist()


@pytest.mark.parametrize("form", ["png", "html"])
def test_pictures_of_what_is_there_also_after_a_kill(study, scored, form, monkeypatch):
    monkeypatch.setitem(canvas.RC, "savefig.dpi", 40)
    monkeypatch.setattr(figures, "SIDE", 5)
    settings = study[0].model_copy(
        update={"figures": study[0].figures.model_copy(update={"format": form})}
    )
    if form == "png":
        killed(lambda: figures.draw(settings, progress=die))
    told = []
    paths = figures.draw(settings, progress=lambda *part: told.append(part))
    names = ("landscapes", "persistence", "scores-pooled", "predicted", "choosing")
    if form == "html":
        text = paths[0].read_text()
        assert all(f"<figure id='{name}'><svg" in text for name in names)
    else:
        assert {path.stem for path in paths} >= set(names)
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert len(told) >= len(names)


def test_pictures_without_scores_name_the_command(study, tmp_path):
    settings = study[0].model_copy(update={"out": tmp_path})
    with pytest.raises(FileError, match="lossatlas inits label"):
        figures.draw(settings)


def test_scores_are_drawn_with_intervals_and_ceiling():
    chart = scores_chart(
        ["a", "b", "c"],
        [[0.5, 0.4, 0.6], [0.1, 0.0, 0.2], [np.nan] * 3],
        title="t",
        label="l",
        ceiling=0.9,
    )
    ax = canvas.draw(chart)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["b", "a"]
    drawn = {float(x) for line in ax.lines for x in line.get_xdata() if np.isfinite(x)}
    assert drawn >= {0.0, 0.2, 0.4, 0.6, 0.9}
    assert "noise ceiling" in {text.get_text() for text in ax.texts}


def test_predictions_and_choices_are_drawn():
    chart = predicted_chart([1.0, 2.0, 3.0], [1.1, np.nan, 2.9], ["a", "b", "b"], title="t")
    assert sorted(len(layer.x) for layer in chart.layers) == [1, 1, 2]
    numbers = [[0, 1, 0.5, 1.5], [10, 0.2, 0.1, 0.3], [100, 0.1, 0, 0.2]]
    chart = choice_chart(["mean", "topology", "train 8 x 1 epochs"], numbers, group=8)
    # Logarithmic both ways: decades are equally far apart.
    assert chart.x.ticks == ([0.0, 1.0, 2.0], ["1", "10", "100"])
    ax = canvas.draw(chart)
    assert {t.get_text() for t in ax.texts} == {"mean", "topology", "train 8 x 1 epochs"}


def test_a_ranking_says_how_far_to_trust_it(study, tmp_path):
    settings = study[0].model_copy(update={"out": tmp_path})
    found = rank(settings, 12, problem=study[1])
    assert len({c.seed for c in found.candidates}) == 12
    assert {c.scheme for c in found.candidates} == {"orthogonal", "normal"}
    assert (np.diff(found.expected) >= 0).all()
    left = np.setdiff1d(np.arange(12), found.trained)
    assert found.trust.left_out == 4
    # Three of twelve are the finalists of halving, of which some were trained as a check too.
    assert 9 <= len(found.trained) + 1 <= 12
    assert (found.lower <= found.upper)[left].all()
    # What was measured ranks by its measurement, and has no prediction interval.
    assert found.expected[found.trained].tolist() == found.truth.tolist()
    assert np.isnan(found.lower[found.trained]).all()
    assert {found.short.argmin(), found.short.argmax()} <= set(found.trained.tolist())
    value, low, high = found.trust.agreement
    assert -1 <= low <= value <= high <= 1
    assert 0 <= found.trust.regret[0] <= found.trust.chance + 1e-9
    # 12 candidates in two orders for 1 epoch, 8 for 2 epochs, 3 finalists of halving for 2;
    # 120 examples, probe of 32.
    assert found.cost == 3 * (12 * 2 + 8 * 2 + 3 * 2) * 120 / 32
    rows = found.estimates()
    assert [row.name.split(". ")[0] for row in rows[:12]] == [str(k) for k in range(1, 13)]
    k = int(left[0])
    assert rows[k].interval() == pytest.approx((found.lower[k], found.upper[k]))
    assert "measured" in rows[found.trained[0]].why_no_error
    measured = {row.name: row.value for row in rows[12:]}
    place, loss = found.halving
    assert measured[f"successive halving takes number {place + 1}, loss"] == loss
    # One loss a candidate, wherever it is told.
    assert place in found.trained
    assert found.expected[place] == loss
    [said] = [each for each in found.sentences() if each.startswith("Successive halving")]
    assert f"takes number {place + 1}, with a test loss of {number(loss)};" in said
    assert found.sentences()[0].lower() == f"{found.trust.verdict}."


def test_too_few_left_out_leave_the_trust_unknown(study, tmp_path):
    found = rank(study[0].model_copy(update={"out": tmp_path}), 9, problem=study[1])
    assert np.isnan(found.trust.agreement).all()
    assert "only 1 of the candidates" in found.trust.estimates()[0].why_no_error
    assert "unknown: only 1" in found.sentences()[0]
    assert io.load(found.save(tmp_path / "nine.nc")) == found


def test_own_candidates_are_ranked_by_default(tmp_path):
    settings = InitsSettings(
        model="mlp(4)", examples=100, probe=20, out=tmp_path, label={"budgets": (1, 2)}
    )
    found = rank(settings, 8)
    assert {c.scheme for c in found.candidates} == {"own"}


def test_bad_rankings_are_named(study, tmp_path):
    settings = study[0].model_copy(update={"out": tmp_path})
    with pytest.raises(ArgumentError, match="`candidates` must be a whole number >= 8"):
        rank(settings, 3, problem=study[1])
    one = settings.label.model_copy(update={"budgets": (2,)})
    with pytest.raises(ArgumentError, match="two budgets"):
        rank(settings.model_copy(update={"label": one}), 8, problem=study[1])
    wild = settings.label.model_copy(update={"lr": 1e30})
    with pytest.raises(DataError, match="diverged"):
        rank(settings.model_copy(update={"label": wild}), 8, problem=study[1])


def test_a_factory_that_does_not_fit_the_data_is_named(tmp_path):
    (tmp_path / "narrow.py").write_text(
        "import torch\n\ndef make():\n    return torch.nn.Linear(7, 10)\n"
    )
    settings = InitsSettings(
        model=f"{tmp_path / 'narrow.py'}:make", examples=100, probe=20, out=tmp_path
    )
    with pytest.raises(LossError, match=r"`loss` failed \(RuntimeError: mat1 and mat2"):
        rank(settings, 8)


def test_a_network_without_layers_is_named(study, tmp_path):
    (tmp_path / "bare.py").write_text(
        "import torch\n"
        "class Bare(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.scale = torch.nn.Parameter(torch.ones(10))\n"
        "    def forward(self, x):\n"
        "        return x.flatten(1)[:, :10] * self.scale\n"
    )
    settings = InitsSettings(
        **FAST | {"model": f"{tmp_path / 'bare.py'}:Bare"}, out=tmp_path / "study"
    )
    labels = study[2]
    with pytest.raises(ModelError, match="no supported layers"):
        measure_features(settings, load_problem(settings), labels)
    assert isinstance(labels.candidates[0], Candidate)


def test_weights_of_a_candidate_keep_tied_parameters_and_buffers(tmp_path):
    (tmp_path / "tied.py").write_text(
        "import torch\n"
        "class Tied(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a = torch.nn.Linear(64, 10)\n"
        "        self.b = self.a\n"
        "        self.register_buffer('shift', torch.ones(1))\n"
        "    def forward(self, x):\n"
        "        return self.a(x.flatten(1)) + self.b(x.flatten(1)) + self.shift\n"
    )
    problem = load_problem(
        InitsSettings(
            model=f"{tmp_path / 'tied.py'}:Tied", examples=100, probe=20, out=tmp_path / "s"
        )
    )
    before = problem.model.a.weight.detach().clone()
    weights = problem.weights(Candidate("own", 1.0, 5))
    assert set(weights) == {"a.weight", "a.bias", "b.weight", "b.bias", "shift"}
    assert weights["a.weight"].equal(problem.build(5).a.weight)
    assert weights["b.weight"].equal(weights["a.weight"])
    assert problem.model.a.weight.equal(before)
