"""Every figure of a result as a file of its own."""

import re
from collections.abc import Sequence
from pathlib import Path

from lossatlas.checks import check_one_of
from lossatlas.io import make_folder, writing
from lossatlas.result import Result

#: What figures can be written as.
FORMATS = ("pdf", "svg", "png")


def save_figures(
    result: Result,
    folder: str | Path,
    formats: Sequence[str] = ("pdf",),
    *,
    width: float = 3.25,
) -> list[Path]:
    """Write every figure of a result, for a paper.

    Args:
        result: what has figures.
        folder: where; made if missing. Files of the same names are replaced.
        formats: of the files: "pdf", "svg" or "png".
        width: of each figure, in inches.

    Returns:
        The files.

    Raises:
        FileError: the place cannot be written.
        UnknownNameError: an unknown format.
    """
    for kind in formats:
        check_one_of("formats", kind, FORMATS)
    from matplotlib import pyplot as plt

    home, written = make_folder(folder), []
    for figure in result.figures():
        ax = result.plot(figure.name, style="paper", width=width)
        name = re.sub(r"[^a-z0-9]+", "-", figure.name.lower()).strip("-") or "figure"
        for kind in formats:
            path = home / f"{name}.{kind}"
            with writing(path) as temporary:
                ax.figure.savefig(temporary, format=kind)
            written.append(path)
        plt.close(ax.figure)
    return written
