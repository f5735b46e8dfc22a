"""Bars as arrays of births and deaths, and the rule for bars that never end."""

from typing import Literal, Protocol, TypeAlias, get_args, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from lossatlas.arrays import as_float_array
from lossatlas.checks import check_one_of, is_number
from lossatlas.errors import ArgumentError
from lossatlas.topology.arguments import check_degree
from lossatlas.topology.field import Floats

Essential = Literal["drop", "keep", "cap"]
ESSENTIALS: tuple[str, ...] = get_args(Essential)


@runtime_checkable
class HasBars(Protocol):
    """The part of `Diagram` that summaries use."""

    def bars(self, dimension: int = 0, *, essential: Essential | float = "drop") -> Floats:
        """Births and deaths of one degree."""


Bars: TypeAlias = HasBars | ArrayLike


def read_bars(
    diagram: Bars, dimension: int = 0, essential: Essential | float = "drop"
) -> Floats:
    """Births and deaths of a diagram, or of an array of them."""
    check_degree(dimension)
    if isinstance(diagram, HasBars):
        return diagram.bars(dimension, essential=essential)
    bars = as_float_array("diagram", diagram)
    bars = bars.reshape(0, 2) if bars.size == 0 else bars
    if bars.ndim != 2 or bars.shape[1] != 2 or np.isnan(bars).any():
        raise ArgumentError(
            "`diagram` must be a Diagram or births and deaths of shape (bars, 2) without "
            f"NaN; got shape {bars.shape}."
        )
    wrong = int(np.count_nonzero(bars[:, 1] < bars[:, 0]))
    if wrong:
        raise ArgumentError(
            f"`diagram` must have no death before its birth; got {wrong} of {len(bars)} bars "
            "that do. For superlevel sets, negate both and swap them."
        )
    finite = bars[np.isfinite(bars)]
    high = float(finite.max()) if finite.size else 0.0
    return end_essential(bars[bars[:, 1] > bars[:, 0]], essential, high)


def finite_bars(diagram: Bars, dimension: int, essential: Essential | float) -> Floats:
    """Bars with finite deaths, as needed for lengths."""
    bars = read_bars(diagram, dimension, essential)
    if not np.isfinite(bars).all():
        raise ArgumentError(
            f"`essential` must give every bar an end; got {essential!r}; use 'drop', 'cap' or "
            "a level."
        )
    return bars


def end_essential(bars: Floats, essential: Essential | float, high: float) -> Floats:
    """Apply the rule for bars that never end."""
    if isinstance(essential, str):
        check_one_of("essential", essential, ESSENTIALS)
    elif not is_number(essential) or np.isnan(essential):
        raise ArgumentError(f"`essential` must be a word or a level; got {essential!r}.")
    if essential == "keep":
        return bars
    if essential == "drop":
        return bars[np.isfinite(bars[:, 1])]
    level = high if isinstance(essential, str) else float(essential)
    ended = np.stack([bars[:, 0], np.where(np.isposinf(bars[:, 1]), level, bars[:, 1])], axis=1)
    return ended[ended[:, 1] > ended[:, 0]]
