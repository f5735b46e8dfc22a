"""LaTeX tables of estimates and texts, with errors or reasons for missing errors."""

import math
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal

from lossatlas.estimate import Estimate, is_exact_count
from lossatlas.reference import Reference
from lossatlas.text import MINUS, latex

# Marks of numbers, in the order of the rows that explain them.
_MARKS = {"†": "no standard error", "‡": "a bound on the error, not a standard error"}
_PLUS_MINUS = r"$\pm$ standard error"
_INTERVAL = r"brackets: ends of the 95\,\% interval"
_NUMBER = re.compile(rf"[-+{MINUS}]?\d[\d,]*(?:\.\d+)?(?:e[-+{MINUS}]?\d+)?")
_EXPONENT = re.compile(rf"\de[-+{MINUS}]?\d")


def estimates_table(estimates: Iterable[Estimate], papers: Iterable[Reference]) -> str:
    """A `tabular` environment, followed by reasons and references as comments."""
    rows, reasons, marks = [], [], set[str]()
    for estimate in estimates:
        mark = _mark(estimate)
        cells = latex(estimate.name), _value(estimate) + latex(mark), latex(estimate.unit)
        rows.append(cells)
        marks.add(mark)
        if mark == "†" or math.isnan(estimate.value):
            reason = estimate.why_no_error or "no error"
            reasons.append(f"{estimate.name}: {reason}")
    notes = [f"{latex(mark)} {text}" for mark, text in _MARKS.items() if mark in marks]
    written = "".join(value for _, value, _ in rows)
    errors = [_PLUS_MINUS] if r"\pm" in written else []
    errors += [_INTERVAL] if "[" in written else []
    head = "quantity", "value", "unit"
    return _tabular("lrl", head, rows, [*errors, *notes]) + _comments(reasons, papers)


def text_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Iterable[str],
    papers: Iterable[Reference],
) -> str:
    """A `tabular` environment of texts, with notes as last rows and references as comments."""
    columns = ["l" if any(map(_is_text, cells)) else "r" for cells in zip(*rows, strict=True)]
    columns = columns or ["l"] * len(head)
    cells = [tuple(map(latex_cell, row)) for row in rows]
    written = [latex(note) for note in notes]
    return _tabular("".join(columns), [*map(latex, head)], cells, written) + _comments(
        (), papers
    )


def latex_cell(text: str) -> str:
    """Escape a cell of a table; numbers with exponents share one power of ten."""
    if _is_text(text) or not _EXPONENT.search(text):
        return latex(text)
    numbers = [_decimal(each) for each in _NUMBER.findall(text)]
    power = max((each.adjusted() for each in numbers if each), default=0)

    def scaled(match: re.Match[str]) -> str:
        sign = "+" if match[0].startswith("+") else ""
        digits = _decimal(match[0]).scaleb(-power)
        return rf"{sign}{digits:f} \times 10^{{{power}}}"

    scientific = _NUMBER.sub(scaled, text).replace("±", r"\pm").replace("%", r"\%")
    return f"${scientific}$"


def _decimal(text: str) -> Decimal:
    return Decimal(text.replace(",", "").replace(MINUS, "-"))


def _is_text(cell: str) -> bool:
    # Numbers, their errors, intervals and units of accuracy are set as numbers.
    return bool(_NUMBER.sub("", cell).strip(" ±[],%"))


def _tabular(
    columns: str, head: Sequence[str], rows: Iterable[Sequence[str]], notes: Sequence[str]
) -> str:
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\hline", " & ".join(head) + r" \\"]
    lines += [r"\hline", *(" & ".join(row) + r" \\" for row in rows)]
    if notes:
        lines.append(r"\hline")
    lines += [rf"\multicolumn{{{len(columns)}}}{{l}}{{{note}}} \\" for note in notes]
    return "\n".join((*lines, r"\hline", r"\end{tabular}")) + "\n"


def _comments(remarks: Iterable[str], papers: Iterable[Reference]) -> str:
    lines = [f"% {latex(remark)}" for remark in remarks]
    lines += [f"% {latex(each.use)}: {latex(each.text)} {each.link}" for each in papers]
    return "".join(f"{line}\n" for line in lines)


def _value(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "--"
    return latex_cell(" ".join(filter(None, estimate.texts)))


def _mark(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return ""
    if estimate.texts[1]:
        has_bound = math.isfinite(estimate.bound) and estimate.ends is None
        return "‡" if has_bound else ""
    is_exact = estimate.error == 0 and not estimate.why_no_error
    return "" if is_exact or is_exact_count(estimate) else "†"
