"""The atlas: what is packed into it, and what a reader can do with it."""

import html
import json
import re
from dataclasses import replace
from pathlib import Path as File

import numpy as np
import pytest
import torch

import lossatlas as la
import lossatlas.report
from lossatlas.errors import ArgumentError, FileError
from lossatlas.report import render_atlas
from lossatlas.report.atlas import holds, read_runs
from lossatlas.report.frames import basin_tracks, common_scale, packed_arrays
from lossatlas.result import Estimate
from plots.sample_landscapes import box_map, line_map, sample_map, with_trajectory
from report.sample_comparisons import valleys, with_bump
from report.sample_surveys import HOSTILE, double_well, hostile, survey_of
from report.test_report_browser import drive
from report.test_report_browser import pytestmark as in_browser
from report.test_write_report import Page, inflated

TEMPLATES = File(lossatlas.report.__file__).parent / "templates"


def training(depths=(1.4, 1.8, 2.6, 3.0), noise=0.002):
    """Surveys of one training: a third well grows deeper between two old ones."""
    land = with_trajectory(sample_map("double well", noise=noise))
    lands = [with_bump(land, 0.0, 1.2, depth) for depth in depths]
    return [at_step(survey_of(each), 100 * k) for k, each in enumerate(lands)]


def at_step(survey, step):
    settings = {**survey.provenance.settings, "step": step}
    return replace(survey, provenance=replace(survey.provenance, settings=settings))


@pytest.fixture(scope="module")
def atlas():
    return render_atlas({"wide": training(), "narrow": training((2.0, 1.6))}, title="Wells")


def head(page):
    return json.loads(Page(page).packed("head"))


def unpacked(page, k):
    """The arrays of a frame, read as the page reads them."""
    fields, data = head(page)["frames"][k]["fields"], Page(page).packed(f"frame-{k}")
    about = head(page)["grids"][head(page)["frames"][k]["grid"]]
    size, at, found = len(about["x"]) * len(about["y"]), 0, {}
    for field in fields:
        width = 4 if field["kind"] == "float" else 2
        planes = np.frombuffer(data[at : at + width * size], np.uint8).reshape(width, size)
        flat = np.ascontiguousarray(planes.T)
        at += width * size
        if width == 4:
            found[field["name"]] = flat.view("<f4").ravel()
            continue
        steps = flat.view("<u2").ravel()
        low, high = field["low"], field["high"]
        values = low + steps * (high - low) / 65534
        found[field["name"]] = np.where(steps == 65535, np.nan, values)
    found["computed"] = np.unpackbits(np.frombuffer(data[at:], np.uint8))[:size]
    return found


def test_the_arrays_come_back_as_they_were(atlas):
    survey = training()[1]
    found = unpacked(atlas, 1)
    land = survey.landscape
    np.testing.assert_allclose(found["loss"], land.values.ravel(), rtol=2e-5)
    np.testing.assert_allclose(found["error"], land.stderr.ravel(), atol=1e-6)
    assert found["computed"].all()


def test_a_loss_that_is_not_finite_stays_so():
    land = sample_map(noise=0.03, walls=True)
    found = unpacked(render_atlas([survey_of(land)]), 0)["loss"]
    np.testing.assert_array_equal(np.isfinite(found), land.finite.ravel())
    text, fields = packed_arrays(replace(land, values=np.full(land.values.shape, 2.0)))
    assert fields[0]["name"] == "loss"
    assert len(inflated(text)) > 6 * land.values.size


def test_basins_keep_their_number_from_step_to_step():
    surveys = training()
    tracks = basin_tracks(surveys)
    assert tracks[0] == {k: k for k in range(len(surveys[0].tree))}

    def middle(k):
        land, tree = surveys[k].landscape, surveys[k].tree
        i, j = (np.abs(axis - v).argmin() for axis, v in zip(land.axes, (0, 1.2), strict=True))
        return int(tree.basins[i, j])

    # The well in the middle becomes the deepest, and keeps its number.
    assert middle(0) > 0
    assert middle(3) == 0
    assert len({tracks[k][middle(k)] for k in range(4)}) == 1
    for found in tracks:
        assert len(set(found.values())) == len(found)


