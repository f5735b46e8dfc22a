"""What `lossatlas survey` can be asked: its options and their help."""

import functools
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import model_validator

from lossatlas.cli.atlas import FILM
from lossatlas.cli.pictures import FIGURES
from lossatlas.cli.shared_options import SubjectSettings, check_files
from lossatlas.errors import ArgumentError
from lossatlas.settings import (
    LISTED,
    MODEL,
    SEED,
    TITLE,
    Strict,
    common,
    defaults,
    option,
    subject,
)

_SURVEY = defaults("surveys.survey:survey")
_PLANE = defaults("landscape.plane:random_plane")
_TRAIN = defaults("training.training:train")
DEMO_STEPS = 400
_FILES = (
    "None, one or two checkpoints; two are compared; with --along the checkpoints of a "
    "training, sorted by the last number in the name. Files that end in .safetensors, .pt, "
    ".pth, .ckpt or .bin, or a folder of Hugging Face, accelerate or "
    "torch.distributed.checkpoint. Nothing is unpickled."
)
_CHECKPOINT = (
    "A checkpoint of the training that led here, drawn on the map; repeat it in order."
)
_MODEL = f"{MODEL} By default a small network is trained."
_WEIGHTS = (
    "Trained weights, the same as one file. A --model without them and without train.steps is "
    "surveyed untrained."
)
_AGAINST = "A second checkpoint, the same as a second file."
_ALONG = "Survey every checkpoint of a training, on parallel planes and one grid: an atlas."
_OUT = (
    "Folder of the results and report.html; --fresh replaces what an earlier run left there. "
    "By default survey, or comparison for two files."
)
_CURVES = (
    "Also measure the Hessian at the weights: extreme eigenvalues, density, trace. Costs 100 "
    "to 460 Hessian products."
)
_INSTRUMENTS = (
    "What else to measure at the weights: all, or names with commas between them. "
    "--list-instruments describes them."
)
_LR = (
    "Your learning rate: says whether it is beyond the edge of stability (adds the instrument "
    "stability)."
)
_MOMENTUM = (
    "Momentum of the SGD that --lr belongs to. By default --lr is judged for SGD without "
    "momentum and for Adam."
)
_SPAN = (
    "How far to look, in direction lengths (1 = one filter norm) on each side, or auto: until "
    "the loss has risen clearly and all checkpoints are in view."
)
_KIND_OF_PLANE = (
    "Where to look: random directions; checkpoints = the plane of the training path; eigen = "
    "the two sharpest directions. By default checkpoints where there are enough (three for a "
    "plane), otherwise random."
)
_SEEDS = f"{SEED} Try three before you trust one plane."
_STEPS = f"Updates. By default {DEMO_STEPS} where neither model nor weights are given."
_mapped = functools.partial(option, group="Map")
_measured = functools.partial(option, group="Instruments")
_positive: Any = {"gt": 0, "allow_inf_nan": False}


class MapSettings(Strict):
    """Settings of the map."""

    adaptive: bool = option(_SURVEY["adaptive"], "Compute only what cannot be interpolated.")
    tolerance: float = option(
        _SURVEY["tolerance"], "Error of interpolation, a share of the range.", **_positive
    )
    engine: str = option(_SURVEY["engine"], "How points are evaluated.")
    executor: Literal["serial", "joblib"] = option(
        _SURVEY["executor"], "Where points are evaluated."
    )
    connectivity: Literal["full", "axis"] = option(
        _SURVEY["connectivity"], "Which neighbors count for the topology."
    )
    min_share: float | None = option(
        _SURVEY["min_share"],
        "Smallest share of the examples whose effects certainty must cover.",
        ge=0, lt=1,
    )  # fmt: skip
    normalization: str = option(_PLANE["normalization"], "How directions are scaled.")
    biases: bool = option(_PLANE["biases"], "Move biases and normalization layers too.")
    dimension: Literal[1, 2, 3] = option(_PLANE["dimension"], "A line, a plane or a box.")

    @property
    def options(self) -> dict[str, Any]:
        """Those that `map_plane` takes."""
        return {k: getattr(self, k) for k in ("adaptive", "tolerance", "engine", "executor")}


