"""What every exported result can do: one sample a class, one test of all promises.

A new result adds a line to `SAMPLES`: its class and a function that makes a small one. Results
of instruments need none: they are taken from a survey with all of them.
"""

import functools
import inspect
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from torch import nn

import lossatlas as la
from fuzz_calls import _plan, curve, fit, log, objective, other_point, point, setup
from lossatlas import (
    curvature,
    forecast,
    inits,
    monitoring,
    recipes,
    steering,
    surveys,
    topology,
    weights,
)
from lossatlas.inits.candidates import Candidate
from lossatlas.inits.trust import trust as simulated_trust
from lossatlas.landscape.mapping import MapPlan
from lossatlas.landscape.span import SpanSuggestion
from lossatlas.result import Result
from phrases import faults_of
from plots.paper_boxes import faults
from plots.sample_landscapes import box_map, line_map, refined_map, sample_map, with_trajectory
from report.sample_comparisons import valleys

ROOMS = (
    topology, curvature, surveys, recipes, inits, weights, steering, forecast, monitoring,
)  # fmt: skip
FIELD = sample_map("double well", points=15, noise=0.01)
RECIPES = tuple(Candidate(s, 1.0, k) for k in range(6) for s in ("normal", "orthogonal"))


def rng():
    return np.random.default_rng(0)


def labels():
    values = np.exp(rng().normal(size=(4, 12, 2, 1)))
    return inits.Labels(RECIPES, (5,), (0, 1), values, np.zeros((12, 2, 1), dtype=bool))


def features():
    values = rng().normal(size=(12, 6))
    values[0, 0], values[:, 1] = np.nan, 1.0
    groups = ("topology", "baseline", "statistics") * 2
    return inits.Features(tuple("abcdef"), groups, values, dict.fromkeys("abcdef", 1.0))


def trust():
    return simulated_trust(np.arange(10.0), np.arange(10.0) + rng().normal(size=(200, 10)))


def monitored():
    found = monitoring.Monitor(objective(), ("loss", "gradient"), every=1, share=None)
    for value in (1.0, 0.5, 0.4):
        found.step(value)
    return found.log


def spike():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss = lambda model, batch: (model(batch) - 1).square().mean()  # noqa: E731
    recorder = monitoring.SpikeRecorder(model, optimizer, loss)
    for step in range(20):
        batch = torch.full((4, 2), 1000.0 if step == 19 else 1.0 + 0.01 * step)
        optimizer.zero_grad()
        loss(model, batch).backward()
        report = recorder.observe(loss(model, batch), batch)
        optimizer.step()
    return report


def edits():
    return weights.edit_curve(objective(), weights.factors(objective(), examples=0), keep=[0.9])


