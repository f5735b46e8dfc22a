"""`lossatlas survey --along`: every checkpoint of a training, and the atlas of them."""

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from lossatlas.cli.output import Output
from lossatlas.cli.pictures import write_pictures
from lossatlas.cli.shared_options import IN_ORDER, in_order
from lossatlas.cli.subject import Subject, load_subject
from lossatlas.errors import ArgumentError
from lossatlas.io import make_folder
from lossatlas.linalg.params import snapshot
from lossatlas.report import write_atlas, write_film
from lossatlas.surveys import Survey, survey_along

if TYPE_CHECKING:
    from lossatlas.cli.survey import SurveySettings


def survey_training(
    settings: "SurveySettings", output: Output, *, resume: bool, fresh: bool
) -> None:
    """Survey the checkpoints, write `surveys/STEP.nc` and `atlas.html`, print the course."""
    folder, page = make_folder(settings.folder) / "surveys", settings.folder / "atlas.html"
    _check_earlier(folder, page, resume=resume, fresh=fresh)
    subject = load_subject(settings)
    files, steps = in_order(settings.files)
    if files != settings.files:
        output.note(IN_ORDER)
    states = [_state(subject, file, output) for file in files]
    objective = subject.objective(settings.mode)
    title = settings.title or subject.title
    found: list[Survey] = []
    with output.progress("surveys") as progress:
        surveys = survey_along(
            objective, states, steps=steps, folder=folder, title=title,
            metrics=subject.metrics(objective, output), span=settings.span,
            points=settings.points, connectivity=settings.map.connectivity,
            min_share=settings.map.min_share, curvature=settings.curvature,
            instruments=settings.instruments, lr=settings.lr, seed=settings.seed,
            **settings.map.options,
        )  # fmt: skip
        for survey in surveys:
            found.append(survey)
            progress(len(found), len(states), f"step {steps[len(found) - 1]}")
    written = {"surveys": folder}
    written["atlas"] = write_atlas({title: found}, page, title=title)
    written |= write_pictures(found[-1], settings.figures, settings.folder)
    if settings.film is not None:
        written["film"] = write_film(found, settings.film)
    rows = [(f"step {step}", str(s.loss), s.headline() or s.tree.headline())
            for step, s in zip(steps, found, strict=True)]  # fmt: skip
    losses = [{"step": step, "loss": survey.loss.value, "stderr": survey.loss.stderr}
              for step, survey in zip(steps, found, strict=True)]  # fmt: skip
    output.result({"title": title, "surveys": losses}, title, rows, files=written)


# Surveys of an earlier run are kept or replaced as asked; a foreign page is left alone.
def _check_earlier(folder: Path, page: Path, *, resume: bool, fresh: bool) -> None:
    made = sorted(folder.glob("*.nc")) + sorted(folder.glob("*.resume*"))
    if made and not (resume or fresh):
        raise ArgumentError(
            f"'{folder}' holds surveys of an earlier run: --resume keeps those that fit and "
            "makes the others, --fresh replaces all; or give another --out."
        )
    if page.exists() and not (made or fresh):
        raise ArgumentError(
            f"'{page}' would be overwritten: --fresh replaces it; or give another --out."
        )
    for path in made if fresh else ():
        path.unlink()


def _state(subject: Subject, file: Path, output: Output) -> dict[str, Tensor]:
    subject.load(file, output.note)
    return snapshot(subject.model.state_dict())
