"""How help looks: as wide as the terminal, whole sentences, commands imported when called."""

import os
import shutil
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

_MAX_WIDTH = 100
# Stands for a hyphen while lines are broken: half of `--no-prior` is no option.
_HYPHEN = "\N{NON-BREAKING HYPHEN}"
# Words that people try, and the command that does it.
_OTHER_WORDS = {"compare": "lossatlas survey A B", "map": "lossatlas survey"}


class Formatter(click.HelpFormatter):
    """Help as wide as the terminal, with bold headings."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__(width=min(shutil.get_terminal_size().columns, _MAX_WIDTH) - 2)

    def write_heading(self, heading: str) -> None:
        """One heading; the color goes where no terminal is there, or NO_COLOR is set."""
        lines = textwrap.wrap(f"{heading}:", self.width)
        self.write("".join(f"{click.style(line, bold=True)}\n" for line in lines))

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        """Names and sentences; names take a third of a narrow terminal at most."""
        whole = [(name, text.replace("-", _HYPHEN)) for name, text in rows]
        super().write_dl(whole, min(col_max, self.width // 3), col_spacing)

    def write(self, string: str) -> None:
        """Text whose names were kept in one piece while lines were broken."""
        super().write(string.replace(_HYPHEN, "-"))


class Context(click.Context):
    """A call whose help fits the terminal; NO_COLOR is respected."""

    formatter_class = Formatter

    def __init__(self, *given: Any, **named: Any) -> None:
        # None: colors where a terminal is there.
        named.setdefault("color", False if os.environ.get("NO_COLOR") else None)
        super().__init__(*given, **named)


class Group(click.Group):
    """Commands by name; each is made when it is called."""

    context_class = Context

    def __init__(
        self, help: str, commands: Mapping[str, tuple[str, Callable[[], click.Command]]]
    ) -> None:
        super().__init__(help=help, no_args_is_help=True)
        self.known = commands

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(self.known)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name."""
        return self.known[cmd_name][1]() if cmd_name in self.known else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of the first word; for a word that is none the nearest one is named."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from lossatlas.checks import nearest

            other = _OTHER_WORDS.get(args[0])
            hint = f"; use {other}" if other else nearest(args[0], self.known)
            raise click.UsageError(f"{error.message.rstrip('.')}{hint}", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands with whole sentences."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (text, _) in self.known.items()])
