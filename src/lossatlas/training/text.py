"""Next-character prediction on a text."""

from pathlib import Path

import torch

from lossatlas.checks import check_at_least
from lossatlas.errors import DataError, FileError
from lossatlas.training.dataset import Dataset
from lossatlas.training.files import existing_file


def load_text(path: str | Path, *, examples: int | None = None, block: int = 64) -> Dataset:
    """Split a text into disjoint blocks; targets are shifted by one character."""
    check_at_least("block", block, 1)
    source = existing_file(path, "a text file")
    try:
        text = source.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(
            f"'{source}' is not UTF-8 text (byte {error.start}); save it as UTF-8."
        ) from None
    count = (len(text) - 1) // block
    if count < 1:
        raise DataError(
            f"'{source}' has {len(text)} characters; it must have more than one block of "
            f"{block}: use a longer text or a smaller block, as in '#block=16'."
        )
    vocabulary = tuple(sorted(set(text)))
    index = {character: number for number, character in enumerate(vocabulary)}
    count = count if examples is None else min(examples, count)
    codes = torch.tensor([index[character] for character in text[: count * block + 1]])
    return Dataset(
        codes[:-1].view(count, block),
        codes[1:].view(count, block),
        source.stem,
        "language",
        vocabulary=vocabulary,
    )
