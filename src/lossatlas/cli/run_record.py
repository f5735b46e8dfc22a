"""What an earlier call left where results go: a finished run, an unfinished one, or nothing."""

import glob
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import lossatlas
from lossatlas.cli.declaration import Declaration
from lossatlas.cli.output import Printed
from lossatlas.errors import ArgumentError, FileError

# Settings that say where results go and what they are called on screen, not what they are.
_PLACE = ("out",)
# The key that says of a JSON file that it is a record, and of which version.
_MARK = "lossatlas"


class RunRecord:
    """The record of a command beside its results.

    A file, "survey.json" say. While a run is under way it says which names that run has taken;
    a finished run leaves its settings, what it printed, and which files it read and wrote. The
    same command with the same settings is then done already; with others it is refused unless
    the user says `--fresh`. A file that the record does not name is never replaced.

    Args:
        files: what the command writes.
        settings: of this call.
    """

    def __init__(self, files: Declaration, settings: BaseModel) -> None:
        self.files, self.out, self.path = files, files.destination.out, files.record
        self._settings, self._is_written = settings, False
        self.look()

    def look(self) -> None:
        """Read what is there now."""
        self._known = self._read()
        self._run = self._described()
        self._earlier = _followed(self._known.get("run") or {}, self._run)

    @property
    def unfinished(self) -> bool:
        """Whether unfinished work is there that `--resume` continues."""
        return not self.files.pieces and bool(self.files.ledgers_there())

    @property
    def continues(self) -> bool:
        """Whether the same command with `--resume` keeps something that is there."""
        return self.unfinished or bool(self.files.existing(self.files.pieces))

    def finished(self) -> Printed | None:
        """What this very run printed, where it was done before and its files are there."""
        if self.files.decides_reruns or self._earlier != self._run or self._missing():
            return None
        printed = Printed(**self._known["printed"])
        return replace(printed, files={n: self._now(p) for n, p in printed.files.items()})

    def check(self, *, resume: bool, fresh: bool) -> str:
        """Refuse to overwrite what an earlier call left; otherwise a note, or nothing."""
        self._refuse_foreign()
        if fresh or self.files.decides_reruns:
            return ""
        if self.unfinished:
            return "" if resume else self._refuse_unfinished()
        if self._known.get("run"):
            return self._refuse_finished()
        if self._left() and not resume:
            self._refuse_unfinished()
        resumes = bool(self.files.ledgers)
        return f"nothing to resume at {self.out}; starting anew" if resume and resumes else ""

    @contextmanager
    def begun(self, *, fresh: bool) -> Iterator[None]:
        """Take the names of this run; let them go again where nothing was written."""
        before, there = _content(self.path), self._stamps()
        ours = sorted(self._ours())
        if fresh:
            self.files.discard(self._is_ours if self._known else None)
        self._write({"taken": self.files.patterns, "ours": ours})
        try:
            yield
        finally:
            if not self._is_written and self._stamps() == there:
                self._put_back(before)

    def write(self, printed: Printed) -> None:
        """Keep what was printed, where files were written."""
        if not printed.files:
            return
        files, ours = self.files.existing(self.files.patterns), self._ours()
        held: dict[str, Any] = {"files": files, "ours": sorted(ours.union(files))}
        held["folder"] = str(self.files.destination.folder)
        if not self.files.decides_reruns:
            held |= {"run": self._run, "printed": vars(printed)}
        self._write(held)
        self._is_written = True

    def _write(self, held: Mapping[str, Any]) -> None:
        from lossatlas.io import writing

        head = {_MARK: lossatlas.__version__, "command": self.files.command}
        with writing(self.path) as temporary:
            temporary.write_text(json.dumps({**head, **held}), encoding="utf-8")

    def _put_back(self, before: bytes | None) -> None:
        from lossatlas.io import writing

        if before is None:
            self.path.unlink(missing_ok=True)
            return
        with writing(self.path) as temporary:
            temporary.write_bytes(before)

    def _refuse_unfinished(self) -> str:
        resumed = "--resume continues it, " if self.files.ledgers else ""
        raise FileError(
            f"'{self.out}' holds an unfinished run: {resumed}--fresh discards it; or give "
            "another --out."
        )

    def _refuse_finished(self) -> str:
        settings, contents = _differing(self._earlier, self._run)
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

    # What no run of this command wrote is of the user, or of another command.
    def _refuse_foreign(self) -> None:
        foreign = self.files.foreign(self._is_ours)
        if os.path.lexists(self.path) and not self._known:
            foreign.insert(0, self.path)
        if foreign:
            named = " and ".join(repr(str(path)) for path in foreign[:3])
            more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
            it = "it" if len(foreign) == 1 else "them"
            raise FileError(
                f"{named}{more} would be overwritten, and no run of this command wrote {it}: "
                f"give another --out or name, or move {it} away; --fresh replaces only what a "
                "run wrote."
            )
        self._refuse_inputs()

    # A result that is read cannot be replaced by what is made of it.
    def _refuse_inputs(self) -> None:
        written = set(self.files.existing(self.files.patterns))
        for path in self._inputs().values():
            if path.is_file() and self.files.name_of(path) in written:
                raise FileError(
                    f"'{path}' would be overwritten, and this command reads it: give another "
                    "--out or name."
                )

    # Files of this command: what its runs wrote, and names that an interrupted one had taken.
    def _ours(self) -> set[str]:
        known = self._known
        named = {n for n in known.get("ours", ()) if os.path.lexists(self.files.path_of(n))}
        return named.union(self.files.existing(known.get("taken", ())))

    def _is_ours(self, name: str) -> bool:
        return name in self._ours()

    # Results of a run that was interrupted while it wrote them.
    def _left(self) -> list[str]:
        return self.files.existing(self._known.get("taken", ()))

    def _stamps(self) -> list[tuple[str, int]]:
        paths = [self.files.path_of(name) for name in self.files.existing(self.files.patterns)]
        paths += self.files.ledgers_there()
        return [(str(path), path.lstat().st_mtime_ns) for path in paths]

    def _missing(self) -> list[str]:
        paths = map(self.files.path_of, self._known["files"])
        return [str(path) for path in paths if not path.exists()]

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(content, dict):
            return {}
        if _MARK not in content and {"run", "printed"} <= content.keys():
            return self._with_list(content)
        is_ours = _MARK in content and content.get("command") == self.files.command
        return content if is_ours else {}

    # Where a file is that was printed, should the folder have another name today.
    def _now(self, file: str) -> str:
        path, before = Path(file), self._known.get("folder")
        if before is None or not path.is_relative_to(before):
            return file
        return str(self.files.destination.folder / path.relative_to(before))

    # A record of before there was a list: it names results, and folders of pictures.
    def _with_list(self, record: dict[str, Any]) -> dict[str, Any]:
        files = [self.files.name_of(Path(path)) for path in record["printed"]["files"].values()]
        held = self.files.existing([f"{glob.escape(name)}/*" for name in files])
        return {**record, "files": files, "ours": [*files, *held, *self.files.named()]}

    def _plain(self) -> dict[str, Any]:
        used = self._settings.model_dump(mode="json")
        return {name: value for name, value in used.items() if name not in _PLACE}

    # Files that are read, by the texts that name them.
    def _inputs(self) -> dict[str, Path]:
        made = set(map(self.files.name_of, self.files.elsewhere))
        return {t: p for t, p in _inputs(self._plain()) if self.files.name_of(p) not in made}

    # Files by their whole path: they are the same seen from another folder.
    def _described(self) -> dict[str, Any]:
        own = {self.files.path_of(name).resolve() for name in self._ours()}
        own.add(self.path.resolve())
        inputs = self._inputs()
        written = {str(path): str(path.resolve()) for path in self.files.elsewhere}
        whole = {text: _absolute(text, path) for text, path in inputs.items()}
        # Through JSON and back, as it is read again.
        described = {
            "version": lossatlas.__version__,
            **_renamed(self._plain(), {**written, **whole}),
            "contents": {
                whole[text]: {"name": _without_folder(text, path), "stamp": _stamp(path, own)}
                for text, path in inputs.items()
            },
        }
        plain: dict[str, Any] = json.loads(json.dumps(described))
        return plain


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


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
        texts = (value, value.rpartition(":")[0], value.partition(":")[2])
        file = next((Path(text) for text in texts if text and _exists(text)), None)
        if file is not None:
            yield value, file


