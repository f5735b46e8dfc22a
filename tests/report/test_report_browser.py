"""A real report in a real browser: drawn, silent, and alone."""

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from hashlib import sha256
from html import unescape

import numpy as np
import pytest
from PIL import Image

from lossatlas.plots.trees import branches
from lossatlas.report import render
from lossatlas.report.frames import pack
from lossatlas.report.sections.topology import topology_section
from lossatlas.result import Estimate, Result, result, rows_figure
from plots.sample_landscapes import sample_map
from report.sample_comparisons import valleys
from report.sample_surveys import himmelblau, hostile, survey_of

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-unsafe-swiftshader",
    "--hide-scrollbars",
    # Movements last as long as frames come, which on a busy machine they do not.
    "--force-prefers-reduced-motion",
    "--virtual-time-budget=30000",
    "--window-size=1280,2200",
    # Nobody is at home: neither for the page nor for the browser itself.
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
# Runs before anything else on the page, then what the test says, and writes what it saw into
# an attribute.
PROBE = """<script>
(function () {
  const seen = { errors: [], calls: 0 }, root = document.documentElement;
  const note = (what) => seen.errors.push(String(what));
  window.addEventListener("error", (e) => note(e.message));
  window.addEventListener("unhandledrejection", (e) => note(e.reason));
  document.addEventListener("securitypolicyviolation", (e) => note("policy " + e.blockedURI));
  console.error = (...words) => note(words.join(" "));
  window.alert = () => { seen.calls += 1; };
  const $ = (words) => document.querySelector(words);
  const wait = (ms) => new Promise((go) => setTimeout(go, ms));
  const press = (key, at) =>
    (at || document.body).dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const scenario = async () => { SCENARIO };
  const timer = setInterval(async () => {
    if (!root.hasAttribute("data-ready")) return;
    clearInterval(timer);
    try { seen.result = await scenario(); } catch (e) { note(e.stack); }
    await wait(300);
    seen.loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
    seen.title = document.title;
    seen.texts = Array.from(document.querySelectorAll(".plot text")).map((t) => t.textContent);
    root.setAttribute("data-probe", JSON.stringify(seen));
  }, 50);
})();
</script>"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        BROWSER is None, reason="neither chromium nor google-chrome is installed"
    ),
]


def browse(page, folder, *flags, address=""):
    """Open a page: its elements as text, and what it asked the network for."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    command = [
        BROWSER,
        *FLAGS,
        *flags,
        f"--user-data-dir={folder / 'profile'}",
        f"--log-net-log={folder / 'net.json'}",
        f"--screenshot={folder / 'page.png'}",
        "--dump-dom",
        (folder / "page.html").as_uri() + address,
    ]
    done = subprocess.run(command, capture_output=True, timeout=170, check=False)
    log = json.loads((folder / "net.json").read_text())
    # Chromium asks for things of its own; those requests have no origin, the page's have.
    asked = {
        event["params"]["url"]
        for event in log["events"]
        if event.get("params", {}).get("initiator", "not an origin") != "not an origin"
    }
    return done.stdout.decode(errors="replace"), asked


def drive(page, scenario, folder, *flags, address=""):
    """Open a page and do something there: what the probe saw, what was fetched, a picture.

    `scenario` is the body of an async function of JavaScript; what it returns is in "result".
    """
    probe = PROBE.replace("SCENARIO", scenario)
    text, asked = browse(
        page.replace("<head>", "<head>" + probe, 1), folder, *flags, address=address
    )
    found = re.search(r'data-probe="([^"]*)"', text)
    assert found, "the page never finished drawing"
    seen = json.loads(unescape(found[1]))
    return seen, asked, np.asarray(Image.open(folder / "page.png").convert("RGB"))


HERO = """
  await Page.all();
  const rows = [...document.querySelectorAll("#bars .row")], before = Report.camera.target;
  rows[1].dispatchEvent(new PointerEvent("pointerenter"));
  const outlined = Report.view.inside.reduce((sum, v) => sum + v, 0);
  rows[1].click();
  await wait(900);
  const moved = String(Report.camera.target) !== String(before);
  rows[1].dispatchEvent(new PointerEvent("pointerleave"));
  const cleared = Report.view.inside === null;
  press("2"); const view = root.dataset.view; press("1");
  Report.camera.reset(); await wait(900);
  const saved = {};
  Scene.save = async (blob, name) => { saved[name] = await blob.text(); };
  for (const kind of ["csv", "tex"])
    $(`#map [data-of="map-1"] [data-save="${kind}"]`).click();
  $('#topology [data-copy="tex"]').click(); $('#numbers [data-copy="csv"]').click();
  const find = $("[data-find]");
  find.value = "mean rise"; find.dispatchEvent(new Event("input", { bubbles: true }));
  const left = [...$("#numbers tbody").rows].filter((row) => !row.hidden).length;
  for (let k = 0; k < 100 && Object.keys(saved).length < 4; k++) await wait(100);
  scrollTo(0, 0);
  const box = $("#scene").getBoundingClientRect();
  return { outlined, moved, cleared, view, bars: rows.length, saved, left,
    points: Report.view.goal.z.length,
    box: [box.left, box.top, box.right, box.bottom].map(Math.round) };
"""


