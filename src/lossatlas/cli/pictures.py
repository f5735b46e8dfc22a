"""Figures of a result as files for a paper."""

from pathlib import Path
from typing import TYPE_CHECKING

from lossatlas.checks import check_one_of

if TYPE_CHECKING:
    from lossatlas.result import Result

FIGURES = "Write every figure too, for a paper: pdf, svg, png, or several with commas."
_FORMATS = ("pdf", "svg", "png")


def write_pictures(found: "Result", formats: tuple[str, ...], folder: Path) -> dict[str, Path]:
    """Write the figures that were asked for to `figures/NAME.FORMAT`."""
    for name in formats:
        check_one_of("figures", name, _FORMATS)
    if not formats:
        return {}
    from lossatlas.report.pictures import save_figures

    save_figures(found, folder / "figures", formats)
    return {"figures": folder / "figures"}
