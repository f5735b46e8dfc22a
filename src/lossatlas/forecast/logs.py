"""Logs as programs write them: empty cells, other metrics between the rows, restarts, NaN."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.checks import nearest
from lossatlas.errors import ArgumentError, DataError, UnknownNameError
from lossatlas.forecast.rates import logged_rates

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

STEPS = ("step", "Step", "_step", "global_step", "trainer/global_step", "train/global_step",
         "iteration", "iter", "update")  # fmt: skip
LOSSES = ("loss", "train_loss", "train/loss", "train_loss_step", "train/loss_step", "loss_step",
          "training_loss", "train_loss_epoch", "train/loss_epoch")  # fmt: skip
RATES = ("lr", "learning_rate", "train/lr", "train/learning_rate")
HELD_OUT = ("val", "eval", "test", "dev")
SHORT_RUNS = 3  # rows between falls of the step, on average: fewer are disorder, not restarts
EMPTY = ("", "null", "none", "n/a", "na", "-")


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
        rates: one rate a step or one an update; None where no rate was logged.
        notes: what was left out or assumed, in sentences.
    """

    step: Floats
    columns: dict[str, Floats]
    rates: Floats | None
    notes: tuple[str, ...]


def tidied(
    step: Column, columns: Mapping[str, Column], whose: str, warmup: int | None = None
) -> Tidy:
    """Order the rows of a log; the later write of a step wins."""
    notes: list[str] = []
    keep = step.present & np.isfinite(step.values)
    lost = int((~keep & columns["loss"].present).sum())
    if lost:
        notes.append(f"{_rows(lost)} without a step left out")
    order = np.flatnonzero(keep)[_order(step.values[keep], notes)]
    step = step.at(order)
    columns = {role: column.at(order) for role, column in columns.items()}
    rows = _rows_with_loss(step.values, columns, notes)
    if rows.sum() < 2:
        told = f" ({'; '.join(notes)})" if notes else ""
        raise DataError(
            f"{whose} has {_rows(int(rows.sum()))} with a step and a finite loss{told}; a "
            "curve needs at least two."
        )
    rows &= _last_of_each(step.values, rows, notes)
    at = step.values[rows]
    found = {r: c.values[rows] for r, c in columns.items() if r != "lr"}
    rates = _rates(step.values, columns.get("lr"), rows, warmup, notes)
    return Tidy(at, found, rates, tuple(notes))


def chosen_name(
    whose: str, header: Sequence[str], wanted: str | None, known: Sequence[str], role: str
) -> str:
    """The column of a role: the one that was asked for, or one with a usual name."""
    if wanted is not None:
        check_name(wanted)
        check_column(whose, header, wanted)
        return wanted
    found = next((name for name in known if name in header), None)
    if found is None and role == "loss":
        like = [c for c in header if "loss" in c.lower() and not _held_out(c)]
        found = like[0] if len(like) == 1 else None
    if found is None:
        raise UnknownNameError(
            f"{whose} has no column '{role}'{hint(role, header)}; it has {', '.join(header)}; "
            f"name it with `{role}`."
        )
    return found


def rate_name(header: Sequence[str]) -> str | None:
    """The column of rates, if one has a usual name."""
    usual = next((name for name in RATES if name in header), None)
    return usual or next((name for name in header if name.startswith("lr-")), None)


def check_name(name: object) -> None:
    """Require the name of a column."""
    if not isinstance(name, str):
        raise ArgumentError(f"the name of a column must be text; got {name!r}.")


def check_column(whose: str, header: Sequence[str], name: str) -> None:
    """Require a column."""
    if name not in header:
        raise UnknownNameError(
            f"{whose} has no column '{name}'{hint(name, header)}; it has {', '.join(header)}."
        )


def hint(name: str, known: Iterable[str]) -> str:
    """The nearest name, or one that holds it: "loss" is far from "train/loss" in letters."""
    names = list(known)
    found = nearest(name, names)
    holding = next((k for k in names if name.lower() in k.lower()), None)
    return found or (f" (did you mean '{holding}'?)" if holding else "")


def _held_out(name: str) -> bool:
    return any(word in name.lower() for word in HELD_OUT)


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
    rows = loss.present & finite
    for role, column in columns.items():
        if role not in {"loss", "lr"}:
            missing = rows & ~np.isfinite(column.values)
            if missing.any():
                notes.append(f"{_rows(int(missing.sum()))} without `{role}` left out")
            rows = rows & ~missing
    return rows


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
    at, where = np.unique(step[rated][::-1], return_index=True)
    values = lr.values[rated][::-1][where]
    rates, told = logged_rates(values, at, int(step[rows][-1]), warmup)
    notes.extend(told)
    return rates


def _rows(count: int) -> str:
    return f"{count} row{'s' if count > 1 else ''}"