SAMPLES = {
    "Landscape": lambda: with_trajectory(refined_map()),
    "Landscape of a line": line_map,
    "Landscape of a box": lambda: box_map(7),
    "Landscape without errors": lambda: sample_map(points=9, walls=True),
    "MapPlan": lambda: MapPlan("plain", 961, 2**20),
    "LearningCoefficient": lambda: curvature.learning_coefficient(
        objective(), 2, 200, localization=1e3
    ),
    "MemoryPlan": lambda: curvature.plan_memory(objective(), "trace"),
    "SpanSuggestion": lambda: SpanSuggestion(0.5, 1.2, "the loss rises by 1.2.", 9),
    "Comparison": valleys,
    "Diagram": lambda: topology.persistence(FIELD),
    "MergeTree": lambda: topology.merge_tree(FIELD),
    "Resolution": lambda: topology.resolution(FIELD),
    "CertainBasins": lambda: topology.certain_basins(FIELD),
    "Profile": lambda: topology.profile(FIELD),
    "Matching": lambda: topology.match_bars([[0.0, 2.0]], [[0.5, 2.0], [1.0, 1.1]]),
    "BasinMatching": lambda: topology.match_basins(FIELD, sample_map(points=15)),
    "Samples": lambda: inits.Samples(RECIPES, np.exp(3 * rng().normal(size=12))),
    "Labels": labels,
    "Reliability": lambda: labels().reliability(5),
    "Features": features,
    "Trust": trust,
    "Calibration": lambda: inits.Calibration.fit(np.arange(5.0), np.arange(5.0) + 0.1),
    "Runs": lambda: recipes.train_recipes(setup(), ["sgd", "adamw"], steps=2, seeds=2),
    "Symmetries": lambda: weights.symmetries(objective()),
    "Alignment": lambda: weights.align(objective(), point(), other_point(), starts=1),
    "JointAlignment": lambda: weights.align_many(objective(), point(), other_point(), starts=1),
    "Connection": lambda: weights.connect(objective(), point(), other_point(), points=3),
    "Merge": lambda: weights.merge(objective(), point(), other_point()),
    "MergeComparison": lambda: weights.compare_merges(
        objective(), point(), other_point(), methods=["ties"]
    ),
    "Choice": lambda: weights.choose(objective(), point(), other_point()),
    "WeightSpectra": lambda: weights.weight_spectra(point()),
    "Factors": lambda: weights.factors(objective()),
    "EditCurve": edits,
    "Repair": lambda: weights.repair(objective(), point(), point(), other_point(), 0.5),
    "Soup": lambda: weights.soup(objective(), point(), other_point()),
    "Sensitivity": lambda: weights.sensitivity(objective()),
    "WindowFisher": lambda: weights.window_fisher(objective()),
    "DecisionLog": log,
    "SuggestedLR": lambda: la.suggest_lr(objective(), "sgd", updates=10),
    "SpikeReport": spike,
    "MonitorLog": monitored,
    "Reading": lambda: steering.Reading(1, loss=0.5, loss_error=0.1),
    "Curve": curve,
    "Fit": fit,
    "Prediction": lambda: fit().predict(curve()),
    "SchedulePlan": _plan,
    "Spikes": lambda: forecast.spikes(np.arange(1, 30), 1 / np.arange(1, 30)),
}
# Their tests make them with what only those tests have.
ELSEWHERE = {
    "AverageChoice": "steering/test_steering_results.py",
    "TransferCheck": "recipes/test_transfer.py",
    "Quality": "inits/test_inits_quality.py",
    "Ranking": "inits/test_inits_quality.py",
    "Surrogates": "inits/test_inits_surrogates.py",
    "ProbeReading": "steering/test_steering_results.py",
    "WhatIf": "forecast/test_forecast_results.py",
    "LiveReading": "forecast/test_forecast_results.py",
    "Deceleration": "forecast/test_forecast_results.py",
    "GroupSpectra": "report/test_instrument_sections.py",
}


class Tokens(nn.Module):
    """A small pre-norm transformer that classifies rows of numbers."""

    def __init__(self):
        super().__init__()
        block = {"dropout": 0.0, "norm_first": True, "batch_first": True}
        self.inner = nn.Linear(4, 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 8, **block) for _ in range(2)
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        hidden = self.inner(x)[:, None]
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden[:, 0])


@functools.cache
def survey():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, inputs = Tokens(), torch.randn(60, 4)
    classes = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.3).long()
    loss = la.supervised(nn.functional.cross_entropy)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), classes).backward()
        optimizer.step()
    objective = la.Objective(model, loss, [(inputs, classes)])
    points = [{n: v * (1 + k) for n, v in objective.params.items()} for k in (0.2, 0.1, 0.0)]
    options = {"points": 5, "span": 0.5, "plane": "random", "lr": 0.1, "title": "<i>x</i>"}
    # Thousands of steps for one result; a short chain makes a sample of it.
    names = [i.name for i in curvature.instruments() if i.name != "learning_coefficient"]
    found = la.survey(objective, instruments=names, checkpoints=points, **options)
    return found, curvature.diagonal(objective, limit=20, rows=5)


@functools.cache
def measured():
    """The results of all instruments of a survey, by class."""
    found, diagonal = survey()
    parts = [part for each in found.findings.values() for part in each.results.values()]
    whole = [
        each.about.reads(**each.results) for each in found.findings.values() if each.about.reads
    ]
    every = [found, diagonal, found.findings["sharpness"], *parts, *whole]
    return {type(each).__name__: each for each in every if isinstance(each, Result)}


