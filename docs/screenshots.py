"""Pictures of the README and the guides: `python docs/screenshots.py [demo | pages]`.

`demo` runs the survey of `make demo` and draws its figures, docs/images/demo*.png. `pages`
trains a small network on the digits, surveys every checkpoint and the last one with its
curvature, and photographs the atlas and the report in a headless Chromium. Both by default.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import figures
import torch
from PIL import Image
from torch.nn import functional as F

import lossatlas as la
from lossatlas.training import build_model, load_dataset, train

IMAGES = Path(__file__).parent / "images"
STEPS, KEPT, SHOWN, RATE = 800, 16, 4, 0.05  # SHOWN: the atlas opens there
HEIGHTS = {"report.png": 940, "atlas.png": 940}
WIDTH, SCALE = 1400, 0.8


def surveyed():
    """Surveys of a training, one more of its end, and the steps of its checkpoints."""
    data = load_dataset("digits")
    model = build_model("mlp(32)", data, seed=0)
    run = train(model, data, steps=STEPS, optimizer="sgd", lr=RATE, keep=KEPT, seed=0)
    objective = la.Objective(model, la.supervised(F.cross_entropy), data.batches(256))
    found = la.survey_along(
        objective,
        run.checkpoints,
        steps=run.checkpoint_steps,
        points=31,
        metrics={"accuracy": la.accuracy},
        title="mlp(32) on digits",
    )
    frames = list(found)
    last = la.survey(
        objective,
        plane="checkpoints",
        checkpoints=run.checkpoints,
        points=31,
        metrics={"accuracy": la.accuracy},
        instruments="curvature,stability",
        optimizer=torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9),
        title="mlp(32) on digits",
    )
    return frames, last, run.checkpoint_steps


def photograph(page, name, address=""):
    """A page as Chromium shows it, without its scroll bars."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                browser,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--enable-unsafe-swiftshader",
                "--hide-scrollbars",
                "--force-prefers-reduced-motion",
                "--virtual-time-budget=60000",
                f"--window-size={WIDTH},{HEIGHTS[name]}",
                f"--user-data-dir={profile}",
                f"--screenshot={Path(profile) / name}",
                page.resolve().as_uri() + address,
            ],
            check=True,
            capture_output=True,
        )
        taken = Image.open(Path(profile) / name).convert("RGB")
        size = (round(WIDTH * SCALE), round(HEIGHTS[name] * SCALE))
        taken.resize(size, Image.Resampling.LANCZOS).save(IMAGES / name, optimize=True)


def draw_demo():
    """The figures of the survey that `make demo` makes."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "lossatlas", "survey", "--curvature", "--out", folder],
            check=True,
            capture_output=True,
        )
        figures.main(Path(folder) / "survey.nc", "demo")


def draw_pages():
    """The atlas and the report of a small training."""
    frames, last, steps = surveyed()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report = la.write_report(last, folder / "report.html")
        atlas = la.write_atlas(
            {"sgd": frames}, folder / "atlas.html", title="mlp(32) on digits, SGD"
        )
        photograph(report, "report.png")
        photograph(atlas, "atlas.png", f"#step={steps[SHOWN]}")


def main(which=("demo", "pages")):
    draw = {"demo": draw_demo, "pages": draw_pages}
    for name in which:
        draw[name]()


if __name__ == "__main__":
    main(sys.argv[1:] or ("demo", "pages"))
