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
from lossatlas.checks import check_one_of, is_number
from lossatlas.errors import ArgumentError, FileError
from lossatlas.intervals import few_units_note, interval, skewed_note
from lossatlas.io.records import equal, from_dataset, record, to_dataset
from lossatlas.text import count as counted
from lossatlas.text import latex, number, slug, with_ends, with_error

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from lossatlas.plots.chart import Chart

R = TypeVar("R", bound=type)
Backend = Literal["matplotlib", "plotly"]
_MAX_LINES, _MAX_CHARACTERS = 5, 400
_LEVEL = 0.95
_UNKNOWN = "not known"


def quantity(unit: str, **options: Any) -> Any:
    """A field of a result with its unit."""
    return field(metadata={"unit": unit}, **options)


@dataclass_transform(frozen_default=True, field_specifiers=(field, quantity))
def result(kind: str, *, references: tuple["Reference", ...] = ()) -> Callable[[R], R]:
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


@record
@dataclass(frozen=True, eq=False)
class Estimate:
    """A number with its uncertainty, or the reason why it has none.

    Attributes:
        value: the number.
        stderr: its standard error, same units; 0 where exact (`why_no_error`, if there is one,
            is then shown in its place), NaN where unknown.
        products: products with a matrix (or evaluations) that it cost.
        samples: how many independent samples the error comes from; 0 where it is exact.
        reached: whether the tolerance that was asked for was reached.
        why_no_error: why `stderr` is NaN or 0, as a sentence; None where there is an error.
        checked: what the derivatives under it were compared with, a sentence each.
        bound: a largest error in place of a standard error (the residual of an eigenvalue,
            say), same units; NaN where there is none.
        name: what it is, as in "trace".
        unit: of value, error and bound.
        meaning: what it says, for a reader who has not met it.
        is_minor: whether it is left out of short tables.
        sample_unit: what a sample is, in the plural, as in "examples".
        effective: effective number of samples where they count unequally, as in
            (sum w)^2 / sum w^2; NaN means that all count alike, `samples`.
        skewness: of the value over samples of this size: positive where it is often a little
            too low and seldom much too high; 0 where it is symmetric or unknown.
        ends: both ends of its 95 % interval where that was computed as such (from a bootstrap,
            say) and need not be symmetric; None where `interval` takes it from the error.
    """

    value: float
    stderr: float = math.nan
    products: int = 0
    samples: int = 0
    reached: bool = True
    why_no_error: str | None = None
    checked: tuple[str, ...] = ()
    bound: float = math.nan
    name: str = ""
    unit: str = ""
    meaning: str = ""
    is_minor: bool = False
    sample_unit: str = "samples"
    effective: float = math.nan
    skewness: float = 0.0
    ends: tuple[float, float] | None = None

    @property
    def error(self) -> float:
        """The bound where there is one, otherwise the standard error; NaN where unknown."""
        return self.bound if math.isfinite(self.bound) else self.stderr

    @property
    def reason(self) -> str:
        """Why there is no error, or one of zero; empty where there is one."""
        if self.why_no_error is not None or self.error != 0:
            return self.why_no_error or ""
        several = self.samples > 1
        return f"the same for all {self.samples:,} {self.sample_unit}" if several else "exact"

    @property
    def caveat(self) -> str:
        """What the interval of a mean over few or skewed losses rests on; often empty."""
        if self.sample_unit not in {"examples", "batches"} or not self.error > 0:
            return ""
        few = few_units_note(self.samples, self.sample_unit)
        return few or skewed_note(self.samples, self.sample_unit, self.skewness)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """A two-sided confidence interval: `ends`, value -+ bound, or Student's t."""
        if not is_number(level) or not 0 < level < 1:
            raise ArgumentError(f"`level` must be between 0 and 1; got {level!r}.")
        if self.ends is not None:
            if level != _LEVEL:
                raise ArgumentError(
                    f"`level` must be {_LEVEL}: only that interval of '{self.name}' was "
                    f"computed; got {level!r}."
                )
            return self.ends
        if math.isfinite(self.bound):
            return self.value - self.bound, self.value + self.bound
        if self.stderr == 0 and self.samples != 1:
            return self.value, self.value
        return interval(
            self.value,
            self.stderr,
            self.samples,
            level,
            effective=self.effective,
            skewness=self.skewness,
        )

    def __eq__(self, other: object) -> bool:
        """Equal in every field; NaN equals NaN, so that a stored estimate equals itself."""
        return equal(self, other) if isinstance(other, Estimate) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.name, self.samples, self.products, self.unit))

    @property
    def texts(self) -> tuple[str, str]:
        """The value as rounded by its error, and "± error", "[low, high]" or nothing.

        A value that is NaN is "not known".
        """
        if math.isnan(self.value):
            return _UNKNOWN, ""
        if self.ends is not None:
            return with_ends(self.value, *self.ends)
        value, error = _rounded(self.value, self.error)
        return value, f"± {error}" if error else ""

    @property
    def shown(self) -> str:
        """The value as rounded by its error, with its unit; "not known" alone where NaN."""
        return " ".join(filter(None, (self.texts[0], self._unit)))

    @property
    def _unit(self) -> str:
        return "" if math.isnan(self.value) else self.unit

    def __str__(self) -> str:
        """Name, value, error and unit, as `print` shows them."""
        return f"{self.name}: {self:}" if self.name else f"{self:}"

    def __format__(self, form: str) -> str:
        """Value, error and unit, for use inside of a sentence."""
        return format(" ".join(filter(None, (*self.texts, self._unit))), form)


