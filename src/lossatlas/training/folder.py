"""Pictures in a folder with one subfolder for each class."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import torch

from lossatlas.errors import DataError
from lossatlas.training.dataset import Dataset
from lossatlas.training.files import existing_folder
from lossatlas.training.images import decode, normalized, read_picture

SUFFIXES = (".png", ".jpg", ".jpeg")


def load_folder(
    path: str | Path,
    *,
    examples: int | None = None,
    normalize: str | Sequence[Sequence[float]] = "unit",
    size: int | None = None,
    channels: int | None = None,
) -> Dataset:
    """Read `path/<class>/*.png|jpg|jpeg`; only the first `examples` pictures are decoded."""
    root = existing_folder(path, "a folder with one subfolder of pictures for each class")
    classes = sorted(child for child in root.iterdir() if child.is_dir())
    if not classes:
        raise DataError(f"'{root}' has no subfolders; put each class into its own subfolder.")
    chosen = list(_in_turn([_pictures(folder) for folder in classes]))[:examples]
    pictures = decode(
        ((f"'{file}'", read_picture(file)) for _, file in chosen), size=size, channels=channels
    )
    return Dataset(
        normalized(pictures, normalize),
        torch.tensor([label for label, _ in chosen]),
        root.name,
        classes=tuple(folder.name for folder in classes),
    )


def _pictures(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(
            f"'{folder}' holds no pictures ({', '.join(SUFFIXES)}); "
            "add some, or remove the empty class."
        )
    return files


def _in_turn(files: list[list[Path]]) -> Iterator[tuple[int, Path]]:
    """Images of all classes in turn, so that any prefix contains all classes."""
    for group in zip_longest(*files):
        yield from ((label, file) for label, file in enumerate(group) if file is not None)