def visit(survey, folder):
    """Open a report and try what stands at its head."""
    return drive(render(survey), HERO, folder)


@pytest.fixture(scope="module")
def visited(tmp_path_factory):
    return visit(himmelblau(), tmp_path_factory.mktemp("browser"))


def test_nothing_goes_wrong_and_nothing_is_fetched(visited):
    seen, asked, _ = visited
    assert seen["errors"] == []
    assert seen["loaded"] == []
    assert asked == set()


def test_a_page_that_does_ask_the_network_is_caught(tmp_path):
    _, asked = browse('<img src="http://example.org/canary.png">', tmp_path)
    assert asked == {"http://example.org/canary.png"}


def test_the_surface_is_drawn_in_color(visited):
    seen, _, picture = visited
    left, top, right, bottom = seen["result"]["box"]
    region = picture[top:bottom, left:right].reshape(-1, 3).astype(int)
    assert len(region) > 100_000
    colored = region[np.ptp(region, axis=1) > 25]
    # A blank or failed canvas is one color; a surface has thousands, and fills its place.
    assert len(colored) > 0.15 * len(region)
    assert len(np.unique(colored, axis=0)) > 1000
    path = np.abs(region - [0xFF, 0x7F, 0x2A]).max(axis=1) < 40
    assert path.sum() > 100


def test_a_bar_outlines_its_basin_and_leads_there(visited):
    found = visited[0]["result"]
    assert 0 < found["outlined"] < found["points"] / 2
    assert found["moved"]
    assert found["cleared"]
    assert found["view"] == "from above"


def test_figures_and_tables_leave_as_csv_and_latex(visited):
    found = visited[0]["result"]
    assert 0 < found["left"] < 4
    lines = found["saved"]["loss-surface.csv"].splitlines()
    assert lines[0] == "trace,x,y,z"
    assert len(lines) > 61 * 61
    name, *numbers = lines[1].split(",")
    assert name == "loss"
    assert [math.isfinite(float(number)) for number in numbers] == [True] * 3
    assert "\\addplot3" in found["saved"]["loss-surface.tex"]
    assert found["saved"]["minima.tex"].startswith("\\begin{tabular}")
    assert "$\\pm$" in found["saved"]["minima.tex"]
    assert found["saved"]["numbers.csv"].splitlines()[0] == "number,value,error,meaning"


def test_axes_are_named_in_the_drawn_page(visited):
    seen, _, _ = visited
    assert "random 1 [direction lengths]" in seen["texts"]
    assert "birth: loss where it appears (log above the lowest)" in seen["texts"]


def test_hostile_names_run_nothing(tmp_path):
    seen, asked, _ = visit(hostile(), tmp_path)
    assert seen["calls"] == 0
    assert seen["errors"] == []
    assert asked == set()
    assert seen["title"].startswith("</script><script>alert(1)</script>")
    assert any("<img" in text or "<script>" in text for text in seen["texts"])


CORNERS = """
  await wait(300);
  const view = Report.view, [a, b] = view.half, out = [];
  for (let k = 0; k < 12; k++) {
    Report.camera.set({ azimuth: (k * Math.PI) / 6 });
    view.render();
    for (const z of [-0.22, 0.62]) for (const s of [-1, 1]) for (const t of [-1, 1]) {
      const [x, y] = view.project([s * a, t * b, z]);
      out.push(Math.max(-x, x - view.width, -y, y - view.tall));
    }
  }
  const rows = [...document.querySelectorAll("#bars .row")];
  return { outside: Math.max(...out), half: view.half,
    counts: $("#bars .counts").textContent,
    hollow: rows.map((r) => r.classList.contains("edge")),
    lasts: rows.map((r) => r.children[2].textContent) };
"""


def pit_in_the_corner(error=1e-3):
    """A bowl, and a second minimum on the edge of the map."""
    land = sample_map(points=31, noise=0.0)
    x, y = np.meshgrid(*land.axes, indexing="ij")
    far = float(land.axes[0][-1])
    values = np.minimum(x**2 + y**2, 0.3 + (x - far) ** 2 + (y - far) ** 2)
    return survey_of(replace(land, values=values, stderr=np.full(values.shape, error)))


@pytest.mark.parametrize("size", ["1280,900", "500,900"])
def test_bars_count_as_the_headline_and_no_corner_leaves_the_picture(size, tmp_path):
    survey = pit_in_the_corner()
    assert survey.tree.headline().startswith("One basin inside the map is certain")
    seen, _, _ = drive(render(survey), CORNERS, tmp_path, f"--window-size={size}")
    found = seen["result"]
    assert seen["errors"] == []
    # A square map turned all the way round: the hardest case.
    assert found["half"] == [1, 1]
    assert found["outside"] < 0
    assert (
        found["counts"]
        == "1 certain inside the map; 1 on the edge of the map (hollow), not counted."
    )
    assert found["hollow"] == [False, True]
    assert found["lasts"][0] == "never ends"


