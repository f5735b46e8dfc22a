"""What a command writes: every file that it may make, so that no other is ever replaced."""

import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lossatlas.cli.destination import Destination


@dataclass(frozen=True)
class Declaration:
    """All that a command writes. Names may be patterns, as in "figures/*.pdf".

    Attributes:
        destination: the folder, or the name that its files share.
        command: what its record is called after.
        results: names of the files that it leaves there.
        ledgers: names of its resume files there.
        elsewhere: files that the user named, a film say.
        pieces: names of finished parts that a later run reads; `--fresh` removes them first.
        recognizers: name -> whether such a file is of this command, by its content. For files
            that the command reads and judges; of all others the record says so.
        decides_reruns: whether the command itself decides what is done again.
    """

    destination: Destination
    command: str
    results: tuple[str, ...]
    ledgers: tuple[str, ...] = ()
    elsewhere: tuple[Path, ...] = ()
    pieces: tuple[str, ...] = ()
    recognizers: Mapping[str, Callable[[Path], bool]] = field(default_factory=dict)
    decides_reruns: bool = False

    @property
    def record(self) -> Path:
        """Where the record of a run lies."""
        if self.destination.is_file:
            return self.destination.out.with_suffix(".json")
        return self.destination.out / f"{self.command}.json"

    @property
    def patterns(self) -> list[str]:
        """The results, seen from the folder."""
        named = [self._pattern(name) for name in self.results]
        return [*named, *(glob.escape(self.name_of(path)) for path in self.elsewhere)]

    def name_of(self, path: Path) -> str:
        """A file seen from the folder: the same after the folder is moved."""
        try:
            return Path(os.path.relpath(path, self.destination.folder)).as_posix()
        except ValueError:
            # Another drive of Windows.
            return path.absolute().as_posix()

    def path_of(self, name: str) -> Path:
        """The inverse of `name_of`."""
        return Path(os.path.normpath(self.destination.folder / name))

    def named(self) -> list[str]:
        """The names of its results whose suffixes may be given to `--out`."""
        return [self.name_of(self.destination.file(name)) for name in self.destination.names]

    def existing(self, patterns: Sequence[str]) -> list[str]:
        """The names of what is there, links included that lead nowhere."""
        paths = (path for pattern in patterns for path in self._glob(pattern))
        return list(dict.fromkeys(map(self.name_of, paths)))

    def ledgers_there(self) -> list[Path]:
        """Resume files of this command that are there."""
        names = self.existing(self._ledger_patterns)
        if not names:
            # What is done already is printed without loading what reads files.
            return []
        from lossatlas.io.ledger import BESIDE, is_ledger

        paths = [self.path_of(name) for name in names if not name.endswith(BESIDE)]
        return [path for path in paths if is_ledger(path)]

    def foreign(self, is_recorded: Callable[[str], bool]) -> list[Path]:
        """Files where this command writes that no run of it wrote."""
        results = [
            name
            for name in self.existing(self.patterns)
            if self.path_of(name).is_dir()
            or not (is_recorded(name) or self.is_recognized(name))
        ]
        names = [*results, *self._foreign_ledgers(), *self._in_the_way()]
        return [self.path_of(name) for name in dict.fromkeys(names)]

    def is_recognized(self, name: str) -> bool:
        """Whether a file is of this command by its content."""
        path = self.path_of(name)
        return any(
            fnmatchcase(name, pattern) and is_ours(path)
            for pattern, is_ours in self.recognizers.items()
        )

    def discard(self, is_recorded: Callable[[str], bool] | None) -> None:
        """Remove resume files and pieces of earlier runs, and nothing else.

        Without a record, as earlier versions left none, pieces are known by their content.
        """
        is_ours = self.is_recognized if is_recorded is None else is_recorded
        from lossatlas.io import remove_ledger
        from lossatlas.io.ledger import is_ledger

        for path in self.ledgers_there():
            remove_ledger(path)
        for name in self.existing(self.pieces):
            path = self.path_of(name)
            if is_ledger(path):
                remove_ledger(path)
            elif is_ours(name):
                path.unlink()

    @property
    def _ledger_patterns(self) -> list[str]:
        return [self._pattern(name) for name in self.ledgers]

    # Where files share a name there are no patterns, and the name may hold any character.
    def _pattern(self, name: str) -> str:
        if not self.destination.is_file:
            return name
        return glob.escape(self.name_of(self.destination.file(name)))

    def _glob(self, pattern: str) -> Iterator[Path]:
        if glob.has_magic(pattern):
            yield from sorted(self.destination.folder.glob(pattern))
        elif os.path.lexists(self.path_of(pattern)):
            yield self.path_of(pattern)

    # What SQLite keeps beside a base is of the base; without one nobody knows.
    def _foreign_ledgers(self) -> Iterator[str]:
        from lossatlas.io.ledger import BESIDE

        ours = {self.name_of(path) for path in self.ledgers_there()}
        for pattern in self._ledger_patterns:
            names = self.existing([pattern, *(f"{pattern}{suffix}" for suffix in BESIDE)])
            for name in names:
                base = next((name.removesuffix(s) for s in BESIDE if name.endswith(s)), name)
                if base not in ours:
                    yield name

    # A file where a folder is to be made.
    def _in_the_way(self) -> Iterator[str]:
        for name in (*self.results, *self.ledgers, *self.pieces):
            first, *others = name.split("/")
            if others and not self.destination.is_file and self.path_of(first).is_file():
                yield first


def declared(
    command: str,
    names: Sequence[str],
    *,
    ledgers: Sequence[str] = (),
    more: Callable[[Any], Sequence[str]] = lambda _: (),
    elsewhere: Callable[[Any], Path | None] = lambda _: None,
    is_folder: bool = False,
) -> Callable[[Any], Declaration | None]:
    """The declaration of a command by its settings; None where it writes nothing.

    Args:
        command: what its record is called after.
        names: of its files; their suffixes may be given to `--out`.
        ledgers: names of its resume files.
        more: settings -> names of further files, whose suffixes may not.
        elsewhere: settings -> a file that the user named.
        is_folder: whether `--out` is a folder in every case.

    Returns:
        settings -> the declaration.
    """

    def declare(settings: Any) -> Declaration | None:
        if settings.out is None:
            return None
        destination = Destination(settings.out, tuple(names), is_folder)
        film = elsewhere(settings)
        return Declaration(
            destination, command, (*names, *more(settings)), tuple(ledgers),
            elsewhere=(film,) if film else (),
        )  # fmt: skip

    return declare