def test_other_axes_are_no_frames_of_one_place():
    surveys = training((1.4, 1.4))
    land = surveys[1].landscape
    moved = survey_of(replace(land, axes=(land.axes[0] + 9.0, land.axes[1])))
    tracks = basin_tracks([surveys[0], moved])
    assert not set(tracks[0].values()) & set(tracks[1].values())
    (run,) = head(render_atlas([surveys[0], moved]))["runs"]
    assert not run["one_grid"]


def test_numbers_over_the_steps_have_their_errors(atlas):
    first, second = head(atlas)["runs"]
    assert first["steps"] == [0, 100, 200, 300]
    assert second["name"] == "narrow"
    rows = {row["name"]: row["values"] for row in first["numbers"]}
    assert rows["loss at the weights"][0][1] == 0.01
    assert rows["accuracy at the weights"][2] == [0.913, 0.0125]
    assert rows["certain minima"][0] == [3, None]
    scale = common_scale([survey.landscape for survey in training()])
    assert first["scale"]["low"] == scale.low


def test_steps_are_sorted_and_lines_and_boxes_are_cards():
    surveys = training()
    page = render_atlas(
        [*surveys[::-1], survey_of(line_map()), survey_of(box_map()), valleys()]
    )
    (run,) = head(page)["runs"]
    assert run["steps"] == [0, 100, 200, 300]
    words = " ".join(Page(page).words)
    assert "Two checkpoints" in words
    assert len(Page(page).figures) > 8
    assert "library" in [attrs.get("id") for attrs, _ in Page(page).scripts]
    # Surveys of planes need no plotting library.
    assert len(render_atlas(surveys).encode()) < 3e5


def test_the_page_says_what_it_holds():
    model = torch.nn.Linear(2, 1)
    loss = la.supervised(torch.nn.functional.mse_loss)
    objective = la.Objective(model, loss, [(torch.eye(2), torch.zeros(2, 1))])
    watch = la.Monitor(objective, ("loss",), every=1, share=None)
    watch.step(1.0)
    monitored = watch.log
    assert holds([], [monitored]) == "readings of a training"
    assert "Atlas: readings of a training</span>" in render_atlas(monitored)
    assert holds([], [monitored, valleys()]) == "2 results"
    runs, _ = read_runs(training())
    assert holds(runs, []) == "4 surveys"
    assert holds(runs, [monitored]) == "4 surveys, 1 other result"


def monitored():
    model = torch.nn.Linear(2, 1)
    loss = la.supervised(torch.nn.functional.mse_loss)
    objective = la.Objective(model, loss, [(torch.eye(2), torch.zeros(2, 1))])
    watch = la.Monitor(objective, ("loss",), every=1, share=None)
    watch.step(1.0)
    return watch.log


def test_results_without_a_survey_stand_open_under_their_names(tmp_path):
    for name in ("sgd", "adam"):
        (tmp_path / name).mkdir()
        monitored().save(tmp_path / name / "monitor.nc")
    page = render_atlas([tmp_path / "sgd", tmp_path / "adam"])
    shown = page.partition("<main")[2].partition("</main>")[0]
    assert "<details" not in shown.partition('id="numbers"')[0]
    assert "More results" not in page
    for name in ("sgd", "adam"):
        assert f"Readings of the training, {name}</h2>" in shown
    beside = render_atlas({"all": [*training()[:1], monitored()]})
    assert "More results" in beside
    twice = render_atlas([monitored(), monitored()])
    assert "Readings of the training (2)</h2>" in twice


def test_texts_that_scripts_write_keep_numbers_on_one_line(atlas):
    def texts(value):
        if isinstance(value, str):
            yield value
        parts = value.values() if isinstance(value, dict) else value
        for part in parts if isinstance(value, dict | list) else ():
            yield from texts(part)

    said = [*texts(head(atlas))]
    assert any("\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}" in text for text in said)
    assert any("\N{NO-BREAK SPACE}%" in text for text in said)
    assert not [text for text in said if re.search(r"\d %|\d ±|± \d", text)]
    for path in TEMPLATES.glob("*.js"):
        literals = re.findall(r"`[^`]*`|\"[^\"\n]*\"", path.read_text())
        assert not [text for text in literals if re.search(r"[}\d] %[^a-z(]|\} ± |± \$", text)]


