"""The rows of a log in the order of their steps."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.errors import DataError
from lossatlas.forecast.curve import logged_rates

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
SHORT_RUNS = 3  # rows between falls of the step, on average: fewer are disorder, not restarts


@dataclass(frozen=True)
class Column:
    """One column of a log.

    Attributes:
        values: (n,) numbers; NaN in empty cells.
        present: (n,) whether the cell held a number; NaN that was written is present.
    """

    values: Floats
    present: Mask

    def at(self, rows: Mask | NDArray[np.int64]) -> "Column":
        """The column at some rows."""
        return Column(self.values[rows], self.present[rows])


@dataclass(frozen=True)
class Tidy:
    """A log in order.

    Attributes:
        step: (n,) increasing steps that have a loss.
        columns: role -> (n,) values at these steps, the losses among them.
        lr: one rate a step or one an update; None where no rate was logged.
        notes: what was left out or assumed, in sentences.
    """

    step: Floats
    columns: dict[str, Floats]
    lr: Floats | None
    notes: tuple[str, ...]


def tidied(
    step: Column, columns: Mapping[str, Column], whose: str, warmup: int | None = None
) -> Tidy:
    """Order the rows of a log; the later write of a step wins."""
    notes: list[str] = []
    lost = int((~_has_step(step) & columns["loss"].present).sum())
    if lost:
        notes.append(f"{_rows(lost)} without a step left out")
    order = _in_order(step, notes)
    step = step.at(order)
    columns = {role: column.at(order) for role, column in columns.items()}
    rows = _rows_with_loss(step.values, columns, notes)
    if rows.sum() < 2:
        details = f" ({'; '.join(notes)})" if notes else ""
        raise DataError(
            f"{whose} has {_rows(int(rows.sum()))} with a step and a finite loss{details}; a "
            "curve needs at least two."
        )
    rows &= _last_of_each(step.values, rows, notes)
    at = step.values[rows]
    values = {r: c.values[rows] for r, c in columns.items() if r != "lr"}
    rates = _rates(step.values, columns.get("lr"), rows, warmup, notes)
    return Tidy(at, values, rates, tuple(notes))


def tidied_rates(step: Column, lr: Column, whose: str) -> tuple[Floats, Floats]:
    """Order logged rates; the later write of a step wins, and a rate of 0 is one."""
    order = _in_order(step, [])
    step, lr = step.at(order), lr.at(order)
    rated = lr.present & np.isfinite(lr.values)
    if not rated.any():
        raise DataError(f"{whose} holds no finite rate with a step.")
    return _last_rates(step.values[rated], lr.values[rated])


def _has_step(step: Column) -> Mask:
    return np.asarray(step.present & np.isfinite(step.values))


def _in_order(step: Column, notes: list[str]) -> NDArray[np.int64]:
    keep = _has_step(step)
    return np.asarray(np.flatnonzero(keep)[_order(step.values[keep], notes)])


# The rows in order of their steps, without those that a restart wrote again.
def _order(step: Floats, notes: list[str]) -> NDArray[np.int64]:
    every = np.arange(step.size)
    falls = np.flatnonzero(np.diff(step) < 0) + 1
    if not falls.size:
        return every
    if step.size < SHORT_RUNS * (falls.size + 1):
        notes.append("the rows were not in the order of their steps and have been sorted")
        return np.argsort(step, kind="stable")
    kept = np.ones(step.size, dtype=bool)
    for first, last in zip(falls, [*falls[1:], step.size], strict=True):
        begins, ends = step[first], step[first:last].max()
        before = kept[:first].nonzero()[0]
        # A piece that ends before the others begin lies in the wrong place; it repeats nothing.
        if not before.size or ends < step[before].min():
            continue
        again = before[step[before] >= begins]
        if again.size:
            notes.append(
                f"the run restarts at step {begins:.0f} after {step[again].max():.0f}: "
                f"{_rows(again.size)} of the earlier attempt left out"
            )
            kept[again] = False
    chosen = np.flatnonzero(kept)
    if (np.diff(step[chosen]) < 0).any():
        notes.append("the rows were not in the order of their steps and have been sorted")
    return chosen[np.argsort(step[chosen], kind="stable")]


# Rows whose loss is a finite number and that have what else was asked for.
def _rows_with_loss(step: Floats, columns: Mapping[str, Column], notes: list[str]) -> Mask:
    loss = columns["loss"]
    finite = np.isfinite(loss.values)
    broken = loss.present & ~finite
    if broken.any():
        notes.append(
            f"{int(broken.sum())} of {int(loss.present.sum())} losses are NaN or infinite and "
            f"left out, the first at step {step[broken][0]:.0f}"
        )
    # Float32 gives exactly 0 for the loss of a single example that is surely right.
    zero = loss.values == 0
    if zero.any():
        notes.append(
            f"{int(zero.sum())} of {int(loss.present.sum())} losses are exactly 0 and left "
            "out: laws and forecasts are of the logarithm"
        )
    rows: Mask = loss.present & finite & ~zero
    for role, column in columns.items():
        if role not in {"loss", "lr"}:
            missing = rows & ~np.isfinite(column.values)
            if missing.any():
                notes.append(f"{_rows(int(missing.sum()))} without `{role}` left out")
            rows = rows & ~missing
    return np.asarray(rows)


def _last_of_each(step: Floats, rows: Mask, notes: list[str]) -> Mask:
    places = np.flatnonzero(rows)
    repeated = np.append(np.diff(step[places]) == 0, False)
    if repeated.any():
        notes.append(
            f"{int(repeated.sum())} losses at a step that was logged again left out: the later "
            "one counts"
        )
    last = np.zeros(rows.size, dtype=bool)
    last[places[~repeated]] = True
    return last


def _rates(
    step: Floats, lr: Column | None, rows: Mask, warmup: int | None, notes: list[str]
) -> Floats | None:
    if lr is None:
        return None
    rated = lr.present & np.isfinite(lr.values)
    if not rated.any():
        notes.append("the column of rates is empty: the rates are not known")
        return None
    if rated[rows].all():
        return lr.values[rows]
    at, values = _last_rates(step[rated], lr.values[rated])
    rates, assumed = logged_rates(values, at, int(step[rows][-1]), warmup)
    notes.extend(assumed)
    return rates


def _last_rates(step: Floats, values: Floats) -> tuple[Floats, Floats]:
    at, where = np.unique(step[::-1], return_index=True)
    return at, values[::-1][where]


def _rows(count: int) -> str:
    return f"{count} row{'s' if count > 1 else ''}"
