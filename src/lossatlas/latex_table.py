"""LaTeX tables of estimates, with errors or reasons for missing errors."""

import math
from collections.abc import Iterable

from lossatlas.estimate import Estimate, is_exact_count
from lossatlas.reference import Reference
from lossatlas.text import latex

# Marks of numbers, in the order of the rows that explain them.
_MARKS = {"†": "no standard error", "‡": "a bound on the error, not a standard error"}


def estimates_table(estimates: Iterable[Estimate], papers: Iterable[Reference]) -> str:
    """A `tabular` environment, followed by reasons and references as comments."""
    rows, reasons, marks = [], [], set[str]()
    for estimate in estimates:
        mark = _mark(estimate)
        marks.add(mark)
        cells = estimate.name, _value(estimate) + mark, estimate.unit
        rows.append(" & ".join(map(latex, cells)) + r" \\")
        if mark == "†" or math.isnan(estimate.value):
            reason = estimate.why_no_error or "no error"
            reasons.append(f"% {latex(estimate.name)}: {latex(reason)}")
    notes = [
        rf"\multicolumn{{3}}{{l}}{{{latex(mark)} {text}}} \\"
        for mark, text in _MARKS.items()
        if mark in marks
    ]
    head = r"\begin{tabular}{lrl}", r"\hline", r"quantity & value & unit \\", r"\hline"
    foot = r"\hline", r"\end{tabular}"
    cited = [f"% {latex(each.use)}: {latex(each.text)} {each.link}" for each in papers]
    explained = [r"\hline", *notes] if notes else []
    return "\n".join((*head, *rows, *explained, *foot, *reasons, *cited)) + "\n"


def _value(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "--"
    return " ".join(filter(None, estimate.texts))


def _mark(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return ""
    if estimate.texts[1]:
        has_bound = math.isfinite(estimate.bound) and estimate.ends is None
        return "‡" if has_bound else ""
    is_exact = estimate.error == 0 and not estimate.why_no_error
    return "" if is_exact or is_exact_count(estimate) else "†"
