"""Loss curves from files: CSV, JSON lines, W&B, TensorBoard, `trainer_state.json`.

Files are taken as programs write them: rows without a loss, empty cells, NaN, repeated and
unsorted steps, restarts. What is left out or assumed is counted in `Curve.notes`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lossatlas.arrays import as_float_array
from lossatlas.checks import check_path, is_number
from lossatlas.errors import DataError, FileError, UnknownNameError
from lossatlas.forecast.curve import Curve, logged_rates
from lossatlas.forecast.events import MARK, Scalars, event_files, read_scalars
from lossatlas.forecast.log_files import Table, json_of
from lossatlas.forecast.log_names import (
    LOSSES,
    STEPS,
    check_column,
    check_name,
    chosen_name,
    hint,
    is_held_out,
    rate_name,
    taken,
)
from lossatlas.forecast.log_order import Column, Floats, tidied, tidied_rates

_LOOKED_AT = 20_000  # characters of a file that tell its kind
_JSON = (".json", ".jsonl", ".ndjson")
_ARRAY = re.compile(r"\[\s*\{")  # an array of objects
_RUN = " - "  # separates run and metric in the columns of a W&B export


def kind_of_file(path: Path) -> str:
    """Tell the kind of a file from its first characters."""
    if _is_folder(path):
        return "tensorboard" if event_files(path) else "trainer"
    if MARK in path.name:
        return "tensorboard"
    beginning = _beginning(path)
    if beginning.startswith(("{", "[")) or path.suffix.lower() in _JSON:
        return _kind_of_json(path, beginning)
    return _kind_of_table(_first(path))


def _kind_of_table(first_line: str) -> str:
    header = [cell.strip().strip('"') for cell in first_line.split(",")]
    if set(header) <= {"Wall time", "Step", "Value"} and {"Step", "Value"} <= set(header):
        return "tensorboard"
    exported = any(cell.endswith(("__MIN", "__MAX")) for cell in header)
    # A chart has nothing but steps and runs; under another axis a dash may be in any name.
    only_runs = all(cell in STEPS or _RUN in cell for cell in header)
    stepped = "Step" in header or (only_runs and any(cell in STEPS for cell in header))
    charted = stepped and any(_RUN in cell for cell in header)
    return "wandb" if exported or charted else "csv"


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


# The first characters of a file; empty where it cannot be read.
def _beginning(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig") as text:
            return text.read(_LOOKED_AT).lstrip()
    except (OSError, ValueError):
        return ""


# An array of objects or one object a line is a log; TensorBoard writes an array of arrays.
def _kind_of_json(path: Path, beginning: str) -> str:
    if path.suffix.lower() in _JSON[1:] or _ARRAY.match(beginning):
        return "json"
    if beginning.startswith("["):
        return "tensorboard"
    try:
        first = json.loads(beginning.partition("\n")[0])
    except (json.JSONDecodeError, RecursionError):
        return "trainer"
    return "json" if isinstance(first, dict) and "log_history" not in first else "trainer"


def _first(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            return next((line.strip() for line in islice(lines, 10) if line.strip()), "")
    except (OSError, ValueError):
        return ""


def read_csv(
    path: str | Path,
    *,
    step: str | None = None,
    loss: str | None = None,
    lr: str | None = None,
    size: float | None = None,
    tokens: str | None = None,
    source: str | None = None,
    group: str | None = None,
    warmup: int | None = None,
) -> Curve:
    r"""A curve from a CSV file with a header, Lightning's `metrics.csv` among them.

    Rows without a loss (validation rows, say) are passed over; the rates may stand in other
    rows than the losses. Losses that are NaN or infinite, rows that a restart wrote again, and
    all but the last loss of a repeated step are left out and counted in `notes`.

    Args:
        path: the file; its stem becomes the curve's name ("metrics.csv": its folder).
        step: column of steps. Default: "step", "global_step", "trainer/global_step" or another
            usual name; W&B's "_step", which counts its rows, only where there is none of these.
        loss: column of losses. Default: "loss", "train_loss" or another usual name, else the
            only column with "loss" in its name that is not of held-out data.
        lr: column of rates. Default: "lr", "learning_rate" or Lightning's "lr-..." where there
            is one.
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

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "run.csv"
        ...     _ = path.write_text("step,loss,lr\n10,3.0,0.1\n20,2.5,0.1\n")
        ...     curve = read_csv(path)
        >>> curve.name, curve.loss.tolist(), curve.lr.size
        ('run', [3.0, 2.5], 20)
    """
    roles = {"step": step, "loss": loss, "lr": lr, "tokens": tokens, "source": source}
    return _curve_of_table(Table.read(path), roles, size=size, group=group, warmup=warmup)


def read_json(
    path: str | Path,
    *,
    step: str | None = None,
    loss: str | None = None,
    lr: str | None = None,
    size: float | None = None,
    tokens: str | None = None,
    source: str | None = None,
    group: str | None = None,
    warmup: int | None = None,
) -> Curve:
    r"""A curve from JSON lines (one object a line), or from an array of such objects.

    W&B's history, the logs of plain loggers and of Hugging Face's Trainer. Keys may be missing
    in some objects; those of nested objects are joined by "/" ("train/loss"); lists are passed
    over. A last line that was cut off is left out and noted; all else is as for `read_csv`.

    Args:
        path: the file; its stem becomes the curve's name.
        step: key of the steps. Default: as for `read_csv`.
        loss: key of the losses. Default: likewise.
        lr: key of the rates. Default: likewise.
        size: model size of the run.
        tokens: key of training tokens.
        source: key of losses on another set.
        group: as for `Curve`.
        warmup: as for `Curve`.

    Returns:
        The curve.

    Raises:
        FileError: missing, unreadable, or no JSON; the message gives the line.
        UnknownNameError: a key is nowhere; the message gives the nearest one.
        DataError: empty, an entry is no object, or values that make no curve.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "run.jsonl"
        ...     entries = [{"step": k, "train": {"loss": 3 / k}} for k in (1, 2)]
        ...     _ = path.write_text("\n".join(json.dumps(entry) for entry in entries))
        ...     curve = read_json(path)
        >>> curve.loss.tolist()
        [3.0, 1.5]
    """
    roles = {"step": step, "loss": loss, "lr": lr, "tokens": tokens, "source": source}
    return _curve_of_table(Table.read_json(path), roles, size=size, group=group, warmup=warmup)


# A curve from the columns that were asked for, or that have usual names.
def _curve_of_table(table: Table, roles: Mapping[str, str | None], **settings: Any) -> Curve:
    step, loss, lr = (roles[role] for role in ("step", "loss", "lr"))
    names = {
        "step": chosen_name(table.whose, table.header, step, STEPS, "step"),
        "loss": chosen_name(table.whose, table.header, loss, LOSSES, "loss"),
        "lr": lr or rate_name(table.header),
    }  # fmt: skip
    every = {**roles, **names}
    columns = {role: table.column(name) for role, name in every.items() if name is not None}
    notes = [*table.notes, *taken(table.header, names, (step, loss, lr))]
    return _curve(columns, table.whose, name=_name(table.path), notes=notes, **settings)


def read_points(
    path: str | Path,
    *,
    loss: str = "loss",
    size: str | None = None,
    tokens: str | None = None,
    source: str | None = None,
) -> Curve:
    r"""Final losses of many runs, one a row, for laws in size, tokens or another loss.

    Args:
        path: the file.
        loss: column of losses. Default "loss".
        size: column of model sizes.
        tokens: column of training tokens.
        source: column of losses on another set.

    Returns:
        One curve whose steps number the rows; rows in which a value is missing are left out
        and counted in `notes`.

    Raises:
        FileError: missing or unreadable.
        UnknownNameError: a column is not there.
        DataError: as for `read_csv`.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "runs.csv"
        ...     _ = path.write_text("loss,params\n3.0,1e6\n2.5,1e7\n")
        ...     curve = read_points(path, size="params")
        >>> curve.size.tolist()
        [1000000.0, 10000000.0]
    """
    table = Table.read(path)
    wanted = {"loss": loss, "size": size, "tokens": tokens, "source": source}
    columns = {role: table.column(c) for role, c in wanted.items() if c is not None}
    number = np.arange(1.0, len(table.rows) + 1)
    columns["step"] = Column(number, np.ones(number.size, dtype=bool))
    return _curve(columns, table.whose, name=Path(path).stem, notes=table.notes)


def read_wandb(
    path: str | Path, *, loss: str | None = None, lr: str | None = None,
    step: str | None = None, warmup: int | None = None,
) -> list[Curve]:  # fmt: skip
    r"""Curves from a chart exported by W&B as CSV: one a run.

    The export has a column "run - metric" a run, with further ones that end in __MIN and __MAX,
    and empty cells where a run did not log.

    Args:
        path: the file.
        loss: the metric, as in "train/loss", or its last part. Default: the only metric of the
            file, or the usual name of a training loss.
        lr: the metric of rates. Default: one with a usual name, if it is in the same file.
        step: column of steps. Default: "Step" or another usual name.
        warmup: as for `Curve`.

    Returns:
        One curve a run, named as the run.

    Raises:
        FileError: missing or unreadable.
        UnknownNameError: no column of that metric, or several that it may mean.
        DataError: values that make no curve.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "chart.csv"
        ...     _ = path.write_text("Step,a - train/loss,b - train/loss\n1,3,4\n2,2,3\n")
        ...     curves = read_wandb(path)
        >>> [curve.name for curve in curves]
        ['a', 'b']
    """
    table = Table.read(path)
    runs = _metrics(table)
    metric = _metric(table, runs, loss)
    rated = lr if lr is not None else rate_name(list(runs))
    rates = runs[_metric(table, runs, rated)] if rated is not None else {}
    counted = chosen_name(table.whose, table.header, step, STEPS, "step")
    steps = table.column(counted)
    names = {"step": counted, "loss": metric, "lr": rated}
    asked = (step, metric if loss is not None else None, lr)
    notes = [*table.notes, *taken(table.header, names, asked)]
    curves = []
    for run, column in runs[metric].items():
        columns = {"step": steps, "loss": table.column(column)}
        columns |= {"lr": table.column(rates[run])} if run in rates else {}
        whose = f"run '{run}' of {table.whose}"
        curves.append(_curve(columns, whose, warmup=warmup, name=run, notes=notes))
    return curves


def read_tensorboard(
    path: str | Path, lr: str | Path | None = None, *, warmup: int | None = None
) -> Curve:
    r"""A curve from scalars downloaded from TensorBoard as CSV or JSON.

    Event files, which TensorBoard itself reads, are read by `read_tensorboard_events`.

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

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "loss.csv"
        ...     _ = path.write_text("Wall time,Step,Value\n0,10,3.0\n1,20,2.5\n")
        ...     curve = read_tensorboard(path)
        >>> curve.step
        array([10, 20])
    """
    if event_files(check_path("path", path)):
        raise FileError(
            f"'{path}' holds event files of TensorBoard; read them with "
            "read_tensorboard_events."
        )
    step, loss = _scalars(path)
    log = tidied(step, {"loss": loss}, f"'{path}'")
    rates: Floats | None = None
    assumed: tuple[str, ...] = ()
    if lr is not None:
        at, values = _scalars(lr)
        at_step, rated = tidied_rates(at, values, f"'{lr}'")
        rates, assumed = logged_rates(rated, at_step, int(log.step[-1]), warmup)
    return Curve(
        log.step, log.columns["loss"], rates, name=Path(path).stem, warmup=warmup,
        notes=[*log.notes, *assumed],
    )  # fmt: skip


def read_tensorboard_events(
    path: str | Path, *, loss: str | None = None, lr: str | None = None,
    warmup: int | None = None,
) -> list[Curve]:  # fmt: skip
    r"""Curves from the event files that TensorBoard reads: one a run.

    TensorBoard itself is not needed.

    Args:
        path: an event file, or a folder of a run or of several; all folders below it that
            hold event files are runs.
        loss: tag of the losses, as in "train/loss". Default: the usual name of a training
            loss, or the only tag with "loss" in its name that is not of held-out data.
        lr: tag of the rates. Default: one with a usual name, if there is one.
        warmup: as for `Curve`.

    Returns:
        One curve a run, named as its folder.

    Raises:
        FileError: missing, no event files, or damaged.
        UnknownNameError: no such tag, or several that may be meant.
        DataError: values that make no curve.

    Examples:
        >>> read_tensorboard_events("nowhere")
        Traceback (most recent call last):
        lossatlas.errors.FileError: 'nowhere' holds no event files of TensorBoard; ...

    Source: the format of tensorflow/core/util/event.proto and of TFRecord.
    """
    place = check_path("path", path)
    runs = event_files(place)
    if not runs:
        raise FileError(
            f"'{path}' holds no event files of TensorBoard; their names contain '{MARK}'."
        )
    return [
        _curve_of_events(
            read_scalars(files), _run_name(folder, place), loss=loss, lr=lr, warmup=warmup
        )
        for folder, files in runs.items()
    ]


def _run_name(folder: Path, root: Path) -> str:
    inside = root.is_dir() and folder != root
    return folder.relative_to(root).as_posix() if inside else folder.resolve().name


def _curve_of_events(
    scalars: Scalars, name: str, *, loss: str | None, lr: str | None, warmup: int | None
) -> Curve:
    whose, tags = f"run '{name}'", sorted(set(scalars.tags))
    if not tags:
        raise DataError(f"{whose} holds no scalars.")
    chosen = {"loss": chosen_name(whose, tags, loss, LOSSES, "loss")}
    rate = lr or rate_name(tags)
    if rate is not None:
        check_column(whose, tags, rate)
        chosen["lr"] = rate
    # One row a value: losses and rates may be logged at steps of their own.
    rows = [k for k, tag in enumerate(scalars.tags) if tag in chosen.values()]
    values = np.array([scalars.values[k] for k in rows])
    written = np.array([scalars.tags[k] for k in rows])
    columns = {
        role: Column(np.where(written == tag, values, np.nan), written == tag)
        for role, tag in chosen.items()
    }
    steps = np.array([float(scalars.steps[k]) for k in rows])
    columns["step"] = Column(steps, np.ones(len(rows), dtype=bool))
    said = taken((), chosen, (loss, lr), "tag")
    return _curve(columns, whose, warmup=warmup, name=name, notes=[*scalars.notes, *said])


def read_trainer_state(
    path: str | Path,
    *,
    loss: str = "loss",
    size: float | None = None,
    warmup: int | None = None,
) -> Curve:
    """A curve from the `trainer_state.json` that Hugging Face's Trainer writes.

    Args:
        path: the file, or the checkpoint folder that holds it.
        loss: which entry of the log: "loss" or "eval_loss". Default "loss".
        size: model size of the run.
        warmup: as for `Curve`.

    Returns:
        The curve; rates are those that the Trainer logged.

    Raises:
        FileError: missing, or not such a file.
        UnknownNameError: nothing of that name was logged.
        DataError: values that make no curve.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     log = [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.5}]
        ...     path = Path(folder) / "trainer_state.json"
        ...     _ = path.write_text(json.dumps({"log_history": log}))
        ...     curve = read_trainer_state(folder)
        >>> curve.loss
        array([3. , 2.5])
    """
    place = check_path("path", path)
    place = place / "trainer_state.json" if place.is_dir() else place
    whole = json_of(place)
    log = whole.get("log_history") if isinstance(whole, dict) else None
    if not isinstance(log, list):
        raise FileError(f"'{place}' has no `log_history`; give a trainer_state.json.")
    log = [entry for entry in log if isinstance(entry, dict) and is_number(entry.get("step"))]
    check_name(loss)
    if not any(loss in entry for entry in log):
        logged = sorted({key for entry in log for key in entry})
        raise UnknownNameError(f"'{place}' logged no '{loss}'{hint(loss, logged)}.")
    # The Trainer logs the rate that the scheduler has set for the next update.
    keys = {"step": "step", "loss": loss, "lr": "learning_rate"}
    columns = {role: _entries(log, key, place) for role, key in keys.items()}
    if not columns["lr"].present.any():
        del columns["lr"]
    name = place.parent.name or "run"
    return _curve(columns, f"'{place}'", warmup=warmup, size=size, name=name)


# A curve from columns as they came.
def _curve(
    columns: Mapping[str, Column],
    whose: str,
    *,
    warmup: int | None = None,
    notes: Sequence[str] = (),
    **settings: Any,
) -> Curve:
    columns = dict(columns)
    log = tidied(columns.pop("step"), columns, whose, warmup)
    settings = {key: value for key, value in settings.items() if value is not None}
    settings |= log.columns | {"lr": log.lr, "warmup": warmup, "notes": [*notes, *log.notes]}
    return Curve(log.step, **settings)


def _name(path: str | Path) -> str:
    place = Path(path)
    # Lightning calls every log metrics.csv and tells runs apart by their folders.
    return place.parent.name if place.stem == "metrics" and place.parent.name else place.stem


# Metric -> run -> column.
def _metrics(table: Table) -> dict[str, dict[str, str]]:
    metrics: dict[str, dict[str, str]] = {}
    for column in table.header:
        run, dash, metric = column.rpartition(_RUN)
        if not column.endswith(("__MIN", "__MAX")) and (dash or column not in STEPS):
            # Without a dash the file is the history of one run.
            metrics.setdefault(metric, {})[run or _name(table.path)] = column
    return metrics


def _metric(table: Table, metrics: Mapping[str, object], wanted: str | None) -> str:
    if wanted is not None:
        check_name(wanted)
    if wanted is None:
        named = [m for m in metrics if "loss" in m.lower() and not is_held_out(m)]
        usual = [metric for metric in LOSSES if metric in metrics]
        matches = usual[:1] or named or list(metrics)
    elif wanted in metrics:
        matches = [wanted]
    else:
        matches = [metric for metric in metrics if metric.endswith(f"/{wanted}")]
    if len(matches) != 1:
        requested = wanted or "loss"
        problem = "more than one column" if matches else "no column"
        raise UnknownNameError(
            f"'{table.path}' has {problem} of '{requested}'{hint(requested, metrics)}; it has "
            f"{', '.join(sorted(metrics))}; name one with `loss` or `lr`."
        )
    return matches[0]


def _entries(log: Sequence[Mapping[str, Any]], key: str, place: Path) -> Column:
    present = np.array([entry.get(key) is not None for entry in log])
    cells = [entry[key] if there else np.nan for entry, there in zip(log, present, strict=True)]
    values = as_float_array(key, cells, f" of '{place}'")
    if values.ndim != 1:
        raise DataError(f"`{key}` of '{place}' must be one number an entry.")
    return Column(values, present)


def _scalars(path: str | Path) -> tuple[Column, Column]:
    if check_path("path", path).suffix == ".json":
        rows = as_float_array("rows", json_of(path), f" of '{path}'")
        if rows.ndim != 2 or rows.shape[1] != 3:
            raise DataError(f"'{path}' must hold rows of [wall time, step, value].")
        every = np.ones(len(rows), dtype=bool)
        return Column(rows[:, 1], every), Column(rows[:, 2], every)
    table = Table.read(path)
    return table.column("Step"), table.column("Value")
