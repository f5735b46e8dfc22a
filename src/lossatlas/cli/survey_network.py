"""A survey of one network: weights, map, instruments, page."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from lossatlas.cli.expected import announce
from lossatlas.cli.output import Output
from lossatlas.cli.pictures import write_pictures
from lossatlas.cli.prepared_weights import prepare_weights
from lossatlas.cli.processes import is_first
from lossatlas.cli.subject import Subject, chance_of, load_subject
from lossatlas.curvature import chosen
from lossatlas.errors import ArgumentError
from lossatlas.io import remove_ledger
from lossatlas.landscape.checkpoints import plane_of, states_of
from lossatlas.landscape.plane import Plane, random_plane
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.report import write_film, write_report
from lossatlas.surveys import Survey, eigen_plane, survey
from lossatlas.surveys.alerts import alerts
from lossatlas.surveys.result_cache import instruments_ledger

if TYPE_CHECKING:
    from lossatlas.cli.survey_settings import SurveySettings


def survey_network(settings: "SurveySettings", output: Output) -> None:
    """Survey the network, write `survey.nc` and `report.html`, print the numbers."""
    chosen(settings.instruments)
    subject = load_subject(settings)
    checkpoints, optimizer = prepare_weights(settings, subject, output)
    ledger = settings.folder / "survey.resume"
    result = _survey(settings, subject, checkpoints, optimizer, ledger=ledger, output=output)
    if not is_first():
        return
    result = _with_origin(settings, subject, result)
    files = {"results": result.save(settings.folder / "survey.nc")}
    files["report"] = write_report(result, settings.folder / "report.html")
    files |= write_pictures(result, settings.figures, settings.folder)
    if settings.film is not None:
        files["film"] = write_film(result, settings.film)
    for path in (ledger, instruments_ledger(ledger)):
        remove_ledger(path)
    # What a reader must know before the numbers, as on the page.
    title = "\n".join((*alerts(result), result.title))
    output.result(result, title, files=files)


# The page begins with it: whether the weights were trained, and what guessing gives.
def _with_origin(settings: "SurveySettings", subject: Subject, result: Survey) -> Survey:
    trained = settings.states or settings.checkpoints or settings.objective
    steps = settings.train.steps if settings.model else settings.train.steps != 0
    origin: dict[str, Any] = {} if trained or steps else {"untrained": True}
    origin |= chance_of(subject)
    if steps and not trained:
        origin["train"] = settings.train.model_dump(mode="json")
    record = result.provenance
    return replace(result, provenance=replace(record, settings={**record.settings, **origin}))


def _survey(
    settings: "SurveySettings",
    subject: Subject,
    checkpoints: tuple[Params, ...],
    optimizer: Optimizer | None,
    *,
    ledger: Path,
    output: Output,
) -> Survey:
    objective = subject.objective(settings.mode)
    plane = _plane(settings, objective, checkpoints)
    metrics = subject.metrics(objective, output)
    instruments = settings.instruments
    if optimizer is not None and settings.model is None:
        # The small network of the demo: its page says whether its rate was too high.
        instruments = tuple(tool.name for tool in chosen((*instruments, "stability")))
    announce(settings, instruments, objective, plane, metrics, output=output)
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
            instruments=instruments,
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


# Weights that were trained elsewhere come without an optimizer: `train.lr` is then their rate.
def _trained_rate(settings: "SurveySettings", optimizer: Optimizer | None) -> float | None:
    if optimizer is not None:
        return None
    names = {tool.name for tool in chosen(settings.instruments)}
    return settings.train.lr if "stability" in names else None


def _plane(
    settings: "SurveySettings", objective: Objective, checkpoints: tuple[Params, ...]
) -> Plane:
    common: Any = {"seed": settings.seed, "dimension": settings.map.dimension}
    usual = "checkpoints" if len(checkpoints) > settings.map.dimension else "random"
    kind = settings.plane or usual
    if kind == "eigen":
        return eigen_plane(objective, **common)
    if kind == "random":
        scaling = {name: getattr(settings.map, name) for name in ("normalization", "biases")}
        return random_plane(objective, **common, **scaling)
    if not checkpoints:
        raise ArgumentError(
            "`plane`: there are no checkpoints to span one; train first "
            "(--set train.steps=400) or use --plane random."
        )
    return plane_of(states_of(objective, checkpoints), settings.map.dimension)