def test_folders_and_files_are_read(tmp_path):
    for k, survey in enumerate(training()[:2]):
        survey.save(tmp_path / "run" / f"{k}.nc")
    double_well().save(tmp_path / "alone.nc")
    path = la.write_atlas([tmp_path / "run", tmp_path / "alone.nc"], tmp_path / "atlas.html")
    runs = head(path.read_text(encoding="utf-8"))["runs"]
    assert [(run["name"], len(run["frames"])) for run in runs] == [("run", 2), ("surveys", 1)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="holds no results"):
        la.write_atlas([tmp_path / "empty"], tmp_path / "atlas.html")
    with pytest.raises(ArgumentError, match="at least one result"):
        la.write_atlas([], tmp_path / "atlas.html")
    with pytest.raises(ArgumentError, match="path of a file or folder"):
        la.write_atlas([3.0], tmp_path / "atlas.html")


def test_two_hundred_surveys_fit():
    surveys = [at_step(double_well(), k) for k in range(2)]
    size = [len(render_atlas(surveys[:k]).encode()) for k in (1, 2)]
    # Grids of 41 x 41; what a page holds besides frames counts once.
    assert size[0] + 199 * (size[1] - size[0]) < 6e6


PLAY = """
  const log = { script: [] }, step = () => Number(root.dataset.step);
  const rows = () => [...document.querySelectorAll("#bars .row")];
  log.first = step(); log.address = location.hash;
  $("#slider").value = 1; $("#slider").dispatchEvent(new Event("input")); await wait(200);
  log.slid = step(); log.hash = location.hash;
  $("#play").click(); await wait(3200); log.played = step();
  $("#play").click(); await wait(900);
  const stopped = step(); await wait(900); log.stopped = stopped === step();
  press("Home"); await wait(400); press("ArrowRight"); await wait(400); log.keys = step();
  await Atlas.go(3); await wait(400);
  rows()[1].dispatchEvent(new PointerEvent("pointerenter"));
  log.outlined = Atlas.views[0].inside.reduce((sum, v) => sum + v, 0);
  log.track = root.dataset.basin; log.label = rows()[1].getAttribute("aria-label");
  const before = String(Atlas.camera.target);
  rows()[1].click(); await wait(1200);
  log.flew = String(Atlas.camera.target) !== before;
  rows()[1].dispatchEvent(new PointerEvent("pointerleave"));
  const turned = Atlas.camera.azimuth; press("ArrowLeft", $(".scene canvas[tabindex]"));
  log.turned = Atlas.camera.azimuth !== turned; log.held = step();
  press("3"); await wait(300); log.view = location.hash; press("1");
  press("s"); await wait(300); log.common = location.hash;
  $("#beside").value = "1"; $("#beside").dispatchEvent(new Event("change"));
  await wait(600);
  const scenes = [...document.querySelectorAll("#views .scene")];
  log.beside = scenes.filter((s) => s.offsetWidth).length;
  const scales = Atlas.views.map((v) => [v.scale.low, v.scale.high].join());
  log.same = scales[0] === scales[1];
  for (let k = 0; k < 4; k++) { await Atlas.go(k); log.script.push(root.dataset.script); }
  location.hash = "#step=120"; await wait(600); log.missing = $("#grid-note").textContent;
  await Atlas.go(3);
  location.hash = "#step=100"; await wait(600); log.linked = step();
  log.there = $("#grid-note").hidden;
  log.charts = document.querySelectorAll("#charts svg").length;
  return log;
"""


