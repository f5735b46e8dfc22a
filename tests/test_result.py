"""The protocol of results, on a small result of every kind of field."""

import json
import math
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt

import lossatlas as la
from lossatlas.errors import ArgumentError, FileError, UnknownNameError
from lossatlas.io.records import record
from lossatlas.plots import canvas, web
from lossatlas.result import Estimate, Figure, Reference, Result, estimate_row, quantity, result


@record
@dataclass(frozen=True)
class Part:
    name: str
    weights: np.ndarray


SOMEONE = Reference("samples", "Someone. A Sample. 2026.", "https://example.org/sample")


@result("test-sample", references=(SOMEONE,))
class Sample(Result):
    trace: Estimate = quantity("loss per squared weight")
    values: np.ndarray = field(default_factory=lambda: np.arange(3.0))
    tensor: torch.Tensor = field(default_factory=lambda: torch.ones(2, dtype=torch.bfloat16))
    parts: tuple[Part, ...] = ()
    by_name: Mapping[str, Estimate] = field(default_factory=dict)
    masked: np.ndarray | None = None
    note: str | None = None
    seconds: float = field(default=0.0, compare=False)

    def sentences(self):
        return (f"The trace is {self.trace}.",)


@result("test-plain")
class Plain(Result):
    values: np.ndarray
    label: str = "<b>x</b>"


def sample(**changes):
    trace = Estimate(12.34, 0.5, samples=8)
    fields = {
        "parts": (Part("a/b", np.eye(2)), Part("c", np.zeros((0, 2)))),
        "by_name": {"layer/0 é": Estimate(1.0, why_no_error="one batch")},
        "masked": np.ma.masked_array([True, False, True], [False, False, True]),
    }
    return Sample(trace=trace, **(fields | changes))


def test_it_is_frozen_and_equal_to_the_last_bit():
    with pytest.raises(FrozenInstanceError):
        sample().note = "x"
    assert sample(values=np.array([np.nan, 1.0])) == sample(values=np.array([np.nan, 1.0]))
    assert sample(seconds=1.0) == sample(seconds=2.0)
    for change in ({"values": np.array([0.0, 1.0])}, {"note": ""}, {"parts": ()}):
        assert sample(**change) != sample()
    assert sample() != Plain(np.zeros(1))
    assert sample(values=np.arange(3)) != sample(values=np.arange(3.0))


def test_it_comes_back_from_a_file_as_it_was(tmp_path):
    before = sample(values=np.array([np.nan, np.inf, -0.0]), note="ü")
    after = la.load(before.save(tmp_path / "sample.nc"))
    assert after == before
    assert after.tensor.dtype == torch.bfloat16
    assert isinstance(after.masked, np.ma.MaskedArray)
    assert after.parts[0].name == "a/b"
    assert list(after.by_name) == ["layer/0 é"]


@given(st.dictionaries(st.text(max_size=6), st.floats(), max_size=3), st.text(max_size=8))
def test_any_text_and_any_number_survive_the_tree(numbers, text):
    by_name = {name: Estimate(value, value) for name, value in numbers.items()}
    before = sample(by_name=by_name, note=text)
    assert Sample.from_tree(before.to_tree()) == before


def test_a_file_of_something_else_is_named():
    with pytest.raises(FileError, match="contains no Sample"):
        Sample.from_tree(Plain(np.zeros(2)).to_tree())
    with pytest.raises(FileError, match="contains no Sample"):
        Sample.from_tree({})


def test_its_estimates_have_the_names_and_units_of_its_fields():
    found = sample().estimates()
    assert [e.name for e in found] == ["trace", "by name layer/0 é"]
    assert found[0].unit == "loss per squared weight"
    frame = sample().to_frame()
    assert list(frame["name"]) == [e.name for e in found]
    assert frame["why_no_error"][1] == "one batch"
    assert Sample.references == (SOMEONE,)


def test_its_text_is_short():
    assert repr(sample()).startswith("<Sample: trace 12.34 ± 0.50 loss per squared weight")
    many = {f"number {k}": Estimate(k, 0.1) for k in range(50)}
    for value in (sample(by_name=many), Plain(np.zeros((100, 100)), "y" * 5000), Plain(0.1)):
        assert len(repr(value)) <= 400
        assert repr(value).count("\n") <= 4
    assert "and 47 more numbers" in repr(sample(by_name=many))
    assert "100x100 array" in repr(Plain(np.zeros((100, 100))))


def test_notebooks_see_its_sentences_and_numbers_and_no_markup_of_others():
    page = sample(by_name={"<script>": Estimate(1.0, why_no_error="a <b>")})._repr_html_()
    assert "The trace is 12.34 ± 0.50" in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_json_holds_plain_values_and_no_nan():
    plain = sample(values=np.array([np.nan, 1.0])).to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["values"] == [None, 1.0]
    assert plain["trace"]["value"] == 12.34


def test_a_result_without_a_picture_says_so():
    with pytest.raises(ArgumentError, match="Plain has no picture"):
        Plain(np.zeros(1)).plot()


@result("test-drawn")
class Drawn(Result):
    values: np.ndarray

    def figures(self):
        return tuple(
            Figure(name, name.title(), self._line, self._page, alt='a "line"')
            for name in ("line", "other")
        )

    def _line(self, ax):
        ax = canvas.axes(ax)
        ax.plot(self.values)
        return ax

    def _page(self):
        return web.figure().add_scatter(y=self.values)


