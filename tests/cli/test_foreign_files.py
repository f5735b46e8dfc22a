"""No command replaces or removes a file that it did not write; each writes what it declares."""

import json
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import click
import numpy as np
import pytest
from safetensors.torch import save_file

import lossatlas.cli.command as command_room
from cli.test_inits_command import RANKED
from cli.test_inits_command import SMALL as STUDY
from cli.test_survey_command import call
from cli.test_weights_commands import FACTORY, PLAIN, weights
from lossatlas import io
from lossatlas.cli.app import cli
from report.test_atlas import training

OWN = ["--data", "npz:d.npz", "--batch-size", "20", "--model", "mine.py:plain"]
TWO = ["p0.safetensors", "p1.safetensors"]
TINY = ["--examples", "60", "--model", "mlp(4)"]
CASES = {
    "survey": [*TINY, "--points", "3", "--figures", "svg", "--film", "films/f.gif",
               "--out", "run"],
    "survey pair": [*TWO, *OWN, "--points", "3", "--out", "run"],
    "survey along": ["--along", *TWO, "p2.safetensors", *OWN, "--points", "3", "--out", "run",
                     "--film", "f.gif"],
    "atlas": ["runs", "--out", "Page.HTML", "--film", "f.gif"],
    "train": [*TINY, "--steps", "4", "--out", "run"],
    "train compare": [*TINY, "--steps", "4", "--compare", "sgd,adam", "--out", "run"],
    "lr": [*OWN, "--updates", "10", "--out", "run"],
    "forecast fit": ["bare.csv", "--out", "run"],
    "forecast compare": ["bare.csv", "other.csv", "--law", "power", "--out", "c.nc"],
    "forecast predict": ["fit.nc", "--steps", "4000", "--out", "f.csv"],
    "forecast schedule": ["rates.nc", "--steps", "300", "--peak", "1e-3", "--out", "run"],
    "connect": [*TWO, *OWN, "--kind", "chain", "--bends", "2", "--steps", "2", "--out", "run"],
    "connect name": [*TWO, *OWN, "--kind", "bezier", "--steps", "2", "--out", "A.NC"],
    "merge": [*TWO, *OWN],
    "merge compare": [*TWO, *OWN, "--compare", "slerp", "--out", "run"],
    "choose": [*TWO, *OWN, "--no-sharpness", "--out", "a[1].nc"],
    "soup": [*TWO, *OWN],
    "edit": ["p0.safetensors", *OWN, "--keep", "0.8,1", "--write", "0.8"],
    "weights": ["p0.safetensors", "--out", "run"],
    "inits generate": [*STUDY, "--out", "run"],
    "inits fit-surrogate": [*STUDY, "--out", "run"],
    "inits label": [*STUDY, "--out", "run"],
    "inits fit-quality": [*STUDY, "--out", "run"],
    "inits figures": [*STUDY, "--out", "run"],
    "inits run": [*STUDY, "--out", "run", "--stage", "1"],
    "inits rank": [*RANKED, "--candidates", "8", "--out", "run"],
}  # fmt: skip
# Commands that judge piece by piece what is done; run one after another in one folder.
STAGES = ("inits generate", "inits fit-surrogate", "inits label", "inits fit-quality",
          "inits figures", "inits run")  # fmt: skip
WHOLE = [case for case in CASES if case not in STAGES]


