"""Results: frozen records with estimates, sentences, figures and storage.

Every measurement returns a `Result`. A subclass declares fields, from which storage, printing,
JSON, tables and equality follow. A subclass adds its meaning: the main numbers (`estimates`),
sentences about them (`sentences`), and figures (`plot`).
"""

import base64
import html
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    TypeVar,
    cast,
    dataclass_transform,
)

import numpy as np

from lossatlas import io
from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError, FileError
from lossatlas.estimate import (
    UNKNOWN,
    Estimate,
    error_lengths,
    estimate_row,
    estimate_to_dict,
    is_exact_count,
    to_plain,
)
from lossatlas.io.records import equal, from_dataset, record, to_dataset
from lossatlas.latex_table import estimates_table
from lossatlas.reference import Reference
from lossatlas.text import count as counted
from lossatlas.text import number, slug

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from lossatlas.plots.chart import Chart

__all__ = [
    "Backend",
    "Estimate",
    "Figure",
    "Reference",
    "Result",
    "Table",
    "chart_of",
    "estimate_row",
    "quantity",
    "result",
    "rows_figure",
]

R = TypeVar("R", bound=type)
Backend = Literal["matplotlib", "plotly"]
_MAX_LINES, _MAX_CHARACTERS = 5, 400


def quantity(unit: str, **options: Any) -> Any:
    """A field of a result with its unit."""
    return field(metadata={"unit": unit}, **options)


@dataclass_transform(frozen_default=True, field_specifiers=(field, quantity))
def result(kind: str, *, references: tuple[Reference, ...] = ()) -> Callable[[R], R]:
    """Class decorator: make a subclass of `Result` a frozen dataclass with a name on disk.

    Args:
        kind: the kind written into files.
        references: references of the methods.

    Returns:
        The decorator.
    """

    def decorate(cls: R) -> R:
        made: Any = dataclass(frozen=True, eq=False, repr=False)(cls)
        made.references = references
        return cast("R", io.kind(kind)(record(made)))

    return decorate


@dataclass(frozen=True, eq=False)
class Figure:
    """One figure of a result, drawn on demand.

    Attributes:
        name: short name that selects it in `Result.plot`, such as "barcode".
        title: title.
        matplotlib: axes (None for new ones) -> the axes drawn on.
        plotly: no argument -> a plotly figure; its texts are escaped (`lossatlas.text.safe`).
        caption: caption of one or two sentences.
        alt: alternative text for screen readers.
        wide: whether it spans the full width of a page.
        is_minor: whether it is omitted from pages.
    """

    name: str
    title: str
    matplotlib: Callable[[Any], Any]
    plotly: Callable[[], Any]
    caption: str = ""
    alt: str = ""
    wide: bool = False
    is_minor: bool = False

    def __repr__(self) -> str:
        return f"Figure({self.name!r}, {self.title!r})"


