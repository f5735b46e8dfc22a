"""`lossatlas connect`, `merge`, `soup` and `edit` as a user types them."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import lossatlas as la
from cli.test_survey_command import call
from lossatlas.cli.merge import MergeSettings
from lossatlas.text import unbroken

FACTORY = """import torch
def plain():
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
def tied():
    first, last = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    last.weight = first.weight
    return torch.nn.Sequential(first, torch.nn.Tanh(), last)
def normed():
    from torch.nn import BatchNorm1d, Linear, Sequential
    return Sequential(Linear(4, 5), BatchNorm1d(5), Linear(5, 3))
"""
PLAIN = {"0.weight": (6, 4), "0.bias": (6,), "2.weight": (3, 6), "2.bias": (3,)}
NORMED = {
    **{"0.weight": (5, 4), "0.bias": (5,), "1.weight": (5,), "1.bias": (5,)},
    **{"1.running_mean": (5,), "1.running_var": (5,), "2.weight": (3, 5), "2.bias": (3,)},
}
QUICK = ["--data", "npz:d.npz", "--batch-size", "20", "--model", "mine.py:plain", "--quiet"]


def weights(seed, shapes):
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=draw) - 0.3 for name, shape in shapes.items()}


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FACTORY)
    rng = np.random.default_rng(0)
    for name in ("d", "e", "f"):
        x = rng.normal(size=(60, 4)).astype("float32")
        np.savez(f"{name}.npz", x=x, y=rng.integers(0, 3, 60))
    for seed in range(3):
        save_file(weights(seed, PLAIN), f"p{seed}.safetensors")
        normed = weights(seed, NORMED)
        normed["1.running_var"] += 1
        save_file(normed, f"n{seed}.safetensors")
    return tmp_path


def run(monkeypatch, capsys, *arguments):
    # The last one counts.
    code, out, error = call(monkeypatch, capsys, arguments[0], *QUICK, *arguments[1:], "--json")
    assert code == 0, error
    return json.loads(out)


def loss_of(params, data="d.npz"):
    held = np.load(data, allow_pickle=False)
    x, y = torch.tensor(held["x"]), torch.tensor(held["y"])
    hidden = F.relu(F.linear(x, params["0.weight"], params["0.bias"]))
    return F.cross_entropy(F.linear(hidden, params["2.weight"], params["2.bias"]), y).item()


def test_a_line_is_measured(monkeypatch, capsys, place):
    found = run(monkeypatch, capsys, "connect", "p0.safetensors", "p1.safetensors")
    path = found["path"]
    middle = {k: (v + weights(1, PLAIN)[k]) / 2 for k, v in weights(0, PLAIN).items()}
    at = path["at"].index(0.5)
    assert path["loss"][at] == pytest.approx(loss_of(middle), rel=1e-5)
    kept = la.load(place / "connection" / "connection.nc")
    assert kept.barrier.value == found["estimates"]["barrier"]["value"]
    assert sorted(p.name for p in (place / "connection").iterdir()) == [
        "connect.json", "connection.html", "connection.nc",
    ]  # fmt: skip
    page = (place / "connection" / "connection.html").read_text()
    assert "From A to B" in page
    assert unbroken(found["sentences"][0]) in page
    assert found["is_barrier_certain"] in {True, False}
    assert "accuracy" in path["metrics"]


def test_a_curve_is_trained_and_its_bend_written(monkeypatch, capsys, place):
    found = run(
        monkeypatch, capsys, "connect", "p0.safetensors", "p1.safetensors", "--align",
        "--kind", "bezier", "--steps", "4", "--out", "c",
    )  # fmt: skip
    kept = la.load(place / "c" / "connection.nc")
    bend = load_file(found["files"]["bend"])
    assert all(torch.equal(bend[name], value) for name, value in kept.bends[0].items())


def test_networks_with_statistics_are_repaired(monkeypatch, capsys):
    given = ["connect", "n0.safetensors", "n1.safetensors", "--model", "mine.py:normed"]
    code, out, error = call(
        monkeypatch, capsys, *given, "--mode", "eval", "--repair", "norms", "--json",
        "--data", "npz:d.npz",
    )  # fmt: skip
    assert code == 0, error
    assert json.loads(out)["settings"]["repair"] == "norms"


def test_a_merge_is_measured_and_written(monkeypatch, capsys, place):
    files = [f"p{k}.safetensors" for k in range(3)]
    found = run(monkeypatch, capsys, "merge", *files, "--method", "task_arithmetic:scale=0.4")
    base, one, two = (weights(k, PLAIN) for k in range(3))
    merged = {k: v + 0.4 * (one[k] - v + two[k] - v) for k, v in base.items()}
    written = load_file("merged.safetensors")
    assert all(torch.allclose(written[k], v, atol=1e-6) for k, v in merged.items())
    assert found["estimates"]["loss"]["value"] == pytest.approx(loss_of(merged), rel=1e-5)
    average = {k: (one[k] + two[k]) / 2 for k in base}
    assert found["against"]["average"]["value"] == pytest.approx(
        loss_of(merged) - loss_of(average), abs=1e-5
    )
    assert set(found["against"]) == {"average", "base", *files[1:]}
    assert la.load("merged.nc").method == "task_arithmetic:scale=0.4"
    assert "The merge" in (place / "merged.html").read_text()


def test_merges_are_compared_on_the_same_examples(monkeypatch, capsys, place):
    files = [f"p{k}.safetensors" for k in range(3)]
    found = run(
        monkeypatch, capsys, "merge", *files,
        "--compare", "average,ties:density=0.5;scale=0.8,search,fisher",
        "--tune", "npz:e.npz",
        "--expert-data", "npz:e.npz", "--expert-data", "npz:f.npz",
    )  # fmt: skip
    assert {"ties:density=0.5,scale=0.8", "search", "fisher", "base"} <= found["losses"].keys()
    assert len(found["coefficients"]["search"]) == 2
    assert not found["failed"]
    assert not (place / "merged.safetensors").exists()
    assert not (place / "merged.resume").exists()
    kept = la.load("merged.nc")
    assert kept.networks == ("base", *files[1:])
    assert found["estimates"]["loss_of_the_average"]["value"] == pytest.approx(
        found["losses"]["average"]["value"]
    )
    assert any(text.startswith("The average (") for text in found["sentences"])


@pytest.mark.parametrize("command", [
    ["merge"], ["merge", "--compare", "average,ties"], ["soup"], ["connect"],
])  # fmt: skip
def test_a_first_run_says_its_sentences_once(command, monkeypatch, capsys):
    code, out, error = call(
        monkeypatch, capsys, *command, "p0.safetensors", "p1.safetensors", *QUICK[:-1]
    )
    assert code == 0, error
    told = " ".join(out.split())
    for sentence in la.load(next(Path().rglob("*.nc"))).sentences():
        assert told.count(sentence) == 1
        assert sentence not in " ".join(error.split())


@pytest.mark.parametrize("command", ["merge", "soup"])
def test_written_weights_have_statistics_that_give_the_printed_loss(
    command, monkeypatch, capsys
):
    files = [f"n{k}.safetensors" for k in range(3)]
    for mode, said in (
        ("eval", "with an average of them"),
        ("recalibrated", "re-estimated from these"),
    ):
        found = run(
            monkeypatch, capsys, command, *files, "--model", "mine.py:normed", "--mode", mode,
            "--out", f"{mode}.safetensors",
        )  # fmt: skip
        assert found["mode"] == mode
        assert any(said in text for text in found["sentences"])
        written = load_file(f"{mode}.safetensors")
        assert normed_loss(written) == pytest.approx(found["estimates"]["loss"]["value"])
        members = range(3) if command == "soup" else (1, 2)
        means = torch.stack([weights(k, NORMED)["1.running_mean"] for k in members])
        x = torch.tensor(np.load("d.npz", allow_pickle=False)["x"])
        inner = F.linear(x, written["0.weight"], written["0.bias"])
        expected = {"eval": means.mean(0), "recalibrated": inner.view(3, 20, -1).mean((0, 1))}
        assert torch.allclose(written["1.running_mean"], expected[mode], atol=1e-5)


def normed_loss(state):
    """The loss of a file with BatchNorm by a plain loop, loaded with strict=True."""
    space = {}
    exec(FACTORY, space)
    model = space["normed"]()
    model.load_state_dict(model.state_dict() | state, strict=True)
    held = np.load("d.npz", allow_pickle=False)
    with torch.no_grad():
        out = model.eval()(torch.tensor(held["x"]))
    return F.cross_entropy(out, torch.tensor(held["y"])).item()


@pytest.mark.parametrize("command", ["merge", "soup", "connect"])
def test_tied_parameters_are_written_as_they_were_measured(command, monkeypatch, capsys):
    shapes = {"0.weight": (4, 4), "0.bias": (4,), "2.bias": (4,)}
    files = [f"t{k}.safetensors" for k in range(3)]
    for k, file in enumerate(files):
        save_file(weights(k, shapes), file)
    given = ["--kind", "bezier", "--steps", "3"] if command == "connect" else []
    given = [*files[: 2 if given else 3], *given]
    found = run(
        monkeypatch,
        capsys,
        command,
        *given,
        "--model",
        "mine.py:tied",
        "--out",
        "o.nc" if command == "connect" else "o.safetensors",
    )
    written = load_file(found["files"]["bend" if command == "connect" else "weights"])
    assert torch.equal(written["0.weight"], written["2.weight"])
    result = la.load(found["files"]["results"])
    expected = result.bends[0] if command == "connect" else result.params
    assert torch.equal(written["0.weight"], expected["0.weight"])


def test_five_commands_print_one_loss_for_one_checkpoint(monkeypatch, capsys):
    files = ["n1.safetensors", "n2.safetensors"]
    own = [pytest.approx(normed_loss(load_file(file)), rel=1e-5) for file in files]
    given = [*files, "--model", "mine.py:normed"]
    path = run(monkeypatch, capsys, "connect", *given)
    assert [path["path"]["loss"][k] for k in (0, -1)] == own
    merged = run(monkeypatch, capsys, "merge", *given, "--compare", "average", "--out", "m")
    assert [merged["losses"][n]["value"] for n in ("base", files[1])] == own
    chosen = run(monkeypatch, capsys, "choose", *given, "--no-sharpness")
    assert [chosen["estimates"][f"loss_of_n{k}"]["value"] for k in (1, 2)] == own
    few = ["--points", "5", "--span", "0.1"]
    pair = run(monkeypatch, capsys, "survey", *given, *few)
    assert [pair[side]["loss"] for side in ("first", "second")] == own
    run(monkeypatch, capsys, "survey", files[0], *given[2:], *few, "--out", "one")
    assert la.load("one/survey.nc").loss.value == own[0]
    assert {each["mode"] for each in (path, merged, chosen, pair)} == {"eval"}


def test_the_best_is_written_by_the_command_that_is_named(monkeypatch, capsys, place):
    # Each fits one half of the data: their mean has the lowest loss.
    for k, name in enumerate(("step 10.safetensors", "step 20.safetensors")):
        state = {key: torch.zeros(shape) for key, shape in PLAIN.items()}
        state["2.bias"][:2] = torch.tensor([4.0, -4.0]) * (-1) ** k
        save_file(state, place / name)
    given = "--batch-size", "7", "--no-sharpness"
    found = run(
        monkeypatch, capsys, "choose", "step 10.safetensors", "step 20.safetensors", *given
    )
    assert found["best"] == "mean of step 10 and step 20"
    (told,) = [text for text in found["sentences"] if "No file holds" in text]
    command = shlex.split(told.split("`")[1])
    assert command[:2] == ["lossatlas", "soup"]
    assert "npz:d.npz" in command
    page = (place / "choice" / "choice.html").read_text()
    assert "lossatlas soup" in unbroken(page)
    code, out, error = call(monkeypatch, capsys, *command[1:], "--json", "--quiet")
    assert code == 0, error
    loss = json.loads(out)["estimates"]["loss"]["value"]
    assert loss == found["estimates"]["loss_of_mean_of_step_10_and_step_20"]["value"]
    assert loss == pytest.approx(loss_of(load_file("mean.safetensors")), rel=1e-5)


def test_a_folder_or_a_name_takes_all_files(monkeypatch, capsys, place):
    files = ["p0.safetensors", "p1.safetensors"]
    run(monkeypatch, capsys, "merge", *files, "--out", "v1.2")
    assert sorted(p.name for p in (place / "v1.2").iterdir()) == [
        "merge.json", "merged.html", "merged.nc", "merged.safetensors",
    ]  # fmt: skip
    code, _, error = call(
        monkeypatch, capsys, "merge", *files, *QUICK, "--out", "v1.2", "--method", "slerp"
    )
    assert (code, "other settings (method)" in error) == (2, True)
    run(monkeypatch, capsys, "connect", *files, "--kind", "bezier", "--steps", "2",
        "--out", "path.nc")  # fmt: skip
    assert {p.name for p in place.glob("path*")} == {
        "path.nc", "path.html", "path.json", "path-bend.safetensors",
    }  # fmt: skip


@pytest.mark.parametrize("command", ["merge", "soup", "connect", "choose"])
def test_a_file_of_the_user_is_never_replaced_unasked(command, monkeypatch, capsys, place):
    files = ["p0.safetensors", "p1.safetensors"]
    out = "p0.nc" if command in {"connect", "choose"} else "p0.safetensors"
    (place / "p0.html").write_text("mine")
    before = (place / "p0.safetensors").read_bytes()
    code, _, error = call(monkeypatch, capsys, command, *files, *QUICK, "--out", out)
    assert code == 2
    assert "p0.html' would be overwritten" in error
    assert (place / "p0.html").read_text() == "mine"
    assert (place / "p0.safetensors").read_bytes() == before
    assert call(monkeypatch, capsys, command, *files, *QUICK, "--out", out, "--fresh")[0] == 2
    assert (place / "p0.html").read_text() == "mine"
    assert (place / "p0.safetensors").read_bytes() == before


def test_a_soup_says_what_it_is_made_of(monkeypatch, capsys):
    files = [f"p{k}.safetensors" for k in range(3)]
    found = run(monkeypatch, capsys, "soup", *files)
    mean = {k: sum(weights(j, PLAIN)[k] for j in range(3)) / 3 for k in PLAIN}
    assert all(torch.allclose(load_file("soup.safetensors")[k], v) for k, v in mean.items())
    assert found["kept"] == files
    greedy = run(monkeypatch, capsys, "soup", *files, "--greedy", "--out", "g.safetensors")
    single = [loss_of(weights(k, PLAIN)) for k in range(3)]
    assert files[int(np.argmin(single))] in greedy["kept"]
    assert greedy["estimates"]["loss"]["value"] <= min(single) + 1e-6


def test_an_edit_gives_the_curve_and_the_weights(monkeypatch, capsys):
    given = ["edit", "p0.safetensors", "--layers", "0", "--keep", "0.8,1", "--against",
             "npz:e.npz", "--write", "0.8"]  # fmt: skip
    found = run(monkeypatch, capsys, *given)
    curve = found["curve"]
    assert curve["keep"] == [0.8, 1.0]
    assert curve["rise"][1] == 0
    assert curve["pairs"][1] == 1
    written = load_file(found["files"]["weights"])
    base = weights(0, PLAIN)
    assert not torch.equal(written["0.weight"], base["0.weight"])
    assert torch.equal(written["2.weight"], base["2.weight"])
    assert curve["loss"][0] == pytest.approx(loss_of(written), rel=1e-5)
    other = loss_of(written, "e.npz") - loss_of(base, "e.npz")
    assert curve["other_rise"][0] == pytest.approx(other, abs=1e-5)


def test_choose_says_which_may_be_the_best(monkeypatch, capsys):
    files = [f"p{k}.safetensors" for k in range(3)]
    found = run(monkeypatch, capsys, "choose", *files)
    single = {f"p{k}": loss_of(weights(k, PLAIN)) for k in range(3)}
    for name, loss in single.items():
        told = found["estimates"][f"loss_of_{name}"]["value"]
        assert told == pytest.approx(loss, rel=1e-5)
    assert found["best"] in found["equal"]
    stored = la.load(found["files"]["results"])
    assert stored.names[3:] == ("mean of p0 and p1", "mean of p1 and p2")
    assert stored.best == found["best"]
    page = Path(found["files"]["report"]).read_text()
    assert "Held-out loss along the checkpoints" in page
    short = run(
        monkeypatch, capsys, "choose", *files, "--no-averages", "--no-sharpness", "--out", "q"
    )
    assert not any("mean" in name for name in short["equal"])
    assert not any("sharpness" in name for name in short["estimates"])


def test_checkpoints_of_a_training_are_taken_by_their_numbers(monkeypatch, capsys, place):
    # As a shell lists them.
    names = ["step_120.safetensors", "step_40.safetensors", "step_80.safetensors"]
    for k, name in enumerate(names):
        shutil.copy(place / f"p{k}.safetensors", place / name)
    quick = "--no-sharpness", "--out", "ordered"
    code, _, error = call(monkeypatch, capsys, "choose", *names, *quick, *QUICK[:-1])
    assert code == 0, error
    assert "in the order of the numbers in their names" in error
    kept = la.load(place / "ordered" / "choice.nc")
    assert kept.names == (
        "step_40", "step_80", "step_120", "mean of step_40 and step_80",
        "mean of step_80 and step_120",
    )  # fmt: skip
    found = run(monkeypatch, capsys, "soup", *names, "--out", "ordered.safetensors")
    assert found["kept"] == [names[1], names[2], names[0]]


@pytest.mark.parametrize("name", ["soup", "connect", "choose", "survey"])
def test_missing_data_are_named(name, monkeypatch, capsys):
    files = ["p0.safetensors", "p1.safetensors"]
    code, _, error = call(monkeypatch, capsys, name, *files, "--model", "mine.py:plain", "-q")
    assert code == 2
    assert "cannot be multiplied" in error
    assert "No --data was given, so digits were used" in error
    given = "--model", "mine.py:plain", "-q", "--data", "digits"
    code, _, error = call(monkeypatch, capsys, name, *files, *given, "--fresh")
    assert (code, "No --data" in error) == (2, False)


@pytest.mark.parametrize(("arguments", "message"), [
    (["choose"], "choose needs two checkpoints or more; got 0"),
    (["choose", "p0.safetensors"], "choose needs two checkpoints or more; got 1"),
    (["choose", "p0.safetensors", "n1.safetensors"], "0.weight"),
    (["choose", "p0.safetensors", "--level", "1"], "`level`"),
    (["connect", "p0.safetensors"], "`files` must be two checkpoints; got 1"),
    (["connect", "p0.safetensors", "n1.safetensors"], "0.weight"),
    (["merge", "p0.safetensors"], "the base and one expert or more"),
    (["merge", "p0.safetensors", "p1.safetensors", "--method", "tie"], "did you mean 'ties'"),
    (["merge", "p0.safetensors", "p1.safetensors", "--method", "fisher"], "`importances`"),
    (["merge", "p0.safetensors", "p1.safetensors", "p2.safetensors", "--expert-data",
      "npz:e.npz"], "`expert_data` must be one an expert"),
    (["soup", "p0.safetensors"], "two checkpoints or more"),
    (["edit", "p0.safetensors", "--keep", "1.2"], "`keep` must be above 0"),
    (["edit", "p0.safetensors", "--layers", "none"], "`layers`"),
    (["edit"], "one checkpoint; got 0"),
    (["connect", "p0.safetensors", "p1.safetensors", "--weights", "p2.safetensors"],
     "name it among the files"),
])  # fmt: skip
def test_mistakes_are_named(arguments, message, monkeypatch, capsys):
    code, _, error = call(monkeypatch, capsys, *arguments, *QUICK)
    assert code == 2
    assert message in error


def test_a_file_of_mergekit_is_read(monkeypatch, capsys, place):
    (place / "ties.yaml").write_text(
        "merge_method: ties\nbase_model: p0.safetensors\nmodels:\n"
        "  - model: p1.safetensors\n    parameters: {density: 0.5, weight: 1.0}\n"
        "  - model: p2.safetensors\n    parameters: {density: 0.5, weight: 1.0}\n"
        "parameters: {normalize: true, lambda: 0.9}\ndtype: bfloat16\n"
    )
    found = run(monkeypatch, capsys, "merge", "--config", "ties.yaml")
    assert found["method"] in {"ties:density=0.5,scale=0.9", "ties:scale=0.9,density=0.5"}
    assert found["settings"]["files"] == [f"p{k}.safetensors" for k in range(3)]


@pytest.mark.parametrize(("given", "message"), [
    ({"merge_method": "passthrough"}, "is not served"),
    ({"merge_method": "ties", "base_model": "a", "models": [
        {"model": "b", "parameters": {"weight": 0.1}},
        {"model": "c", "parameters": {"weight": 0.9}}]}, "differs between models"),
    ({"merge_method": "ties", "base_model": "a", "models": [{"model": "b"}],
      "parameters": {"density": [0.1, 0.9]}}, "must be one number"),
    ({"merge_method": "ties", "models": ["a"]}, "must be entries"),
    ({"merge_method": "slerp", "base_model": "a", "models": [{"model": "b"}],
      "parameters": {"epsilon": 1}}, "`epsilon` is not served"),
])  # fmt: skip
def test_what_of_mergekit_is_not_served_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        MergeSettings.model_validate(given)


def test_adapters_are_merged_as_products(monkeypatch, capsys, place):
    draw = torch.Generator().manual_seed(0)
    networks = []
    for name in ("one", "two"):
        folder = place / name
        folder.mkdir()
        a, b = torch.randn(2, 4, generator=draw), torch.randn(6, 2, generator=draw)
        keys = [f"base_model.model.0.lora_{side}.weight" for side in "AB"]
        save_file(dict(zip(keys, (a, b), strict=True)), folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": 1, "r": 2}))
        networks.append(0.5 * b @ a)
    found = run(monkeypatch, capsys, "merge", "p0.safetensors", "one", "two")
    merged, base = load_file("merged.safetensors"), load_file("p0.safetensors")
    torch.testing.assert_close(merged["0.weight"], base["0.weight"] + sum(networks) / 2)
    assert torch.equal(merged["2.weight"], base["2.weight"])
    assert {"average", "base", "one", "two"} == found["against"].keys()