class TrainSettings(Strict):
    """Settings of the training before the survey."""

    steps: int | None = option(_TRAIN["steps"], _STEPS, ge=0)
    lr: float | None = option(
        _TRAIN["lr"], "Learning rate. By default that of the optimizer.", **_positive
    )
    optimizer: str = option(_TRAIN["optimizer"], "Optimizer: sgd, adam or adamw.")
    batch_size: int = option(_TRAIN["batch_size"], "Examples per batch.", ge=1)
    checkpoints: int = option(25, "Points of the path that the map shows.", ge=3)


class SurveySettings(SubjectSettings):
    """Settings of `lossatlas survey`; with two files it is a comparison."""

    files: tuple[Path, ...] = option((), _FILES, positional=True)
    model: str | None = subject(None, _MODEL, short="m")
    weights: Path | None = subject(None, _WEIGHTS)
    against: Path | None = subject(None, _AGAINST)
    checkpoints: tuple[Path, ...] = subject((), _CHECKPOINT, name="checkpoint")
    plane: Literal["random", "checkpoints", "eigen"] | None = _mapped(
        _SURVEY["plane"], _KIND_OF_PLANE
    )
    points: int = _mapped(_SURVEY["points"], "Points along each direction.", ge=2)
    span: float | Literal["auto"] = _mapped(_SURVEY["span"], _SPAN, metavar="NUMBER")
    curvature: bool = _measured(_SURVEY["curvature"], _CURVES)
    instruments: Annotated[tuple[str, ...], LISTED] = _measured(
        _SURVEY["instruments"], _INSTRUMENTS
    )
    lr: float | None = _measured(_SURVEY["lr"], _LR, **_positive)
    momentum: float | None = _measured(_SURVEY["momentum"], _MOMENTUM, ge=0, lt=1)
    along: bool = option(False, _ALONG)
    film: Path | None = option(None, FILM)
    figures: Annotated[tuple[str, ...], LISTED] = option((), FIGURES)
    title: str | None = option(_SURVEY["title"], TITLE)
    out: Path | None = common(None, _OUT, short="o")
    seed: int = common(0, _SEEDS, ge=0)
    map: MapSettings = MapSettings()
    train: TrainSettings = TrainSettings()

    @model_validator(mode="after")
    def _agree(self) -> "SurveySettings":
        if self.along:
            check_files(self.files, 3, "three checkpoints or more with --along")
            return self
        if len(self.files) > 2:
            raise ValueError(
                f"`files` must be at most two checkpoints; got {len(self.files)}: compare them "
                "in pairs, or survey them --along a training"
            )
        given = next((n for n in ("weights", "against") if getattr(self, n) is not None), None)
        if self.files and given:
            raise ValueError(
                f"`{given}` and files say the same thing; got --{given} "
                f"{str(getattr(self, given))!r} and {str(self.files[0])!r}: leave one out"
            )
        if self.against and not self.weights:
            raise ValueError("`against` needs `weights`: a comparison takes two checkpoints")
        return self

    @property
    def states(self) -> tuple[Path, ...]:
        """The files of weights: none, one, or two to compare."""
        return self.files or tuple(file for file in (self.weights, self.against) if file)

    @property
    def folder(self) -> Path:
        """Where results go: `out`, or a folder named after what is done."""
        usual = "survey" if len(self.states) < 2 else "comparison"
        return self.out or Path("atlas" if self.along else usual)


def check_unused(
    settings: SurveySettings, names: tuple[str, ...], where: str, remedy: str
) -> None:
    """Refuse settings that would have no effect."""
    default = SurveySettings()
    for name in names:
        value = attrgetter(name)(settings)
        if value != attrgetter(name)(default) and (name, value) != ("plane", "random"):
            raise ArgumentError(
                f"`{name}` has no effect {where}; got {value!r}: leave it out, or {remedy}."
            )
