"""What `lossatlas forecast` reads and writes: curves, laws, schedules; figures and pages."""

import ast
import csv
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from lossatlas import forecast, io
from lossatlas.checks import check_one_of
from lossatlas.cli.destination import Destination
from lossatlas.cli.forecast import FIT, FORECAST, SCHEDULE
from lossatlas.cli.output import write_csv
from lossatlas.errors import ArgumentError, DataError, FileError
from lossatlas.forecast import Curve, Fit, Prediction, SchedulePlan
from lossatlas.forecast.events import event_files
from lossatlas.forecast.law import Law
from lossatlas.forecast.readers import kind_of_file
from lossatlas.io import Provenance
from lossatlas.io.sizes import check_npy
from lossatlas.plots.canvas import png
from lossatlas.result import Result
from lossatlas.text import count

# How TensorBoard and people name the file of a rate that was downloaded by itself.
_RATES = re.compile(r"(?:^|[-_. ])(?:lr|learning[-_ ]?rate)(?:[-_. ]|$)", re.IGNORECASE)
Floats = NDArray[np.float64]


def write_fit(fitted: Fit, out: Path, settings: BaseModel) -> dict[str, Path]:
    """Write fit.nc, its figures and the page."""
    place = Destination(out, FIT)
    title = f"{fitted.law.name} fitted to {count(len(fitted.curves), 'curve')}"
    if fitted.ahead is not None:
        title = _title(fitted.ahead)
    figures = _write_figures(fitted, place)
    return {
        "fit": fitted.save(place.file("fit.nc")),
        "report": _write_page(fitted, place, title, settings, fitted.provenance),
    } | figures


def write_prediction(
    told: Prediction, out: Path | None, settings: BaseModel
) -> dict[str, Path]:
    """Write forecast.nc, the table, the figure and the page."""
    if out is None:
        return {}
    columns = {key: getattr(told, key) for key in ("step", "loss", "lower", "upper")}
    place = Destination(out, FORECAST)
    return {
        "results": told.save(place.file("forecast.nc")),
        "forecast": write_csv(place.file("forecast.csv"), columns),
        "report": _write_page(told, place, _title(told), settings),
    } | _write_figures(told, place)


# The runs that are forecast, as people name them.
def _title(told: Prediction) -> str:
    name = "Guess" if told.guess else "Forecast"
    runs = [told.measured] if told.measured is not None else list(told.fitted)
    if len(runs) == 1:
        return f"{name} of {runs[0].label}"
    return f"{name} from {count(len(runs), 'run')}" if runs else name


def with_origin(fit: Fit, settings: BaseModel) -> Fit:
    """A fit that knows which files it was made from, so that its advice can name them."""
    names = [str(path) for path in getattr(settings, "files", ())]
    made = fit.provenance
    return replace(fit, provenance=replace(made, settings={**made.settings, "files": names}))


def write_plan(plan: SchedulePlan, out: Path | None, settings: BaseModel) -> dict[str, Path]:
    """Write schedule.nc, the table (update, cooldown, free), the figure and the page."""
    if out is None:
        return {}
    update = np.arange(1, plan.free.size + 1)
    columns = {"update": update, "lr": plan.wsd, "free": plan.free}
    place = Destination(out, SCHEDULE)
    return {
        "results": plan.save(place.file("schedule.nc")),
        "schedule": write_csv(place.file("schedule.csv"), columns),
        "report": _write_page(plan, place, "Schedules compared", settings),
    } | _write_figures(plan, place)


def _write_page(
    result: Result,
    place: Destination,
    title: str,
    settings: BaseModel,
    made: Provenance | None = None,
) -> Path:
    from lossatlas.report import write_report

    made = made or Provenance()
    record = replace(made, settings={**made.settings, **settings.model_dump(mode="json")})
    (page,) = (name for name in place.names if name.endswith(".html"))
    return write_report(result, place.file(page), title=title, provenance=record)


def _write_figures(result: Result, place: Destination) -> dict[str, Path]:
    files = {figure.name: place.file(f"{figure.name}.png") for figure in result.figures()}
    for name, file in files.items():
        with io.writing(file) as temporary:
            temporary.write_bytes(png(result.plot(name)))
    return {f"figure {name}": file for name, file in files.items()}


def read_curves(
    files: Sequence[Path], kind: str, columns: Sequence[str], warmup: int | None
) -> list[Curve]:
    """Read loss files."""
    roles: dict[str, Any] = dict(_pair("column", text) for text in columns)
    for role in roles:
        check_one_of("column", role, ("step", "loss", "lr", "size", "tokens", "source"))
    curves: list[Curve] = []
    for path in files:
        chosen = kind_of_file(path) if kind == "auto" else kind
        curves += _read(path, chosen, roles, warmup)
    return curves