def _absolute(text: str, path: Path) -> str:
    return _with_path(text, path, str(path.resolve()))


def _without_folder(text: str, path: Path) -> str:
    return _with_path(text, path, path.resolve().name)


# What stands for the path in PATH, kind:PATH or FILE.py:name.
def _with_path(text: str, path: Path, new: str) -> str:
    if Path(text) == path:
        return new
    before, _, after = text.rpartition(":")
    if Path(before) == path:
        return f"{new}:{after}"
    return f"{text.partition(':')[0]}:{new}"


# The earlier run with the new paths of files that were moved: equal in name, size and time.
def _followed(earlier: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    old, new = earlier.get("contents", {}), run["contents"]
    added = {path: held for path, held in new.items() if path not in old}
    moved = {
        before: after
        for before, held in old.items()
        for after in [next((path for path in added if added[path] == held), None)]
        if before not in new and after is not None
    }
    followed: dict[str, Any] = _renamed(dict(earlier), moved)
    return followed | {"contents": {moved.get(key, key): held for key, held in old.items()}}


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _renamed(part, names) for key, part in value.items()}
    if isinstance(value, list):
        return [_renamed(part, names) for part in value]
    return names.get(value, value) if isinstance(value, str) else value


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
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
    flat: dict[str, Any] = {}
    for name, part in value.items():
        nested = isinstance(part, Mapping)
        flat |= _flat(part, f"{prefix}{name}.") if nested else {f"{prefix}{name}": part}
    return flat
