"""`lossatlas survey`: train or load a network, survey its loss landscape, write a report."""

import click

from lossatlas.cli.command import Command
from lossatlas.cli.declaration import Declaration
from lossatlas.cli.destination import Destination
from lossatlas.cli.output import Output
from lossatlas.cli.pictures import picture_names
from lossatlas.cli.processes import check_alone
from lossatlas.cli.survey_settings import SurveySettings, check_unused

# Settings without effect on a comparison of two checkpoints.
_NOT_COMPARED = (
    "plane", "map.dimension", "map.normalization", "map.biases", "train.steps", "curvature",
    "instruments", "lr", "momentum", "film",
)  # fmt: skip
# Settings without effect along a training, whose files give plane and weights.
_NOT_ALONG = (
    "plane", "map.dimension", "map.normalization", "map.biases", "train.steps", "weights",
    "against", "checkpoints",
)  # fmt: skip
_ONE_AT_A_TIME = "survey one file at a time"
_RESUME = "Continue the unfinished survey in --out."


def run(settings: SurveySettings, output: Output, *, resume: bool, fresh: bool) -> None:
    """Survey a network, or compare two checkpoints."""
    if _wants_list(settings):
        _list_instruments(output)
    elif settings.along:
        from lossatlas.cli.along import survey_training

        check_alone("survey along a training")
        check_unused(settings, _NOT_ALONG, "along a training", _ONE_AT_A_TIME)
        survey_training(settings, output, resume=resume, fresh=fresh)
    elif len(settings.states) == 2:
        _compare(settings, output)
    else:
        from lossatlas.cli.survey_network import survey_network

        survey_network(settings, output)


def _files(settings: SurveySettings) -> Declaration | None:
    if _wants_list(settings):
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


def _wants_list(settings: SurveySettings) -> bool:
    return settings.instruments == ("list",)


def _list_instruments(output: Output) -> None:
    from lossatlas.curvature import instruments

    registered = instruments()
    listed = {tool.name: tool.question for tool in registered}
    rows = [(tool.name, tool.question, tool.cost) for tool in registered]
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
        settings,
        _NOT_COMPARED,
        "where two checkpoints are compared",
        "survey one file at a time",
    )
    from lossatlas.cli.comparison import report_comparison

    report_comparison(
        settings, settings.states, output, folder=settings.folder, title=settings.title,
        span=settings.span, points=settings.points, seed=settings.seed,
        figures=settings.figures,
        connectivity=settings.map.connectivity, min_share=settings.map.min_share,
        **settings.map.options,
    )  # fmt: skip