def arguments(case):
    name, *rest = case.split()
    words = [name, *rest[:1]] if name in {"forecast", "inits"} else [name]
    return [*words, *CASES[case], "--quiet"] if "--quiet" not in CASES[case] else [
        *words, *CASES[case]
    ]  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Checkpoints, data and results that the commands read."""
    home = tmp_path_factory.mktemp("inputs")
    (home / "mine.py").write_text(FACTORY)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype("float32")
    np.savez(home / "d.npz", x=x, y=rng.integers(0, 3, 60))
    for seed in range(3):
        save_file(weights(seed, PLAIN), home / f"p{seed}.safetensors")
    training()[0].save(home / "runs" / "0.nc")
    steps = range(20, 2001, 20)
    for name, power in (("bare", -0.5), ("other", -0.4)):
        rows = "".join(f"{step},{2 + step**power}\n" for step in steps)
        (home / f"{name}.csv").write_text("step,loss\n" + rows)
    return home


@pytest.fixture
def place(inputs, tmp_path, monkeypatch, short_films):
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def declared(monkeypatch):
    """The declarations of the calls that follow."""
    seen, usual = [], command_room._record

    def record(*given):
        seen.append(usual(*given))
        return seen[-1]

    monkeypatch.setattr(command_room, "_record", record)
    return seen


@pytest.fixture
def no_work(monkeypatch):
    """A command that starts to work fails."""

    def start():
        raise AssertionError("the command went to work")

    monkeypatch.setattr(command_room, "joined", start)


def test_all_commands_but_those_that_make_an_atlas_can_share_a_folder(
    place, monkeypatch, declared
):
    monkeypatch.setattr(command_room, "_guarded", lambda *_: None)
    names = {}
    for case in CASES:
        declared.clear()
        cli.main([*arguments(case), "--out", "run"], standalone_mode=False)
        files = declared[-1].files
        written = {*files.results, files.record.name}
        names.setdefault(files.command, set()).update(n for n in written if "*" not in n)
    for first, second in combinations(names, 2):
        shared = names[first] & names[second]
        assert shared == ({"atlas.html"} if {first, second} == {"atlas", "along"} else set())


def leaves(group, prefix=()):
    for name in group.list_commands(None):
        found = group.get_command(None, name)
        if isinstance(found, click.Group):
            yield from leaves(found, (*prefix, name))
        else:
            yield " ".join((*prefix, name))


def files_below(folder):
    found = [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in found}


def test_every_command_is_here():
    assert set(leaves(cli)) == {
        " ".join(arguments(case)[: 2 if case.startswith(("forecast", "inits")) else 1])
        for case in CASES
    }


@pytest.mark.parametrize("case", CASES)
def test_a_foreign_file_of_any_name_is_refused_before_work(
    case, place, declared, no_work, monkeypatch, capsys
):
    given = arguments(case)
    with pytest.raises(AssertionError, match="went to work"):
        call(monkeypatch, capsys, *given)
    files = declared[0].files
    before = files_below(place)
    names = [*files.patterns, *files._ledger_patterns]
    names += [f"{name}-wal" for name in files._ledger_patterns]
    planted = {files.path_of(name.replace("[[]", "[").replace("*", "x")) for name in names}
    for path in (*planted, files.record):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"my own file")
        for more in ([], ["--fresh"], ["--resume"]):
            code, _, error = call(monkeypatch, capsys, *given, *more)
            assert code == 2, path
            assert f"{path.name}' would be overwritten" in error
            assert path.read_bytes() == b"my own file"
        path.unlink()
        assert files_below(place) == before


def test_a_folder_or_a_link_in_the_place_of_a_result_is_refused(
    place, no_work, monkeypatch, capsys
):
    given = arguments("weights")
    (place / "run" / "spectra.nc").mkdir(parents=True)
    assert call(monkeypatch, capsys, *given, "--fresh")[0] == 2
    (place / "run" / "spectra.nc").rmdir()
    (place / "run" / "spectra.nc").symlink_to("nowhere")
    assert call(monkeypatch, capsys, *given, "--fresh")[0] == 2
    assert (place / "run" / "spectra.nc").is_symlink()
    (place / "run" / "spectra.nc").unlink()
    (place / "run" / "figures").write_text("mine")
    code, _, error = call(monkeypatch, capsys, *arguments("survey"), "--fresh")
    assert (code, "figures' would be overwritten" in error) == (2, True)


# A fit with rates is made once; a schedule is chosen from it.
@pytest.fixture(scope="module")
def fits(tmp_path_factory):
    from lossatlas import forecast
    from lossatlas.forecast import schedules

    home = tmp_path_factory.mktemp("fits")
    rates = schedules.wsd(400, 1e-3, 0.2, "linear", warmup=20)
    step = np.arange(20, 401, 20)
    curve = forecast.Curve(step, 2 + step**-0.5, rates)
    forecast.fit(forecast.AnnealingLaw(), [curve]).save(home / "rates.nc")
    bare = forecast.Curve(step * 5, 2 + (step * 5.0) ** -0.5)
    forecast.fit(forecast.PowerLaw(), [bare]).save(home / "fit.nc")
    return home


@pytest.mark.parametrize("case", WHOLE)
def test_what_is_written_is_declared_and_recorded(
    case, place, fits, declared, monkeypatch, capsys
):
    if case.startswith("forecast"):
        shutil.copytree(fits, place, dirs_exist_ok=True)
    before, given = files_below(place), arguments(case)
    code, text, error = call(monkeypatch, capsys, *given, "--json")
    assert code == 0, error
    files = declared[0].files
    made = {files.name_of(place / name) for name in files_below(place).keys() - before.keys()}
    record = files.name_of(files.record)
    pieces = set(files.existing(files.pieces))
    assert made - {record} == {*files.existing(files.patterns)} | pieces
    assert set(json.loads(files.record.read_text())["files"]) == made - {record} - (
        pieces - set(files.existing(files.patterns))
    )
    stamps = files_below(place)
    if not files.decides_reruns:
        again = call(monkeypatch, capsys, *given, "--json")
        assert (again[0], again[1]) == (0, text)
        code, _, error = call(monkeypatch, capsys, *given, "--title", "other") if (
            "survey" in case
        ) else call(monkeypatch, capsys, *given, "--seed", "1")  # fmt: skip
        assert (code, "holds a finished run with other settings" in error) == (2, True)
        assert files_below(place) == stamps
    code, _, error = call(monkeypatch, capsys, *given, "--fresh")
    assert code == 0, error
    assert files_below(place).keys() == stamps.keys()
    assert all(files_below(place)[name] == stamps[name] for name in before)


def test_stages_of_a_study_write_what_they_declare(place, declared, monkeypatch, capsys):
    before = files_below(place)
    for case in STAGES:
        there = files_below(place)
        code, _, error = call(monkeypatch, capsys, *arguments(case))
        assert code == 0, error
        files = declared[-1].files
        made = {files.name_of(place / n) for n in files_below(place).keys() - there.keys()}
        assert made <= {*files.existing(files.patterns), "inits.json"}
    held = json.loads((place / "run" / "inits.json").read_text())
    made = {n.removeprefix("run/") for n in files_below(place).keys() - before.keys()}
    assert set(held["ours"]) | {"inits.json"} == made
    # Another stage made anew, beside a file of the user.
    (place / "run" / "notes.nc").write_text("mine")
    (place / "run" / "ranking.nc").write_text("mine")
    code, _, error = call(monkeypatch, capsys, *arguments("inits generate"), "--fresh")
    assert code == 0, error
    there = files_below(place)
    code, _, error = call(monkeypatch, capsys, *arguments("inits rank"), "--fresh")
    assert (code, "ranking.nc' would be overwritten" in error) == (2, True)
    assert files_below(place) == there


def test_a_fresh_ranking_leaves_the_stages_of_the_study_alone(place, monkeypatch, capsys):
    assert call(monkeypatch, capsys, *arguments("inits generate"))[0] == 0
    assert call(monkeypatch, capsys, *arguments("inits rank"))[0] == 0
    stamps = files_below(place)
    given = [*arguments("inits rank"), "--candidates", "9"]
    code, _, error = call(monkeypatch, capsys, *given)
    assert (code, "other settings (candidates)" in error) == (2, True)
    assert files_below(place) == stamps
    assert call(monkeypatch, capsys, *given, "--fresh")[0] == 0
    now = files_below(place)
    assert now["run/pairs.nc"] == stamps["run/pairs.nc"]
    assert now["run/rank/short/label.resume"] > stamps["run/rank/short/label.resume"]


def test_a_result_of_another_kind_is_no_stage(place, no_work, monkeypatch, capsys):
    (place / "run").mkdir()
    shutil.copy(place / "runs" / "0.nc", place / "run" / "pairs.nc")
    for more in ([], ["--fresh"]):
        code, _, error = call(monkeypatch, capsys, *arguments("inits generate"), *more)
        assert (code, "pairs.nc' would be overwritten" in error) == (2, True)
    assert io.load(place / "run" / "pairs.nc")


def test_fresh_removes_surveys_of_this_training_and_no_others(place, monkeypatch, capsys):
    given = [word for word in arguments("survey along") if word not in {"--film", "f.gif"}]
    surveys = place / "run" / "surveys"
    assert call(monkeypatch, capsys, *given)[0] == 0
    (surveys / "mine.nc").write_text("mine")
    (surveys / "notes.resume").write_text("mine")
    # A survey as well that no run wrote: the best one, say, put aside.
    shutil.copy(next(surveys.glob("0*.nc")), surveys / "best.nc")
    code, _, error = call(monkeypatch, capsys, *given, "--fresh")
    assert code == 0, error
    assert (surveys / "best.nc").is_file()
    assert (surveys / "mine.nc").read_text() == "mine"
    assert (surveys / "notes.resume").read_text() == "mine"


def test_a_call_that_fails_leaves_the_record_of_the_run_before(place, monkeypatch, capsys):
    given = arguments("connect")
    assert call(monkeypatch, capsys, *given)[0] == 0
    stamps, record = files_below(place), (place / "run" / "connect.json").read_bytes()
    code, _, error = call(monkeypatch, capsys, *given, "--train-data", "npz:x.npz", "--fresh")
    assert (code, "x.npz" in error) == (2, True)
    assert (place / "run" / "connect.json").read_bytes() == record
    code, _, error = call(monkeypatch, capsys, *[a for a in given if a != "--quiet"])
    assert (code, "already done" in error) == (0, True)
    assert files_below(place).keys() == stamps.keys()
    # And nothing at all where there was nothing.
    code = call(monkeypatch, capsys, *given, "--train-data", "npz:x.npz", "--out", "other")[0]
    assert (code, (place / "other").exists()) == (2, False)


def test_a_run_that_was_killed_while_it_wrote_goes_on(place, monkeypatch, capsys):
    given = arguments("soup")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lossatlas.cli.checkpoints.Checkpoints.report", killed)
        assert call(monkeypatch, capsys, *given)[0] == 130
    assert (place / "soup.safetensors").exists()
    code, _, error = call(monkeypatch, capsys, *given)
    assert (code, "--fresh discards it" in error) == (2, True)
    assert call(monkeypatch, capsys, *given, "--fresh")[0] == 0


def test_a_moved_folder_is_done_already(place, monkeypatch, capsys):
    given = arguments("weights")
    assert call(monkeypatch, capsys, *given)[0] == 0
    (place / "run").rename(place / "moved")
    code, _, error = call(monkeypatch, capsys, *given[:-2], "moved")
    assert (code, "already done" in error) == (0, True)
    code, text, _ = call(monkeypatch, capsys, *given[:-2], "moved", "--json")
    assert json.loads(text)["files"] == {"spectra": "moved/spectra.nc"}


def test_a_file_of_json_that_is_no_record_is_foreign(place, no_work, monkeypatch, capsys):
    (place / "run").mkdir()
    (place / "run" / "weights.json").write_text('{"lossatlas": "0.2"}')
    code, _, error = call(monkeypatch, capsys, *arguments("weights"))
    assert (code, "weights.json' would be overwritten" in error) == (2, True)


def test_a_refused_run_leaves_no_folder_that_it_made(place, monkeypatch, capsys):
    given = ["weights", "missing.safetensors", "--out", "deep/down/run"]
    assert call(monkeypatch, capsys, *given)[0] == 2
    assert not (place / "deep").exists()


def test_a_record_without_a_list_names_its_results(place, monkeypatch, capsys):
    given = arguments("soup")
    assert call(monkeypatch, capsys, *given)[0] == 0
    record = place / "soup.json"
    held = json.loads(record.read_text())
    record.write_text(json.dumps({name: held[name] for name in ("run", "printed")}))
    code, _, error = call(monkeypatch, capsys, *given[:-1])
    assert (code, "already done" in error) == (0, True)
    assert call(monkeypatch, capsys, *given, "--fresh")[0] == 0


def test_a_result_that_is_read_is_not_replaced(place, monkeypatch, capsys):
    assert call(monkeypatch, capsys, *arguments("soup"))[0] == 0
    before = (place / "soup.safetensors").read_bytes()
    given = ["soup", "soup.safetensors", "p2.safetensors", *OWN, "--fresh"]
    code, _, error = call(monkeypatch, capsys, *given)
    assert (code, "soup.safetensors' would be overwritten" in error) == (2, True)
    assert (place / "soup.safetensors").read_bytes() == before


def test_a_name_in_capitals_is_a_name(place, monkeypatch, capsys):
    given = ["weights", "p0.safetensors", "--out", "Page.NC"]
    assert call(monkeypatch, capsys, *given)[0] == 0
    assert io.load(place / "Page.NC").matrices
    assert (place / "Page.json").is_file()
    code, _, error = call(monkeypatch, capsys, "weights", "p0.safetensors", "--out", "x.PT")
    assert (code, "must be a folder, or a name that ends in .nc" in error) == (2, True)


HOLD = """
import sys
from lossatlas.cli.destination import Destination
from pathlib import Path
with Destination(Path(sys.argv[1]), ("choice.nc",)).occupied():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("out", ["mine.nc", "run"])
def test_two_runs_never_share_a_place(out, place, no_work, monkeypatch, capsys):
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert held.stdout.readline() == b"held\n"
        given = ["choose", *TWO, *OWN, "--out", out]
        code, _, error = call(monkeypatch, capsys, *given)
        assert (code, "is being written by another run" in error) == (2, True)
        # Another name beside it is free.
        with pytest.raises(AssertionError, match="went to work"):
            call(monkeypatch, capsys, "choose", *TWO, *OWN, "--out", "other.nc")
    finally:
        held.communicate()
    with pytest.raises(AssertionError, match="went to work"):
        call(monkeypatch, capsys, *given)
    assert not [path for path in Path().iterdir() if path.name.endswith(".lock")]
