"""A real report in a real browser: drawn, silent, and alone."""

import json
import re
import shutil
import subprocess
from html import unescape

import numpy as np
import pytest
from PIL import Image

from lossatlas.report import render
from report.sample_surveys import himmelblau, hostile

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
    "--virtual-time-budget=10000",
    "--window-size=1280,2200",
    # Nobody is at home: neither for the page nor for the browser itself.
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
# Runs before anything else on the page and writes what it saw into an attribute.
PROBE = """<script>
(function () {
  const seen = { errors: [], calls: 0 };
  const note = (what) => seen.errors.push(String(what));
  window.addEventListener("error", (e) => note(e.message));
  window.addEventListener("unhandledrejection", (e) => note(e.reason));
  document.addEventListener("securitypolicyviolation", (e) => note("policy " + e.blockedURI));
  console.error = (...words) => note(words.join(" "));
  window.alert = () => { seen.calls += 1; };
  const timer = setInterval(() => {
    const root = document.documentElement;
    if (!root.dataset.drawn) return;
    clearInterval(timer);
    const box = document.querySelector("#map-1 canvas").getBoundingClientRect();
    seen.box = [box.left, box.top, box.right, box.bottom].map(Math.round);
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


def browse(page, folder):
    """Open a page: its elements as text, and what it asked the network for."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    command = [
        BROWSER,
        *FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        f"--log-net-log={folder / 'net.json'}",
        f"--screenshot={folder / 'page.png'}",
        "--dump-dom",
        (folder / "page.html").as_uri(),
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


def visit(survey, folder):
    """Open a report: what the probe saw, what was fetched, and a picture of the page."""
    page = render(survey).replace("<head>", "<head>" + PROBE, 1)
    text, asked = browse(page, folder)
    found = re.search(r'data-probe="([^"]*)"', text)
    assert found, "the page never finished drawing"
    seen = json.loads(unescape(found[1]))
    return seen, asked, np.asarray(Image.open(folder / "page.png").convert("RGB"))


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
    left, top, right, bottom = seen["box"]
    region = picture[top:bottom, left:right].reshape(-1, 3).astype(int)
    assert len(region) > 100_000
    colored = region[np.ptp(region, axis=1) > 25]
    # A blank or failed canvas is one color; a surface has thousands, and fills its place.
    assert len(colored) > 0.15 * len(region)
    assert len(np.unique(colored, axis=0)) > 1000
    path = np.abs(region - [0xD5, 0x5E, 0x00]).max(axis=1) < 40
    assert path.sum() > 100


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