@dataclass(frozen=True)
class Table:
    """Rows of text.

    Attributes:
        title: title.
        head: names of the columns.
        rows: cells as text, always escaped in markup.
        is_minor: whether a page shows it among the details only.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_minor: bool = False


def chart_of(name: str, title: str, chart: "Callable[[], Chart]", **about: Any) -> Figure:
    """Figure of a chart built on demand; `about` are fields of `Figure`."""
    from lossatlas.plots.chart import backends

    return Figure(name, title, *backends(chart), **about)


def rows_figure(
    title: str,
    estimates: Iterable[Estimate],
    axis: str,
    *,
    log: bool = False,
    caption: str = "",
    is_minor: bool = False,
) -> Figure:
    """Figure of estimates of one unit as dots with error bars, one row each.

    Args:
        title: title of the figure.
        estimates: estimates to draw.
        axis: title of the axis.
        log: whether the axis is logarithmic, which omits non-positive numbers.
        caption: the caption.
        is_minor: see `Figure`.

    Returns:
        The figure, drawn on demand.
    """
    from lossatlas.plots.rows import Dots, rows_chart

    shown = [each for each in estimates if math.isfinite(each.value)]
    values = np.array([each.value for each in shown])
    errors = np.array([error_lengths(each) for each in shown]).reshape(-1, 2).T
    names, dots = [e.name for e in shown], [Dots(title, values, errors)]
    chart = partial(rows_chart, names, dots, title, axis, log=log)
    alt = "; ".join(f"{each.name} {each}" for each in shown[:6])
    about: dict[str, Any] = {"caption": caption, "alt": alt, "is_minor": is_minor}
    return chart_of(title.lower(), title, chart, **about)


class Result:
    """Base class of all results: a frozen dataclass decorated with `result`."""

    __kind__: ClassVar[str]
    references: ClassVar[tuple[Reference, ...]] = ()

    def estimates(self) -> tuple[Estimate, ...]:
        """The main numbers, with their errors."""
        return tuple(_found_estimates(self))

    def headline(self) -> str:
        """The main finding in one sentence; may be empty."""
        return ""

    def sentences(self) -> tuple[str, ...]:
        """The findings in sentences."""
        return ()

    def figures(self) -> tuple[Figure, ...]:
        """The figures of the result, most important first, drawn on demand.

        Returns:
            Figures; by default one with the estimates of the most common unit, one row each.
        """
        finite = [each for each in self.estimates() if math.isfinite(each.value)]
        if not finite:
            return ()
        ((unit, _),) = Counter(each.unit for each in finite).most_common(1)
        title = self.__kind__.replace("-", " ").replace("_", " ").capitalize()
        return (rows_figure(title, [e for e in finite if e.unit == unit], unit or "value"),)

    def tables(self) -> tuple[Table, ...]:
        """Additional tables, as text.

        Returns:
            Tables; none by default.
        """
        return ()

    def plot(
        self,
        name: str | None = None,
        *,
        backend: Backend = "matplotlib",
        ax: Any = None,
        style: Literal["screen", "paper"] = "screen",
        width: float | None = None,
    ) -> Any:
        """Draw a figure of the result.

        Args:
            name: name of one of `figures()`; the first by default.
            backend: "matplotlib", or "plotly" for an interactive figure.
            ax: matplotlib axes to draw into; new ones by default.
            style: "screen", or "paper": small fonts, thin lines, and text stored as text in PDF
                and SVG (matplotlib only).
            width: width of a new matplotlib figure, in inches; by default that of the style.

        Returns:
            The matplotlib axes, or the plotly figure. Nothing is shown or saved.

        Raises:
            ArgumentError: the result has no figure, the backend or style is unknown, or
                arguments of matplotlib are given for plotly.
            UnknownNameError: no figure has that name; the message gives the nearest match.
        """
        figure = _chosen(self, name)
        check_one_of("backend", backend, ("matplotlib", "plotly"))
        check_one_of("style", style, ("screen", "paper"))
        if backend == "plotly":
            if ax is not None or style != "screen" or width is not None:
                raise ArgumentError(
                    "`ax`, `style` and `width` are for backend='matplotlib'; leave them out or "
                    "change the layout of the plotly figure."
                )
            return figure.plotly()
        from lossatlas.plots.canvas import dressed

        with dressed(style, width):
            return figure.matplotlib(ax)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values for JSON; NaN and infinity are None."""
        return {f.name: to_plain(getattr(self, f.name)) for f in fields(_instance(self))}

    def summary(self) -> dict[str, Any]:
        """Numbers and sentences for JSON, as printed by commands.

        Returns:
            "estimates", by name in lowercase with underscores: value, stderr or bound, interval
            if computed directly, unit, and why there is no error; "sentences"; "notes" and
            "checked" if there are any; and `details`. NaN and infinity are None.
        """
        words = ((name, getattr(self, name, ())) for name in ("notes", "checked"))
        shown: dict[str, Any] = {
            "estimates": {slug(each.name): estimate_to_dict(each) for each in self.estimates()},
            "sentences": list(self.sentences()),
        }
        shown |= {name: list(texts) for name, texts in words if texts}
        return shown | cast("dict[str, Any]", to_plain(self.details()))

    def details(self) -> dict[str, Any]:
        """Additional content for JSON.

        Returns:
            Numbers, texts, lists and mappings by name; none by default.
        """
        return {}

    def rows(self) -> list[tuple[str, str, str]]:
        """The main numbers as table cells.

        Returns:
            Tuples (name, value, error or the reason for its absence).
        """
        return [estimate_row(each) for each in self.estimates() if not each.is_minor]

    def cited(self) -> tuple[Reference, ...]:
        """References of this result."""
        return self.references

    def to_frame(self) -> "pd.DataFrame":
        """The estimates as a DataFrame."""
        import pandas as pd

        columns = ("name", "value", "stderr", "bound", "samples", "unit", "why_no_error")
        rows = [{c: getattr(e, c) for c in columns} for e in self.estimates()]
        return pd.DataFrame(rows, columns=list(columns))

    def to_latex(self, *, minor: bool = False) -> str:
        """The estimates as a LaTeX table: name, value with its error, and unit.

        Args:
            minor: whether to include numbers omitted from short tables.

        Returns:
            A `tabular` environment that needs no package: value ± standard error, or value
            [ends of the 95 % interval] if computed directly; the last rows say which. Numbers
            with an exponent share one power of ten with their error. A double dagger marks a
            bound on the error, a dagger a number without an error, whose reason is in a
            comment, as are references. Exact counts have no mark; unknown values are "--".
        """
        estimates = [e for e in _distinct(self.estimates()) if minor or not e.is_minor]
        return estimates_table(estimates, self.cited())

    def save(self, path: str | Path) -> Path:
        """Write to one netCDF file, replacing an existing one; see `lossatlas.load`."""
        return io.save(self, path)

    def to_tree(self) -> "dict[str, xr.Dataset]":
        """Convert the fields to one labeled data set: arrays as variables, others as JSON."""
        return {"result": to_dataset(self)}

    @classmethod
    def from_tree(cls, tree: "Mapping[str, xr.Dataset]") -> Any:
        """The inverse of `to_tree`."""
        result = from_dataset(tree["result"]) if "result" in tree else None
        if not isinstance(result, cls):
            raise FileError(f"the file contains no {cls.__name__}; create it again.")
        return result

    def __eq__(self, other: object) -> bool:
        """Bitwise equality of all compared fields; NaN equals NaN."""
        if type(other) is not type(self):
            return NotImplemented
        return equal(self, other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        lines = [f"{e.name} {e}" for e in self.estimates() if not e.is_minor]
        lines = lines or [
            f"{f.name}: {_brief(getattr(self, f.name))}" for f in fields(_instance(self))
        ]
        if len(lines) > _MAX_LINES:
            rest = counted(len(lines) - _MAX_LINES + 1, "more number")
            lines = [*lines[: _MAX_LINES - 1], f"and {rest}"]
        text = f"<{type(self).__name__}: " + ",\n ".join(lines) + ">"
        return text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 2] + "…>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """Representations for notebooks and their exports."""
        still, picture = _pictures(self)
        bundle = {"text/plain": repr(self), "text/html": self._repr_html_(picture)}
        return bundle | ({"image/png": base64.b64encode(still).decode()} if still else {})

    def _repr_html_(self, picture: str | None = None) -> str:
        """HTML for notebooks: sentences, first figure and estimates."""
        picture = _pictures(self)[1] if picture is None else picture
        paragraphs = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.sentences())
        cells = (
            (e.name, f"{e:}", e.meaning if is_exact_count(e) else e.reason or e.meaning)
            for e in _distinct(self.estimates())
        )
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td>"
            f"<td>{html.escape(remark)}</td></tr>"
            for name, value, remark in _without_repeats(cells)
        )
        title = html.escape(type(self).__name__)
        return f"<div><strong>{title}</strong>{paragraphs}{picture}<table>{rows}</table></div>"


# Parts of a result may hold the same number.
def _distinct(estimates: Iterable[Estimate]) -> list[Estimate]:
    return list({(e.name, f"{e:}"): e for e in reversed([*estimates])}.values())[::-1]


# Numbers that are not known for one reason share a row.
def _without_repeats(cells: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    with_value, unknown = [], dict[str, list[str]]()
    for name, value, remark in cells:
        if value == UNKNOWN:
            unknown.setdefault(remark, []).append(name)
        else:
            with_value.append((name, value, remark))
    rows = ((", ".join(names), UNKNOWN, remark) for remark, names in unknown.items())
    return [*with_value, *rows]


def _instance(value: Any) -> Any:
    # A result is a dataclass by its decorator, which type checkers see on subclasses only.
    return value


def _chosen(shown: Result, name: str | None) -> Figure:
    figures = {figure.name: figure for figure in shown.figures()}
    if not figures:
        raise ArgumentError(
            f"{type(shown).__name__} has no picture; its numbers are in .estimates()."
        )
    if name is None:
        return next(iter(figures.values()))
    check_one_of("name", name, figures)
    return figures[name]


def _pictures(shown: Result) -> tuple[bytes, str]:
    # The first picture as a PNG file, and as markup: alive in notebooks, still elsewhere.
    figures = shown.figures()
    if not figures:
        return b"", ""
    from lossatlas.executor.progress import kernel
    from lossatlas.plots import notebook
    from lossatlas.plots.canvas import png

    still, alt = png(shown.plot()), figures[0].alt or figures[0].title
    if kernel() is not None:
        return still, notebook.picture(still, alt, figures[0].plotly())
    return still, f"<p>{notebook.still(still, alt)}</p>"


def _found_estimates(value: Any, name: str = "", unit: str = "") -> Iterator[Estimate]:
    if isinstance(value, Estimate):
        yield replace(value, name=value.name or name, unit=value.unit or unit)
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _found_estimates(entry, f"{name} {key}".strip(), unit)
    elif isinstance(value, Result) and not name:
        for f in fields(_instance(value)):
            label = f.name.replace("_", " ")
            yield from _found_estimates(
                getattr(value, f.name), label, f.metadata.get("unit", "")
            )


def _brief(value: Any) -> str:
    if hasattr(value, "shape"):
        return (
            "x".join(map(str, value.shape)) + " array" if value.shape else number(float(value))
        )
    if isinstance(value, float):
        return number(value)
    if isinstance(value, Mapping | list | tuple):
        return counted(len(value), "entry", "entries")
    return type(value).__name__ if is_dataclass(value) else str(value)[:60]