@dataclass(frozen=True)
class Reference:
    """A paper that a method comes from.

    Attributes:
        use: what it was used for, as in "filter normalization".
        text: authors, title, place, year.
        link: where to read it.
    """

    use: str
    text: str
    link: str


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
    errors = np.array([_lengths(each) for each in shown]).reshape(-1, 2).T
    names, dots = [e.name for e in shown], [Dots(title, values, errors)]
    chart = partial(rows_chart, names, dots, title, axis, log=log)
    alt = "; ".join(f"{each.name} {each}" for each in shown[:6])
    about: dict[str, Any] = {"caption": caption, "alt": alt, "is_minor": is_minor}
    return chart_of(title.lower(), title, chart, **about)


def _lengths(found: Estimate) -> tuple[float, float]:
    # Of the error bar, below and above the number.
    if found.ends is None:
        return found.error, found.error
    return found.value - found.ends[0], found.ends[1] - found.value


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
        return {f.name: _plain(getattr(self, f.name)) for f in fields(_instance(self))}

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
            "estimates": {slug(each.name): _entry(each) for each in self.estimates()},
            "sentences": list(self.sentences()),
        }
        shown |= {name: list(texts) for name, texts in words if texts}
        return shown | cast("dict[str, Any]", _plain(self.details()))

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
            A `tabular` environment that needs no package. A number without an error has a
            dagger, which the last row explains; its reason stands in a comment, and so do
            the papers. Exact counts have none, and a number that is not known is "--".
        """
        rows, reasons = [], []
        for found in _distinct(self.estimates()):
            if found.is_minor and not minor:
                continue
            value, _, error = with_error(found.value, found.error).partition(" ± ")
            is_exact = found.error == 0 and not found.why_no_error
            unmarked = math.isnan(found.value) or is_exact or _is_exact_count(found)
            shown = f"{value} ± {error}" if error else value if unmarked else f"{value}†"
            shown = "--" if math.isnan(found.value) else shown
            rows.append(" & ".join(map(latex, (found.name, shown, found.unit))) + r" \\")
            if not error and not is_exact:
                reasons.append(
                    f"% {latex(found.name)}: {latex(found.why_no_error or 'no error')}"
                )
        if any(r"$^\dagger$ &" in row for row in rows):
            rows += [r"\hline", r"\multicolumn{3}{l}{$^\dagger$ no standard error} \\"]
        head = r"\begin{tabular}{lrl}", r"\hline", r"quantity & value & unit \\", r"\hline"
        papers = [
            f"% {latex(each.use)}: {latex(each.text)} {each.link}" for each in self.cited()
        ]
        foot = r"\hline", r"\end{tabular}"
        return "\n".join((*head, *rows, *foot, *reasons, *papers)) + "\n"

    def save(self, path: str | Path) -> Path:
        """Write to one netCDF file, in place of any that is there; see `lossatlas.load`."""
        return io.save(self, path)

    def to_tree(self) -> "dict[str, xr.Dataset]":
        """The fields as one labeled data set: arrays as variables, the rest as JSON."""
        return {"result": to_dataset(self)}

    @classmethod
    def from_tree(cls, tree: "Mapping[str, xr.Dataset]") -> Any:
        """The inverse of `to_tree`."""
        found = from_dataset(tree["result"]) if "result" in tree else None
        if not isinstance(found, cls):
            raise FileError(f"the file holds no {cls.__name__}; make it again.")
        return found

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
            (e.name, f"{e:}", e.meaning if _is_exact_count(e) else e.reason or e.meaning)
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


def _is_exact_count(found: Estimate) -> bool:
    reason = found.why_no_error or ""
    return "exact" in reason and float(found.value).is_integer()


# Numbers that are not known for one reason share a row.
def _without_repeats(cells: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    known, unknown = [], dict[str, list[str]]()
    for name, value, remark in cells:
        if value == _UNKNOWN:
            unknown.setdefault(remark, []).append(name)
        else:
            known.append((name, value, remark))
    rows = ((", ".join(names), _UNKNOWN, remark) for remark, names in unknown.items())
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


def _entry(found: Estimate) -> dict[str, Any]:
    error = {"bound": found.bound} if math.isfinite(found.bound) else {"stderr": found.stderr}
    words = {
        "unit": found.unit,
        "why_no_error": found.why_no_error,
        "caveat": found.caveat,
        "interval": _plain(found.ends),
    }
    shown: dict[str, Any] = _plain({"value": found.value} | error)
    return shown | {name: text for name, text in words.items() if text}


def estimate_row(found: Estimate) -> tuple[str, str, str]:
    """An estimate as cells of a table: name, value, error or the reason for none."""
    error = found.texts[1]
    kind = " (bound)" if math.isfinite(found.bound) and found.ends is None else ""
    if error and few_units_note(found.samples, found.sample_unit) and found.caveat:
        kind = f", from {found.samples} {found.sample_unit} only"
    elif error and found.caveat:
        kind = f", dominated by few of {found.samples:,} {found.sample_unit}"
    remark = f"{error}{kind}" if error else found.reason
    return found.name, found.shown, remark or found.meaning


def _rounded(value: float, error: float) -> tuple[str, str]:
    shown, _, around = with_error(value, error).partition(" ± ")
    return shown, around


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


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
