"""Choose among laws: by curves that are left out, or by the second half of a single one."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lossatlas.errors import ArgumentError, AtlasError, DataError
from lossatlas.forecast.curve import Curve
from lossatlas.forecast.fit import check_kinds, described, fit, listed
from lossatlas.forecast.law import Law, ScheduleLaw
from lossatlas.forecast.laws import AnnealingLaw, LinearLRLaw, MultiPowerLaw, PowerLaw
from lossatlas.forecast.laws.annealing import DECAYS
from lossatlas.forecast.result import Alternative, Fit


def fit_best(
    curves: Sequence[Curve] | Curve, laws: Sequence[Law] | None = None, **settings: object
) -> Fit:
    """Fit several laws and keep the one that forecasts best what it has not seen.

    With two independent runs or more that is the curves left out of the fit; with one it is
    the second half of the run, forecast by a fit to the first half.

    Args:
        curves: the runs.
        laws: candidates. Default: the multi-power law, annealing laws of four decays, the
            linear law and, of a single run, the power law; the power law alone where a run has
            no rates.
        **settings: for `fit`.

    Returns:
        The best fit; its `alternatives` tell of the others.

    Raises:
        ArgumentError: no candidates, or curves that can be neither left out nor halved.
        DataError: no candidate could be fitted; the message says why.

    Examples:
        >>> step = np.arange(20, 500, 20)
        >>> runs = [Curve(step, 2 + a * step**-0.5, lr=0.1) for a in (3.0, 3.1, 3.2)]
        >>> fit_best(runs, [PowerLaw()]).alternatives[0].law
        'PowerLaw()'
    """
    curves = listed(curves)
    candidates = _candidates(curves, laws)
    if not candidates:
        raise ArgumentError("`laws` must hold at least one law; got none.")
    for law in candidates:
        check_kinds(law, ())
    fits: list[Fit] = []
    tried = []
    for law in candidates:
        try:
            fits.append(fit(law, curves, **settings))  # type: ignore[arg-type]
            tried.append(_tried(fits[-1]))
        except AtlasError as failure:
            tried.append(Alternative(described(law), float("inf"), str(failure)))
    if not fits:
        raise DataError(f"no law could be fitted: {tried[0].note}")
    best = min(fits, key=lambda fitted: _order(_tried(fitted)))
    if not np.isfinite(_tried(best).error):
        raise ArgumentError(
            "`curves` must hold two independent curves, or one whose halves are long enough to "
            "forecast one from the other, to choose among laws; fit one law with `fit`."
        )
    return replace(best, alternatives=tuple(sorted(tried, key=_order)))


def fit_or_better(law: Law, curves: Sequence[Curve], **settings: Any) -> Fit:
    """Fit a law; where it fails its checks, the best other law of rates that passes them."""
    first = fit(law, curves, **settings)
    if first.verdict.usable is not False or not isinstance(law, ScheduleLaw):
        return first
    try:
        best = fit_best(curves, **settings)
    except AtlasError:
        return first
    if best.verdict.usable is False:
        others = len({row.law for row in best.alternatives} - {described(law)})
        tried = f"none of {others} other laws passes these checks" if others else ""
        return replace(first, warnings=(*filter(None, [tried]), *first.warnings))
    said = f"{described(law)} failed its checks ({first.verdict.reason}); this law passes them"
    return replace(best, warnings=(said, *best.warnings))


def _tried(fitted: Fit) -> Alternative:
    errors, verdict = fitted.errors, fitted.verdict
    if fitted.left_out:
        return Alternative(described(fitted.law), errors.scale, "", errors.is_bound)
    note = "" if verdict.describes else f"does not describe the curve: {verdict.reason}"
    return Alternative(described(fitted.law), verdict.error, note, verdict.is_bound)


# Laws that were not checked are last.
def _order(row: Alternative) -> float:
    return float("inf") if np.isnan(row.error) else row.error


def _candidates(curves: Sequence[Curve], laws: Sequence[Law] | None) -> list[Law]:
    if laws is not None:
        if not isinstance(laws, Iterable):
            raise ArgumentError(f"`laws` must be laws; got {type(laws).__name__}.")
        return list(laws)
    if any(isinstance(curve, Curve) and curve.lr is None for curve in curves):
        return [PowerLaw()]
    every: list[Law] = [MultiPowerLaw(), *map(AnnealingLaw, DECAYS), LinearLRLaw()]
    return [*every, PowerLaw()] if len(curves) == 1 else every
