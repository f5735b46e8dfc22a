"""The registry of instruments, and what reads it: pages, JSON, tables, documentation."""

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import lossatlas as la
from lossatlas.curvature import GROUPS, InstrumentResult, chosen, instrument, instruments
from lossatlas.curvature import instrument as decorator
from lossatlas.errors import ArgumentError, UnknownNameError
from lossatlas.result import Estimate

room = sys.modules["lossatlas.curvature.instrument"]
ROOT = Path(__file__).parents[2]
# Words of the language, which other rooms may use as well.
ORDINARY = {"curvature", "layers", "classes", "stability", "gradient", "sharpness"}
PLUGIN = '''
from dataclasses import dataclass
from lossatlas.curvature import Context, instrument
from lossatlas.result import Estimate, Result, result


@result("tilt")
class Tilt(Result):
    """How steep the loss is."""

    length: Estimate

    def sentences(self):
        return (f"The loss is {self.length.value:.1f} steep.",)


@instrument("tilt", title="Tilt", question="How <steep> is it?", cost="1 gradient")
def survey_tilt(context: Context):
    def measure():
        gradient = context.objective.gradient()
        length = sum(float(g.square().sum()) for g in gradient.values()) ** 0.5
        return Tilt(Estimate(length, why_no_error="one number", name="tilt <b>"))

    def fail():
        raise ZeroDivisionError("no such thing")

    return {"tilt": measure, "lost": fail, "odd": lambda: 3.0}
'''
TWIN = """
from lossatlas.curvature import instrument
@instrument("roughness", title="Mine", question="What?")
def survey(context): return {}
"""


def objective():
    model = nn.Linear(2, 1, bias=False).double()
    model.weight.data = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    inputs = torch.eye(2).double().repeat(2, 1)
    return la.Objective(model, lambda m, b: m(b).square().flatten(), [inputs])


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """Installs packages that bring instruments, for one test."""

    def install(name, source):
        (tmp_path / f"{name}.py").write_text(source)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[lossatlas.instruments]\n{name} = {name}\n")
        room._load_plugins.cache_clear()

    monkeypatch.syspath_prepend(str(tmp_path))
    before = dict(room._REGISTRY)
    yield install
    for name in [*(set(room._REGISTRY) - set(before))]:
        del room._REGISTRY[name]
        sys.modules.pop(name, None)
    room._load_plugins.cache_clear()


def test_an_instrument_of_another_package_is_surveyed_shown_and_stored(plugins, tmp_path):
    plugins("tilt", PLUGIN)
    assert instruments()[-1].name == "tilt"
    found = la.survey(objective(), points=3, span=0.5, instruments="tilt,roughness")
    assert [*found.findings] == ["roughness", "tilt"]
    steep = found.part("tilt", "tilt").length.value
    assert steep == pytest.approx(5.0)
    told = found.summary()["instruments"]["tilt"]
    assert told["estimates"]["tilt_b"]["value"] == steep
    assert told["sentences"] == ["The loss is 5.0 steep."]
    assert "ZeroDivisionError: no such thing" in told["missing"]["lost"]
    assert "must be a Result or an Estimate; got float" in told["missing"]["odd"]
    assert ("tilt <b>", "5", "one number") in found.rows()
    page = la.write_report(found, tmp_path / "page.html").read_text()
    for text in ("Further instruments", "How &lt;steep&gt; is it?", "The loss is 5.0 steep."):
        assert text in page
    assert la.load(found.save(tmp_path / "s.nc")) == found


def test_a_survey_with_an_instrument_that_is_gone_can_still_be_read():
    gone = InstrumentResult("gone", {"number": Estimate(1.0, 0.1)})
    assert (gone.about.title, gone.about.group) == ("gone", "other")
    assert [e.name for e in gone.estimates()] == ["number"]


@pytest.mark.parametrize("source", ["1 / 0", "import nowhere", "def"])
def test_a_broken_package_is_a_reason_and_ends_no_survey(plugins, source):
    plugins("broken", source)
    found = la.survey(objective(), points=3, span=0.5, instruments="gradient,broken")
    assert found.findings["gradient"].results
    why = found.findings["broken"].why_not
    assert why.startswith("the instrument 'broken' of broken could not be loaded (")
    assert "update or remove the package" in why


def test_two_instruments_of_one_name_are_refused(plugins):
    plugins("twin", TWIN)
    assert "two instruments are called 'roughness'" in _why("twin")
    with pytest.raises(ArgumentError, match="two instruments are called 'flatness'"):
        instrument("flatness", title="", question="")(lambda context: {})
    with pytest.raises(UnknownNameError, match="`group`"):
        instrument("new", title="", question="", group="nowhere")


def _why(name):
    (broken,) = [each for each in instruments() if each.name == name]
    return broken.run(room.Context(objective())).why_not


def test_every_instrument_asks_a_question_and_has_a_place():
    groups = [group.name for group in GROUPS]
    for each in instruments():
        assert each.question.endswith("?")
        assert each.group in groups[:-1]
        assert each.cost
        assert each.title
    places = [(groups.index(each.group), each.place) for each in instruments()]
    assert places == sorted(set(places))


@pytest.mark.parametrize("each", instruments(), ids=lambda each: each.name)
def test_an_instrument_is_one_file(each):
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "src").rglob("*.pyi")]
    # Drawing knows no instrument; plotly calls a property of light roughness.
    texts = {path: path.read_text() for path in files if "plots" not in path.parts}
    title = [path for path, text in texts.items() if f'title="{each.title}"' in text]
    assert len(title) == 1
    if each.name not in ORDINARY:
        # Importing its function does not name it.
        dotted = rf"(?<!from lossatlas\.)curvature\.{each.name}\b"
        pattern = rf'"{each.name}"|\bsurvey_{each.name}\b|{dotted}'
        naming = [path for path, text in texts.items() if re.search(pattern, text)]
        assert len(naming) <= 2, naming


def table():
    """The table of the guide, as the registry has it."""
    rows = [
        f"| `{each.name}` | {each.question} | {each.needs} | {each.cost} | {_papers(each)} |"
        for each in instruments()
    ]
    head = ["| name | question | needs | cost, about | papers |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows])


def _papers(each):
    links = [f"[{paper.use}]({paper.link})" for paper in each.references]
    return ", ".join(links)


def test_the_table_of_the_guide_is_that_of_the_registry():
    guide = (ROOT / "docs" / "guide" / "instruments.md").read_text()
    assert table() in guide, f"the table of docs/guide/instruments.md must be:\n{table()}"


def test_names_are_chosen_with_commas_or_in_a_list():
    assert [each.name for each in chosen(" roughness , flatness ")] == ["flatness", "roughness"]
    assert decorator is instrument
