"""`lossatlas survey A B` as a user types it."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import lossatlas as la
from cli.test_survey_command import call
from lossatlas.cli.comparison import _both_maps
from lossatlas.landscape.request import ESTIMATED_ANEW

FACTORY = """import torch
def plain():
    return torch.nn.Linear(4, 3)
def normed():
    from torch.nn import BatchNorm1d, Linear, Sequential
    return Sequential(Linear(4, 5), BatchNorm1d(5), Linear(5, 3))
class Odd(torch.nn.Linear):
    def __init__(self):
        super().__init__(4, 3)
        self.register_buffer("table", torch.zeros(2, dtype=torch.long))
def odd():
    return Odd()
"""
QUICK = ["--data", "npz:d.npz", "--points", "5", "--span", "0.5", "--quiet"]


def weights(seed, **shapes):
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=draw) + 0.1 for name, shape in shapes.items()}


PLAIN = {"weight": (3, 4), "bias": (3,)}
NORMED = {
    **{"0.weight": (5, 4), "0.bias": (5,), "1.weight": (5,), "1.bias": (5,)},
    **{"1.running_mean": (5,), "1.running_var": (5,), "2.weight": (3, 5), "2.bias": (3,)},
}


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FACTORY)
    rng = np.random.default_rng(0)
    np.savez("d.npz", x=rng.normal(size=(40, 4)).astype("float32"), y=rng.integers(0, 3, 40))
    for name, shapes in (("p", PLAIN), ("n", NORMED), ("o", PLAIN | {"table": (2,)})):
        for seed in (0, 1):
            save_file(weights(seed, **shapes), f"{name}{seed}.safetensors")
    return tmp_path


def compared(monkeypatch, capsys, *arguments):
    code, out, error = call(monkeypatch, capsys, "survey", *arguments, "--json", *QUICK)
    assert code == 0, error
    return json.loads(out)


@pytest.mark.parametrize("takes", [(25, 25), (18, 22), (25, 9)])
def test_two_maps_are_one_way_of_progress(takes):
    told = []
    tell = _both_maps(lambda *step: told.append(step))
    for points in takes:
        for done in range(9, points, 4):
            tell(done, 25, "points at most")
        tell(points, points, "points")
    *before, last = told
    assert last[:2] == (sum(takes), sum(takes))
    assert all(done < total for done, total, _ in before)
    assert [done for done, *_ in told] == sorted(done for done, *_ in told)
    totals = [total for _, total, _ in told]
    assert totals == sorted(totals, reverse=True)


def test_two_files_are_compared(monkeypatch, capsys, place):
    files = "p0.safetensors", "p1.safetensors"
    found = compared(monkeypatch, capsys, *files, "--model", "mine.py:plain", "--title", "<i>T")
    assert {"first", "second", "verdict", "barrier_at", "pairs", "grid"} <= found.keys()
    numbers = found["estimates"]
    assert {"barrier", "bottleneck_distance", "wall_time", "minima_around_a"} <= numbers.keys()
    for k, side in enumerate(("first", "second")):
        own = weights(k, **PLAIN)
        data = np.load("d.npz", allow_pickle=False)
        logits = F.linear(torch.tensor(data["x"]), own["weight"], own["bias"])
        loss = F.cross_entropy(logits, torch.tensor(data["y"])).item()
        assert found[side]["loss"] == pytest.approx(loss, rel=1e-5)
        assert found[side]["file"] == files[k]
        assert found[side]["loss_stderr"] > 0
    # The loss of a linear model is convex: no barrier can be.
    assert numbers["barrier"]["value"] == 0
    assert found["notes"] == []
    assert sorted(p.name for p in (place / "comparison").iterdir()) == [
        "comparison.nc",
        "report.html",
        "survey.json",
    ]
    kept = la.load(place / "comparison" / "comparison.nc")
    assert kept.bottleneck == numbers["bottleneck_distance"]["value"]
    assert (
        kept.first.axes[0].tolist()
        == kept.second.axes[0].tolist()
        == [-0.5, -0.25, 0, 0.25, 0.5]
    )
    page = (place / "comparison" / "report.html").read_text()
    assert "&lt;i&gt;T" in page
    assert "<i>T" not in page


def test_one_file_is_the_same_as_weights(monkeypatch, capsys):
    common = ["--model", "mine.py:plain"]
    one = compared(monkeypatch, capsys, "p0.safetensors", *common)
    two = compared(monkeypatch, capsys, "--weights", "p0.safetensors", *common, "--fresh")
    key = "loss_at_the_weights"
    assert one["estimates"][key] == two["estimates"][key]
    assert "barrier" not in one["estimates"]


def test_the_table_is_for_people(monkeypatch, capsys):
    files = "p0.safetensors", "p1.safetensors"
    code, text, _ = call(
        monkeypatch, capsys, "survey", *files, "--model", "mine.py:plain", *QUICK
    )
    assert code == 0
    for word in (
        "barrier",
        "No barrier on the straight line",
        "loss at A",
        "minima around B",
        "bottleneck",
        "±",
    ):
        assert word in text


def losses_with_own_statistics():
    data = np.load("d.npz", allow_pickle=False)
    x, y = torch.tensor(data["x"]), torch.tensor(data["y"])
    losses = []
    for seed in (0, 1):
        w = weights(seed, **NORMED)
        hidden = F.linear(x, w["0.weight"], w["0.bias"])
        mean, variance = w["1.running_mean"], w["1.running_var"]
        normed = F.batch_norm(hidden, mean, variance, w["1.weight"], w["1.bias"])
        losses.append(F.cross_entropy(F.linear(normed, w["2.weight"], w["2.bias"]), y).item())
    return losses


def test_asked_for_running_statistics_are_estimated_anew_and_it_is_said(monkeypatch, capsys):
    files = "n0.safetensors", "n1.safetensors", "--mode", "recalibrated"
    found = compared(monkeypatch, capsys, *files, "--model", "mine.py:normed")
    assert found["mode"] == "recalibrated"
    assert any("were re-estimated from these data" in note for note in found["notes"])
    (saved,) = [note for note in found["notes"] if "as saved (mode eval)" in note]
    assert [ESTIMATED_ANEW, saved] == found["sentences"][-2:]
    one, two = (f"{loss:.1f}" for loss in losses_with_own_statistics())
    assert f"the loss is {one}" in saved
    assert f"halfway and {two}" in saved
    kept = la.load("comparison/comparison.nc")
    # The center of each map is the end of the line: one and the same treatment.
    assert kept.first.values[2, 2] == pytest.approx(kept.line.values[0], rel=1e-6)
    assert kept.second.values[2, 2] == pytest.approx(kept.line.values[-1], rel=1e-5)


def test_each_checkpoint_keeps_its_own_statistics(monkeypatch, capsys):
    files = "n0.safetensors", "n1.safetensors"
    found = compared(monkeypatch, capsys, *files, "--model", "mine.py:normed")
    assert found["mode"] == "eval"
    assert any("interpolated between the checkpoints" in note for note in found["notes"])
    assert "with its own running statistics" in found["sentences"][-2]
    assert found["sentences"][-1].startswith("With running statistics estimated anew")
    assert found["sentences"][-1] in found["notes"]
    kept = la.load("comparison/comparison.nc")
    for k, (own, land) in enumerate(
        zip(losses_with_own_statistics(), (kept.first, kept.second), strict=True)
    ):
        assert found[("first", "second")[k]]["loss"] == pytest.approx(own, rel=1e-5)
        assert land.values[2, 2] == pytest.approx(own, rel=1e-5)


PAIR = ["p0.safetensors", "p1.safetensors"]
BAD = [
    ([*PAIR, "p0.safetensors"], "`files` must be at most two checkpoints; got 3"),
    (["p0.safetensors", "--weights", "p1.safetensors"], "leave one out"),
    (["p0.safetensors", "n1.safetensors"], "'n1.safetensors' does not match the model"),
    (["n0.safetensors", "p1.safetensors"], "`weights` has no entry 'weight'"),
    (["p0.safetensors", "p0.safetensors"], "hold the same weights"),
    (["p0.safetensors", "nowhere.safetensors"], "nowhere.safetensors"),
    (["--set", "against=p1.safetensors"], "`against` needs `weights`"),
    ([*PAIR, "--plane", "checkpoints"], "`plane` has no effect"),
    ([*PAIR, "--set", "map.dimension=3"], "`map.dimension` has no effect"),
    ([*PAIR, "--set", "train.steps=3"], "`train.steps` has no effect"),
    ([*PAIR, "--instruments", "gradient"], "`instruments` has no effect"),
    ([*PAIR, "--lr", "0.1"], "`lr` has no effect"),
    ([*PAIR, "--mode", "exact"], "`mode`"),
    (
        ["o0.safetensors", "o1.safetensors", "--model", "mine.py:odd"],
        "'table' holds torch.int64",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda a: str(a)[:48])
def test_bad_input_is_one_sentence_and_exit_code_2(
    monkeypatch, capsys, place, arguments, message
):
    code, out, error = call(
        monkeypatch, capsys, "survey", "--model", "mine.py:plain", *QUICK, *arguments
    )
    assert (code, out) == (2, "")
    assert error.startswith("lossatlas: ")
    assert error.count("\n") == 1
    assert message in error
    assert not list(place.glob("**/*.nc"))


def test_resume_goes_on_and_leaves_nothing_behind(monkeypatch, capsys, place):
    out = ["p0.safetensors", "p1.safetensors", "--model", "mine.py:plain", "--out", "o"]
    before = compared(monkeypatch, capsys, *out)
    after = compared(monkeypatch, capsys, *out, "--resume")
    for found in (before, after):
        del found["estimates"]["wall_time"]
    assert before == after
    assert sorted(p.name for p in (place / "o").iterdir()) == [
        "comparison.nc",
        "report.html",
        "survey.json",
    ]
