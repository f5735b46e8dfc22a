"""From settings to a survey on disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lossatlas.cli.output import Output
from lossatlas.cli.settings import SurveySettings
from lossatlas.curvature import chosen, spectrum_memory
from lossatlas.errors import ArgumentError
from lossatlas.landscape.checkpoints import plane_of, states_of
from lossatlas.landscape.engines import Metric
from lossatlas.landscape.mapping import plan_map
from lossatlas.landscape.plane import Plane, random_plane
from lossatlas.linalg.params import Params, snapshot
from lossatlas.objective import Objective, accuracy, supervised
from lossatlas.report import write_report
from lossatlas.store import make_folder, remove_ledger
from lossatlas.surveys import Survey, eigen_plane, survey
from lossatlas.surveys.result_cache import instruments_ledger
from lossatlas.training.checkpoints import load_weights
from lossatlas.training.criteria import build_loss
from lossatlas.training.dataset import Dataset
from lossatlas.training.datasets import load_dataset
from lossatlas.training.devices import chosen_device
from lossatlas.training.models import build_model, normalization_of
from lossatlas.training.training import train

DEMO_MODEL = "mlp(32)"
_DEMO_STEPS = 400


@dataclass(frozen=True)
class _Subject:
    """What is surveyed."""

    title: str
    model: nn.Module
    data: Dataset
    checkpoints: tuple[Params, ...]


def run_survey(
    settings: SurveySettings, output: Output, *, resume: bool
) -> tuple[Survey, Path]:
    """Load or train, survey, and write `survey.nc` and `report.html`."""
    chosen(settings.instruments)
    make_folder(settings.folder)
    subject = _subject(settings, output)
    objective = _objective(settings, subject)
    ground = _plane(settings, objective, subject.checkpoints)
    metrics = {"accuracy": accuracy} if subject.data.task == "classification" else {}
    _foretell(settings, objective, ground, metrics, output)
    ledger = settings.folder / "survey.resume"
    if not resume:
        _forget(ledger)
    with output.progress("mapping") as progress:
        found = survey(
            objective,
            plane=ground,
            checkpoints=subject.checkpoints,
            span=settings.span,
            points=settings.points,
            metrics=metrics,
            connectivity=settings.map.connectivity,
            min_share=settings.map.min_share,
            curvature=settings.curvature,
            instruments=settings.instruments,
            lr=settings.lr or settings.train.lr,
            title=settings.title or subject.title,
            seed=settings.seed,
            resume=ledger,
            progress=progress,
            stage=output.stage(progress),
            **settings.map.options,
        )
    found.save(settings.folder / "survey.nc")
    page = write_report(found, settings.folder / "report.html")
    _forget(ledger)
    return found, page


def _objective(settings: SurveySettings, subject: _Subject) -> Objective:
    return Objective(
        subject.model,
        supervised(build_loss(settings.loss, task=subject.data.task)),
        subject.data.batches(settings.batch_size),
        mode=settings.mode or "eval",
    )


def _forget(ledger: Path) -> None:
    remove_ledger(ledger)
    remove_ledger(instruments_ledger(ledger))


def _subject(settings: SurveySettings, output: Output) -> _Subject:
    name = settings.model or DEMO_MODEL
    data = load_dataset(
        settings.data, examples=settings.examples, normalize=normalization_of(name)
    )
    model = build_model(name, data, seed=settings.seed).to(chosen_device(settings.device))
    if settings.weights is not None:
        _load(model, settings.weights, settings, output)
    given = _given(model, settings, output)
    steps = settings.train.steps
    if steps is None:
        known = settings.model or settings.weights or given
        steps = 0 if known else _DEMO_STEPS
    checkpoints = _trained(settings, model, data, steps, output) if steps else given
    return _Subject(f"{name} on {settings.data}", model, data, checkpoints)


def _load(model: nn.Module, file: Path, settings: SurveySettings, output: Output) -> None:
    def note(sentence: str) -> None:
        output.note(f"{file.name}: {sentence}")

    load_weights(model, file, key=settings.key, prefix=settings.prefix, note=note)


# The model is left with --weights, or else with the last checkpoint.
def _given(model: nn.Module, settings: SurveySettings, output: Output) -> tuple[Params, ...]:
    if settings.checkpoints and settings.train.steps:
        raise ArgumentError(
            "`checkpoints` and `train.steps` both say where the training went; leave one out."
        )
    here, states = snapshot(model.state_dict()), []
    for file in settings.checkpoints:
        _load(model, file, settings, output)
        states.append(snapshot(model.state_dict()))
    if states and settings.weights is not None:
        model.load_state_dict(here)
    return tuple(states)


def _trained(
    settings: SurveySettings, model: nn.Module, data: Dataset, steps: int, output: Output
) -> tuple[Params, ...]:
    output.note(f"training for {steps} steps ...")
    run = train(
        model,
        data,
        settings.loss or build_loss(None, task=data.task),
        steps=steps,
        optimizer=settings.train.optimizer,
        lr=settings.train.lr,
        batch_size=settings.train.batch_size,
        seed=settings.seed,
        schedule="cosine",
        keep=min(settings.train.checkpoints, steps),
    )
    return run.checkpoints


# What it will take, before the long part begins.
def _foretell(
    settings: SurveySettings,
    objective: Objective,
    ground: Plane,
    metrics: Mapping[str, Metric],
    output: Output,
) -> None:
    if output.quiet:
        return
    engine = settings.map.engine
    plan = plan_map(objective, ground, points=settings.points, engine=engine, metrics=metrics)
    output.note(
        f"mapping up to {plan.points:,} points, engine {plan.engine}, with about "
        f"{_size(plan.memory)} beside model and data"
    )
    if settings.curvature or settings.instruments:
        basis = _size(spectrum_memory(objective))
        output.note(f"measuring at the weights; a spectrum takes up to {basis}")


def _size(memory: int) -> str:
    if memory < 2**20:
        return "1 MiB"
    return f"{memory / 2**20:,.0f} MiB" if memory < 2**30 else f"{memory / 2**30:,.1f} GiB"


def _plane(
    settings: SurveySettings, objective: Objective, checkpoints: tuple[Params, ...]
) -> Plane:
    kind = settings.plane or (
        "checkpoints" if len(checkpoints) > settings.map.dimension else "random"
    )
    if kind == "checkpoints":
        if not checkpoints:
            raise ArgumentError(
                "`plane`: there are no checkpoints to span one; train first "
                "(--set train.steps=400) or use --plane random."
            )
        states = states_of(objective, checkpoints)
        return plane_of(states, settings.map.dimension)
    if kind == "eigen":
        return eigen_plane(objective, dimension=settings.map.dimension, seed=settings.seed)
    return random_plane(
        objective,
        seed=settings.seed,
        dimension=settings.map.dimension,
        normalization=settings.map.normalization,
        biases=settings.map.biases,
    )
