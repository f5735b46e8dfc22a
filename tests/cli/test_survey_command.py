"""The command as a user types it: real processes, real files, exit codes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import lossatlas as la
from lossatlas.cli import app
from lossatlas.cli.expected import timed_evaluation
from lossatlas.curvature import instruments
from lossatlas.curvature.costs import instrument_evaluations
from plots.sample_landscapes import sample_map
from report.sample_surveys import survey_of

SMALL = ["--set", "train.steps=30", "--points", "11", "--examples", "200", "--quiet"]


def run(*arguments, cwd):
    """The command in this process: what it prints and its exit code."""
    script = "import sys; from lossatlas.cli.app import main; sys.argv[0] = 'lossatlas'; main()"
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", script, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def loss_of(printed):
    return printed["estimates"]["loss_at_the_weights"]["value"]


def call(monkeypatch, capsys, *arguments):
    """The same without a new process."""
    monkeypatch.setattr(sys, "argv", ["lossatlas", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        app.main()
    printed = capsys.readouterr()
    return stop.value.code, printed.out, printed.err


@pytest.mark.parametrize("own", [None, "ACTIVE"])
def test_threads_do_not_spin_unless_the_user_says_so(monkeypatch, capsys, own):
    monkeypatch.setenv("OMP_WAIT_POLICY", own or "")
    if own is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert call(monkeypatch, capsys, "--version")[0] == 0
    assert os.environ["OMP_WAIT_POLICY"] == (own or "PASSIVE")


def test_with_json_one_object_and_nothing_else_is_printed(tmp_path):
    done = run("survey", "--json", "--curvature", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    wanted = {"estimates", "grid", "topology", "seconds", "evaluations", "files"}
    assert wanted <= found.keys()
    assert {"minima", "bars", "smad", "bars_above_threshold", "threshold"} <= found[
        "topology"
    ].keys()
    assert {"under_resolved", "barriers", "certain_basins"} <= found["topology"].keys()
    ends = found["instruments"]["curvature"]["estimates"]
    assert ends["largest_eigenvalue"]["value"] > ends["smallest_eigenvalue"]["value"]
    assert found["grid"]["points"] == [11, 11]
    page = tmp_path / found["files"]["report"]
    assert page.read_text().startswith("<!DOCTYPE html>")
    survey = la.load(tmp_path / "survey" / "survey.nc")
    assert survey.loss.value == found["estimates"]["loss_at_the_weights"]["value"]
    assert len(survey.tree) == found["topology"]["minima"]
    assert sorted(p.name for p in (tmp_path / "survey").iterdir()) == [
        "report.html",
        "survey.json",
        "survey.nc",
    ]
    assert "trajectory" in survey.landscape.landmarks
    assert np.isfinite(survey.landscape.landmark_values["trajectory"]).all()


def test_the_demo_has_its_rate_judged(monkeypatch, capsys, tmp_path):
    out = tmp_path / "o"
    code, text, error = call(monkeypatch, capsys, "survey", "--out", out, "--json", *SMALL)
    assert code == 0, error
    assert list(json.loads(text)["instruments"]) == ["stability"]
    judged = la.load(out / "survey.nc").part("stability", "optimizer")
    # The peak of its schedule, with the momentum it trained with; not the zero it ended at.
    assert (judged.lr, judged.rule) == (0.1, "momentum")
    page = (out / "report.html").read_text()
    assert "Is my learning rate too high?" in page
    assert "0.1 is below the edge" in page


def test_a_rate_that_is_given_is_judged_for_the_optimizer_of_the_training(
    monkeypatch, capsys, tmp_path
):
    out = tmp_path / "o"
    adamw = ("--set", "train.optimizer=adamw", "--lr", 0.3)
    code, _, error = call(monkeypatch, capsys, "survey", "--out", out, *adamw, *SMALL)
    assert code == 0, error
    found = la.load(out / "survey.nc")
    assert found.part("stability", "descent").lr == 0.3
    assert found.part("stability", "optimizer").lr == 0.3
    assert found.part("stability", "optimizer").rule == "adam"
    assert found.findings["stability"].answer()[0].endswith("for Adam")


def test_the_table_is_for_people(monkeypatch, capsys, tmp_path):
    out = tmp_path / "odd [name]"
    code, text, _ = call(monkeypatch, capsys, "survey", "--out", out, "--seed", 3, *SMALL)
    assert code == 0
    for word in ("loss", "accuracy", "map", "minima", "certain", "mean rise", "report"):
        assert word in text
    assert "±" in text


def test_own_factory_weights_and_data(monkeypatch, capsys, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\ndef build():\n    return torch.nn.Sequential(torch.nn.Linear(4, 3))\n"
    )
    weights = {"0.weight": torch.randn(3, 4), "0.bias": torch.zeros(3)}
    safetensors.torch.save_file(weights, tmp_path / "w.safetensors")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)).astype("float32"), rng.integers(0, 3, 40)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    monkeypatch.chdir(tmp_path)
    code, text, error = call(
        monkeypatch,
        capsys,
        *("survey", "--model", "mine.py:build", "--weights", "w.safetensors"),
        *("--data", "npz:d.npz", "--points", "5", "--span", "0.5", "--json", "--quiet"),
    )
    assert code == 0, error
    assert json.loads(text)["grid"]["ranges"] == [[-0.5, 0.5], [-0.5, 0.5]]
    model = torch.nn.Linear(4, 3)
    model.load_state_dict({"weight": weights["0.weight"], "bias": weights["0.bias"]})
    loss = torch.nn.functional.cross_entropy(model(torch.tensor(x)), torch.tensor(y)).item()
    assert loss_of(json.loads(text)) == pytest.approx(loss, rel=1e-5)


def test_settings_come_from_a_file_then_set_then_options(monkeypatch, capsys, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(
        "points: 7\nexamples: 100\nmap:\n  adaptive: false\n  normalization: layer\n"
    )
    code, text, error = call(
        monkeypatch,
        capsys,
        *("survey", "--config", config, "--set", "points=9", "--set", "train.steps=10"),
        *("--plane", "random", "--span", 1, "--out", tmp_path / "o", "--json", "--quiet"),
    )
    assert code == 0, error
    found = json.loads(text)
    assert found["grid"]["points"] == [9, 9]
    assert found["grid"]["computed"] == 81
    survey = la.load(tmp_path / "o" / "survey.nc")
    assert survey.provenance.settings["plane"]["normalization"] == "layer"


BAD = [
    (["--model", "resnet2O"], "did you mean 'resnet20'"),
    (["--data", "digit"], "did you mean 'digits'"),
    (["--data", "parquet:nowhere.parquet"], "nowhere.parquet"),
    (["--loss", "cross_entrophy"], "did you mean 'cross_entropy'"),
    (["--points", "1"], "`points`: input should be greater than or equal to 2; got 1"),
    (["--span", "0"], "`span`"),
    (["--span", "nan"], "`span`"),
    (["--span", "wide"], "`span`"),
    (["--plane", "flat"], "`plane`"),
    (["--set", "train.steps=0", "--plane", "checkpoints"], "there are no checkpoints"),
    (["--device", "warp:9"], "`device`: 'warp:9' cannot be used"),
    (["--device", "cuda:99"], "`device`: 'cuda:99' cannot be used"),
    (["--weights", "nowhere.safetensors"], "nowhere.safetensors"),
    (["--weights", "truncated.safetensors"], "truncated.safetensors"),
    (
        ["nan.safetensors", "--model", "mine.py:one"],
        "'0.weight' holds 1 numbers that are NaN or infinite",
    ),
    (["--weights", "evil.pt"], "pickles an object of 'os.system'"),
    (["--config", "nowhere.yaml"], "cannot be read"),
    (["--config", "bad.yaml"], "is not YAML"),
    (["--set", "map.tolerence=1"], "there is no setting 'map.tolerence' (did you mean"),
    (["--set", "points"], "must look like"),
    (["--set", "map.x.y=3"], "there is no setting 'map.x.y'"),
    (["--set", "training.steps=3"], "there is no setting 'training.steps'"),
    (["--set", "map.engine=fast"], "`engine` must be one of"),
    (["--examples", "0"], "`examples`"),
    (["--instruments", "gradient,sharpnes"], "did you mean 'sharpness'"),
    (["--lr", "0"], "`lr`"),
    (["--lr", "nan"], "`lr`"),
    (["--seed", "-1"], "`seed`"),
    (["--out", "/dev/null/x"], "/dev/null/x"),
    (["--model", "mine.py:pair"], "the model returns tuple"),
    (["--model", "mine.py:pair", "--set", "train.steps=2"], "the model returns tuple"),
    (["--model", "mine.py:fails"], "'mine.py:fails' failed (RuntimeError: no in mine.py, line"),
    (["--model", "broken.py:make"], "'broken.py' failed (ZeroDivisionError"),
    (["--data", "mine.py:fails"], "'mine.py:fails' failed (RuntimeError: no"),
    (["--loss", "mine.py:three"], "missing 1 required positional argument"),
    (["--loss", "torch.nn:MSELoss(sum=1)"], "unexpected keyword argument"),
]
_MINE = """
import torch
class Pair(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x.flatten(1)), x
def pair():
    return Pair(64, 10)
