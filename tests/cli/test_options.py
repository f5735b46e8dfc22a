"""Options, help, defaults and settings of all commands, taken from their models."""

import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import lossatlas
from cli.test_survey_command import call
from lossatlas.cli.app import cli
from lossatlas.cli.command import Command
from lossatlas.forecast import schedules
from lossatlas.settings import Strict, defaults, option, read_settings

COMMON = {"config", "set", "json", "out", "resume", "seed", "quiet"}


def commands():
    found, groups = {}, [((), cli)]
    for path, group in groups:
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if isinstance(command, click.Group):
                groups.append(((*path, name), command))
            else:
                found[" ".join((*path, name))] = command
    return found


COMMANDS = commands()


def help_of(name, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, text, _ = call(monkeypatch, capsys, *name.split(), "--help")
    assert code == 0
    return text


# Command -> the functions of Python that its options reach.
REACHES = {
    "survey": (
        "surveys.survey:survey", "landscape.plane:random_plane", "training.training:train",
        "training.models:build_model", "training.datasets:load_dataset",
        "training.criteria:build_loss", "training.checkpoints:load_weights",
        "objective.objective:Objective",
    ),
    "train": (
        "recipes.train:train_recipes", "recipes.setup:TrainingSetup",
        "training.datasets:load_dataset",
    ),
    "forecast fit": ("forecast.fit:fit", "forecast.readers:read_csv"),
    "forecast compare": ("forecast.choice:fit_best", "forecast.readers:read_csv"),
    "forecast predict": (
        "forecast.result:Fit.predict", "forecast.schedules:wsd", "forecast.readers:read_csv",
    ),
    "forecast schedule": ("forecast.result:Fit.optimize_schedule",),
    "inits rank": ("inits.ranking:rank",),
    "inits run": ("inits.pipeline:run",),
    "weights": ("weights.spectra:weight_spectra",),
}  # fmt: skip
# Option -> keyword of another name.
RENAMED = {
    ("train", "lr"): "rates",
    ("inits run", "stage"): "part",
    ("forecast compare", "law"): "laws",
}
_FILE = "a file of the command line; functions take what it holds"
_SPEC = "a word of the command line; the function takes the thing itself, without a default"
_WHOLE = "a comparison and a single run have another usual value"
# Options that no keyword matches, or with another default, and why.
EXCEPTIONS = {
    ("survey", "files"): _FILE,
    ("survey", "weights"): _FILE,
    ("survey", "against"): _FILE,
    ("survey", "checkpoints"): _FILE,
    ("survey", "objective"): _SPEC,
    ("survey", "data"): _SPEC,
    ("survey", "model"): _SPEC,
    ("survey", "device"): "`build_model` leaves a network on the CPU",
    ("survey", "batch_size"): "batches to measure on are larger than those to train on",
    ("survey", "mode"): "the usual mode depends on whether two files are compared",
    ("survey", "out"): _FILE,
    ("survey", "train.checkpoints"): "`keep`; a survey draws the path, a training need not",
    ("train", "recipe"): _SPEC,
    ("train", "compare"): _SPEC,
    ("train", "data"): _SPEC,
    ("train", "model"): _SPEC,
    ("train", "test"): _SPEC,
    ("train", "loss"): 'None and "" both take what fits the data',
    ("train", "seeds"): _WHOLE,
    ("train", "epochs"): "the function counts updates",
    ("train", "steps"): "the function has no usual length",
    ("train", "warmup"): "short trainings have a shorter one",
    ("train", "valid"): "the function takes three data sets",
    ("train", "tested"): "the function takes three data sets",
    ("train", "jobs"): "`executor`",
    ("train", "title"): "it heads the report",
    ("train", "seed"): "it splits the data before the function sees them",
    ("train", "out"): _FILE,
    ("forecast fit", "files"): _FILE,
    ("forecast fit", "law"): _SPEC,
    ("forecast fit", "fixed"): "repeated NAME=VALUE for a mapping",
    ("forecast predict", "fit"): _FILE,
    ("forecast predict", "rates"): _FILE,
    ("forecast predict", "run"): _FILE,
    ("forecast predict", "shape"): "without one, `rates` or `run` say the schedule",
    ("forecast predict", "peak"): "without one, `rates` or `run` say the schedule",
    ("forecast predict", "warmup"): "of the run that is read, or of the schedule",
    ("forecast compare", "law"): "none given is None",
    ("forecast compare", "files"): _FILE,
    ("forecast schedule", "fit"): _FILE,
    ("weights", "file"): _FILE,
    ("weights", "out"): _FILE,
}
_SUBJECT = (
    "training.models:build_model", "training.datasets:load_dataset",
    "training.criteria:build_loss", "training.checkpoints:load_weights",
    "objective.objective:Objective",
)  # fmt: skip
REACHES |= {
    "connect": ("weights.connect:connect", *_SUBJECT),
    "merge": ("weights.merge:merge", *_SUBJECT),
    "soup": ("weights.soup:soup", *_SUBJECT),
    "choose": ("weights.choose:choose", *_SUBJECT),
    "edit": ("weights.edit:edit_curve", "weights.factors:factors", *_SUBJECT),
}
REACHES["lr"] = ("steering.suggest_lr:suggest_lr", *_SUBJECT)
RENAMED["connect", "align"] = "align_first"
RENAMED["connect", "train_data"] = "train"
for _name in ("connect", "merge", "soup", "edit", "choose", "lr"):
    _shared = ("weights", "objective", "data", "model", "device", "batch_size", "mode")
    EXCEPTIONS |= {(_name, key): EXCEPTIONS["survey", key] for key in (*_shared, "out")}
    EXCEPTIONS[_name, "loss"] = "None takes what fits the data"
_names = ("connect", "merge", "soup", "edit", "choose")
EXCEPTIONS |= {(_name, "files"): _FILE for _name in _names}
EXCEPTIONS |= {
    ("lr", "validation"): _SPEC,
    ("connect", "steps"): "the function has no usual length",
    ("merge", "compare"): "`methods` of compare_merges",
    ("merge", "tune"): _SPEC,
    ("merge", "expert_data"): "`objectives`",
    ("soup", "seed"): "an average draws no random numbers",
    ("edit", "layers"): "one pattern is a list of one",
    ("edit", "write"): "`EditCurve.params`",
    ("edit", "against"): _SPEC,
    ("edit", "factors_data"): "the objective of `factors`",
}
EXCEPTIONS |= {
    ("inits rank", "weights"): "`problem.weights(ranking.candidates[k])`",
    ("survey", "along"): "`survey_along`, of files in order",
    ("survey", "film"): "`write_film`",
    ("survey", "figures"): "`save_figures`; none by default",
    ("atlas", "files"): _FILE,
    ("atlas", "out"): _FILE,
    ("atlas", "film"): "`write_film`",
    ("atlas", "seed"): "an atlas draws no random numbers",
}
REACHES["atlas"] = ("report.atlas:write_atlas",)
_NO_DRAWS = "a forecast draws no random numbers"
_READS = {
    "column": "repeated NAME=COLUMN for the keywords of readers",
    "kind": "chooses the reader",
}
for _name in ("fit", "compare", "predict", "schedule"):
    EXCEPTIONS |= {
        (f"forecast {_name}", "out"): _FILE,
        (f"forecast {_name}", "seed"): _NO_DRAWS,
    }
for _name in ("fit", "compare"):
    EXCEPTIONS |= {(f"forecast {_name}", key): why for key, why in _READS.items()}
EXCEPTIONS["forecast predict", "column"] = _READS["column"]
EXCEPTIONS["forecast predict", "decay"] = "the usual one depends on the shape"


def fields(model, prefix=""):
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, f"{name}.")
        else:
            yield prefix + name, field


