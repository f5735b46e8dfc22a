"""`lossatlas survey --along`: every checkpoint of a training, and the atlas of them."""

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from lossatlas.cli.declaration import Declaration
from lossatlas.cli.destination import Destination
from lossatlas.cli.output import Output
from lossatlas.cli.pictures import picture_names, write_pictures
from lossatlas.cli.shared_options import IN_ORDER, in_order
from lossatlas.cli.subject import Subject, load_subject
from lossatlas.errors import ArgumentError
from lossatlas.io.results import kind_of
from lossatlas.linalg.params import snapshot
from lossatlas.report import write_atlas, write_film
from lossatlas.surveys import Survey, survey_along

if TYPE_CHECKING:
    from lossatlas.cli.survey_settings import SurveySettings


def files_along(settings: "SurveySettings") -> Declaration:
    """What a survey along a training writes; a survey that is there is read and judged."""
    _, steps = in_order(settings.files)
    surveys = [f"surveys/{step:08d}" for step in steps]
    return Declaration(
        Destination(settings.folder, is_folder=True), "along",
        ("atlas.html", *(f"{name}.nc" for name in surveys), *picture_names(settings.figures)),
        ledgers=tuple(
            f"{name}.resume{part}" for name in surveys for part in ("", ".instruments")
        ),
        elsewhere=(settings.film,) if settings.film else (),
        pieces=("surveys/*.nc", "surveys/*.resume*"), recognizers={"surveys/*.nc": _is_along},
        decides_reruns=True,
    )  # fmt: skip


# Surveys that were made one by one in Python are of the same kind.
def _is_along(path: Path) -> bool:
    return kind_of(path) == "survey"


def survey_training(
    settings: "SurveySettings", output: Output, *, resume: bool, fresh: bool
) -> None:
    """Survey the checkpoints, write `surveys/STEP.nc` and `atlas.html`, print the course."""
    folder, page = settings.folder / "surveys", settings.folder / "atlas.html"
    _check_earlier(folder, resume=resume or fresh)
    subject = load_subject(settings)
    files, steps = in_order(settings.files)
    if files != settings.files:
        output.note(IN_ORDER)
    states = [_state(subject, file, output) for file in files]
    objective = subject.objective(settings.mode)
    title = settings.title or subject.title
    surveys: list[Survey] = []
    with output.progress("surveys") as progress:
        measured = survey_along(
            objective, states, steps=steps, folder=folder, title=title,
            metrics=subject.metrics(objective, output), span=settings.span,
            points=settings.points, connectivity=settings.map.connectivity,
            min_share=settings.map.min_share, curvature=settings.curvature,
            instruments=settings.instruments, lr=settings.lr, momentum=settings.momentum,
            seed=settings.seed,
            **settings.map.options,
        )  # fmt: skip
        for survey in measured:
            surveys.append(survey)
            progress(len(surveys), len(states), f"step {steps[len(surveys) - 1]}")
    written = {"surveys": folder}
    written["atlas"] = write_atlas({title: surveys}, page, title=title)
    written |= write_pictures(surveys[-1], settings.figures, settings.folder)
    if settings.film is not None:
        written["film"] = write_film(surveys, settings.film)
    rows = [(f"step {step}", str(s.loss), s.headline())
            for step, s in zip(steps, surveys, strict=True)]  # fmt: skip
    losses = [{"step": step, "loss": survey.loss.value, "stderr": survey.loss.stderr}
              for step, survey in zip(steps, surveys, strict=True)]  # fmt: skip
    output.result({"title": title, "surveys": losses}, title, rows, files=written)


# Surveys of an earlier run are kept or replaced as asked.
def _check_earlier(folder: Path, *, resume: bool) -> None:
    made = [path for kind in ("*.nc", "*.resume*") for path in folder.glob(kind)]
    if made and not resume:
        raise ArgumentError(
            f"'{folder}' holds surveys of an earlier run: --resume keeps those that fit and "
            "makes the others, --fresh replaces all; or give another --out."
        )


def _state(subject: Subject, file: Path, output: Output) -> dict[str, Tensor]:
    subject.load(file, output.note)
    return snapshot(subject.model.state_dict())