def one():
    return torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False))
def fails():
    raise RuntimeError("no")
def three(output, target, weights):
    return output.sum()
"""


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda a: str(a)[:40])
def test_bad_input_is_one_sentence_and_exit_code_2(
    monkeypatch, capsys, tmp_path, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "truncated.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    state = {"0.weight": torch.full((1, 1), torch.nan)}
    safetensors.torch.save_file(state, tmp_path / "nan.safetensors")
    (tmp_path / "evil.pt").write_bytes(b"\x80\x04cos\nsystem\n.")
    (tmp_path / "bad.yaml").write_text("points: [1, 2")
    (tmp_path / "mine.py").write_text(_MINE)
    (tmp_path / "broken.py").write_text("1 / 0")
    code, out, error = call(monkeypatch, capsys, "survey", *SMALL, *arguments)
    assert code == 2
    assert out == ""
    assert error.startswith("lossatlas: ")
    assert error.count("\n") == 1
    assert message in error
    assert not list(Path(tmp_path).glob("**/*.nc"))
    assert not list(Path(tmp_path).glob("**/*.html"))


def test_instruments_and_eigenvector_planes_from_the_command(monkeypatch, capsys, tmp_path):
    small = ["--set", "train.steps=5", "--points", "5", "--examples", "60", "--quiet"]
    chosen = ["--instruments", "gradient, residual_gain", "--lr", "0.1", "--plane", "eigen"]
    out = ["--out", tmp_path / "o", "--json"]
    code, text, error = call(
        monkeypatch, capsys, "survey", *small, "--model", "mlp(4)", *chosen, *out
    )
    assert code == 0, error
    found = json.loads(text)
    assert found["grid"]["directions"][0].startswith("eigenvector 1 (λ = ")
    # A learning rate is compared with the curvature.
    assert found["instruments"].keys() == {"gradient", "residual_gain", "stability"}
    numbers = found["instruments"]["gradient"]["estimates"]
    assert numbers["gradient_norm"].keys() == {"value", "stderr"}
    assert "no list of blocks" in found["instruments"]["residual_gain"]["missing"]["blocks"]
    written = sorted(path.name for path in (tmp_path / "o").iterdir())
    assert written == ["report.html", "survey.json", "survey.nc"]


def test_unknown_options_are_refused_too(tmp_path):
    done = run("survey", "--pionts", "3", cwd=tmp_path)
    assert done.returncode == 2
    assert "--points" in done.stderr


def timeless(found):
    # Clocks differ from run to run.
    if isinstance(found, dict):
        return {k: timeless(v) for k, v in found.items() if k != "seconds"}
    return found


def test_the_same_survey_is_done_already_and_a_fresh_one_is_the_same(
    monkeypatch, capsys, tmp_path
):
    out = tmp_path / "o"
    results = []
    for extra in ([], ["--resume"], ["--fresh"]):
        code, text, _ = call(
            monkeypatch, capsys, "survey", "--out", out, "--json", *SMALL, *extra
        )
        assert code == 0
        results.append(json.loads(text))
    assert results[0] == results[1]
    assert timeless(results[0]) == timeless(results[2])


def test_a_long_survey_says_how_long_it_may_take(monkeypatch, capsys, tmp_path):
    timed = "lossatlas.cli.expected.timed_evaluation"
    monkeypatch.setattr(timed, lambda *_: (2.0, 2.0))
    loud = [*SMALL[:-1], "--set", "map.adaptive=false", "--out", tmp_path / "o"]
    code, _, error = call(monkeypatch, capsys, "survey", *loud)
    assert code == 0
    assert "this takes about 12 min: one evaluation" in error


def test_one_evaluation_that_a_busy_machine_holds_up_is_not_taken_for_all():
    waits = [0.2, 0.2, *[0.001] * 30, 0.15] * 20

    class Objective:
        def evaluate(self):
            time.sleep(waits.pop(0))

    least, mean = timed_evaluation(Objective())
    assert 0.001 <= least < 0.005
    assert 0.003 < mean < 0.05
    left = len(waits)
    assert max(timed_evaluation(Objective(), short=1.0)) < 1.0
    assert left - len(waits) == 1


def test_every_cost_of_an_instrument_is_understood():
    objective = la.Objective(
        torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)),
        la.supervised(torch.nn.functional.mse_loss),
        [(torch.zeros(3, 2), torch.zeros(3, 2))],
    )
    for tool in instruments():
        low, high = instrument_evaluations([tool], objective)
        assert 0 <= low <= high, tool.cost
        unmeasured = tool.cost == "none after curvature" or "training" in tool.cost
        assert (high > 0) is not unmeasured, tool.cost
    named = {tool.name: tool for tool in instruments()}
    assert instrument_evaluations([named["curvature"]], objective) == (600, 2760)
    assert instrument_evaluations([named["roughness"]], objective) == (252, 252)


def test_weights_of_another_model_say_that_no_model_was_given(monkeypatch, capsys, tmp_path):
    file = tmp_path / "s0.safetensors"
    safetensors.torch.save_file({"0.weight": torch.zeros(2, 3)}, file)
    monkeypatch.chdir(tmp_path)
    for model, is_said in ([], True), (["--model", "mlp(4)"], False):
        code, _, error = call(monkeypatch, capsys, "survey", *SMALL[2:], file, *model)
        assert code == 2
        assert ("No --model was given, so the default model mlp(32)" in error) == is_said


def test_help_needs_no_torch():
    code = (
        "import sys, lossatlas.cli.app as a\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_checkpoints_of_any_kind_span_the_plane(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    from lossatlas.training import build_model, load_dataset

    data = load_dataset("digits", examples=64)
    files = []
    for seed in range(3):
        net = build_model("mlp(4)", data, seed=seed)
        state = {f"module.{name}": value for name, value in net.state_dict().items()}
        torch.save({"epoch": seed, "ema": state}, f"{seed}.ckpt")
        files += ["--checkpoint", f"{seed}.ckpt"]
    common = ["--model", "mlp(4)", "--examples", "64", "--points", "5", "--key", "ema"]
    code, out, error = call(monkeypatch, capsys, "survey", *files, *common, "--json")
    assert code == 0, error
    assert "2.ckpt: The prefix 'module.' of all names is stripped." in error
    land = la.load(tmp_path / "survey" / "survey.nc").landscape
    values = land.landmark_values["trajectory"]
    assert len(values) == 3
    # The last one is where the survey stands.
    assert loss_of(json.loads(out)) == pytest.approx(values[-1], rel=1e-6)
    code, _, error = call(
        monkeypatch,
        capsys,
        "survey",
        "--weights",
        "0.ckpt",
        *common[:-2],
        "--key",
        "emma",
        "--fresh",
    )
    assert code == 2
    assert "has no `key` 'emma'" in error


def test_unknown_certainty_is_null_in_json_and_said_in_the_table():
    found = survey_of(sample_map("double well"))
    topology = json.loads(json.dumps(found.summary(), allow_nan=False))["topology"]
    for key in ("bars_above_threshold", "certain_basins", "threshold"):
        assert topology[key] is None
    assert {bar["certain"] for bar in topology["bars"]} == {None}
    assert "no standard error" in topology["why_unknown"]
    remark = {row[0]: row[2] for row in found.rows()}["certainty threshold"]
    assert remark == topology["why_unknown"]
    known = survey_of(sample_map("double well", noise=0.01)).summary()["topology"]
    assert known["why_unknown"] is None
    assert known["bars_above_threshold"] >= 2
    deepest = known["bars"][0]
    assert len(deepest["birth_place"]) == 2
    assert deepest["death_place"] is None
    assert {bar["certain"] for bar in known["bars"]} <= {True, False}