@pytest.mark.browser
@pytest.mark.skipif(in_browser[1].args[0], reason=in_browser[1].kwargs["reason"])
def test_slider_play_bars_keys_views_and_links(atlas, tmp_path):
    seen, asked, picture = drive(atlas, PLAY, tmp_path, address="#step=200")
    log = seen["result"]
    assert (seen["errors"], seen["loaded"], asked) == ([], [], set())
    assert (log["first"], log["slid"], log["keys"], log["linked"]) == (200, 100, 100, 100)
    assert log["hash"] == "#step=100"
    assert log["missing"] == "There is no step 120; step 100 is shown."
    assert log["there"]
    assert log["played"] != log["slid"]
    assert log["stopped"]
    assert log["outlined"] > 10
    assert log["label"].startswith(f"basin {log['track']}: loss ")
    assert log["flew"]
    assert log["turned"]
    assert log["held"] == 300
    assert "view=error" in log["view"]
    assert "scale=common" in log["common"]
    assert log["beside"] == 2
    assert log["same"]
    assert log["charts"] >= 3
    colored = picture.reshape(-1, 3)[np.ptp(picture.reshape(-1, 3).astype(int), axis=1) > 25]
    assert len(np.unique(colored, axis=0)) > 1000


NARROW = """
  document.body.style.width = "390px"; root.dataset.theme = "dark"; await wait(400);
  const kept = ".scroll, svg, canvas, .top";
  const wide = [...document.querySelectorAll("main *")].filter((e) =>
    e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(kept));
  const color = (e, name) =>
    getComputedStyle(e)[name].match(/[\\d.]+/g).slice(0, 3).map(Number);
  const part = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const shine = (c) => {
    const [r, g, b] = c.map((v) => part(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (e) => {
    const ends = [color(e, "color"), color(document.body, "backgroundColor")].map(shine);
    return (Math.max(...ends) + 0.05) / (Math.min(...ends) + 0.05);
  };
  $("#turn").click();
  const still = Scene.still.matches && $("#turn").getAttribute("aria-pressed") === "false";
  const trapped = !$(".scene canvas[tabindex]").dispatchEvent(
    new WheelEvent("wheel", { deltaY: 50, bubbles: true, cancelable: true }));
  return { wide: wide.map((e) => e.outerHTML.slice(0, 80)), still, trapped,
    contrast: ["small", ".said", "#headline", ".top a"].map((w) => contrast($(w))) };
"""


@pytest.mark.browser
@pytest.mark.skipif(in_browser[1].args[0], reason=in_browser[1].kwargs["reason"])
def test_a_narrow_dark_page_without_motion_and_with_hostile_names(tmp_path):
    page = render_atlas({HOSTILE: [hostile(), hostile()]})
    seen, asked, _ = drive(page, NARROW, tmp_path, "--window-size=500,1400")
    assert (seen["errors"], seen["calls"], asked) == ([], 0, set())
    found = seen["result"]
    assert found["still"]
    assert not found["trapped"]
    assert min(found["contrast"]) >= 4.5
    assert found["wide"] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Estimate(-0.2, 0.01, samples=512, sample_unit="examples"), "a fall of 0.200 [0.18"),
        (Estimate(0.2, 0.01, samples=512, sample_unit="examples"), "a rise of 0.200 [0.18"),
        (Estimate(0.02, 0.05, samples=512, sample_unit="examples"), "within its error"),
        (None, "The loss goes from"),
    ],
)
def test_only_a_paired_change_has_a_direction(change, words):
    first, *_, last = training()
    page = render_atlas({"run": [first, replace(last, change=change)]})
    text = html.unescape(page)
    assert words in text.replace("\N{NO-BREAK SPACE}", " ")
    if change is None:
        assert not re.search("The loss (rises|falls)|a rise of|a fall of", text)


def test_a_rise_on_the_way_is_said():
    surveys = training()
    losses = (0.462, 0.491, 0.279, 0.118)
    run = [
        replace(survey, loss=Estimate(value, 0.023, samples=99))
        for survey, value in zip(surveys, losses, strict=True)
    ]
    page = render_atlas({"run": run}).replace("\N{NO-BREAK SPACE}", " ")
    assert "highest at step 100: 0.491 ± 0.023" in page
    assert "lowest at step" not in page


def test_a_number_reads_the_same_over_the_steps_and_in_the_table():
    first, *rest = training()
    run = [replace(first, loss=Estimate(0.11806, 0.0231, samples=99)), *rest]
    numbers = head(render_atlas({"run": run}))["runs"][0]["numbers"]
    (loss,) = [each for each in numbers if each["name"].startswith("loss at")]
    assert loss["texts"][0].replace("\N{NO-BREAK SPACE}", " ") == "0.118 ± 0.023"