def test_pictures_come_by_name_and_backend():
    drawn = Drawn(np.arange(3.0))
    ax = drawn.plot("other")
    assert ax.lines[0].get_ydata().tolist() == [0, 1, 2]
    assert drawn.plot(ax=ax) is ax
    assert list(drawn.plot(backend="plotly").data[0].y) == [0, 1, 2]
    with pytest.raises(UnknownNameError, match="got 'lime'"):
        drawn.plot("lime")
    with pytest.raises(UnknownNameError, match="`backend`"):
        drawn.plot(backend="gnuplot")
    with pytest.raises(ArgumentError, match="are for backend='matplotlib'"):
        drawn.plot(backend="plotly", width=3.0)


def test_a_picture_for_paper_has_its_width_and_leaves_no_settings():
    before = dict(plt.rcParams)
    ax = Drawn(np.arange(3.0)).plot(style="paper", width=2.5)
    assert ax.figure.get_size_inches()[0] == pytest.approx(2.5)
    assert Drawn(np.arange(3.0)).plot(style="paper").figure.get_size_inches()[0] == 3.25
    assert dict(plt.rcParams) == before


def test_notebooks_see_its_first_picture_and_no_figure_stays_open():
    count = len(plt.get_fignums())
    page = Drawn(np.arange(3.0))._repr_html_()
    assert 'src="data:image/png;base64,' in page
    assert 'alt="a &quot;line&quot;"' in page
    assert len(plt.get_fignums()) == count


def test_intervals_of_estimates():
    low, high = Estimate(0.0, 1.0, samples=2).interval()
    assert (low, high) == pytest.approx((-15.0, 15.0), abs=1e-3)
    assert Estimate(1.0, 0.0).interval() == (1.0, 1.0)
    assert Estimate(1.0, bound=0.5).interval(0.5) == (0.5, 1.5)
    assert all(map(math.isnan, Estimate(1.0).interval()))
    assert all(map(math.isnan, Estimate(1.0, 0.1, samples=1).interval()))


def test_ends_that_are_many_times_apart_keep_their_digits():
    def shown(*numbers):
        return Estimate(numbers[0], ends=numbers[1:]).texts

    assert shown(0.0194, 0.00233, 1.032) == ("0.0194", "[0.00233, 1.03]")
    assert shown(0.351, 0.251, 2.31) == ("0.351", "[0.251, 2.31]")
    assert shown(0.351, -0.251, 2.31) == ("0.4", "[\N{MINUS SIGN}0.3, 2.3]")


def test_an_interval_that_was_computed_is_kept_and_told(tmp_path):
    regret = Estimate(0.5, 0.1, name="regret", unit="loss", ends=(0.25, 1.0))
    assert regret.interval() == (0.25, 1.0)
    assert f"{regret}" == "0.50 [0.25, 1.00] loss"
    assert estimate_row(regret) == ("regret", "0.50 loss", "[0.25, 1.00]")
    with pytest.raises(ArgumentError, match=r"must be 0\.95: only that interval of 'regret'"):
        regret.interval(0.9)
    with pytest.raises(ArgumentError, match="between 0 and 1"):
        regret.interval(1.0)
    found = Sample(trace=regret)
    assert found.summary()["estimates"]["regret"]["interval"] == [0.25, 1.0]
    assert la.load(found.save(tmp_path / "sample.nc")).trace.ends == (0.25, 1.0)


def test_two_records_of_one_name_are_refused():
    def other():
        @record
        @dataclass(frozen=True)
        class Estimate:
            value: float

    with pytest.raises(ArgumentError, match="two records are called Estimate"):
        other()


def test_an_estimate_prints_its_name_and_a_sentence_does_not():
    found = Estimate(2.0, 0.5, name="loss", unit="nats")
    assert str(found) == "loss: 2.00 ± 0.50 nats"
    assert f"{found}" == "2.00 ± 0.50 nats"
    assert f"{found:>17}" == " 2.00 ± 0.50 nats"
    assert str(Estimate(2.0, 0.5)) == "2.00 ± 0.50"


def test_a_value_that_is_not_known_has_neither_error_nor_unit():
    lost = Estimate(math.nan, why_no_error="no slope", name="trace", unit="loss")
    assert (lost.texts, lost.shown, f"{lost}") == (("not known", ""), "not known", "not known")
    assert Estimate(2.0, 0.1, unit="loss").shown == "2.00 loss"
    assert Estimate(math.inf, why_no_error="no bound", unit="loss").shown == "∞ loss"


def test_an_error_of_zero_is_shown_with_its_reason():
    equal = Estimate(0.0, 0.0, samples=9, name="gap", unit="loss", why_no_error="equal")
    assert (f"{equal}", estimate_row(equal)) == ("0 loss", ("gap", "0 loss", "equal"))
    alike = Estimate(0.0, 0.0, samples=9, name="hits", sample_unit="examples")
    assert estimate_row(alike) == ("hits", "0", "the same for all 9 examples")
    assert estimate_row(Estimate(2.0, 0.0, name="size"))[2] == "exact"
