"""What `lossatlas forecast` reads and writes: curves, laws, schedules; figures and pages."""

import ast
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from numpy.typing import NDArray

from lossatlas import forecast, io
from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError, DataError, FileError
from lossatlas.forecast import Curve, Fit, Prediction, SchedulePlan
from lossatlas.forecast.law import Law
from lossatlas.forecast.readers import kind_of_file
from lossatlas.io.sizes import check_npy
from lossatlas.report import write_report
from lossatlas.result import Table

Floats = NDArray[np.float64]


def write_fit(fit: Fit, tables: Sequence[Table], out: Path) -> dict[str, Path]:
    """Write fit.nc, two figures and the page with these tables."""
    _write_figures({"curves": fit.plot("curves"), "residuals": fit.plot("residuals")}, out)
    page = write_report(fit, out / "report.html", title=fit.law.name, tables=tables)
    return {"fit": fit.save(out / "fit.nc"), "report": page}


def write_prediction(told: Prediction, out: Path | None, law: str) -> dict[str, Path]:
    """Write forecast.csv, its figure and its page."""
    if out is None:
        return {}
    columns = {key: getattr(told, key) for key in ("step", "loss", "lower", "upper")}
    _write_figures({"forecast": told.plot()}, out)
    page = write_report(told, out / "report.html", title=f"Forecast of {law}")
    return {"forecast": _write_csv(out / "forecast.csv", columns), "report": page}


def write_plan(plan: SchedulePlan, out: Path | None) -> dict[str, Path]:
    """Write schedule.csv (update, cooldown, free), its figure and its page."""
    if out is None:
        return {}
    update = np.arange(1, plan.free.size + 1)
    columns = {"update": update, "lr": plan.wsd, "free": plan.free}
    _write_figures({"schedule": plan.plot()}, out)
    page = write_report(plan, out / "report.html", title="Schedules")
    return {"schedule": _write_csv(out / "schedule.csv", columns), "report": page}


def _write_csv(path: Path, columns: dict[str, Any]) -> Path:
    with io.writing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(c.tolist() for c in columns.values()), strict=True))
    return path


def _write_figures(drawn: Mapping[str, Axes], out: Path) -> None:
    for name, ax in drawn.items():
        figure = ax.get_figure(root=True)
        assert figure is not None
        with io.writing(out / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=150)
        plt.close(figure)


def read_curves(
    files: Sequence[Path], kind: str, columns: Sequence[str], warmup: int | None
) -> list[Curve]:
    """Read loss files."""
    roles: dict[str, Any] = dict(_pair("column", text) for text in columns)
    for role in roles:
        check_one_of("column", role, ("step", "loss", "lr", "size", "tokens", "source"))
    found: list[Curve] = []
    for path in files:
        chosen = kind_of_file(path) if kind == "auto" else kind
        found += _read(path, chosen, roles, warmup)
    return found


def _read(path: Path, kind: str, roles: dict[str, Any], warmup: int | None) -> list[Curve]:
    if kind == "points":
        return [forecast.read_points(path, **_only(roles, "loss", "size", "tokens", "source"))]
    if kind == "trainer":
        return [forecast.read_trainer_state(path, **_only(roles, "loss"))]
    if kind == "tensorboard":
        lr = roles.get("lr")
        return [forecast.read_tensorboard(path, lr, warmup=warmup)]
    if kind == "wandb":
        return forecast.read_wandb(path, **_only(roles, "step", "loss", "lr"), warmup=warmup)
    named = _only(roles, "step", "loss", "lr", "tokens", "source")
    return [forecast.read_csv(path, **named, warmup=warmup)]


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
    found = {}
    for name, value in (_pair(option, text) for text in texts):
        try:
            found[name] = float(value)
        except ValueError:
            raise ArgumentError(f"`{option}`: '{value}' is not a number.") from None
    return found


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
        f"{why}: the power law in updates is taken; ",
    )  # fmt: skip


def load_fit(path: Path) -> Fit:
    """A fit from disk."""
    found = io.load(path / "fit.nc" if path.is_dir() else path)
    if not isinstance(found, Fit):
        raise FileError(f"'{path}' holds a {type(found).__name__}; give a fit.nc.")
    return found


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
