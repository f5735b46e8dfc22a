"""A command is a settings model and a function; options and help come from the model."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from lossatlas.cli.declaration import Declaration
from lossatlas.cli.layout import Context
from lossatlas.cli.output import Output
from lossatlas.cli.processes import check_alone, is_first, joined
from lossatlas.cli.run_record import RunRecord, check_choice
from lossatlas.errors import ArgumentError, LossError
from lossatlas.settings import COMMON, LISTED, about, read_settings

_RESUME = "Continue the unfinished run in --out. Without it an unfinished run is left alone."
_FRESH = "Replace what an earlier run left in --out, finished or not."
# What belongs to a call and not to the settings: parameter -> option.
_CALL = {
    "config": (["--config"], click.Path(), "Settings in a YAML file."),
    "set": (["--set"], str, "One setting, also of a group: --set NAME=VALUE. Repeatable."),
    "json": (["--json"], bool, "Print one JSON object on stdout and nothing else there."),
    "resume": (["--resume"], bool, _RESUME),
    "fresh": (["--fresh"], bool, _FRESH),
    "quiet": (["-q", "--quiet"], bool, "Print no progress and no notes."),
}


class Command(click.Command):
    """One command.

    Args:
        settings: the model that options, help, defaults and `--config` come from.
        run: called with the settings, an `Output` and, where it takes them, `resume` and
            `fresh`.
        help: whole sentences.
        shortcuts: further options that set a value inside a group, as in
            {"epochs": "surrogate.epochs"}.
        resume: the help of `--resume`.
        config: settings -> the file that is read where `--config` is not given.
        files: settings -> what the command writes; None where that is nothing.
        extra: further options that are no settings.
        processes: whether several processes (torchrun) share the work.
        groups: names of the groups of settings that have an effect; None for all.
    """

    context_class = Context

    def __init__(
        self,
        settings: type[BaseModel],
        run: Callable[..., None],
        help: str,
        *,
        files: Callable[[Any], Declaration | None],
        shortcuts: Mapping[str, str] | None = None,
        resume: str = _RESUME,
        config: Callable[[Mapping[str, Any]], Path | None] = lambda _: None,
        extra: Sequence[click.Parameter] = (),
        processes: bool = False,
        groups: Sequence[str] | None = None,
    ) -> None:
        self.groups = groups
        self.extra = tuple(extra)
        self.processes, self.files = processes, files
        self.settings, self.run, self.config = settings, run, config
        fields = {name: name for name in settings.model_fields} | dict(shortcuts or {})
        self.paths = {name: path for name, path in fields.items() if not _group(self, path)}
        params = [_parameter(name, _field(self, path)) for name, path in self.paths.items()]
        super().__init__("", help=help, params=[*params, *extra, *_call_options(resume)],
                         callback=functools.partial(_called, self))  # fmt: skip

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A panel a group of options, then one a group of settings."""
        for title, rows in _panels(self, ctx).items():
            with formatter.section(title):
                formatter.write_dl(rows)