def _read(path: Path, kind: str, roles: dict[str, Any], warmup: int | None) -> list[Curve]:
    if kind == "points":
        if warmup is not None:
            raise ArgumentError("`warmup` has no meaning for final losses; leave it out.")
        return [forecast.read_points(path, **_only(roles, "loss", "size", "tokens", "source"))]
    if kind == "trainer":
        return [forecast.read_trainer_state(path, **_only(roles, "loss"), warmup=warmup)]
    if kind == "tensorboard":
        if event_files(path):
            named = _only(roles, "loss", "lr")
            return forecast.read_tensorboard_events(path, **named, warmup=warmup)
        if _RATES.search(path.stem):
            raise ArgumentError(
                f"`files`: '{path.name}' seems to hold rates; give it with the losses that it "
                f"belongs to, as in LOSSES.csv --column lr={path.name}."
            )
        return [forecast.read_tensorboard(path, **_only(roles, "lr"), warmup=warmup)]
    if kind == "wandb":
        return forecast.read_wandb(path, **_only(roles, "step", "loss", "lr"), warmup=warmup)
    named = _only(roles, "step", "loss", "lr", "tokens", "source")
    read = forecast.read_json if kind == "json" else forecast.read_csv
    return [read(path, **named, warmup=warmup)]


def _only(roles: dict[str, Any], *names: str) -> dict[str, Any]:
    extra = sorted(set(roles) - set(names))
    if extra:
        raise ArgumentError(
            f"`column` {extra[0]} has no meaning in such a file; it may name "
            f"{', '.join(names)}."
        )
    return roles


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise ArgumentError(f"`{option}` must look like 'name=value'; got {text!r}.")
    return name.strip(), value.strip()


def assignments(option: str, texts: Sequence[str]) -> dict[str, float]:
    """Numbers with names."""
    values = {}
    for name, value in (_pair(option, text) for text in texts):
        try:
            values[name] = float(value)
        except ValueError:
            raise ArgumentError(f"`{option}`: '{value}' is not a number.") from None
    return values


def named_law(text: str) -> Law:
    """A law from its name and settings."""
    name, _, inner = text.strip().partition("(")
    check_one_of("law", name, forecast.LAWS)
    settings = {}
    for part in filter(None, inner.rstrip(")").split(",")):
        key, value = _pair("law", part)
        check_one_of("law", key, forecast.LAWS[name]().settings())
        try:
            settings[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise ArgumentError(f"`law`: cannot read the value of {part!r}.") from None
    return forecast.LAWS[name](**settings)


def chosen_law(text: str | None, curves: Sequence[Curve]) -> tuple[Law, list[Curve], str]:
    """The law that was asked for, or the one that the rates allow."""
    if text is not None:
        return named_law(text), list(curves), ""
    bare = [curve.label for curve in curves if curve.lr is None]
    if not bare:
        return forecast.MultiPowerLaw(), list(curves), ""
    why = f"'{bare[0]}' has no learning rate"
    dropped = len(curves) - len(bare)
    if dropped:
        why += f", so the rates of {dropped} other runs are not used"
    return (
        forecast.PowerLaw(), [curve.without_rates() for curve in curves],
        f"{why}: the power law in updates is used; ",
    )  # fmt: skip


def load_fit(path: Path) -> Fit:
    """A fit from disk."""
    if path.is_dir() and not (path / "fit.nc").exists() and _was_stopped(path / "fit.json"):
        raise FileError(
            f"'{path}' holds no fit yet: `lossatlas forecast fit` was stopped before it was "
            "done; run it again with --fresh."
        )
    fitted = io.load(path / "fit.nc" if path.is_dir() else path)
    if not isinstance(fitted, Fit):
        raise FileError(f"'{path}' holds a {type(fitted).__name__}; give a fit.nc.")
    return fitted


def stopped_note(path: Path) -> str:
    """What a reader must know of a fit whose command was stopped; empty where it was not."""
    file = path / "fit.nc" if path.is_dir() else path
    record = file.with_suffix(".json")
    if not _was_stopped(record):
        return ""
    # The record was written before the fit began, fit.nc in one piece when it was done.
    is_new = file.stat().st_mtime_ns >= record.stat().st_mtime_ns
    what = (
        "it had written fit.nc, which is complete; its page may be missing" if is_new
        else "fit.nc is complete, but of an earlier call"
    )  # fmt: skip
    return (
        f"the last `lossatlas forecast fit` into '{path}' was stopped: {what}. "
        "--fresh runs it again"
    )


# A record names the files that its command will write, and what it printed once it is done.
def _was_stopped(record: Path) -> bool:
    try:
        held = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(held, dict) and "taken" in held and "printed" not in held


def read_rates(path: Path) -> Floats:
    """The rate of every update, from .npy or .csv."""
    try:
        if path.suffix == ".npy":
            check_npy(path)
            return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
        with path.open(encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
        at = rows[0].index("lr") if "lr" in rows[0] else 0
        return np.array([float(row[at]) for row in rows[("lr" in rows[0]) :]])
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"`rates`: '{path}' cannot be read ({error}).") from None
    except (ValueError, IndexError) as error:
        raise DataError(f"`rates`: '{path}' does not hold rates ({error}).") from None
