"""The `lossatlas` command: what there is, and what happens when it fails."""

import sys

import typer

from lossatlas.cli import forecast, inits, survey, train
from lossatlas.errors import AtlasError

app = typer.Typer(
    name="lossatlas",
    help="Map, measure and steer the loss landscape of any PyTorch model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help: rich would double the time that --help takes.
    rich_markup_mode=None,
)
app.command(name="survey")(survey.command)
app.command(name="train")(train.command)
app.add_typer(forecast.app, name="forecast")
app.add_typer(inits.app, name="inits")


def main() -> None:
    """Run the command line."""
    try:
        app()
    except AtlasError as error:
        sys.stderr.write(f"lossatlas: {error}\n")
        sys.exit(2)
    except SystemExit as stop:
        # What typer makes of an interrupt.
        if stop.code == 130:
            sys.stderr.write("lossatlas: stopped; the same command with --resume goes on.\n")
        raise
