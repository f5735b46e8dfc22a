"""Errors of `lossatlas forecast` name options of the command, not arguments of Python."""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import ParamSpec, TypeVar

from typer.models import OptionInfo

from lossatlas.errors import AtlasError

P = ParamSpec("P")
R = TypeVar("R")

# Argument -> option of the running command.
_RUNNING: ContextVar[Mapping[str, str]] = ContextVar("running", default=MappingProxyType({}))
_ROLES = ("step", "loss", "lr", "size", "tokens", "source")
_ELSEWHERE = {
    "schedule": "--rates, --run or --shape",
    "curves": "FILES",
    "curve": "the run",
    "fit_best": "lossatlas forecast compare",
    "fit": "lossatlas forecast fit",
    "laws": "--law",
    "level": "--interval",
}


def in_options(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose named errors speak of options."""
    options = {
        name: next((d for d in parameter.default.param_decls or () if d.startswith("--")),
                   "--" + name.replace("_", "-"))
        for name, parameter in inspect.signature(command).parameters.items()
        if isinstance(parameter.default, OptionInfo)
    }  # fmt: skip

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        running = _RUNNING.set(options)
        try:
            return command(*args, **kwargs)
        except AtlasError as error:
            raise type(error)(told(str(error))) from error
        finally:
            _RUNNING.reset(running)

    return wrapped


def told(message: str) -> str:
    """A message with options for arguments, where the running command has such options."""
    message = re.sub(
        r"give it to `Curve\((\w+)=\.\.\.\)`", r"name its column with --column \1=NAME", message
    )
    message = re.sub(r"give Curve\(step, loss, lr\)", "give a file of losses", message)
    return re.sub(r"`(\w+)`", lambda found: _option(found.group(1)), message)


def _option(name: str) -> str:
    options = _RUNNING.get()
    if name in options:
        return options[name]
    if name in _ROLES and "column" in options:
        return f"--column {name}=NAME"
    return _ELSEWHERE.get(name, f"`{name}`")
