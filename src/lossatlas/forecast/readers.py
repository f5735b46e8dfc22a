"""Loss curves from files: CSV, exports of W&B and TensorBoard, `trainer_state.json`."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.checks import is_number, nearest
from lossatlas.errors import DataError, FileError, UnknownNameError
from lossatlas.forecast.curve import Curve
from lossatlas.reals import real_array

Floats = NDArray[np.float64]

RATE_NAMES = ("lr", "learning_rate")  # looked for where the user names no column of rates


def read_csv(
    path: str | Path,
    *,
    step: str = "step",
    loss: str = "loss",
    lr: str | None = None,
    size: float | None = None,
    tokens: str | None = None,
    source: str | None = None,
    group: str | None = None,
    warmup: int | None = None,
) -> Curve:
    """A curve from a CSV file with a header.

    Args:
        path: the file; its stem becomes the curve's name.
        step: column of steps. Default "step".
        loss: column of losses. Default "loss".
        lr: column of rates. Default: "lr" or "learning_rate" where there is one.
        size: model size of the run.
        tokens: column of training tokens.
        source: column of losses on another set.
        group: as for `Curve`.
        warmup: as for `Curve`.

    Returns:
        The curve.

    Raises:
        FileError: missing or unreadable.
        UnknownNameError: a column is not there; the message gives the nearest one.
        DataError: empty, a cell is not a number, or values that make no curve.
    """
    header, rows = _table(path)
    name = lr or next((known for known in RATE_NAMES if known in header), None)
    wanted = {"step": step, "loss": loss, "lr": name, "tokens": tokens, "source": source}
    found = {k: _column(path, header, rows, c) for k, c in wanted.items() if c is not None}
    return Curve(
        **found,
        size=size,
        group=group,
        name=Path(path).stem,
        warmup=warmup,
    )


def read_points(
    path: str | Path,
    *,
    loss: str = "loss",
    size: str | None = None,
    tokens: str | None = None,
    source: str | None = None,
) -> Curve:
    """Final losses of many runs, one a row, for laws in size, tokens or another loss.

    Args:
        path: the file.
        loss: column of losses. Default "loss".
        size: column of model sizes.
        tokens: column of training tokens.
        source: column of losses on another set.

    Returns:
        One curve whose steps number the rows.

    Raises:
        FileError: missing or unreadable.
        UnknownNameError: a column is not there.
        DataError: as for `read_csv`.
    """
    header, rows = _table(path)
    wanted = {"loss": loss, "size": size, "tokens": tokens, "source": source}
    found = {k: _column(path, header, rows, c) for k, c in wanted.items() if c is not None}
    return Curve(np.arange(1, len(rows) + 1), **found, name=Path(path).stem)  # type: ignore[arg-type]


def read_wandb(
    path: str | Path, *, loss: str = "loss", lr: str | None = None, step: str = "Step",
    warmup: int | None = None,
) -> list[Curve]:  # fmt: skip
    """Curves from a chart exported by W&B as CSV: one a run.

    The export has a column "run - metric" a run, with further ones that end in __MIN and __MAX,
    and empty cells where a run did not log.

    Args:
        path: the file.
        loss: the metric, as in "train/loss"; a column matches if it ends in it. Default "loss".
        lr: the metric of rates, if it is in the same file.
        step: column of steps. Default "Step".
        warmup: as for `Curve`.

    Returns:
        One curve a run, named as the run.

    Raises:
        FileError: missing or unreadable.
        UnknownNameError: no column of that metric.
        DataError: values that make no curve.
    """
    header, rows = _table(path)
    runs = _runs(path, header, loss)
    rates = {} if lr is None else _runs(path, header, lr)
    curves = []
    for run, column in runs.items():
        wanted = {"step": step, "loss": column} | ({"lr": rates[run]} if run in rates else {})
        full = [
            row for row in rows if all(row[header.index(c)].strip() for c in wanted.values())
        ]
        if not full:
            raise DataError(f"'{path}' has no row in which run '{run}' logged {loss}.")
        found = {k: _column(path, header, full, c) for k, c in wanted.items()}
        curves.append(Curve(**found, name=run, warmup=warmup))  # type: ignore[arg-type]
    return curves


def read_tensorboard(
    path: str | Path, lr: str | Path | None = None, *, warmup: int | None = None
) -> Curve:
    """A curve from scalars downloaded from TensorBoard as CSV or JSON.

    Args:
        path: the losses: CSV with the columns "Wall time", "Step", "Value", or JSON with such
            rows.
        lr: the rates, in a file of the same kind. They are interpolated to the steps of the
            losses.
        warmup: as for `Curve`.

    Returns:
        The curve.

    Raises:
        FileError: missing or unreadable.
        UnknownNameError: not such columns.
        DataError: values that make no curve.
    """
    step, loss = _scalars(path)
    rates = None
    if lr is not None:
        at, values = _scalars(lr)
        if (np.diff(at) <= 0).any():
            raise DataError(f"the steps of '{lr}' must increase; sort its rows, one a step.")
        rates = np.interp(step, at, values)
    return Curve(step, loss, rates, name=Path(path).stem, warmup=warmup)


def read_trainer_state(
    path: str | Path, *, loss: str = "loss", size: float | None = None
) -> Curve:
    """A curve from the `trainer_state.json` that Hugging Face's Trainer writes.

    Args:
        path: the file, or the checkpoint folder that holds it.
        loss: which entry of the log: "loss" or "eval_loss". Default "loss".
        size: model size of the run.

    Returns:
        The curve; rates are those that the Trainer logged.

    Raises:
        FileError: missing, or not such a file.
        UnknownNameError: nothing of that name was logged.
        DataError: values that make no curve.
    """
    place = Path(path)
    place = place / "trainer_state.json" if place.is_dir() else place
    log = _json(place).get("log_history") if isinstance(_json(place), dict) else None
    if not isinstance(log, list):
        raise FileError(f"'{place}' has no `log_history`; give a trainer_state.json.")
    log = [entry for entry in log if isinstance(entry, dict) and is_number(entry.get("step"))]
    rows = [entry for entry in log if loss in entry]
    if not rows:
        known = sorted({key for entry in log for key in entry})
        raise UnknownNameError(f"'{place}' logged no '{loss}'{_hint(loss, known)}.")
    rated = [entry for entry in log if is_number(entry.get("learning_rate"))]
    step = np.array([entry["step"] for entry in rows], dtype=np.float64)
    rates = None
    if rated:
        at = [entry["step"] for entry in rated]
        # The Trainer logs the rate that the scheduler has set for the next update.
        rates = np.interp(step, at, [entry["learning_rate"] for entry in rated])
    return Curve(
        step, [r[loss] for r in rows], rates, size=size, name=place.parent.name or "run"
    )


def _table(path: str | Path) -> tuple[list[str], list[list[str]]]:
    try:
        rows = list(csv.reader(_text(path).splitlines()))
    except csv.Error as error:
        raise FileError(f"'{path}' is not CSV ({error}).") from None
    if len(rows) < 2:
        raise DataError(f"'{path}' is empty: a header and at least one row are needed.")
    header = [cell.strip() for cell in rows[0]]
    _refuse_twins(path, header)
    body = [row for row in rows[1:] if any(cell.strip() for cell in row)]
    short = next((i for i, row in enumerate(body) if len(row) != len(header)), None)
    if short is not None:
        raise DataError(
            f"'{path}' has {len(body[short])} cells in row {short + 2} but {len(header)} "
            "columns."
        )
    return header, body


# The W&B export repeats no name either: a second column would be read by nobody.
def _refuse_twins(path: str | Path, header: Sequence[str]) -> None:
    twin = next((name for name in header if name and header.count(name) > 1), None)
    if twin:
        raise DataError(f"'{path}' has the column '{twin}' more than once; rename or drop one.")


def _column(
    path: str | Path, header: Sequence[str], rows: Sequence[Sequence[str]], name: str
) -> Floats:
    if name not in header:
        raise UnknownNameError(
            f"'{path}' has no column '{name}'{_hint(name, header)}; it has {', '.join(header)}."
        )
    at = list(header).index(name)
    values = np.empty(len(rows))
    for i, row in enumerate(rows):
        try:
            values[i] = float(row[at])
        except ValueError:
            raise DataError(
                f"'{path}', row {i + 2}, column '{name}': '{row[at]}' is not a number; "
                "leave units and empty cells out."
            ) from None
    return values


# The nearest name, or one that holds what came: "loss" is far from "train/loss" in letters.
def _hint(name: str, known: Iterable[str]) -> str:
    found = nearest(name, known)
    holding = next((k for k in known if name.lower() in k.lower()), None)
    return found or (f" (did you mean '{holding}'?)" if holding else "")


def _runs(path: str | Path, header: Sequence[str], metric: str) -> dict[str, str]:
    plain = [c for c in header if not c.endswith(("__MIN", "__MAX"))]
    found = {
        c.rpartition(" - ")[0] or c: c for c in plain if c.rpartition(" - ")[2].endswith(metric)
    }
    if not found:
        known = {c.rpartition(" - ")[2] for c in plain}
        raise UnknownNameError(
            f"'{path}' has no column of '{metric}'{_hint(metric, known)}; "
            f"it has {', '.join(sorted(known))}."
        )
    return found


def _scalars(path: str | Path) -> tuple[Floats, Floats]:
    if Path(path).suffix == ".json":
        rows = real_array("rows", _json(path), f" of '{path}'")
        if rows.ndim != 2 or rows.shape[1] != 3:
            raise DataError(f"'{path}' must hold rows of [wall time, step, value].")
        return rows[:, 1], rows[:, 2]
    header, body = _table(path)
    return _column(path, header, body, "Step"), _column(path, header, body, "Value")


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"'{path}' cannot be read as text ({error}).") from None


def _json(path: str | Path) -> Any:
    try:
        return json.loads(_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise FileError(f"'{path}' is not JSON ({error}).") from None
