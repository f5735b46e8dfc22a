"""The `lossatlas` command: what there is, and what happens when it fails."""

import importlib
import os
import signal
import sys
from collections.abc import Callable
from functools import partial

import click
from click.shell_completion import get_completion_class

import lossatlas
from lossatlas.cli.layout import Group
from lossatlas.errors import AtlasError

_NAME = "lossatlas"
# Command -> what it does. Each is a file of this room, imported when the command is called.
_COMMANDS = {
    "survey": "Survey the loss landscape around a network, or compare two checkpoints.",
    "atlas": "Put many results on one page: every checkpoint of a training, linked views.",
    "train": "Train a network with a recipe, or find out which recipe is worth it.",
    "lr": "Suggest a learning rate with a band and its reasons.",
    "forecast": "Predict the loss under a learning rate schedule, and find a better one.",
    "connect": "Measure the loss along a path between two checkpoints.",
    "merge": "Merge fine-tuned networks and measure whether it helped.",
    "soup": "Average checkpoints and measure the average.",
    "choose": "Compare the checkpoints of a training and say which may be the best.",
    "edit": "Take directions of low curvature out of weights.",
    "inits": "Rank initializations before training, and report how far to trust the ranking.",
    "weights": "Look at the weight matrices of a checkpoint, without data.",
}


def _load(name: str) -> click.Command:
    command: click.Command = importlib.import_module(f"lossatlas.cli.{name}").command
    return command


def _entry(name: str, text: str) -> tuple[str, Callable[[], click.Command]]:
    return text, partial(_load, name)


cli = Group(
    "Map, measure and steer the loss landscape of any PyTorch model.",
    {name: _entry(name, text) for name, text in _COMMANDS.items()},
)


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"{_NAME} {lossatlas.__version__}")
        context.exit()


def _print_completion(context: click.Context, _: click.Parameter, shell: str | None) -> None:
    made = get_completion_class(shell) if shell else None
    if made is not None:
        click.echo(made(cli, {}, _NAME, "_LOSSATLAS_COMPLETE").source())
        context.exit()


cli.params = [
    click.Option(
        ["--version"], is_flag=True, is_eager=True, expose_value=False,
        callback=_print_version, help="Print the version.",
    ),
    click.Option(
        ["--completion"], type=click.Choice(["bash", "zsh", "fish"]), is_eager=True,
        expose_value=False, callback=_print_completion,
        help="Print a script that completes commands and options, to be sourced by the shell.",
    ),
]  # fmt: skip


# Signals that stop a command, with the exit codes that shells give them.
_INTERRUPTED, _TERMINATED = 130, 143


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which stops a command like Ctrl-C: what is finished is kept."""


def _terminate(*_: object) -> None:
    raise _Terminated


def main() -> None:
    """Run the command line; exit with 0, 2 after a named error, 130 or 143 when stopped."""
    signal.signal(signal.SIGTERM, _terminate)
    # OpenMP reads this when torch is imported. Threads that spin while they wait made the demo
    # six times slower on a machine that other processes shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = cli.main(prog_name=_NAME, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else _NAME
        _fail(f"{_explained(error)}; see {where} --help.")
    except AtlasError as error:
        _fail(str(error))
    except click.Abort as stop:
        sys.stderr.write(f"{_NAME}: {stop or 'stopped'}.\n")
        sys.exit(_TERMINATED if isinstance(stop.__cause__, _Terminated) else _INTERRUPTED)
    sys.exit(code or 0)


# What was mistyped, with the one name that is nearest to it.
def _explained(error: click.UsageError) -> str:
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        from lossatlas.checks import nearest

        params = error.ctx.command.get_params(error.ctx)
        known = [name for param in params for name in (*param.opts, *param.secondary_opts)]
        return f"No such option '{error.option_name}'{nearest(error.option_name, known)}"
    return error.format_message().rstrip(".")


def _fail(message: str) -> None:
    sys.stderr.write(f"{_NAME}: {message}\n")
    sys.exit(2)