def exported():
    every = [getattr(room, name) for room in ROOMS for name in room.__all__]
    every += [la.Landscape, MapPlan, SpanSuggestion]
    kinds = (each for each in every if inspect.isclass(each) and issubclass(each, Result))
    return {kind.__name__: kind.__module__ for kind in kinds}


MEASURED = {
    name
    for name, module in exported().items()
    if module.startswith(("lossatlas.curvature", "lossatlas.surveys"))
    and name not in {*SAMPLES, *ELSEWHERE}
}


@pytest.fixture(params=[*SAMPLES, *sorted(MEASURED)])
def found(request):
    name = request.param
    yield SAMPLES[name]() if name in SAMPLES else measured()[name]
    plt.close("all")


def test_every_exported_result_has_a_sample_and_is_drawn():
    assert {*exported()} <= {*SAMPLES, *MEASURED, *ELSEWHERE}


def test_its_text_is_short(found):
    assert len(repr(found)) <= 400
    assert repr(found).count("\n") <= 4
    assert repr(found).startswith(f"<{type(found).__name__}")


def test_it_comes_back_from_its_file(found, tmp_path):
    back = la.load(found.save(tmp_path / "result.nc"))
    assert back == found
    assert repr(back) == repr(found)
    assert [f.name for f in back.figures()] == [f.name for f in found.figures()]
    assert back.sentences() == found.sentences()


def test_its_words_show_what_they_claim(found):
    said = [found.headline(), *found.sentences(), *map(str, found.estimates())]
    said += [cell for row in found.rows() for cell in row]
    said += [cell for table in found.tables() for row in table.rows for cell in row]
    said += [text for figure in found.figures() for text in (figure.caption, figure.alt)]
    assert not [fault for text in said for fault in faults_of(text)]


def test_its_numbers_have_errors_or_reasons(found):
    names = [estimate.name for estimate in found.estimates()]
    assert names
    # Tree and diagram of a survey have one threshold.
    assert len(set(names)) == len(names) or isinstance(found, surveys.Survey)
    for estimate in found.estimates():
        assert np.isfinite(estimate.error) or estimate.why_no_error, estimate
    if type(found).to_frame is Result.to_frame:
        assert list(found.to_frame()["name"]) == names
    json.dumps(found.to_dict(), allow_nan=False)
    json.dumps(found.summary(), allow_nan=False)
    assert found.rows() or all(estimate.is_minor for estimate in found.estimates())


def test_its_sentences_are_sentences(found):
    for sentence in found.sentences():
        assert sentence.endswith(".")
        # Two layers have no rank correlation.
        assert "nan" not in sentence.lower().split() or isinstance(found, weights.Sensitivity)


def test_every_picture_is_drawn_by_both_backends(found):
    names = [figure.name for figure in found.figures()]
    assert names
    assert len(set(names)) == len(names)
    for figure in found.figures():
        assert figure.title
        assert figure.alt
        ax = found.plot(figure.name, style="paper", width=3.25)
        assert faults(ax.figure) == [], figure.name
        assert found.plot(figure.name, backend="plotly").layout.height
        plt.close("all")


def test_notebooks_show_its_sentences_numbers_and_first_picture(found):
    page = found._repr_html_()
    assert type(found).__name__ in page
    assert ("<img" in page) == bool(found.figures())
    assert "<table>" in page
    assert "<i>x</i>" not in page


def test_a_fresh_process_reads_every_sample(tmp_path):
    # Modules that hold parts of a result are imported when a file names them.
    for name, make in SAMPLES.items():
        make().save(tmp_path / f"{name}.nc")
    code = (
        "import pathlib, lossatlas as la\n"
        "for path in sorted(pathlib.Path('.').glob('*.nc')): la.load(path)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_a_survey_says_is_what_its_instruments_say():
    found, _ = survey()
    assert all(not each.why_not for each in found.findings.values())
    told = found.summary()
    for name, each in found.findings.items():
        assert set(each.sentences()) <= set(found.sentences())
        assert set(each.estimates()) <= set(found.estimates())
        assert told["instruments"][name]["missing"] == dict(each.missing)
