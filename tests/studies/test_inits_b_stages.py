"""Stages 4 and 5 and the everyday ranking, on a study of a few seconds."""

import numpy as np
import pytest
from test_inits_a_resume import die, killed

from lossatlas import store
from lossatlas.errors import ArgumentError, DataError, FileError, LossError, ModelError
from lossatlas.plots import canvas
from lossatlas.plots.inits import plot_choice, plot_predicted, plot_scores
from lossatlas.studies.inits import figures, stages
from lossatlas.studies.inits.candidate import Candidate
from lossatlas.studies.inits.features.gather import Measure
from lossatlas.studies.inits.files import path_of
from lossatlas.studies.inits.label import label
from lossatlas.studies.inits.problem import load_subject
from lossatlas.studies.inits.rank import rank
from lossatlas.studies.inits.settings import InitsSettings

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
        "heads": (),
    },
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    settings = InitsSettings(**FAST, out=tmp_path_factory.mktemp("study"))
    subject = load_subject(settings)
    labels = label(settings, subject)
    store.save(labels, path_of(settings, "label"))
    return settings, subject, labels


@pytest.fixture(scope="module")
def scored(study):
    settings, subject, labels = study
    features = stages.measure_features(settings, subject, labels)
    store.save(features, path_of(settings, "features"))
    quality = stages.fit_quality(settings, subject, labels, features)
    store.save(quality, path_of(settings, "fit-quality"))
    return features, quality


def test_killed_features_go_on_with_the_same_bits(study, scored, tmp_path, monkeypatch):
    settings, subject, labels = study
    elsewhere, table = settings.model_copy(update={"out": tmp_path}), Measure.table
    seen = []

    def dying(self, candidates):
        seen.append(len(candidates))
        return die() if len(seen) == 2 else table(self, candidates)

    with monkeypatch.context() as patch:
        patch.setattr(Measure, "table", dying)
        killed(lambda: stages.measure_features(elsewhere, subject, labels))
    monkeypatch.setattr(Measure, "table", lambda s, c: (seen.append(len(c)), table(s, c))[1])
    again = stages.measure_features(elsewhere, subject, labels)
    assert seen == [15]  # the first piece was not computed again
    assert np.array_equal(again.values, scored[0].values, equal_nan=True)
    assert again.names == scored[0].names


def test_the_table_names_every_split_and_what_it_costs(scored):
    rows = scored[1].table()
    assert any(name == "pooled: scheme + scale" for name, _, _ in rows)
    assert any(remark.endswith(" passes") for _, _, remark in rows)
    plain = scored[1].summary()
    assert set(plain["scores"]) == {"pooled", "leave-scheme-out", "scale-matched"}
    assert plain["choosing_one"]["train 30 x 2 epochs"]["cost"] > 0


@pytest.mark.parametrize("form", ["png", "html"])
def test_pictures_of_what_is_there_also_after_a_kill(study, scored, form, monkeypatch):
    monkeypatch.setitem(canvas.RC, "savefig.dpi", 40)
    monkeypatch.setattr(figures, "SIDE", 5)
    settings = study[0].model_copy(
        update={"figures": study[0].figures.model_copy(update={"format": form})}
    )
    if form == "png":
        killed(lambda: stages.draw_figures(settings, progress=die))
    told = []
    paths = stages.draw_figures(settings, progress=told.append)
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
        stages.draw_figures(settings)


def test_scores_are_drawn_with_intervals_and_ceiling():
    ax = plot_scores(
        ["a", "b", "c"],
        [[0.5, 0.4, 0.6], [0.1, 0.0, 0.2], [np.nan] * 3],
        title="t",
        label="l",
        ceiling=0.9,
    )
    assert [text.get_text() for text in ax.get_yticklabels()] == ["b", "a"]
    lines = [tuple(line.get_xdata()) for line in ax.lines]
    assert (0.4, 0.6) in lines
    assert any(set(line) == {0.9} for line in lines)


def test_predictions_and_choices_are_drawn():
    ax = plot_predicted([1.0, 2.0, 3.0], [1.1, np.nan, 2.9], ["a", "b", "b"], title="t")
    drawn = [len(line.get_xdata()) for line in ax.lines]
    assert sorted(drawn) == [1, 1, 2]
    numbers = [[0, 1, 0.5, 1.5], [10, 0.2, 0.1, 0.3], [100, 0.1, 0, 0.2]]
    ax = plot_choice(["mean", "topology", "train 8 x 1 epochs"], numbers, group=8)
    assert ax.get_xscale() == "log"
    assert {t.get_text() for t in ax.texts} == {"mean", "topology", "train 8 x 1 epochs"}


def test_a_ranking_says_how_far_to_trust_it(study, tmp_path):
    settings = study[0].model_copy(update={"out": tmp_path})
    found = rank(settings, 12, subject=study[1])
    assert len({c.seed for c in found.candidates}) == 12
    assert {c.scheme for c in found.candidates} == {"orthogonal", "normal"}
    assert (np.diff(found.short) >= 0).all()
    assert (found.lower <= found.upper).all()
    assert found.checked[0] == 0
    assert found.checked[-1] == 11
    assert found.first == found.truth[0]
    value, low, high = found.agreement
    assert -1 <= low <= value <= high <= 1
    assert 0 <= found.regret[0] <= found.chance + 1e-9
    # 12 candidates in two orders for 1 epoch, 8 for 2 epochs; 120 examples, probe of 32.
    assert found.cost == 3 * (12 * 2 + 8 * 2) * 120 / 32
    assert found.table()[0][0].startswith("1. ")
    assert len(found.summary()["ranking"]) == 12
    assert found.trust


def test_own_candidates_are_ranked_by_default(tmp_path):
    settings = InitsSettings(
        model="mlp(4)", examples=100, probe=20, out=tmp_path, label={"budgets": (1, 2)}
    )
    found = rank(settings, 8)
    assert {c.scheme for c in found.candidates} == {"own"}


def test_bad_rankings_are_named(study, tmp_path):
    settings = study[0].model_copy(update={"out": tmp_path})
    with pytest.raises(ArgumentError, match="`candidates` must be a whole number >= 8"):
        rank(settings, 3, subject=study[1])
    one = settings.label.model_copy(update={"budgets": (2,)})
    with pytest.raises(ArgumentError, match="two budgets"):
        rank(settings.model_copy(update={"label": one}), 8, subject=study[1])
    wild = settings.label.model_copy(update={"lr": 1e30})
    with pytest.raises(DataError, match="diverged"):
        rank(settings.model_copy(update={"label": wild}), 8, subject=study[1])


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
        stages.measure_features(settings, load_subject(settings), labels)
    assert isinstance(labels.candidates[0], Candidate)