def function(place):
    module, _, path = place.partition(":")
    found = importlib.import_module(f"lossatlas.{module}")
    for name in path.split("."):
        found = getattr(found, name)
    return found


def same(one, two):
    if isinstance(one, tuple | list) and isinstance(two, tuple | list):
        return list(one) == list(two)
    return one == two


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_a_keyword_of_python_with_the_same_default(name):
    command = COMMANDS[name]
    if name.startswith("inits"):
        # The functions take the settings themselves: only what is added has to be a keyword.
        from lossatlas.inits.settings import InitsSettings

        own = [(n, f) for n, f in fields(command.settings) if "." not in n]
        pairs = [(n, f) for n, f in own if n not in InitsSettings.model_fields]
    else:
        pairs = list(fields(command.settings))
    keywords = {}
    for place in REACHES.get(name, ()):
        for key, parameter in inspect.signature(function(place)).parameters.items():
            keywords.setdefault(key, []).append(parameter.default)
    for path, field in pairs:
        if (name, path) in EXCEPTIONS:
            assert EXCEPTIONS[name, path]
            continue
        key = RENAMED.get((name, path), path.rpartition(".")[2])
        assert key in keywords, f"{name}: no function has `{key}`"
        required = field.default is PydanticUndefined
        wanted = inspect.Parameter.empty if required else field.default
        assert any(same(wanted, d) for d in keywords[key]), (name, path, wanted, keywords[key])


def test_exceptions_are_options():
    for name, path in EXCEPTIONS:
        known = {field for field, _ in fields(COMMANDS[name].settings)}
        assert path in known, (name, path)


