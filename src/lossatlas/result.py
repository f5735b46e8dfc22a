"""Results: frozen records that know their numbers, sentences, picture and file.

Everything that measures returns a `Result`. A subclass declares fields; storage, printing,
JSON, tables and equality come from the fields, once for all. What a subclass adds is its
meaning: which numbers count (`estimates`), how they read (`sentences`), how they look (`plot`).
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
        kind: the word written into files.
        references: papers that the numbers come from.

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
    """One picture of a result, drawn when it is asked for.

    Attributes:
        name: a short word that selects it in `Result.plot`, as in "barcode".
        title: its heading.
        matplotlib: axes (None for new ones) -> the axes drawn on.
        plotly: no argument -> a plotly figure; texts in it are safe (`lossatlas.text.safe`).
        caption: what to see, in a sentence or two.
        alt: what a reader hears who sees no picture.
        wide: whether a page gives it the full width.
        is_minor: whether a page leaves it out.
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
        title: heading.
        head: names of the columns.
        rows: cells as text. Never trusted as markup.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def chart_of(name: str, title: str, chart: "Callable[[], Chart]", **about: Any) -> Figure:
    """The figure of a chart, which is made when it is drawn; `about` are fields of `Figure`."""
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
    """Estimates of one unit as dots with their errors, a row each.

    Args:
        title: heading of the picture.
        estimates: what is drawn.
        axis: title of the axis.
        log: whether the axis is logarithmic; numbers that are not positive are then left out.
        caption: what to see.
        is_minor: see `Figure`.

    Returns:
        The figure, not drawn yet.
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
    """Base of everything that is measured: a frozen dataclass decorated with `result`."""

    __kind__: ClassVar[str]
    references: ClassVar[tuple[Reference, ...]] = ()

    def estimates(self) -> tuple[Estimate, ...]:
        """The numbers that count, with their errors."""
        return tuple(_found_estimates(self))

    def headline(self) -> str:
        """The finding in one sentence; empty where none stands out."""
        return ""

    def sentences(self) -> tuple[str, ...]:
        """What the numbers say, in words."""
        return ()

    def figures(self) -> tuple[Figure, ...]:
        """The pictures of the result, the most telling first; none is drawn yet.

        Returns:
            Figures; by default one of the estimates that share the commonest unit, a row each.
        """
        finite = [each for each in self.estimates() if math.isfinite(each.value)]
        if not finite:
            return ()
        ((unit, _),) = Counter(each.unit for each in finite).most_common(1)
        title = self.__kind__.replace("-", " ").replace("_", " ").capitalize()
        return (rows_figure(title, [e for e in finite if e.unit == unit], unit or "value"),)

    def tables(self) -> tuple[Table, ...]:
        """Tables of more than the estimates say, as text.

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
        """Draw a picture of the result.

        Args:
            name: which of `figures()`; the first by default.
            backend: "matplotlib", or "plotly" for an interactive figure.
            ax: matplotlib axes to draw into; new ones by default.
            style: "screen", or "paper": small fonts, thin lines, text kept as text in PDF
                and SVG (matplotlib only).
            width: of a new matplotlib figure, in inches; by default that of the style.

        Returns:
            The matplotlib axes, or the plotly figure. Nothing is shown or saved.

        Raises:
            ArgumentError: the result has no picture, an unknown backend or style, or
                matplotlib's arguments given for plotly.
            UnknownNameError: no figure has that name; the message gives the nearest.
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
        """Numbers and words for JSON: what a command prints.

        Returns:
            "estimates", by name in small letters and underscores: value, stderr or bound,
            interval where it was computed as such, unit, and why there is no error;
            "sentences"; "notes" and "checked" where there are any; and `details`. NaN and
            infinity are None.
        """
        words = ((name, getattr(self, name, ())) for name in ("notes", "checked"))
        shown: dict[str, Any] = {
            "estimates": {slug(each.name): estimate_to_dict(each) for each in self.estimates()},
            "sentences": list(self.sentences()),
        }
        shown |= {name: list(texts) for name, texts in words if texts}
        return shown | cast("dict[str, Any]", to_plain(self.details()))

    def details(self) -> dict[str, Any]:
        """What JSON shows beside estimates and sentences.

        Returns:
            Numbers, texts, lists and mappings by name; none by default.
        """
        return {}

    def rows(self) -> list[tuple[str, str, str]]:
        """The chief numbers as cells of a table.

        Returns:
            (name, value, error or the reason for none) each.
        """
        return [estimate_row(each) for each in self.estimates() if not each.is_minor]

    def cited(self) -> tuple[Reference, ...]:
        """The papers that the numbers of this very result come from."""
        return self.references

    def to_frame(self) -> "pd.DataFrame":
        """The estimates as a table."""
        import pandas as pd

        columns = ("name", "value", "stderr", "bound", "samples", "unit", "why_no_error")
        rows = [{c: getattr(e, c) for c in columns} for e in self.estimates()]
        return pd.DataFrame(rows, columns=list(columns))

    def to_latex(self, *, minor: bool = False) -> str:
        """The estimates as a LaTeX table: name, value with its error, and unit.

        Args:
            minor: whether numbers that short tables leave out are in it.

        Returns:
            A `tabular` environment that needs no package: value ± standard error, or value
            [ends of the 95 % interval] where that was computed as such. A double dagger marks
            a bound on the error, a dagger a number without an error, whose reason stands in a
            comment, as do the papers. Exact counts have none; what is not known is "--".
        """
        estimates = [e for e in _distinct(self.estimates()) if minor or not e.is_minor]
        return estimates_table(estimates, self.cited())

    def save(self, path: str | Path) -> Path:
        """Write to one netCDF file, in place of any that is there; see `lossatlas.load`."""
        return io.save(self, path)

    def to_tree(self) -> "dict[str, xr.Dataset]":
        """The fields as one labeled data set: arrays as variables, the rest as JSON."""
        return {"result": to_dataset(self)}

    @classmethod
    def from_tree(cls, tree: "Mapping[str, xr.Dataset]") -> Any:
        """The inverse of `to_tree`."""
        result = from_dataset(tree["result"]) if "result" in tree else None
        if not isinstance(result, cls):
            raise FileError(f"the file holds no {cls.__name__}; make it again.")
        return result

    def __eq__(self, other: object) -> bool:
        """Equal to the last bit in every field that counts; NaN equals NaN."""
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
        """The result in the forms that notebooks and their exports choose from."""
        still, picture = _pictures(self)
        bundle = {"text/plain": repr(self), "text/html": self._repr_html_(picture)}
        return bundle | ({"image/png": base64.b64encode(still).decode()} if still else {})

    def _repr_html_(self, picture: str | None = None) -> str:
        """The result as notebooks show it: its sentences, first picture and estimates."""
        picture = _pictures(self)[1] if picture is None else picture
        said = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.sentences())
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
        return f"<div><strong>{title}</strong>{said}{picture}<table>{rows}</table></div>"


# Parts of a result may hold the same number.
def _distinct(estimates: Iterable[Estimate]) -> list[Estimate]:
    return list({(e.name, f"{e:}"): e for e in reversed([*estimates])}.values())[::-1]


# Numbers that are not known for one reason share a row.
def _without_repeats(cells: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    known, unknown = [], dict[str, list[str]]()
    for name, value, remark in cells:
        if value == UNKNOWN:
            unknown.setdefault(remark, []).append(name)
        else:
            known.append((name, value, remark))
    rows = ((", ".join(names), UNKNOWN, remark) for remark, names in unknown.items())
    return [*known, *rows]


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
