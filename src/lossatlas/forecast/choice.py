"""Choose among laws and simple forecasts, by curves left out or by second halves."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lossatlas.errors import ArgumentError, AtlasError, DataError
from lossatlas.forecast.curve import Curve
from lossatlas.forecast.fit import check_kinds, described, fit, listed
from lossatlas.forecast.law import Law, ScheduleLaw
from lossatlas.forecast.laws import (
    AnnealingLaw,
    Baseline,
    LastLevel,
    LinearLRLaw,
    LocalTrend,
    MultiPowerLaw,
    PowerLaw,
)
from lossatlas.forecast.laws.annealing import DECAYS
from lossatlas.forecast.next_runs import rejected_law
from lossatlas.forecast.result import Alternative, Fit
from lossatlas.forecast.verdict import is_checkable, off_by
from lossatlas.text import count

# How many candidates are done, of how many, and which one is next.
Progress = Callable[[int, int, str], None]

SIMPLE = (LastLevel(), LocalTrend())
# A trend must forecast the second half this much better than a level: it extrapolates.
PLAINER = 0.8


def fit_best(
    curves: Sequence[Curve] | Curve, laws: Sequence[Law] | None = None, **settings: Any
) -> Fit:
    """Fit several laws and keep the one that forecasts best what it has not seen.

    With two independent runs or more that is the curves left out of the fit; with one it is
    the second half of the run, forecast by a fit to the first half. Laws that do not describe
    a single run come last.

    Args:
        curves: the runs.
        laws: candidates. Default: the multi-power law, annealing laws of four decays, the
            linear law and, of a single run, the power law and two simple forecasts, `LastLevel`
            and `LocalTrend`; without rates none of the laws of rates.
        **settings: for `fit`.

    Returns:
        The best fit; its `alternatives` list the others.

    Raises:
        ArgumentError: no candidates, or curves that can be neither left out nor halved.
        DataError: no candidate could be fitted; the message says why.

    Examples:
        >>> step = np.arange(20, 500, 20)
        >>> runs = [Curve(step, 2 + a * step**-0.5, lr=0.1) for a in (3.0, 3.1, 3.2)]
        >>> fit_best(runs, [PowerLaw()]).alternatives[0].law
        'PowerLaw()'
    """
    return fit_each(curves, laws, **settings)


def fit_each(
    curves: Sequence[Curve] | Curve,
    laws: Sequence[Law] | None = None,
    *,
    progress: Progress | None = None,
    **settings: Any,
) -> Fit:
    """Do what `fit_best` does, and report progress."""
    curves = listed(curves)
    candidates = _candidates(curves, laws)
    if not candidates:
        raise ArgumentError("`laws` must hold at least one law; got none.")
    for law in candidates:
        check_kinds(law, ())
    fits, tried = _fits(candidates, curves, progress, settings)
    if not fits:
        raise DataError(f"no law could be fitted: {tried[0].note}")
    best = min(fits, key=lambda fitted: _order(_tried(fitted)))
    if not np.isfinite(_tried(best).error):
        raise ArgumentError(
            "`curves` must hold two independent curves, or one whose halves are long enough to "
            "forecast one from the other, to choose among laws; fit one law with `fit`."
        )
    return replace(best, alternatives=tuple(sorted(tried, key=_order)))


# Fits of the candidates that could be fitted, and a row for each candidate.
def _fits(
    candidates: Sequence[Law],
    curves: Sequence[Curve],
    progress: Progress | None,
    settings: dict[str, Any],
) -> tuple[list[Fit], list[Alternative]]:
    fits: list[Fit] = []
    tried: list[Alternative] = []
    for done, law in enumerate(candidates):
        if progress is not None:
            progress(done, len(candidates), _called(law))
        try:
            fits.append(fit(law, curves, **settings))
            tried.append(_tried(fits[-1]))
        except AtlasError as failure:
            tried.append(Alternative(described(law), float("inf"), str(failure)))
    return fits, tried


def fit_or_better(
    law: Law, curves: Sequence[Curve], *, progress: Progress | None = None, **settings: Any
) -> Fit:
    """Fit a law; where it fails its checks, the best other law, or else a simple forecast.

    Args:
        law: the law to begin with.
        curves: the runs.
        progress: called with the number of candidates done, their total, and the next one.
        **settings: for `fit`.

    Returns:
        The fit of a law that passes its checks, or of a simple forecast of the longest run
        where none does; the first law where not even that can be checked.
    """
    others = [each for each in _candidates(curves, None) if each != law]
    others = [each for each in others if not isinstance(each, Baseline)]
    every = [law, *others, *SIMPLE]
    if progress is not None:
        progress(0, len(every), _called(law))
    first = fit(law, curves, **settings)
    if first.verdict.usable or (first.verdict.usable is None and _is_trusted(first)):
        return _beside_simple(first, curves)
    fits, tried = [first], [_tried(first)]
    # A loss that does not fall in the second half can confirm no law.
    if isinstance(law, ScheduleLaw) and is_checkable(first.backtests):
        more, rows = _fits(others, curves, _shifted(progress, 1, len(every)), settings)
        fits, tried = fits + more, tried + rows
    passed = [fitted for fitted in fits if _is_trusted(fitted)]
    if passed:
        best = min(passed, key=lambda fitted: _order(_tried(fitted)))
        if len(curves) == 1:
            tried += _simple(curves[0], None)[1]
        table = (_tried(best), *sorted(set(tried) - {_tried(best)}, key=_order))
        return replace(best, warnings=(*_why_other(first, best), *best.warnings),
                       alternatives=table)  # fmt: skip
    return _simplest(first, tried, curves, _shifted(progress, len(every) - 2, len(every)))


# A law of one run has no interval: simple forecasts are shown beside it.
def _beside_simple(law: Fit, curves: Sequence[Curve]) -> Fit:
    if len(curves) > 1 or law.ahead is None or isinstance(law.law, Baseline):
        return law
    rows = _simple(curves[0], None)[1]
    return replace(law, alternatives=(_tried(law), *sorted(rows, key=_order)))


# One measure for laws and simple forecasts: is there an interval that their own errors set?
# A law has one from runs left out; of one run it has none, and must forecast the second half.
def _is_trusted(fitted: Fit) -> bool:
    return not fitted.distrust and bool(fitted.verdict.usable or not fitted.errors.reason)


# Why a law with which nobody began; empty where it is the one.
def _why_other(first: Fit, best: Fit) -> tuple[str, ...]:
    if best is first:
        return ()
    if _is_trusted(first):
        return (f"{_called(best.law)} forecasts unseen curves better than {first.law.name}",)
    reason = f"{described(first.law)} failed its checks ({first.verdict.reason})"
    return (f"{reason}; this law passes them",)


def simple_fit(curve: Curve) -> Fit | None:
    """The better simple forecast of a run; None where its past cannot check it."""
    return _simple(curve, None)[0]


def _simple(curve: Curve, progress: Progress | None) -> tuple[Fit | None, list[Alternative]]:
    fits, rows = _fits(SIMPLE, [curve], progress, {})
    checked = [fitted for fitted in fits if not fitted.errors.reason]
    return min(checked, key=lambda fitted: _order(_tried(fitted)), default=None), rows


# A simple forecast of the longest run, with what was tried before; else the first law.
def _simplest(
    first: Fit, tried: list[Alternative], curves: Sequence[Curve], progress: Progress | None
) -> Fit:
    longest = max(curves, key=lambda curve: int(curve.step[-1]))
    best, rows = _simple(longest, progress)
    said = _why_simple(first, len(tried) - 1)
    if best is None:
        every = tuple(sorted([*tried, *rows], key=_order))
        table = (_tried(first), *(row for row in every if row != _tried(first)))
        return replace(first, warnings=(*said[1:], *first.warnings), alternatives=table)
    said += _why_interval(first, best)
    if len(curves) > 1:
        said.append(
            f"this forecast is of '{longest.label}' alone; give one of the other runs by "
            "itself to forecast that"
        )
    verdict, table = first.verdict, tuple(sorted([*tried, *rows], key=_order))
    rejected = rejected_law(
        first.law.name, verdict.reason, describes=verdict.describes, error=verdict.error,
        curves=curves,
    )  # fmt: skip
    return replace(
        best, warnings=(*said, *best.warnings), alternatives=table, began_with=rejected
    )


def _why_simple(first: Fit, others: int) -> list[str]:
    verdict = first.verdict
    fails = "fails its checks" if verdict.usable is False else "cannot be checked"
    said = [f"no law is used: {first.law.name} {fails}, because {verdict.reason}"]
    if others:
        said.append(
            f"none of {count(others, 'other law')} passes the checks either; "
            f"{count(len(SIMPLE), 'simple forecast')} were tried after them"
        )
    return said


# Why a simple forecast may take the place of a law that missed by less.
def _why_interval(first: Fit, best: Fit) -> list[str]:
    law, simple = first.verdict, best.verdict
    if not law.describes or not law.error < simple.error:
        return []
    return [
        f"{best.law.name} is used although it missed the second half by more "
        f"({off_by(simple.error, simple.is_bound)}): its interval is as wide as its own "
        f"errors, whereas {first.law.name} has no interval, and one forecast that came closer "
        "does not show how far off the next one is"
    ]


# A law as people call it: settings only where they differ from the usual ones.
def _called(law: Law) -> str:
    return law.name if law == type(law)() else described(law)


def _shifted(progress: Progress | None, before: int, total: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, _, label: progress(before + done, total, label)


def _tried(fitted: Fit) -> Alternative:
    errors, verdict = fitted.errors, fitted.verdict
    if fitted.left_out:
        return _row(fitted, errors.scale, "", is_bound=errors.is_bound)
    note = "" if verdict.describes else f"does not fit the curve: {verdict.reason}"
    if verdict.usable is None and not isinstance(fitted.law, Baseline):
        note = f"not checked: {verdict.reason}"
    return _row(fitted, verdict.error, note, is_bound=verdict.is_bound)


def _row(fitted: Fit, error: float, note: str, *, is_bound: bool) -> Alternative:
    prediction = fitted.ahead
    final = (float("nan"),) * 3 if prediction is None else prediction.final
    return Alternative(described(fitted.law), error, note, is_bound, *final)


# Laws that describe no curve come after those that do, and what was not checked comes last.
def _order(row: Alternative) -> tuple[bool, float]:
    if not np.isfinite(row.error):
        return True, float("inf")
    handicap = 1.0 if row.law == described(LocalTrend()) else PLAINER
    return bool(row.note), handicap * row.error


def _candidates(curves: Sequence[Curve], laws: Sequence[Law] | None) -> list[Law]:
    if laws is not None:
        if not isinstance(laws, Iterable):
            raise ArgumentError(f"`laws` must be laws; got {type(laws).__name__}.")
        return list(laws)
    simple = list(SIMPLE) if len(curves) == 1 else []
    if any(isinstance(curve, Curve) and curve.lr is None for curve in curves):
        return [PowerLaw(), *simple]
    every: list[Law] = [MultiPowerLaw(), *map(AnnealingLaw, DECAYS), LinearLRLaw()]
    return [*every, PowerLaw(), *simple] if len(curves) == 1 else every