@pytest.mark.parametrize("place", sorted({p for places in REACHES.values() for p in places}))
def test_defaults_read_from_the_source_are_those_of_the_signature(place):
    read = defaults(place)
    for key, parameter in inspect.signature(function(place)).parameters.items():
        if key in read:
            assert read[key] == parameter.default
    assert read or place.endswith((":Objective", "load_weights"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_the_common_options(name):
    command = COMMANDS[name]
    assert isinstance(command, Command)
    assert {param.name for param in command.params} >= COMMON
    given = [o for param in command.params for o in param.opts if o.startswith("-")]
    assert len(given) == len(set(given))
    for _, field in fields(command.settings):
        assert field.description.endswith((".", "auto.")), field.description


@pytest.mark.parametrize("name", COMMANDS)
def test_the_common_options_are_read(name, monkeypatch, tmp_path):
    command, seen = COMMANDS[name], []

    def run(settings, output, **given):
        seen.append((settings, output, given))

    monkeypatch.setattr(command, "run", run)
    config = tmp_path / "c.yaml"
    config.write_text("seed: 3\n")
    needed = {"forecast schedule": ["f", "--steps", "9", "--peak", "1"]}.get(name, [])
    needed = needed or {"edit": ["f"]}.get(name, [])
    needed = needed or (["a", "b"] if name in {"connect", "merge", "soup", "choose"} else [])
    needed = needed or (["f"] if name.startswith(("atlas", "forecast", "weights")) else [])
    given = ["--out", "o", "--seed", "5", "--set", "seed=4", "--config", str(config)]
    command.main([*needed, *given, "--json", "--resume", "--quiet"], standalone_mode=False)
    settings, output, more = seen[0]
    assert (settings.seed, str(settings.out)) == (5, "o")
    assert (output.as_json, output.quiet) == (True, True)
    assert more in ({}, {"resume": True})


@pytest.mark.parametrize("columns", [30, 60, 100, 200])
@pytest.mark.parametrize("name", [*COMMANDS, "", "forecast", "inits"])
def test_help_has_whole_sentences_at_any_width(name, columns, monkeypatch, capsys):
    text = help_of(name, columns, monkeypatch, capsys)
    # Words in order, and none is cut off; the columns of options and sentences alternate.
    assert "..." not in text.replace("[FILES]...", "").replace("[ARGS]...", "").replace(
        "FILES...", ""
    )
    squeezed = "".join(text.split())
    if name in COMMANDS:
        shown = COMMANDS[name].groups
        for path, field in fields(COMMANDS[name].settings):
            group, dot, _ = path.partition(".")
            if not dot or shown is None or group in shown:
                assert "".join(field.description.split()) in squeezed
    # No name is broken at a hyphen.
    assert not re.search(r"--\w[\w-]*-$", text, re.M)
    longest = max(len(word) for word in text.split())
    assert max(map(len, text.splitlines())) <= max(min(columns, 100), longest + 36)


def test_options_stand_where_they_belong(monkeypatch, capsys):
    text = help_of("survey", 100, monkeypatch, capsys)
    assert text.index("--list-instruments") < text.index("Every command:")
    for name in ("merge", "connect", "edit", "lr"):
        # Said once: the other options refer to it.
        assert help_of(name, 100, monkeypatch, capsys).count("parquet:PATH") == 1


def test_help_names_choices(monkeypatch, capsys):
    text = help_of("survey", 120, monkeypatch, capsys)
    assert "One of random, checkpoints, eigen." in " ".join(text.split())
    assert "--curvature / --no-curvature" in text
    assert "map.tolerance" in text
    assert "[0.002]" in text
    shapes = COMMANDS["forecast predict"].settings.model_fields["shape"].annotation
    words = {word for part in shapes.__args__ for word in getattr(part, "__args__", ())}
    assert words == {"constant", "cosine", *schedules.SHAPE_NAMES}


def test_version_and_module():
    done = subprocess.run(
        [sys.executable, "-m", "lossatlas", "--version"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"lossatlas {lossatlas.__version__}\n"


@pytest.mark.parametrize("arguments", [
    [], ["survey"], ["inits", "rank"], ["forecast", "fit"], ["connect"], ["merge"], ["edit"],
])  # fmt: skip
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys, lossatlas.cli.app as a\n"
        f"sys.argv = ['lossatlas', *{arguments!r}, '--help']\n"
        "try:\n    a.main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'scipy', 'rich', 'matplotlib', 'xarray'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        f"assert {bool(arguments)} or 'pydantic' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("variable", "bold"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colors_only_where_they_are_wanted(variable, bold, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variable.items():
        monkeypatch.setenv(name, value)
    context = cli.make_context("lossatlas", [], resilient_parsing=True)
    assert context.color is (None if bold else False)
    assert "\x1b[1m" in context.get_help()


def test_no_color_without_a_terminal(monkeypatch, capsys):
    assert "\x1b" not in help_of("survey", 80, monkeypatch, capsys)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed(shell, monkeypatch, capsys):
    monkeypatch.setattr("click.shell_completion.BashComplete._check_version", lambda *_: None)
    code, text, _ = call(monkeypatch, capsys, "--completion", shell)
    assert code == 0
    assert "_LOSSATLAS_COMPLETE" in text


def test_choices_are_completed():
    from click.shell_completion import ShellComplete

    complete = ShellComplete(cli, {}, "lossatlas", "_LOSSATLAS_COMPLETE")
    words = [item.value for item in complete.get_completions(["survey", "--plane"], "")]
    assert words == ["random", "checkpoints", "eigen"]
    assert "--points" in [i.value for i in complete.get_completions(["survey"], "--po")]


def test_a_flag_overrides_the_file(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        COMMANDS["survey"], "run", lambda settings, output: seen.append(settings)
    )
    config = tmp_path / "c.yaml"
    config.write_text(
        "curvature: true\nmap: {biases: true}\ninstruments: gradient, sharpness\n"
    )
    given = ["--config", str(config), "--no-curvature", "--set", "map.dimension=1"]
    COMMANDS["survey"].main(given, standalone_mode=False)
    (found,) = seen
    assert not found.curvature
    assert found.map.biases
    assert found.map.dimension == 1
    assert found.instruments == ("gradient", "sharpness")


def test_several_values_are_a_list_a_text_or_repeated(monkeypatch):
    seen = []
    monkeypatch.setattr(
        COMMANDS["train"], "run", lambda settings, output: seen.append(settings)
    )
    for given in (
        ["--lr", "1e-3,1e-2"],
        ["--lr", "1e-3", "--lr", "1e-2"],
        ["--set", "lr=[1e-3,1e-2]"],
    ):
        COMMANDS["train"].main(given, standalone_mode=False)
        assert seen.pop().lr == (1e-3, 1e-2)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_settings_of_a_run_are_a_config_file(name, monkeypatch, capsys, tmp_path):
    command = COMMANDS[name]
    monkeypatch.setattr(command, "run", lambda settings, output: output.result({}, "t"))
    needed = {"forecast schedule": ["f", "--steps", "9", "--peak", "1"]}.get(name, [])
    needed = needed or {"edit": ["f"]}.get(name, [])
    needed = needed or (["a", "b"] if name in {"connect", "merge", "soup", "choose"} else [])
    needed = needed or (["f"] if name.startswith(("atlas", "forecast", "weights")) else [])
    command.main([*needed, "--seed", "7", "--json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)["settings"]
    assert told["seed"] == 7
    config = tmp_path / "settings.yaml"
    config.write_text(json.dumps(told))
    command.main(["--config", str(config), "--json"], standalone_mode=False)
    again = capsys.readouterr().out
    assert json.loads(again)["settings"] == told
    config.write_text(again)
    command.main(["--config", str(config), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["settings"] == told


def test_a_missing_argument_is_named(monkeypatch, capsys):
    code, _, error = call(monkeypatch, capsys, "forecast", "fit")
    assert code == 2
    assert error == "lossatlas: FILES is missing; give it as an option or in a file.\n"
    code, _, error = call(monkeypatch, capsys, "survay")
    assert code == 2
    assert error.startswith("lossatlas: No such command 'survay' (did you mean 'survey'?)")
    code, _, error = call(monkeypatch, capsys, "survey", "--poinst", 3)
    assert code == 2
    assert "No such option '--poinst' (did you mean '--points'?)" in error


class _Part(Strict):
    """Settings of the part."""

    size: int = option(3, "Size.", ge=1)


class _Sample(Strict):
    size: int = option(3, "Size.", ge=1)
    part: _Part = _Part()


def test_the_guide_lists_every_command():
    guide = Path(__file__).parents[2] / "docs" / "guide" / "command-line.md"
    table = guide.read_text().partition("## Options of every command")[0]
    for name in cli.known:
        assert f"| `lossatlas {name}" in table


def test_a_word_that_is_no_command_names_the_one_that_is(monkeypatch, capsys):
    code, _, error = call(monkeypatch, capsys, "compare", "a.pt", "b.pt")
    assert (code, "use lossatlas survey A B" in error) == (2, True)


def test_settings_are_read_in_order(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("size: 4\npart: {size: 5}\n")
    plain = read_settings(_Sample, config=file)
    assert (plain.size, plain.part.size) == (4, 5)
    changed = read_settings(
        _Sample, config=file, assignments=["part.size=6", "size=7"], options={"size": 8}
    )
    assert (changed.size, changed.part.size) == (8, 6)
