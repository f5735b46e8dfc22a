import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossatlas import text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0123456, "0.01235"),
        (1234567, "1,234,567"),
        (1234.5, "1,234"),
        (-0.5, "\u22120.5"),
        (1.2e-7, "1.20e-07"),
        (0.00058, "0.00058"),
        (math.nan, "NaN"),
        (math.inf, "∞"),
        (-math.inf, "\u2212∞"),
        (0.0, "0"),
    ],
)
def test_numbers(value, shown):
    assert text.number(value) == shown


@pytest.mark.parametrize(
    ("value", "stderr", "shown"),
    [
        (0.123456, 0.0042, "0.1235 ± 0.0042"),
        (-12.3456, 1.5, "\u221212.3 ± 1.5"),
        (12.0, 0.0, "12"),
        (0.5, math.nan, "0.5"),
        (math.nan, 0.1, "NaN"),
        (1234.0, 250.0, "1,234 ± 250"),
    ],
)
def test_a_number_is_rounded_where_its_error_begins(value, stderr, shown):
    assert text.with_error(value, stderr) == shown


@given(st.floats(), st.floats(0) | st.just(math.nan))
def test_every_number_can_be_shown(value, stderr):
    shown = text.with_error(value, stderr)
    assert shown
    assert "\n" not in shown


@given(st.text())
def test_nothing_in_a_safe_name_is_markup_or_a_placeholder(name):
    safe = text.safe(name, 1000)
    assert not set("<>{$") & set(safe)
    assert "%{" not in safe
    assert all(ord(c) >= 32 for c in safe)


def test_long_names_are_cut_and_marked():
    assert text.cut_off("x" * 100, 10) == "x" * 9 + "…"
    assert text.short("PC 1 (95 % of the trajectory)") == "PC 1"
    assert text.plain("a\u202eb\nc") == "a b c"


def test_words_for_shares_counts_and_verdicts():
    assert text.percent(0.123) == "12.3 %"
    assert text.percent(0.0531) == "5.3 %"
    assert text.percent(1e-5) == "under 0.1 %"
    assert text.count(1, "basin") == "1 basin"
    assert text.count(2, "minimum", "minima") == "2 minima"
    assert text.verdict(True, 0.1) == "certain"
    assert text.verdict(True, 0.0) == "certain"
    assert text.verdict(False, 0.1) == "within the error of the map"
    assert text.verdict(False, math.nan) == "certainty unknown"
    assert text.surely("minimum", math.nan) == "minimum"
    assert text.surely("minimum", 0.1) == "certain minimum"
    assert text.surely("minimum", 0.0) == "minimum"
    assert text.loss_title(True) == "loss (log above the lowest)"
    assert text.axis_title("PC 1 (4%)") == "PC 1 [direction lengths]"


def test_an_end_beside_zero_is_not_written_as_zero():
    assert text.with_ends(0.0023, -0.0000369, 0.0047) == (
        "0.0023",
        "[\u22120.00004, 0.0047]",
    )
    assert text.with_ends(0.0, -0.5, 0.5) == ("0.00", "[\u22120.50, 0.50]")
