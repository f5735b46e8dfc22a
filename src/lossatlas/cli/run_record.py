"""What an earlier call left where results go: a finished run, an unfinished one, or nothing."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import lossatlas
from lossatlas.cli.destination import Destination
from lossatlas.cli.output import Printed
from lossatlas.errors import ArgumentError, FileError

# Settings that say where results go and what they are called on screen, not what they are.
_PLACE = ("out",)
_LEDGER = ".resume"


class RunRecord:
    """The record of a command beside its results.

    A finished run leaves a file, "survey.json" say, with its settings, what it printed and
    which files it read and wrote. The same command with the same settings is then done
    already; with others it is refused unless the user says `--fresh`.

    Args:
        place: where the results go.
        name: of the command.
        settings: of this call.
    """

    def __init__(self, place: Destination, name: str, settings: BaseModel) -> None:
        self.out, self._place, self._settings = place.out, place, settings
        self._is_file = place.is_file
        self.path = (
            place.out.with_suffix(".json") if self._is_file else place.out / f"{name}.json"
        )
        self._known = self._read()
        self._run = self._described()

    @property
    def unfinished(self) -> bool:
        """Whether a ledger of unfinished work is there."""
        if self._is_file:
            return self._place.ledger.is_file()
        return self.out.is_dir() and any(self.out.glob(f"*{_LEDGER}*"))

    def finished(self) -> Printed | None:
        """What this very run printed, where it was done before and its files are there."""
        if self._known.get("run") != self._run or self._missing():
            return None
        return Printed(**self._known["printed"])

    def check(self, *, resume: bool, fresh: bool, resumes: bool) -> str:
        """Refuse to overwrite what an earlier call left; otherwise a note, or nothing."""
        if fresh:
            return ""
        if self.unfinished and resumes:
            return "" if resume else self._refuse_unfinished()
        if self._known.get("run"):
            return self._refuse_finished()
        self._refuse_foreign()
        return f"nothing to resume at {self.out}; starting anew" if resume and resumes else ""

    def write(self, printed: Printed) -> None:
        """Keep what was printed, where files were written."""
        if not printed.files:
            return
        from lossatlas.io import writing

        held = {"run": self._run, "printed": vars(printed)}
        with writing(self.path) as temporary:
            temporary.write_text(json.dumps(held), encoding="utf-8")

    def _refuse_unfinished(self) -> str:
        from lossatlas.io import occupied

        place = self.out.parent if self._is_file else self.out
        # Another process that is at work there is named by the lock.
        with occupied(place):
            raise FileError(
                f"'{self.out}' holds an unfinished run: --resume continues it, --fresh "
                "discards it; or give another --out."
            )

    def _refuse_finished(self) -> str:
        settings, contents = _differing(self._known["run"], self._run)
        if not settings and not contents:
            missing = ", ".join(self._missing())
            return f"{missing} of the finished run at {self.out} is missing; computing it anew"
        # A file that is new to this run is no news beside the setting that names it.
        what = f"other settings ({', '.join(settings[:5])})"
        if not settings:
            what = f"other contents of {', '.join(contents)}"
        raise FileError(
            f"'{self.out}' holds a finished run with {what}: --fresh replaces it; or give "
            "another --out."
        )

    # What stands there was not written by a finished run of this command: it may be the user's.
    def _refuse_foreign(self) -> None:
        film = getattr(self._settings, "film", None)
        written = [*map(self._place.file, self._place.names), *([film] if film else [])]
        there = [str(path) for path in written if path.is_file()]
        if there:
            raise FileError(
                f"{' and '.join(map(repr, there))} would be overwritten, and this command did "
                "not write it: --fresh replaces it; or give another --out."
            )

    def _missing(self) -> list[str]:
        written = self._known["printed"]["files"].values()
        return [path for path in written if not Path(path).exists()]

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        # A file of that name that is not ours is nothing that was finished here.
        ours = isinstance(found, dict) and {"run", "printed"} <= found.keys()
        return found if ours else {}

    def _described(self) -> dict[str, Any]:
        used = self._settings.model_dump(mode="json")
        settings = {name: value for name, value in used.items() if name not in _PLACE}
        own = {Path(path).resolve() for path in self._written()} | {self.path.resolve()}
        # Through JSON and back, as it is read again.
        described = {
            "version": lossatlas.__version__,
            **settings,
            "contents": {text: _stamp(path, own) for text, path in _inputs(settings)},
        }
        plain: dict[str, Any] = json.loads(json.dumps(described))
        return plain

    def _written(self) -> list[str]:
        return list(self._known["printed"]["files"].values()) if self._known else []


def check_choice(*, resume: bool, fresh: bool) -> None:
    """Refuse both at once."""
    if resume and fresh:
        raise ArgumentError(
            "`resume` continues an earlier run and `fresh` discards it; give one of them."
        )


# Texts of settings that name a file or a folder: PATH, kind:PATH, FILE.py:name.
def _inputs(value: Any) -> Iterator[tuple[str, Path]]:
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _inputs(part)
    elif isinstance(value, list):
        for part in value:
            yield from _inputs(part)
    elif isinstance(value, str):
        places = (value, value.rpartition(":")[0], value.partition(":")[2])
        found = next((Path(place) for place in places if place and _exists(place)), None)
        if found is not None:
            yield value, found


def _exists(place: str) -> bool:
    try:
        return Path(place).exists()
    except (OSError, ValueError):
        return False


# Size and time of the last change, as `make` judges; of a folder, of all that it holds.
def _stamp(path: Path, own: set[Path]) -> list[int]:
    if path.is_file():
        held = path.stat()
        return [1, held.st_size, held.st_mtime_ns]
    stats = [
        file.stat()
        for folder, _, names in os.walk(path)
        for file in (Path(folder, name) for name in names if not name.startswith("."))
        if file.is_file() and file.resolve() not in own
    ]
    newest = max((held.st_mtime_ns for held in stats), default=0)
    return [len(stats), sum(held.st_size for held in stats), newest]


# The settings that two runs do not share, and the files that changed between them.
def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    (before, was), (now, is_now) = (_parted(run) for run in (old, new))
    settings = sorted(name for name in before | now if before.get(name) != now.get(name))
    return settings, sorted(name for name in was | is_now if was.get(name) != is_now.get(name))


def _parted(run: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    contents = run.get("contents", {})
    return _flat({k: v for k, v in run.items() if k != "contents"}), dict(contents)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, part in value.items():
        nested = isinstance(part, Mapping)
        found |= _flat(part, f"{prefix}{name}.") if nested else {f"{prefix}{name}": part}
    return found
