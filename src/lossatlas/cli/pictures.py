"""Figures of a result as files for a paper."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lossatlas.checks import check_one_of

if TYPE_CHECKING:
    from lossatlas.result import Result

FIGURES = "Write every figure too, for a paper: pdf, svg, png, or several with commas."


def picture_names(formats: Sequence[str]) -> list[str]:
    """What `write_pictures` may write, as patterns; unknown formats are refused."""
    if not formats:
        return []
    from lossatlas.report.pictures import FORMATS

    for name in formats:
        check_one_of("figures", name, FORMATS)
    return [f"figures/*.{name}" for name in formats]


def write_pictures(result: "Result", formats: tuple[str, ...], folder: Path) -> dict[str, Path]:
    """Write the figures that were asked for to `figures/NAME.FORMAT`."""
    if not formats:
        return {}
    from lossatlas.report.pictures import save_figures

    save_figures(result, folder / "figures", formats)
    return {"figures": folder / "figures"}
