"""`lossatlas survey`: train or load a network, survey its loss landscape, write a report."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import click
from pydantic import model_validator

from lossatlas.cli.atlas import FILM
from lossatlas.cli.command import Command
from lossatlas.cli.declaration import Declaration
from lossatlas.cli.destination import Destination
from lossatlas.cli.output import Output
from lossatlas.cli.pictures import FIGURES, picture_names
from lossatlas.cli.processes import check_alone, count, is_first
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
from lossatlas.text import between, byte_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor
    from torch.optim import Optimizer

    from lossatlas.cli.subject import Subject
    from lossatlas.landscape.engines import Metric
    from lossatlas.landscape.engines.choice import EngineName
    from lossatlas.landscape.plane import Plane
    from lossatlas.linalg.params import Params
    from lossatlas.objective import Objective
    from lossatlas.surveys import Survey

_SURVEY = defaults("surveys.survey:survey")
_PLANE = defaults("landscape.plane:random_plane")
_TRAIN = defaults("training.training:train")
_DEMO_STEPS = 400
# Seconds from which a survey says how long it may take.
_LONG = 30.0
# What a comparison of two checkpoints cannot be told.
_ONE_ONLY = (
    "plane", "map.dimension", "map.normalization", "map.biases", "train.steps", "curvature",
    "instruments", "lr", "momentum", "film",
)  # fmt: skip
# What a survey along a training cannot be told: its plane and weights come from the files.
_NOT_ALONG = (
    "plane", "map.dimension", "map.normalization", "map.biases", "train.steps", "weights",
    "against", "checkpoints",
)  # fmt: skip
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
_MOMENTUM = "Momentum of SGD that --lr is judged with."
_SPAN = (
    "How far to look, in direction lengths (1 = one filter norm) on each side, or auto: until "
    "the loss has risen clearly and all checkpoints are in view."
)
_KIND_OF_PLANE = (
    "Where to look: random directions; checkpoints = the plane of the training path; eigen = "
    "the two sharpest directions. By default checkpoints where there are three or more, "
    "otherwise random."
)
_SEEDS = f"{SEED} Try three before you trust one plane."
_RESUME = "Continue the unfinished survey in --out."
_STEPS = f"Updates. By default {_DEMO_STEPS} where neither model nor weights are given."
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
        """What `map_plane` is told of it."""
        return {k: getattr(self, k) for k in ("adaptive", "tolerance", "engine", "executor")}


class TrainSettings(Strict):
    """Settings of the training before the survey."""

    steps: int | None = option(_TRAIN["steps"], _STEPS, ge=0)
    lr: float | None = option(
        _TRAIN["lr"], "Learning rate. By default that of the optimizer.", **_positive
    )
    optimizer: str = option(_TRAIN["optimizer"], "Optimizer: sgd, adam or adamw.")
    batch_size: int = option(_TRAIN["batch_size"], "Examples a batch.", ge=1)
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
    momentum: float = _measured(_SURVEY["momentum"], _MOMENTUM, ge=0, lt=1)
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


def run(settings: SurveySettings, output: Output, *, resume: bool, fresh: bool) -> None:
    """Survey a network, or compare two checkpoints."""
    if _lists(settings):
        _list_instruments(output)
    elif settings.along:
        from lossatlas.cli.along import survey_training

        check_alone("survey along a training")
        remedy = "survey one file at a time"
        check_unused(settings, _NOT_ALONG, "along a training", remedy)
        survey_training(settings, output, resume=resume, fresh=fresh)
    elif len(settings.states) == 2:
        _compare(settings, output)
    else:
        _survey(settings, output)


def _files(settings: SurveySettings) -> Declaration | None:
    if _lists(settings):
        return None
    if settings.along:
        from lossatlas.cli.along import files_along

        return files_along(settings)
    names = ("comparison.nc" if len(settings.states) == 2 else "survey.nc", "report.html")
    return Declaration(
        Destination(settings.folder, names, is_folder=True), "survey",
        (*names, *picture_names(settings.figures)),
        ledgers=("survey.resume", "survey.resume.*", "comparison.resume.*"),
        elsewhere=(settings.film,) if settings.film else (),
    )  # fmt: skip


def _lists(settings: SurveySettings) -> bool:
    return settings.instruments == ("list",)


def _list_instruments(output: Output) -> None:
    from lossatlas.curvature import instruments

    registered = instruments()
    listed = {one.name: one.question for one in registered}
    rows = [(one.name, one.question, one.cost) for one in registered]
    output.result({"instruments": listed}, "instruments, what they answer and cost", rows)


# `--list-instruments` is what `--instruments list` is, for those who look for an option.
def _listed(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        _list_instruments(Output())
        context.exit()


_LIST = click.Option(
    ["--list-instruments"], is_flag=True, is_eager=True, expose_value=False, callback=_listed,
    help="Print what each instrument answers and costs, as --instruments list does.",
)  # fmt: skip
command = Command(
    SurveySettings, run,
    "Survey the loss landscape around a network: map, topology, curvature. Two checkpoints are "
    "compared.",
    files=_files, resume=_RESUME, extra=[_LIST], processes=True,
)  # fmt: skip


def _compare(settings: SurveySettings, output: Output) -> None:
    check_alone("survey of two checkpoints")
    check_unused(
        settings, _ONE_ONLY, "where two checkpoints are compared", "survey one file at a time"
    )
    from lossatlas.cli.comparison import report_comparison

    report_comparison(
        settings, settings.states, output, folder=settings.folder, title=settings.title,
        span=settings.span, points=settings.points, seed=settings.seed,
        figures=settings.figures,
        connectivity=settings.map.connectivity, min_share=settings.map.min_share,
        **settings.map.options,
    )  # fmt: skip


def check_unused(
    settings: SurveySettings, names: tuple[str, ...], where: str, remedy: str
) -> None:
    """Refuse settings that would have no effect."""
    plain = SurveySettings()
    for name in names:
        value = _at(settings, name)
        if value != _at(plain, name) and (name, value) != ("plane", "random"):
            raise ArgumentError(
                f"`{name}` is not served {where}; got {value!r}: leave it out, or {remedy}."
            )


def _at(settings: Any, path: str) -> Any:
    for name in path.split("."):
        settings = getattr(settings, name)
    return settings


def _survey(settings: SurveySettings, output: Output) -> None:
    from lossatlas.cli.pictures import write_pictures
    from lossatlas.cli.subject import load_subject
    from lossatlas.curvature import chosen
    from lossatlas.io import remove_ledger
    from lossatlas.report import write_film, write_report
    from lossatlas.surveys.alerts import alerts
    from lossatlas.surveys.result_cache import instruments_ledger

    chosen(settings.instruments)
    subject = load_subject(settings)
    checkpoints, optimizer = _prepared(settings, subject, output)
    ledger = settings.folder / "survey.resume"
    measured = _measure(settings, subject, checkpoints, optimizer, ledger=ledger, output=output)
    if not is_first():
        return
    measured = _told(settings, subject, measured)
    files = {"results": measured.save(settings.folder / "survey.nc")}
    files["report"] = write_report(measured, settings.folder / "report.html")
    files |= write_pictures(measured, settings.figures, settings.folder)
    if settings.film is not None:
        files["film"] = write_film(measured, settings.film)
    for path in (ledger, instruments_ledger(ledger)):
        remove_ledger(path)
    # What a reader must know before the numbers, as on the page.
    title = "\n".join((*alerts(measured), measured.title))
    output.result(measured, title, files=files)


# What the page says first: whether the weights were trained, and what guessing gives.
def _told(settings: SurveySettings, subject: "Subject", measured: "Survey") -> "Survey":
    from dataclasses import replace

    from lossatlas.cli.subject import chance_of

    trained = settings.states or settings.checkpoints or settings.objective
    steps = settings.train.steps if settings.model else settings.train.steps != 0
    facts: dict[str, Any] = {} if trained or steps else {"untrained": True}
    facts |= chance_of(subject)
    if not trained:
        facts["train"] = settings.train.model_dump(mode="json")
    record = measured.provenance
    return replace(measured, provenance=replace(record, settings={**record.settings, **facts}))


def _measure(
    settings: SurveySettings,
    subject: "Subject",
    checkpoints: tuple["Params", ...],
    optimizer: "Optimizer | None",
    *,
    ledger: Path,
    output: Output,
) -> "Survey":
    from lossatlas.curvature import chosen
    from lossatlas.surveys import survey

    objective = subject.objective(settings.mode)
    plane = _plane(settings, objective, checkpoints)
    metrics = subject.metrics(objective, output)
    tools = settings.instruments
    if optimizer is not None and settings.model is None:
        # The small network of the demo: its page says whether its rate was too high.
        tools = tuple(tool.name for tool in chosen((*tools, "stability")))
    _announce(settings, tools, objective, plane, metrics, output=output)
    with output.progress("mapping") as progress:
        return survey(
            objective,
            plane=plane,
            checkpoints=checkpoints,
            span=settings.span,
            points=settings.points,
            metrics=metrics,
            connectivity=settings.map.connectivity,
            min_share=settings.map.min_share,
            curvature=settings.curvature,
            instruments=tools,
            lr=settings.lr or _trained_rate(settings, optimizer),
            momentum=settings.momentum,
            optimizer=optimizer,
            title=settings.title or subject.title,
            seed=settings.seed,
            resume=ledger,
            progress=progress,
            stage=progress.stage,
            **settings.map.options,
        )


# The rate of a training elsewhere answers "stability" where that is asked for.
def _trained_rate(settings: SurveySettings, optimizer: "Optimizer | None") -> float | None:
    from lossatlas.curvature import chosen

    if optimizer is not None:
        return None
    names = {tool.name for tool in chosen(settings.instruments)}
    return settings.train.lr if "stability" in names else None


# Weights from files or a training; the checkpoints that the map shows, the optimizer.
def _prepared(
    settings: SurveySettings, subject: "Subject", output: Output
) -> tuple[tuple["Params", ...], "Optimizer | None"]:
    from lossatlas.linalg.params import snapshot

    steps = settings.train.steps
    if settings.checkpoints and steps:
        raise ArgumentError(
            "`checkpoints` and `train.steps` both say where the training went; leave one out."
        )
    for file in settings.states:
        subject.load(file, output.note)
    here, states = snapshot(subject.model.state_dict()), []
    for file in settings.checkpoints:
        subject.load(file, output.note)
        states.append(snapshot(subject.model.state_dict()))
    # The model is left with its own weights, or else with the last checkpoint.
    if states and settings.states:
        subject.model.load_state_dict(here)
    if steps is None:
        known = settings.model or settings.states or states or settings.objective
        steps = 0 if known else _DEMO_STEPS
    if not steps:
        return tuple(states), None
    return _trained(settings, subject, steps, output)


def _trained(
    settings: SurveySettings, subject: "Subject", steps: int, output: Output
) -> tuple[tuple["Params", ...], "Optimizer | None"]:
    from lossatlas.training import build_loss, train
    from lossatlas.training.optimizers import build_optimizer

    if subject.data is None:
        raise ArgumentError(
            "`train.steps` trains on `data`; an objective of your own comes trained, or with "
            "--weights."
        )
    output.note(f"training for {steps} steps ...")
    made: list[Optimizer] = []

    def make(weights: "Iterable[Tensor]", lr: float | None = None) -> "Optimizer":
        made.append(build_optimizer(settings.train.optimizer, weights, lr))
        return made[-1]

    run = train(
        subject.model,
        subject.data,
        settings.loss or build_loss(None, task=subject.data.task),
        steps=steps,
        optimizer=make,
        lr=settings.train.lr,
        batch_size=settings.train.batch_size,
        seed=settings.seed,
        schedule="cosine",
        keep=min(settings.train.checkpoints, steps),
    )
    for group in made[0].param_groups:
        # Its schedule ends near zero: the rate to judge is the one it came from.
        group["lr"] = settings.lr or group["initial_lr"]
    return run.checkpoints, made[0]


# What it will take, before the long part begins.
def _announce(
    settings: SurveySettings,
    instruments: "tuple[str, ...]",
    objective: "Objective",
    plane: "Plane",
    metrics: "Mapping[str, Metric]",
    *,
    output: Output,
) -> None:
    if output.quiet or count() > 1:
        return
    from lossatlas.cli.expected import map_evaluations, timed_evaluation
    from lossatlas.curvature import chosen, spectrum_memory
    from lossatlas.curvature.costs import instrument_evaluations
    from lossatlas.landscape.mapping import plan_map

    engine = cast("EngineName", settings.map.engine)
    adaptive = settings.map.adaptive
    plan = plan_map(
        objective,
        plane,
        points=settings.points,
        engine=engine,
        metrics=metrics,
        executor=settings.map.executor,
    )
    told = (
        f"mapping up to {plan.points:,} points, engine {plan.engine}, with about "
        f"{byte_size(plan.memory)} beside model and data"
    )
    output.note("; ".join((told, *plan.notes)))
    tools = chosen(instruments, curvature=settings.curvature)
    if tools:
        basis = byte_size(spectrum_memory(objective))
        output.note(f"measuring at the weights; a spectrum takes up to {basis}")
    counts = (
        map_evaluations(plan.points, plane.dimension, adaptive=adaptive),
        instrument_evaluations(tools, objective),
    )
    fewest, most = (sum(side) for side in zip(*counts, strict=True))
    times = timed_evaluation(objective, _LONG / most)
    low, high = fewest * times[0], most * times[1]
    if high >= _LONG:
        output.note(
            f"this takes about {between(low, high)}: one evaluation of the loss takes "
            f"{times[1]:.2g} s"
        )


def _plane(
    settings: SurveySettings, objective: "Objective", checkpoints: tuple["Params", ...]
) -> "Plane":
    from lossatlas.landscape.checkpoints import plane_of, states_of
    from lossatlas.landscape.plane import random_plane
    from lossatlas.surveys import eigen_plane

    common: Any = {"seed": settings.seed, "dimension": settings.map.dimension}
    usual = "checkpoints" if len(checkpoints) > settings.map.dimension else "random"
    kind = settings.plane or usual
    if kind == "eigen":
        return eigen_plane(objective, **common)
    if kind == "random":
        scaled = {k: getattr(settings.map, k) for k in ("normalization", "biases")}
        return random_plane(objective, **common, **scaled)
    if not checkpoints:
        raise ArgumentError(
            "`plane`: there are no checkpoints to span one; train first "
            "(--set train.steps=400) or use --plane random."
        )
    return plane_of(states_of(objective, checkpoints), settings.map.dimension)
