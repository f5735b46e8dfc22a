"""`lossatlas atlas`: many results on one page, with a film of them where one is wanted."""

from pathlib import Path

from pydantic import model_validator

from lossatlas.cli.command import Command
from lossatlas.cli.declaration import declared
from lossatlas.cli.destination import Destination, out_help
from lossatlas.cli.output import Output
from lossatlas.cli.shared_options import check_files
from lossatlas.settings import TITLE, Strict, common, option
from lossatlas.text import count

FILM = (
    "Write a film too: .gif, or .mp4 where ffmpeg is installed. Several surveys are shown one "
    "after another, a single one is turned around."
)
WRITES = ("atlas.html",)


class AtlasSettings(Strict):
    """Settings of `lossatlas atlas`."""

    files: tuple[Path, ...] = option(
        (),
        "Folders of results, a training each, or single files such as survey.nc.",
        positional=True,
    )
    title: str | None = option(None, TITLE)
    film: Path | None = option(None, FILM)
    out: Path = common(Path("atlas.html"), out_help("the page", WRITES), short="o")
    seed: int = common(0, "Random seed; an atlas draws no random numbers.", ge=0)

    @model_validator(mode="after")
    def _agree(self) -> "AtlasSettings":
        check_files(self.files, 1, "a folder of results or more")
        return self


def run(settings: AtlasSettings, output: Output) -> None:
    """Read the results, write the page and the film."""
    from lossatlas.report.atlas import holds, read_runs, write_atlas
    from lossatlas.report.film import write_film

    runs, others = read_runs(settings.files)
    file = Destination(settings.out, WRITES).file("atlas.html")
    page = write_atlas(settings.files, file, title=settings.title)
    files = {"atlas": page}
    if settings.film is not None:
        surveys = [survey for run in runs for survey in run.surveys]
        files["film"] = write_film(surveys, settings.film)
    rows = [(run.name, count(len(run.surveys), "survey"), "") for run in runs]
    sources = {
        "runs": {run.name: list(run.steps) for run in runs},
        "other_results": len(others),
    }
    output.result(sources, f"atlas: {holds(runs, others)}", rows, files=files)


command = Command(
    AtlasSettings, run,
    "Put surveys, comparisons, trainings and other results on one page: a slider through the "
    "checkpoints of each training, bars linked to basins, two runs side by side.",
    resume="Has no effect here: a page is always written anew.",
    files=declared("atlas", WRITES, elsewhere=lambda settings: settings.film),
)  # fmt: skip
