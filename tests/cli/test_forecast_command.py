"""The forecast commands on files."""

import csv
import json
import os
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

import lossatlas as la
from lossatlas import forecast
from lossatlas.cli.forecast import FORECAST, command
from lossatlas.cli.forecast_questions import next_question
from lossatlas.errors import AtlasError
from lossatlas.forecast import schedules
from reference.forecast_cases import TRUTH, made_up, small_schedules

LAW = forecast.MultiPowerLaw()
RATES = small_schedules()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    for i, name in enumerate(("constant", "cosine", "two-step", "linear")):
        curve = made_up(LAW, TRUTH, RATES[name], name, 1e-3, i, every=25)
        with (place / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "train_loss", "lr"])
            rows = zip(curve.step, curve.loss, curve.lr[curve.step - 1], strict=True)
            writer.writerows([int(s), float(v), float(r)] for s, v, r in rows)
    (place / "short.csv").write_text("step,loss,lr\n1,3,1\n2,2.5,1\n3,2.2,1\n4,2,1\n5,1.9,1\n")
    (place / "odd.csv").write_text("step,value\n1,2\n2,1\n")
    bare = "".join(f"{step},{2 + step**-0.5}\n" for step in range(20, 2001, 20))
    (place / "bare.csv").write_text("step,loss\n" + bare)
    call("fit", place / "bare.csv", "--out", place / "power", "--json", "--quiet")
    printed = call("fit", *files(place), *COLUMN, "--out", place / "out", "--json", "--quiet")
    (place / "printed.json").write_text(printed)
    return place


COLUMN = ("--column", "loss=train_loss", "--warmup", 100)


def files(place):
    return [place / f"{name}.csv" for name in ("constant", "cosine", "two-step")]


def call(*arguments):
    done = CliRunner().invoke(command, [str(part) for part in arguments])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_fit_writes_results_pictures_and_a_page(folder):
    told = json.loads((folder / "printed.json").read_text())
    assert told["law"] == "MultiPowerLaw"
    assert set(told["parameters"]) == set(LAW.parameters)
    assert len(told["left_out"]) == 3
    assert any("interpolated" in line for line in told["warnings"])
    for name in ("fit.nc", "curves.png", "residuals.png", "fit.html"):
        assert (folder / "out" / name).stat().st_size > 1000
    assert set(told["files"]) == {"fit", "report", "figure curves", "figure residuals"}
    page = (folder / "out" / "fit.html").read_text()
    assert "two-step" in page
    assert "settings" in page
    assert "default-src 'none'" in page
    assert 'src="http' not in page


def test_a_table_for_people(folder):
    printed = call("fit", *files(folder), *COLUMN, "--out", folder / "t", "--law", "linear-lr")
    assert "LinearLRLaw" in printed
    assert "error on unseen curves" in printed
    # Three curves, of which the same is to be said.
    assert printed.count("interpolated") == 1
    assert "the same holds for 2 more" in " ".join(printed.split())


@pytest.mark.parametrize("rate", [",train/lr", ""])
def test_a_history_of_wandb_is_read_in_updates_and_its_columns_are_said(tmp_path, rate):
    rows = [f"{k},{50 * k + 50},{2 + (k + 1) ** -0.5}{',0.1' * bool(rate)}" for k in range(60)]
    header = f"_step,trainer/global_step,train/loss{rate}"
    (tmp_path / "history.csv").write_text("\n".join([header, *rows]))
    asked = [
        "fit",
        str(tmp_path / "history.csv"),
        "--law",
        "power",
        "--out",
        str(tmp_path / "f"),
    ]
    done = CliRunner().invoke(command, asked)
    said = " ".join(done.output.split())
    assert "'trainer/global_step' was taken for the steps, 'train/loss' for the losses" in said
    assert "`--column step=NAME`" in said
    assert "--steps 6000" in said


