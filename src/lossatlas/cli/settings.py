"""Settings of a survey: one model serves the command line, `--config`, `--set` and Python."""

from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lossatlas.checks import nearest
from lossatlas.errors import ArgumentError, FileError, UnknownNameError
from lossatlas.topology.certainty import MIN_SHARE

Settings = TypeVar("Settings", bound=BaseModel)


class Strict(BaseModel):
    """Settings that refuse what they do not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MapSettings(Strict):
    """How the map is made (`--set map.NAME=VALUE`)."""

    adaptive: bool = True
    tolerance: float = Field(default=0.002, gt=0, allow_inf_nan=False)
    engine: str = "auto"
    executor: Literal["serial", "joblib"] = "serial"
    connectivity: Literal["full", "axis"] = "full"
    min_share: float | None = Field(default=MIN_SHARE, ge=0, lt=1)
    normalization: str = "filter"
    biases: bool = False
    dimension: Literal[1, 2, 3] = 2

    @property
    def options(self) -> dict[str, Any]:
        """What `map_plane` is told of it."""
        return {k: getattr(self, k) for k in ("adaptive", "tolerance", "engine", "executor")}


class TrainSettings(Strict):
    """How the network is trained before the survey (`--set train.NAME=VALUE`)."""

    steps: int | None = Field(default=None, ge=0)
    lr: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    optimizer: str = "sgd"
    batch_size: int = Field(default=64, ge=1)
    checkpoints: int = Field(default=25, ge=3)


class SurveySettings(Strict):
    """Everything that `lossatlas survey` can be told; `against` makes it a comparison."""

    model: str | None = None
    weights: Path | None = None
    against: Path | None = None
    checkpoints: tuple[Path, ...] = ()
    key: str | None = None
    prefix: str | None = None
    data: str = "digits"
    loss: str | None = None
    batch_size: int = Field(default=256, ge=1)
    examples: int | None = Field(default=None, ge=1)
    plane: Literal["random", "checkpoints", "eigen"] | None = None
    points: int = Field(default=41, ge=2)
    span: float | Literal["auto"] = "auto"
    mode: Literal["eval", "train", "recalibrated"] | None = None
    curvature: bool = False
    instruments: tuple[str, ...] = ()
    lr: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0)
    device: str = "cpu"
    out: Path | None = None
    title: str | None = None
    map: MapSettings = MapSettings()
    train: TrainSettings = TrainSettings()

    @field_validator("instruments", mode="before")
    @classmethod
    def _split(cls, given: object) -> object:
        # "a,b" on the command line is the list of the file.
        if isinstance(given, str):
            return tuple(part.strip() for part in given.split(",") if part.strip())
        return given

    @property
    def folder(self) -> Path:
        """Where results go: `out`, or a folder named after what is done."""
        return self.out or Path("survey" if self.against is None else "comparison")


def load_settings(
    config: Path | None, assignments: list[str], options: dict[str, Any]
) -> SurveySettings:
    """The settings of a survey; see `settings_of`."""
    return settings_of(SurveySettings, config, assignments, options)


def settings_of(
    kind: type[Settings], config: Path | None, assignments: list[str], options: dict[str, Any]
) -> Settings:
    """Put settings together: defaults, then the file, then `--set`, then options."""
    merged = _read(config) if config else {}
    for assignment in assignments:
        _assign(merged, assignment)
    merged |= {key: value for key, value in options.items() if value is not None}
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        named: ArgumentError | UnknownNameError = _named(kind, error.errors()[0])
        raise named from None


def named_files(files: list[Path], weights: Path | None) -> dict[str, Path | None]:
    """The files of a command line as settings."""
    if len(files) > 2:
        raise ArgumentError(
            f"`files` must be at most two checkpoints; got {len(files)}: compare them in pairs."
        )
    if files and weights is not None:
        raise ArgumentError(
            f"`weights` and files say the same thing; got --weights {str(weights)!r} and "
            f"{str(files[0])!r}: leave one out."
        )
    one, two = [*files, None, None][:2]
    return {"weights": one or weights, "against": two}


def _read(config: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(config.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"`config`: '{config}' cannot be read ({error}).") from None
    except yaml.YAMLError as error:
        raise FileError(f"`config`: '{config}' is not YAML ({_trouble(error)}).") from None
    if found is not None and not isinstance(found, dict):
        raise FileError(f"`config`: '{config}' must hold names and values, as in 'points: 31'.")
    return dict(found or {})


def _trouble(error: yaml.YAMLError) -> str:
    where = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{what}, line {where.line + 1}" if where is not None else what


def _assign(merged: dict[str, Any], assignment: str) -> None:
    name, equals, value = assignment.partition("=")
    if not equals or not name:
        raise ArgumentError(f"`set` must look like 'map.tolerance=0.001'; got {assignment!r}.")
    *path, last = name.strip().split(".")
    place = merged
    for key in path:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise ArgumentError(
                f"`set`: '{key}' holds a value, not a group; got {assignment!r}."
            )
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ArgumentError(f"`set`: cannot read the value of {assignment!r}.") from None


_UNION_PARTS = {"float", "int", "str", "literal['auto']"}


def _named(kind: type[BaseModel], error: Any) -> ArgumentError | UnknownNameError:
    path, got = [str(part) for part in error["loc"]], error.get("input")
    if error["type"] == "extra_forbidden":
        known = _fields(kind, path[:-1])
        # A group that is unknown may hold names that are known: train.steps is steps here.
        path += [str(name) for name in got][:1] if isinstance(got, dict) else []
        return UnknownNameError(
            f"there is no setting '{'.'.join(path)}'{nearest(path[-1], known)}; "
            f"known: {', '.join(sorted(known))}."
        )
    # Places inside a union ("span.float") are not names that a user knows.
    path = [part for part in path if part not in _UNION_PARTS]
    return ArgumentError(
        f"`{'.'.join(path)}`: {error['msg'][0].lower()}{error['msg'][1:]}; got {got!r}."
    )


def _fields(kind: type[BaseModel], path: list[str]) -> list[str]:
    model: Any = kind
    for name in path:
        model = model.model_fields[name].annotation
    return list(model.model_fields)