def _called(command: Command, **given: Any) -> None:
    context = click.get_current_context()
    if not command.processes:
        check_alone(context.info_name or "this command")
    chosen = {
        name: value
        for name, value in given.items()
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    options = {
        path: ",".join(chosen[name]) if _listed(_field(command, path)) else chosen[name]
        for name, path in command.paths.items()
        if name in chosen
    }
    config = Path(given["config"]) if given["config"] else command.config(options)
    _check_groups(command, given["set"])
    settings = read_settings(
        command.settings, config=config, assignments=given["set"], options=options
    )
    check_choice(resume=given["resume"], fresh=given["fresh"])
    record = _record(command, settings)
    output = Output(
        as_json=given["json"], quiet=given["quiet"], settings=settings, silent=not is_first(),
        keep=None if record is None else record.write,
    )  # fmt: skip
    try:
        _guarded(command, settings, output, record, given)
    except LossError as error:
        raise LossError(f"{error}{_default_data(settings)}") from error.__cause__
    except KeyboardInterrupt as stop:
        raise click.Abort(_stopped(record)) from stop


def _check_groups(command: Command, assignments: Sequence[str]) -> None:
    for assignment in assignments:
        group, dot, _ = assignment.partition("=")[0].partition(".")
        is_known = group in command.settings.model_fields
        if command.groups is not None and dot and is_known and group not in command.groups:
            raise ArgumentError(
                f"`--set {assignment}` has no effect on this command; of its groups of "
                f"settings it takes {', '.join(command.groups)}."
            )


def _record(command: Command, settings: BaseModel) -> RunRecord | None:
    files = command.files(settings)
    if files is None:
        return None
    files.destination.check()
    return RunRecord(files, settings)


# Nothing is computed before it is certain that what it makes may be written.
def _guarded(
    command: Command,
    settings: BaseModel,
    output: Output,
    record: RunRecord | None,
    given: Mapping[str, Any],
) -> None:
    takes = inspect.signature(command.run).parameters
    accepted = {name: given[name] for name in ("resume", "fresh") if name in takes}
    if record is None:
        with joined():
            command.run(settings, output, **accepted)
        return
    # A finished run is printed again where nothing can be written, too.
    if _is_done(record, output, fresh=given["fresh"]):
        return
    with record.files.destination.occupied() if is_first() else nullcontext():
        # Another run may have ended just now.
        record.look()
        if _is_done(record, output, fresh=given["fresh"]):
            return
        note = record.check(resume=given["resume"], fresh=given["fresh"])
        if note:
            output.note(note)
        # All processes have looked before the first of them changes anything.
        with joined(), record.begun(fresh=given["fresh"]) if is_first() else nullcontext():
            command.run(settings, output, **accepted)


# Whether there is nothing to do: the same run is finished, and its output is printed again.
def _is_done(record: RunRecord, output: Output, *, fresh: bool) -> bool:
    earlier = None if fresh or record.unfinished else record.finished()
    if earlier is not None:
        output.note(f"already done: results are at {record.out}; --fresh computes them anew")
        output.show(earlier)
    return earlier is not None


# A model of one's own seldom fits the default data.
def _default_data(settings: BaseModel) -> str:
    given = settings.model_fields_set
    if "model" not in given or "data" in given or "data" not in type(settings).model_fields:
        return ""
    return (
        f" No --data was given, so {getattr(settings, 'data', '')} were used; give the data of "
        "the model with --data."
    )


def _stopped(record: RunRecord | None) -> str:
    kept = record is not None and record.continues
    return "stopped; the same command with --resume continues" if kept else "stopped"


def _field(command: Command, path: str) -> FieldInfo:
    model: Any = command.settings
    *groups, last = path.split(".")
    for name in groups:
        model = model.model_fields[name].annotation
    field: FieldInfo = model.model_fields[last]
    return field


def _group(command: Command, path: str) -> type[BaseModel] | None:
    kind = _field(command, path).annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _parameter(name: str, field: FieldInfo) -> click.Parameter:
    extra, kind, many = about(field), *_kind(field.annotation)
    kind = str if _listed(field) else kind
    if extra.get("positional"):
        return click.Argument(
            [name], type=kind, nargs=-1 if many else 1, required=False,
            metavar=extra.get("metavar") or None,
        )  # fmt: skip
    flag = f"--{extra.get('name') or name.replace('_', '-')}"
    names = [name, flag, *([f"-{extra['short']}"] if extra.get("short") else [])]
    help_ = _sentences(field, kind)
    if kind is bool:
        names[1] = f"{flag}/--no-{flag[2:]}"
        return click.Option(names, default=None, help=help_)
    return click.Option(
        names, type=kind, multiple=many, help=help_, default=None,
        metavar=extra.get("metavar") or None,
    )  # fmt: skip


class _Words(click.Choice):  # type: ignore[type-arg]
    """Words that the shell completes; the settings judge what is given."""

    def get_metavar(self, *_: Any, **__: Any) -> str:
        return "NAME"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return value


def _kind(annotation: Any) -> tuple[Any, bool]:
    """The type of an option, and whether it holds several values."""
    parts = [part for part in _parts(annotation) if part is not type(None)]
    words = [str(w) for p in parts if get_origin(p) is Literal for w in get_args(p)]
    if words and len(parts) == 1:
        return _Words(words), False
    first = parts[0]
    if get_origin(first) in {tuple, list}:
        return _kind(get_args(first)[0])[0], True
    return (bool if first is bool else click.Path() if first is Path else _Named(first)), False


class _Named(click.ParamType):  # type: ignore[type-arg]
    """A number where one is given, otherwise a text that the settings judge."""

    def __init__(self, kind: Any) -> None:
        self.name, self._kind = {int: "integer", float: "number"}.get(kind, "text"), kind

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return self._kind(value) if self._kind in {int, float} else value
        except ValueError:
            return value


def _parts(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) in {Union, UnionType}:
        for part in get_args(annotation):
            yield from _parts(part)
    elif hasattr(annotation, "__metadata__"):
        yield from _parts(get_args(annotation)[0])
    else:
        yield annotation


def _listed(field: FieldInfo) -> bool:
    return any(entry is LISTED for entry in field.metadata)


def _sentences(field: FieldInfo, kind: Any) -> str:
    words = f"One of {', '.join(kind.choices)}." if isinstance(kind, click.Choice) else ""
    return " ".join(filter(None, (field.description, words, _default(field))))


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None or value is PydanticUndefined or value == ():
        return ""
    if isinstance(value, bool):
        value = "yes" if value else "no"
    if isinstance(value, dict):
        value = [f"{name}={part}" for name, part in value.items()]
    if isinstance(value, tuple | list):
        value = ", ".join(map(str, value))
    return f"[{value}]"


def _call_options(resume: str) -> list[click.Parameter]:
    made: list[click.Parameter] = []
    for name, (names, kind, text) in _CALL.items():
        help_ = resume if name == "resume" else text
        plain = {"is_flag": True, "default": False} if kind is bool else {"type": kind}
        made.append(click.Option([name, *names], help=help_, multiple=name == "set", **plain))
    return made


def _panels(command: Command, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
    panels: dict[str, list[tuple[str, str]]] = {"Arguments": []}
    common: list[tuple[str, str]] = []
    for param in command.get_params(ctx):
        if isinstance(param, click.Argument):
            text = _field(command, command.paths[str(param.name)]).description or ""
            panels["Arguments"].append((param.make_metavar(ctx), text))
            continue
        path = command.paths.get(str(param.name))
        if path is not None:
            title = about(_field(command, path)).get("group", "")
        else:
            title = "" if param in command.extra else COMMON
        record = param.get_help_record(ctx)
        panel = common if title == COMMON else panels.setdefault(title or "Options", [])
        panel += [record] if record else []
    for name in command.settings.model_fields:
        group = _group(command, name)
        if group is not None and (command.groups is None or name in command.groups):
            panels[_title(name, group)] = [*_rows(name, group)]
    panels[COMMON] = common
    return {title: rows for title, rows in panels.items() if rows}


def _title(name: str, group: type[BaseModel]) -> str:
    first = (group.__doc__ or name).partition("\n")[0].partition(" (")[0].rstrip(".")
    return f"{first} (--set {name}.NAME=VALUE)"


def _rows(name: str, group: type[BaseModel]) -> Iterator[tuple[str, str]]:
    for key, field in group.model_fields.items():
        kind, _ = _kind(field.annotation)
        yield f"{name}.{key}", _sentences(field, kind)
