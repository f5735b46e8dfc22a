"""What the options of `lossatlas forecast` mean: files, laws, schedules."""

import ast
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossatlas import forecast, store
from lossatlas.checks import check_at_least, check_one_of
from lossatlas.errors import ArgumentError, DataError, FileError
from lossatlas.forecast import Curve, Fit, schedules
from lossatlas.forecast.law import Law
from lossatlas.forecast.readers import kind_of_file
from lossatlas.store.sizes import check_npy

Floats = NDArray[np.float64]
Table = list[tuple[str, str, str]]

KINDS = ("auto", "csv", "wandb", "tensorboard", "trainer", "points")


def read_curves(
    files: Sequence[Path], kind: str, columns: Sequence[str], warmup: int | None
) -> list[Curve]:
    """Read loss files."""
    check_one_of("kind", kind, KINDS)
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
    found = store.load(path / "fit.nc" if path.is_dir() else path)
    if not isinstance(found, Fit):
        raise FileError(f"'{path}' holds a {type(found).__name__}; give a fit.nc.")
    return found


@dataclass(frozen=True)
class Shape:
    """A schedule as options say it.

    Attributes:
        shape: its name, or None.
        steps: updates, or None.
        peak: highest rate, or None.
        decay: length of a cooldown.
        min_ratio: last rate as a share of the peak.
        warmup: length of the warm-up.
    """

    shape: str | None
    steps: int | None
    peak: float | None
    decay: float
    min_ratio: float
    warmup: int

    def rates(self) -> Floats | None:
        """The rates that the options ask for."""
        if self.shape is None and self.steps is None and self.peak is None:
            return None
        if self.shape is None or self.steps is None or self.peak is None:
            raise ArgumentError("`shape`, `steps` and `peak` are needed together.")
        check_one_of("shape", self.shape, ("constant", "cosine", *schedules.SHAPE_NAMES))
        if self.shape == "constant":
            return schedules.constant(self.steps, self.peak, self.warmup)
        if self.shape == "cosine":
            return schedules.cosine(self.steps, self.peak, self.min_ratio, self.warmup)
        return schedules.wsd(
            self.steps,
            self.peak,
            self.decay,
            self.shape,
            min_ratio=self.min_ratio,
            warmup=self.warmup,
        )


def counted_steps(fit: Fit, shape: Shape) -> Floats | None:
    """The steps that a fit which counts updates is asked about."""
    lone = shape.shape is None and shape.peak is None and shape.steps is not None
    if not lone or not _counts_updates(fit):
        return None
    check_at_least("steps", shape.steps, 1)
    assert shape.steps is not None
    return np.unique(np.linspace(1, shape.steps, min(200, shape.steps)).round())


def _counts_updates(fit: Fit) -> bool:
    return "lr" not in fit.law.needs and bool(fit.curves) and fit.curves[0].lr is None


def chosen_schedule(
    rates: Path | None, run: Curve | None, shape: Shape, fit: Fit
) -> Curve | Floats | None:
    """The schedule that the options ask for."""
    planned = None if counted_steps(fit, shape) is not None else shape.rates()
    if run is not None and _counts_updates(fit):
        run = run.without_rates()
    given = [part for part in (_rates_file(rates), run, planned) if part is not None]
    if len(given) > 1:
        raise ArgumentError("`rates`, `run` and `shape` say the same thing; give one of them.")
    return given[0] if given else None


def _rates_file(path: Path | None) -> Floats | None:
    if path is None:
        return None
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