def test_predict_a_shape_and_a_measured_run(folder):
    shape = ["--shape", "linear", "--steps", 2000, "--peak", 1e-3, "--decay", 0.3]
    shape += ["--min-ratio", 0.05, "--warmup", 100]
    told = json.loads(call("predict", folder / "out", *shape, "--json", "--out", folder / "p"))
    assert {path.name for path in (folder / "p").iterdir()} == {
        *FORECAST, "predict.json",
    }  # fmt: skip
    call("predict", folder / "out", *shape, "--out", folder / "f.csv")
    assert {path.suffix for path in folder.glob("f.*")} == {
        ".nc", ".csv", ".html", ".png", ".json",
    }  # fmt: skip
    truth = made_up(LAW, TRUTH, RATES["linear"], "linear").loss[-1]
    assert told["final"]["lower"] < truth < told["final"]["upper"]
    with (folder / "p" / "forecast.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["loss"]) == told["final"]["loss"]
    assert (folder / "p" / "forecast.png").exists()
    assert "90\N{NO-BREAK SPACE}% interval [" in (folder / "p" / "forecast.html").read_text()
    assert int(rows[0]["step"]) > 100
    run = ["--run", folder / "linear.csv", *COLUMN]
    told = json.loads(call("predict", folder / "out" / "fit.nc", *run, "--json"))
    assert told["measured"] == pytest.approx(truth, rel=5e-3)
    np.save(folder / "rates.npy", RATES["linear"])
    again = json.loads(
        call("predict", folder / "out", "--rates", folder / "rates.npy", "--json")
    )
    assert again["final"]["loss"] == pytest.approx(told["final"]["loss"], rel=2e-3)


def test_a_decay_of_one_is_the_whole_run_and_is_said(folder):
    plan = ("--shape", "linear", "--steps", 400, "--peak", 1e-3, "--decay")
    whole, share = (call("predict", folder / "out", *plan, word) for word in ("1", "1.0"))
    assert whole == share
    assert "linear from 0.001 to 0 over 400 updates" in " ".join(whole.split())
    tenth = call("predict", folder / "out", *plan, "0.1")
    assert "held for 360 updates, then linear to 0 over 40" in " ".join(tenth.split())


def test_a_line_and_a_cosine_fall_over_the_whole_run_and_the_others_at_its_end(folder):
    plan = ("predict", folder / "out", "--steps", 400, "--peak", 1e-3, "--shape")
    for shape in ("linear", "cosine"):
        assert f"{shape} from 0.001 to 0 over 400 updates" in one_line(call(*plan, shape))
        late = one_line(call(*plan, shape, "--decay", 0.25))
        assert f"held for 300 updates, then {shape} to 0 over 100 updates" in late
    assert "held for 360 updates, then sqrt to 0 over 40" in one_line(call(*plan, "sqrt"))
    with pytest.raises(AtlasError, match="--decay has no place in a constant schedule"):
        call(*plan, "constant", "--decay", 0.1)


def one_line(text):
    return " ".join(text.split())


# Schedule, updates between two logged rates, options of the fit, what is asked next.
NEXT = {
    "cosine": (schedules.cosine(1000, 1e-3, 0.1, 40), 20, (),
               "--shape cosine --steps 2000 --peak 0.001 --warmup 40 --min-ratio 0.1"),
    "line": (schedules.wsd(2000, 1e-3, 1.0, "linear", warmup=130), 50, (),
             "--shape linear --steps 4000 --peak 0.001 --warmup 130"),
    "rarely": (schedules.wsd(5000, 3e-4, 1.0, "linear", warmup=300), 250, ("--warmup", 300),
               "--shape linear --steps 10000 --peak 0.0003 --warmup 300"),
    "cooldown": (schedules.wsd(2000, 1e-3, 0.2, "sqrt", warmup=100), 20, (),
                 "--shape sqrt --steps 4000 --peak 0.001 --warmup 100 --decay 0.2"),
    "held": (schedules.constant(1000, 2e-3, 50), 10, (),
             "--shape constant --steps 2000 --peak 0.002 --warmup 50"),
    "running": (schedules.cosine(5000, 1e-3, warmup=100)[:3000], 50, (),
                "--shape cosine --steps 5000 --peak 0.001 --warmup 100"),
}  # fmt: skip


@pytest.mark.parametrize("name", NEXT)
def test_the_next_command_continues_the_schedule_of_the_log(tmp_path, name):
    rates, every, options, expected = NEXT[name]
    step = np.arange(every, len(rates) + 1, every)
    sums = np.cumsum(rates)[step - 1]
    loss = 2 + 0.5 * sums**-0.5 - 0.1 * (rates.max() - rates[step - 1]) / rates.max()
    rows = np.column_stack([step, loss, rates[step - 1]])
    file, out = tmp_path / "a log.csv", tmp_path / "a fit"
    np.savetxt(file, rows, "%g", ",", header="step,loss,lr", comments="")
    asked = ("fit", file, "--out", out, *options, "--fixed", "beta=0.5", "--fixed", "gamma=0.5")
    done = CliRunner().invoke(command, [str(part) for part in asked])
    (line,) = (s for s in done.stderr.splitlines() if s.startswith("Next: "))
    words = shlex.split(line.removeprefix("Next: lossatlas forecast "))
    assert words == ["predict", str(out), *expected.split()]
    told = call(*words)
    assert "not among the fitted" not in one_line(told)
    assert "times the longest" not in one_line(told)


def test_rates_of_no_usual_schedule_are_said_and_a_cosine_is_asked(tmp_path):
    rates = np.repeat([1e-3, 2e-4, 5e-5], 200)
    step = np.arange(20, 601, 20)
    rows = np.column_stack([step, 2 + step**-0.5, rates[step - 1]])
    np.savetxt(tmp_path / "s.csv", rows, "%g", ",", header="step,loss,lr", comments="")
    asked = ["fit", str(tmp_path / "s.csv"), "--out", str(tmp_path / "f")]
    done = CliRunner().invoke(command, asked)
    assert "The rates of s follow no usual schedule; a cosine in their place" in done.stderr
    assert "--shape cosine --steps 600 --peak 0.001" in done.stderr


@pytest.mark.parametrize(
    ("rates", "said", "asked_for"),
    [
        (
            schedules.cosine(1000, 1e-3, warmup=100)[:300],
            "and also a square fall that ends with the log. The next command is a guess",
            "--shape cosine --steps 1000",
        ),
        (
            schedules.cosine(1000, 1e-3, warmup=400)[:300],
            "the schedule after the warm-up is not known; name it:",
            "--shape SHAPE --steps STEPS",
        ),
    ],
)
def test_a_schedule_that_the_log_leaves_open_is_said(rates, said, asked_for):
    step = np.arange(20, 301, 20)
    curve = forecast.Curve(step, 2 + step**-0.5, rates[step - 1], name="s")
    fit = SimpleNamespace(curves=[curve], law=forecast.MultiPowerLaw(), is_simple=False)
    sentence, question = next_question(fit, None)
    assert said in sentence
    assert question.startswith(asked_for)


def test_only_a_peak_beyond_the_log_is_warned_of(tmp_path):
    # Logged each 500 updates: the peak at 300 lies before the first rate.
    rates = schedules.wsd(5000, 3e-4, 1.0, "linear", warmup=300)
    step = np.arange(500, 5001, 500)
    fit = forecast.fit(LAW, forecast.Curve(step, 2 + step**-0.5, rates[step - 1]))
    quiet = fit.predict(rates)
    assert not any("peak rate" in line for line in quiet.warnings)
    loud = fit.predict(2 * rates)
    assert any("peak rate 0.0006 is not among" in line for line in loud.warnings)


def test_a_fit_says_what_to_ask_next_and_its_points_are_drawn(folder):
    arguments = ["fit", folder / "cosine.csv", *COLUMN, "--out", folder / "one"]
    done = CliRunner().invoke(command, [str(part) for part in arguments])
    (line,) = (s for s in done.stderr.splitlines() if s.startswith("Next: lossatlas forecast "))
    asked = line.removeprefix("Next: lossatlas forecast ").split()
    assert "one" in asked[1]
    assert "expected loss" in call(*asked)
    fit = forecast.fit(LAW, made_up(LAW, TRUTH, RATES["cosine"], "one", 1e-3, 0, every=25))
    drawn = fit.predict(schedules.cosine(3000, 1e-3)).figures()[0].plotly()
    assert "fitted points" in [trace.name for trace in drawn.data]


def test_a_law_without_runs_has_no_schedule_to_continue(tmp_path):
    values = {"L0": 2.0, "A": 1.0, "alpha": 0.5, "B": 1.0}
    forecast.Fit.from_parameters(forecast.LinearLRLaw(), values).save(tmp_path / "fit.nc")
    with pytest.raises(AtlasError, match=r"--peak are needed together\.$"):
        call("predict", tmp_path, "--steps", 100)


def test_schedule_writes_rates_that_predict_reads(folder):
    asked = ["schedule", folder / "out", "--steps", 2000, "--peak", 1e-3, "--warmup", 100]
    told = json.loads(call(*asked, "--json", "--quiet", "--out", folder / "s"))
    assert told["free_loss"] <= told["cooldown"]["loss"]
    assert "indistinguishable" in told["verdict"]
    again = call("predict", folder / "out", "--rates", folder / "s" / "schedule.csv", "--json")
    assert json.loads(again)["final"]["loss"] == pytest.approx(
        told["cooldown"]["loss"], abs=1e-4
    )
    assert "the best" in call(*asked)


def test_compare_keeps_the_best(folder):
    laws = ["--law", "power", "--law", "annealing(decay=0.99)", "--law", "multi-power"]
    printed = call("compare", *files(folder), *COLUMN, *laws, "--json", "--out", folder / "c")
    told = json.loads(printed)
    assert [row["law"].split("(")[0] for row in told["alternatives"]][-1] == "PowerLaw"
    assert Path(told["files"]["fit"]).exists()


def test_a_file_of_rates_is_named_with_the_losses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    step = np.arange(20, 1001, 20)
    rates = schedules.cosine(1000, 1e-3)[step - 1]
    loss = 2 + 0.5 * np.cumsum(schedules.cosine(1000, 1e-3))[step - 1] ** -0.5
    for name, values in (("run-tag-train_loss", loss), ("run-tag-train_lr", rates)):
        rows = np.column_stack([0 * step, step, values])
        np.savetxt(f"{name}.csv", rows, "%g", ",", header="Wall time,Step,Value", comments="")
    with pytest.raises(
        AtlasError, match=r"seems to hold rates; .* --column lr=run-tag-train_lr"
    ):
        call("fit", "run-tag-train_loss.csv", "run-tag-train_lr.csv")
    told = call(
        "fit", "run-tag-train_loss.csv", "--column", "lr=run-tag-train_lr.csv", "--json"
    )
    assert json.loads(told)["law"] == "MultiPowerLaw"


def test_a_sentence_is_not_said_twice(folder):
    for name, logs in (("one", [folder / "bare.csv"]), ("three", [*files(folder), *COLUMN])):
        told = one_line(call("fit", *logs, "--out", folder / f"said {name}"))
        for words in (
            "of the variance of",
            "was held back and forecast by a fit to the others",
            "have no interval",
        ):
            assert told.count(words) <= 1, told


def test_without_rates_a_law_of_updates_is_taken_and_named(folder):
    done = CliRunner().invoke(
        command, ["fit", str(folder / "bare.csv"), "--out", str(folder / "b"), "--json"]
    )
    assert "'bare' has no learning rate: the power law in updates is used" in done.stderr
    told = json.loads(done.stdout)
    assert told["law"] == "PowerLaw"
    assert told["parameters"]["alpha"] == pytest.approx(0.5, rel=1e-3)
    assert set(told["parameter_intervals"]["alpha"]) == {"low", "high", "level", "reason"}
    ahead = json.loads(call("predict", folder / "power", "--steps", 4000, "--json"))
    assert ahead["final"]["loss"] == pytest.approx(2 + 4000**-0.5, rel=1e-4)
    mixed = CliRunner().invoke(
        command, ["fit", str(folder / "bare.csv"), str(folder / "constant.csv"),
              "--out", str(folder / "m"), "--json"],
    )  # fmt: skip
    assert "so the rates of 1 other runs are not used" in mixed.stderr
    assert json.loads(mixed.stdout)["law"] in {"LastLevel", "LocalTrend"}
    assert "the longest" not in mixed.stderr
    assert "is of 'bare' alone" in " ".join(json.loads(mixed.stdout)["warnings"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "constant.csv", "--column", "loss=rain_los"], "did you mean 'train_loss'"),
        (["fit", "odd.csv"], r"name it with --column loss=NAME"),
        (
            ["fit", "bare.csv", "--law", "annealing"],
            r"--column lr=NAME of curve 'bare' is missing",
        ),
        (["fit", "bare.csv", "--law", "annealing"], r"column with --column lr=NAME\.$"),
        (
            ["predict", "power", "--shape", "constant", "--steps", 9, "--peak", 1],
            "^--rates, --run",
        ),
        (["compare", "short.csv"], "fit one law with lossatlas forecast fit"),
        (["fit", "none.csv"], "cannot be read"),
        (["fit", "constant.csv", *COLUMN, "--law", "multipower"], "did you mean 'multi-power'"),
        (
            ["fit", "constant.csv", *COLUMN, "--law", "annealing(dekay=1)"],
            "did you mean 'decay'",
        ),
        (["fit", "constant.csv", "--column", "loss"], "must look like"),
        (["fit", "constant.csv", "--column", "los=x"], "did you mean 'loss'"),
        (["fit", "constant.csv", *COLUMN, "--fixed", "L0=x"], "'x' is not a number"),
        (["predict", "out"], "--rates, --run or --shape must be a curve or the rates"),
        (
            ["predict", "out", "--peak", 1e-3],
            "continued is --shape [a-z]+ --steps .* --peak 0.001",
        ),
        (["predict", "constant.csv"], "not netCDF|was not written"),
        (["predict", "out", "--shape", "linear"], "^--shape, --steps and --peak are needed"),
        (["predict", "out", "--level", 2], "^--level must lie between"),
        (["schedule", "out", "--steps", 1, "--peak", 1], "^--steps must"),
    ],
)
def test_mistakes_are_named(folder, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    with pytest.raises(AtlasError, match=message):
        call(*arguments)


def logged(path, loss, rates=None):
    step = np.arange(1, loss.size + 1)
    columns = [step, loss] if rates is None else [step, loss, rates]
    header = "step,loss" if rates is None else "step,loss,lr"
    np.savetxt(path, np.column_stack(columns), "%.9g", ",", header=header, comments="")


def early(steps=400):
    """A loss that is at its floor after a tenth of the run."""
    noise = np.exp(0.1 * np.random.default_rng(0).normal(size=steps))
    return (0.05 + 2 * np.exp(-np.arange(1, steps + 1) / 15)) * noise


@pytest.mark.parametrize(
    ("rates", "last"),
    [(None, 800), (4e-3 * (1 + np.cos(np.pi * np.arange(400) / 400)) / 2, 400)],
)
def test_the_first_command_leaves_a_forecast(tmp_path, rates, last):
    logged(tmp_path / "run.csv", early(), rates)
    done = CliRunner().invoke(
        command, ["fit", str(tmp_path / "run.csv"), "--out", str(tmp_path / "f")]
    )
    assert done.exit_code == 0
    said = " ".join(done.output.split())
    assert re.search(rf"The expected loss at step {last} is 0.0(5|499)", said)
    assert "90 % interval [" in said
    assert "laws and simple forecasts tried: 0 of " in done.stderr
    following = done.stderr.rpartition("Next: lossatlas forecast ")[2].split()
    assert following[-2:] == ["--steps", str(last)]
    told = json.loads(call(*following, "--json", "--out", tmp_path / "p"))
    assert told["final"]["lower"] < 0.05 < told["final"]["upper"]
    assert (tmp_path / "p" / "forecast.html").exists()


def test_the_forecast_of_the_next_command_is_printed_at_once(tmp_path):
    rates = schedules.cosine(400, 4e-3)[:200]
    logged(tmp_path / "run.csv", 2 + 0.3 * np.cumsum(rates) ** -0.5, rates)
    done = CliRunner().invoke(
        command, ["fit", str(tmp_path / "run.csv"), "--out", str(tmp_path / "f")]
    )
    following = done.stderr.rpartition("Next: lossatlas forecast ")[2].split()
    assert following[2:] == ["--shape", "cosine", "--steps", "400", "--peak", "0.004"]
    said = one_line(done.stdout)
    first = re.search(r"The expected loss at step 400 is [\d.]+", said).group()
    assert first in one_line(call(*following))
    assert "Use the forecast of " in said
    assert re.search(
        r"(LocalTrend|LastLevel), a simple forecast without the learning rate", said
    )
    page = (tmp_path / "f" / "fit.html").read_text()
    assert first in page.partition('class="verdict"')[2][:200]
    assert page.index("Forecasts compared") < page.index("Parameters of ")
    told = json.loads(call("fit", tmp_path / "run.csv", "--out", tmp_path / "j", "--json"))
    assert told["forecast"]["loss"][-1] == pytest.approx(float(first.rpartition(" ")[2]), 1e-3)


def test_a_second_fit_is_never_an_old_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logged(Path("run.csv"), 2 + np.arange(1, 201) ** -0.5)

    def said(*options):
        return CliRunner().invoke(command, ["fit", "run.csv", "--out", "f", *options])

    first, again = said("--law", "power"), said("--law", "power")
    assert "already done: results are at f; --fresh computes them anew" in again.stderr
    assert again.stdout == first.stdout
    for options in (("--law", "last-level"), ("--law", "power", "--fixed", "L0=2")):
        refused = said(*options)
        assert "holds a finished run with other settings" in str(refused.exception)
        assert "--fresh replaces it" in str(refused.exception)
    assert said("--law", "last-level", "--fresh").exit_code == 0
    assert isinstance(la.load("f/fit.nc").law, forecast.LastLevel)
    said("--law", "power", "--fresh")
    # A log that went on is another log, as is one that changed within the same length.
    for loss in (2 + np.arange(1, 251) ** -0.5, 3 + np.arange(1, 251) ** -0.5):
        logged(Path("run.csv"), loss)
        refused = said("--law", "power")
        assert "finished run with other contents of " in str(refused.exception)
        assert said("--law", "power", "--fresh").exit_code == 0
        assert la.load("f/fit.nc").curves[0].loss[-1] == pytest.approx(loss[-1], rel=1e-6)


def test_steps_alone_stretch_the_schedule_of_the_longest_run(folder):
    said = " ".join(call("predict", folder / "out", "--steps", 3000).split())
    whole = json.loads(call("predict", folder / "out", "--steps", 3000, "--json"))
    assert "Its schedule: " in said
    assert len(whole["lr"]) == 3000
    assert max(whole["lr"]) == pytest.approx(float(RATES["cosine"].max()), rel=1e-3)


def test_predict_says_whether_a_stopped_fit_left_its_own_file(tmp_path):
    logged(tmp_path / "run.csv", early())
    asked = ["predict", str(tmp_path / "f"), "--steps", "800"]
    call("fit", tmp_path / "run.csv", "--out", tmp_path / "f")
    assert "was stopped" not in CliRunner().invoke(command, asked).stderr
    record = tmp_path / "f" / "fit.json"
    record.write_text(json.dumps({"lossatlas": "", "command": "fit", "taken": ["fit.nc"]}))
    os.utime(tmp_path / "f" / "fit.nc", (1, 1))
    said = CliRunner().invoke(command, asked).stderr
    assert "was stopped: fit.nc is complete, but of an earlier call" in said
    os.utime(record, (0, 0))
    said = CliRunner().invoke(command, asked).stderr
    assert "was stopped: it had written fit.nc, which is complete" in said
    (tmp_path / "f" / "fit.nc").unlink()
    with pytest.raises(AtlasError, match="was stopped before it was done; run it again"):
        call(*asked)


def test_logs_that_count_from_zero_are_continued_in_round_numbers(tmp_path):
    rows = "".join(f"{k},{v},0.001\n" for k, v in enumerate(early(600)))
    (tmp_path / "run.csv").write_text("_step,train/loss,train/lr\n" + rows)
    done = CliRunner().invoke(
        command, ["fit", str(tmp_path / "run.csv"), "--out", str(tmp_path / "f")]
    )
    assert done.stderr.rstrip().endswith("--steps 1200")


def test_a_law_that_was_asked_for_and_fails_leads_nowhere(tmp_path):
    logged(tmp_path / "run.csv", early())
    asked = ["fit", str(tmp_path / "run.csv"), "--law", "power", "--out", str(tmp_path / "f")]
    done = CliRunner().invoke(command, asked)
    assert la.load(tmp_path / "f" / "fit.nc").verdict.usable is False
    assert "Next:" not in done.stderr
    assert "lossatlas forecast fit` without --law" in done.stdout


def test_a_newcomer_who_asks_for_another_schedule_is_told_what_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logged(Path("run.csv"), early(), schedules.cosine(400, 4e-3))
    said = one_line(call("fit", "run.csv", "--out", "f"))
    asked = ["schedule", "f", "--steps", 400, "--peak", 4e-3]
    with pytest.raises(AtlasError, match="a law must depend on the rate") as refused:
        call(*asked)
    for text in (said, str(refused.value)):
        assert "train the same model twice more: (1) the rate 0.004 held for 320" in text
        assert "`lossatlas forecast fit run.csv new1.csv new2.csv --out forecast`" in text
        assert "`lossatlas forecast schedule forecast --steps 400 --peak 0.004`" in text
    assert "fit_best" not in said
    call("fit", "run.csv", "--out", "m", "--law", "multi-power")
    with pytest.raises(
        AtlasError, match=r"failed its checks .* twice more.* --force ranks them"
    ):
        call("schedule", "m", *asked[2:])


def test_a_ranking_by_force_says_first_that_it_is_not_to_be_used(tmp_path):
    logged(tmp_path / "run.csv", early(), schedules.cosine(400, 4e-3))
    call("fit", tmp_path / "run.csv", "--out", tmp_path, "--law", "multi-power")
    asked = ["schedule", tmp_path, "--steps", 400, "--peak", 4e-3, "--force", "--out", tmp_path]
    said = one_line(call(*asked))
    assert said.startswith("a ranking not to be used")
    assert said.count("Do not use this ranking: MultiPowerLaw does not fit the log") == 1
    assert "0.0000 behind" not in said
    assert "Do not use this ranking" in (tmp_path / "schedule.html").read_text()
    told = json.loads(call(*asked, "--json"))
    assert told["distrust"].startswith("do not use this ranking")
    assert told["sentences"][0].startswith("Do not use this ranking")


@pytest.mark.parametrize(
    "asked",
    [
        ("--shape", "cosine", "--steps", 800, "--peak", 0.1),
        ("--shape", "linear", "--steps", 800, "--peak", 0.1, "--decay", 0.2),
        ("--shape", "constant", "--steps", 800, "--peak", 0.05),
    ],
)
def test_a_simple_forecast_refuses_another_schedule(tmp_path, asked):
    logged(tmp_path / "run.csv", early(), np.full(400, 0.1))
    call("fit", tmp_path / "run.csv", "--out", tmp_path, "--law", "last-level")
    expected = (
        r"the requested schedule \(--rates, --run or --shape\) is not that of the log, whose "
        "rates are: the rate 0.1 held for 400 updates; yours "
        r"differs from update \d+ on.*can forecast any number of updates "
        r".*with the rate held at 0.1\."
    )
    with pytest.raises(AtlasError, match=expected):
        call("predict", tmp_path, *asked)
    held = ("--shape", "constant", "--steps", 800, "--peak", 0.1)
    assert "90 % interval [" in call("predict", tmp_path, *held)


def test_a_simple_forecast_is_listed_from_where_it_was_fitted_and_named(tmp_path):
    logged(tmp_path / "my-run.csv", early(), np.full(400, 0.1))
    call("fit", tmp_path / "my-run.csv", "--out", tmp_path, "--law", "local-trend")
    call("predict", tmp_path, "--steps", 800, "--out", tmp_path)
    with (tmp_path / "forecast.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert int(rows[0]["step"]) == 201
    assert int(rows[-1]["step"]) == 800
    assert "Forecast of my-run</h1>" in (tmp_path / "forecast.html").read_text()
    page = (tmp_path / "fit.html").read_text()
    change = la.load(tmp_path / "fit.nc").estimates()[2]
    assert f"{change.texts[0]}\N{NO-BREAK SPACE}%" in page
    assert "<h3>Numbers</h3>" not in page