@pytest.mark.parametrize(("error", "sure"), [(1e-3, True), (0.4, False), (math.nan, None)])
def test_bars_table_and_tree_say_the_same_of_a_minimum_on_the_edge(error, sure, tmp_path):
    survey = pit_in_the_corner(error)
    tree = survey.tree
    assert (tree.on_edge.tolist(), len(tree)) == ([False, True], 2)
    page = render(survey)
    seen, _, _ = drive(page, CORNERS, tmp_path)
    found = seen["result"]
    assert found["hollow"] == [False, True]
    told = {
        True: "1 certain inside the map; 1 on the edge of the map (hollow), not counted.",
        False: "1 certain; 1 within the error (gray), on the edge of the map (hollow).",
        None: "2 of unknown certainty (gray), 1 of them on the edge of the map (hollow).",
    }
    assert found["counts"] == told[sure]
    verdict = {True: "", False: "within the error; ", None: ""}[sure]
    row = "unknown" if sure is None else f"{verdict}on the edge of the map, not counted"
    assert read_minima(survey)[1] == row
    assert [b.is_on_edge for b in branches(tree)] == [False, True]
    assert int(tree.certain_count) == (0 if sure is None else 1)


def read_minima(survey):
    """The verdicts of the table of minima."""
    [table] = topology_section(survey).tables
    return [row[-1] for row in table.rows]


# What a picture that is taken once the page has loaded would show.
AT_ONCE = """<script>
let errors = 0;
console.error = () => { errors += 1; };
addEventListener("load", () => {
  const drawn = [...document.querySelectorAll(".plot")].filter((p) => p.querySelector("svg"));
  const seen = [...document.querySelectorAll(".plot")].filter((p) => {
    const box = p.getBoundingClientRect();
    return box.width && box.top < innerHeight && box.bottom > 0;
  });
  document.documentElement.setAttribute("data-loaded", JSON.stringify({
    seen: seen.length, missing: seen.filter((p) => !drawn.includes(p)).length,
    errors, ready: document.documentElement.hasAttribute("data-ready") }));
});
</script>"""


@pytest.mark.parametrize("size", ["1280,2200", "500,4000"])
@pytest.mark.parametrize("make", [himmelblau, valleys])
def test_what_is_on_the_screen_is_drawn_when_the_page_has_loaded(make, size, tmp_path):
    page = render(make()).replace("<head>", "<head>" + AT_ONCE, 1)
    text, _ = browse(page, tmp_path, f"--window-size={size}")
    found = json.loads(unescape(re.search(r'data-loaded="([^"]*)"', text)[1]))
    assert found["seen"] > 0
    assert found == {"seen": found["seen"], "missing": 0, "errors": 0, "ready": True}


def test_the_page_unpacks_what_python_packs(tmp_path):
    rng = np.random.default_rng(0)
    contents = [
        b"a",
        b"abc" * 5,
        rng.bytes(70_000),
        bytes(300_000),
        np.sort(rng.normal(size=20_000)).astype("<f4").tobytes(),
        json.dumps(rng.integers(0, 99, 60_000).tolist()).encode(),
    ]
    packed = json.dumps([pack(each) for each in contents])
    scenario = f"""
      const sums = [];
      for (const text of {packed}) {{
        const bytes = Scene.inflate(text);
        const hash = await crypto.subtle.digest("SHA-256", bytes);
        const text16 = (v) => v.toString(16).padStart(2, "0");
        sums.push([...new Uint8Array(hash)].map(text16).join(""));
      }}
      return sums;
    """
    seen, _, _ = drive(render(himmelblau()), scenario, tmp_path)
    assert seen["result"] == [sha256(each).hexdigest() for each in contents]


ROWS = """
  await Page.all();
  const plot = $(".plot"), texts = plot.layout.yaxis.ticktext;
  $('[data-do="theme"]').click(); await wait(600);
  const again = plot.layout.yaxis.ticktext;
  return { texts, again, marks: plot.querySelectorAll("img, script").length };
"""


def test_names_of_rows_leave_room_on_a_narrow_screen(tmp_path):
    @result("sample of long names")
    class LongNames(Result):
        """Rows whose names are long and hostile."""

        numbers: tuple[Estimate, ...]

        def figures(self):
            return (rows_figure("Rows", self.numbers, "loss"),)

    long = "1. own initialization & <img src=x>, seed 1254622428"
    rows = tuple(Estimate(k, 0.1, samples=9, name=n) for k, n in enumerate((long, "short"), 1))
    seen, asked, _ = drive(render(LongNames(rows)), ROWS, tmp_path, "--window-size=500,1400")
    assert not seen["errors"]
    assert not asked
    first, second = seen["result"]["texts"]
    assert first.startswith("1. own")
    assert "…" in first
    assert max(len(unescape(line)) for line in first.split("<br>")) <= 20
    assert second == "short"
    # Another theme draws the same.
    assert seen["result"]["again"] == [first, second]
    assert seen["result"]["marks"] == 0
