"""Where a command writes: `--out` is a folder, or the name that its files share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lossatlas.errors import ArgumentError

# Suffixes that people give to files; a folder of such a name would be a mistake.
_WEIGHTS = {".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".npy", ".npz"}
_TABLES = {".nc", ".csv", ".json", ".yaml", ".parquet", ".txt"}
_PICTURES = {".html", ".png", ".pdf", ".svg", ".gif", ".mp4"}
_SUFFIXES = _WEIGHTS | _TABLES | _PICTURES


@dataclass(frozen=True)
class Destination:
    """Where the files of a command go.

    Attributes:
        out: what `--out` says.
        names: the files that the command writes into a folder; where `out` ends in the suffix
            of one of them, they stand beside each other and take its name: the first of a
            suffix the plain one, the others as in NAME-curves.png.
        is_folder: whether the command writes into folders only.
    """

    out: Path
    names: tuple[str, ...] = ()
    is_folder: bool = False

    @property
    def is_file(self) -> bool:
        """Whether the files are named after `out`."""
        return not self.is_folder and self._suffix in self._suffixes and not self.out.is_dir()

    @property
    def folder(self) -> Path:
        """The folder that the files stand in."""
        return self.out.parent if self.is_file else self.out

    def file(self, name: str) -> Path:
        """The place of a file: in the folder, or beside `out` under its name."""
        if not self.is_file:
            return self.out / name
        suffix = Path(name).suffix
        first = next((each for each in self.names if each.endswith(suffix)), name)
        if name == first and suffix in {*self._suffixes, ".resume"}:
            # As it was given: Page.NC is the result, and Page.html its page.
            return self.out if suffix == self._suffix else self.out.with_suffix(suffix)
        return self.out.with_name(f"{self.out.stem}-{name}")

    def check(self) -> None:
        """Require a folder, or a suffix that the command writes."""
        if self._suffix not in _SUFFIXES or self.is_file or self.out.is_dir():
            return
        wanted = "a folder"
        if not self.is_folder and self._suffixes:
            wanted += f", or a name that ends in {_listed(self._suffixes)}"
        raise ArgumentError(f"`out` must be {wanted}; got {str(self.out)!r}.")

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Make the folder, and keep other runs out of it, or off the name of the files."""
        from lossatlas.io import occupied

        made = [each for each in (self.folder, *self.folder.parents) if not each.exists()]
        try:
            with occupied(self.folder, self.out.stem if self.is_file else ""):
                yield
        finally:
            # A run that was refused leaves nothing, not even its empty folder.
            with suppress(OSError):
                for folder in made:
                    folder.rmdir()

    @property
    def _suffix(self) -> str:
        return self.out.suffix.lower()

    @property
    def _suffixes(self) -> tuple[str, ...]:
        return _suffixes(self.names)


def out_help(what: str, names: Sequence[str]) -> str:
    """The help of `--out` of a command that takes a folder or a name."""
    return f"Folder of {what}, or a name that ends in {_listed(_suffixes(names))}."


def _suffixes(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(Path(name).suffix for name in names))


def _listed(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last
