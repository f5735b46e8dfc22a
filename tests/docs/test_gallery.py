"""Every figure of the gallery is drawn by the code beside it, and its picture is small."""

import importlib.util
import sys
from pathlib import Path

import pytest

GALLERY = Path(__file__).parents[2] / "docs" / "gallery"


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("gallery_build", GALLERY / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def shared(build):
    return build.run(build.read_page()[0], {"__name__": "gallery"}, "setup")


def figures():
    text = (GALLERY / "index.md").read_text("utf-8")
    return [
        line.split("gallery/")[1].split(".png")[0]
        for line in text.splitlines()
        if line.startswith("![")
    ]


def test_every_figure_has_code_and_a_picture(build):
    found = build.read_page()[1]
    assert list(found) == figures()
    assert len(found) >= 30
    assert {path.stem for path in build.IMAGES.glob("*.png")} == set(found)
    for name, code in found.items():
        assert len(code.splitlines()) <= 20, name
        assert (build.IMAGES / f"{name}.png").stat().st_size < 40_000, name


@pytest.mark.parametrize("name", figures())
def test_the_code_draws_a_figure(name, build, shared):
    axes = build.run(build.read_page()[1][name], shared, name)["axes"]
    assert axes.has_data()
    build.plt.close(axes.figure)
