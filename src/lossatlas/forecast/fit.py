"""Fit a law to loss curves and check it on what it has not seen."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lossatlas.checks import check_at_least, check_flag, is_number, nearest
from lossatlas.errors import ArgumentError, DataError, UnknownNameError
from lossatlas.forecast.curve import Curve, labels
from lossatlas.forecast.identifiability import (
    fit_warnings,
    flat_directions,
    parameter_errors,
    spike_warnings,
)
from lossatlas.forecast.law import Law, ScheduleLaw
from lossatlas.forecast.laws.baselines import Baseline
from lossatlas.forecast.result import Fit
from lossatlas.forecast.solver import FitSettings, Solution
from lossatlas.forecast.validation import (
    LeftOut,
    doubled_horizon,
    error_model,
    leave_one_out,
    score,
)
from lossatlas.io import Provenance
from lossatlas.text import count

Floats = NDArray[np.float64]

BETTER = 2.0  # times smaller errors on left-out curves from which on another setting is named


def fit(
    law: Law,
    curves: Sequence[Curve] | Curve,
    *,
    prior: bool = True,
    fixed: Mapping[str, float] | None = None,
    huber: float | None = None,
    max_points: int = 1000,
    check: bool = True,
) -> Fit:
    """Fit a law: Huber loss on log residuals, exact Jacobian, many starts.

    Every curve counts the same, however densely it was logged. Laws hold only after the
    warm-up. Points inside a warm-up that was given (`Curve.warmup`) are left out of every law,
    points inside one that the rates show of laws in the rate.

    Args:
        law: which law.
        curves: one or more runs; laws in the rate want several schedules at one size and peak.
        prior: hold parameters that few curves cannot identify by the law's weak log-normal
            prior. Default True; False gives the plain minimum.
        fixed: parameters that are known: name -> value.
        huber: width of the quadratic part in log loss. Default: the law's own, 1e-3 (inf, least
            squares, for the broken power law).
        max_points: longer curves are averaged down to this many points. Default 1000.
        check: make the leave-one-curve-out table and the doubled horizon, without which there
            is no interval. Costs one more fit a curve. Default True.

    Returns:
        The fit, with its errors on unseen curves and its warnings.

    Raises:
        ArgumentError: no law, no curves, fewer points than parameters, or a power law for
            runs of which some have rates and some have none.
        DataError: a curve lacks what the law needs.
        UnknownNameError: `fixed` names no parameter.

    Source: Luo et al., ICLR 2025, app. C (Huber loss on logs), arXiv:2503.12811.

    Examples:
        >>> from lossatlas.forecast import PowerLaw
        >>> step = np.arange(10, 500, 10)
        >>> fitted = fit(PowerLaw(), Curve(step, 2 + 3 * step**-0.5), check=False)
        >>> {name: round(value, 3) for name, value in fitted.parameters.items()}
        {'L0': 2.0, 'A': 3.0, 'alpha': 0.5}
    """
    runs = listed(curves)
    check_kinds(law, runs)
    check_at_least("max_points", max_points, 2)
    check_flag("prior", prior)
    check_flag("check", check)
    _check_time_unit(law, runs)
    _check_single(law, runs)
    settings = FitSettings(law, _width(law, huber), prior, _known(law, fixed))
    prepared = [_prepared(law, curve, max_points) for curve in runs]
    solution = _solved(settings, prepared)
    seen = [law.recent(curve) for curve in prepared]
    counts = [c.step.size for c in seen]
    # What a simple forecast says are its losses; its parameters say nothing beside them.
    flat = () if isinstance(law, Baseline) else flat_directions(law, solution, counts)
    metric = settings.metric(solution, prepared)
    scores = _scores(law, solution.values, seen, metric)
    left_out = leave_one_out(settings, prepared, solution.values) if check else ()
    doubled, tests = doubled_horizon(settings, prepared, solution.values) if check else ((), ())
    return Fit(
        law, solution.values, tuple(prepared), solution.objective, metric=metric, scores=scores,
        left_out=left_out,
        doubled=doubled,
        backtests=tests,
        flat=flat,
        parameter_errors=parameter_errors(settings.objective(seen), solution, counts),
        warnings=(
            *_better_settings(settings, prepared, solution, left_out),
            *fit_warnings(law, solution, prepared, flat),
            *spike_warnings(scores),
        ),
        provenance=Provenance(settings=_recorded(settings, max_points, len(prepared))),
    )  # fmt: skip


def _solved(settings: FitSettings, curves: Sequence[Curve]) -> Solution:
    law, points = settings.law, sum(c.step.size for c in curves)
    if points <= len(law.parameters) - len(settings.fixed):
        raise ArgumentError(
            f"`curves` must hold more points than {law.name} has free parameters "
            f"({len(law.parameters) - len(settings.fixed)}); got {points}."
        )
    solution = settings.solve(curves)
    if not np.isfinite(solution.penalized):
        raise DataError(
            f"{law.name} has no finite loss on these curves; free what `fixed` holds, or fit "
            "another law."
        )
    return solution


# The errors on the fitted curves themselves.
def _scores(
    law: Law, values: Floats, curves: Sequence[Curve], metric: Floats
) -> tuple[LeftOut, ...]:
    longest = max(int(c.step[-1]) for c in curves)
    return tuple(
        score(law, values, c, name, c.group or name, longest=longest, metric=metric)
        for c, name in zip(curves, labels(curves), strict=True)
    )


# The law with other settings, if one of them forecasts left-out curves much better.
def _better_settings(
    settings: FitSettings,
    curves: Sequence[Curve],
    solution: Solution,
    left_out: tuple[LeftOut, ...],
) -> tuple[str, ...]:
    best, advice = BETTER, tuple[str, ...]()
    for other in settings.law.relatives() if left_out else ():
        second = replace(settings, law=other)
        fitted = second.solve(curves)
        # Only what fits better is worth the cost of leaving curves out.
        if fitted.objective > solution.objective / BETTER:
            continue
        errors = error_model(leave_one_out(second, curves, fitted.values), ())
        ratio = error_model(left_out, ()).scale / max(errors.scale, 1e-300)
        if ratio >= best:
            best, advice = ratio, (
                f"{described(other)} forecasts left-out curves {ratio:.2g} times better: fit "
                "it, or compare laws",
            )  # fmt: skip
    return advice


def check_kinds(law: object, curves: Sequence[object]) -> None:
    """Require a law and curves."""
    if not isinstance(law, Law):
        raise ArgumentError(f"`law` must be a law, MultiPowerLaw() say; got {law!r}.")
    for curve in curves:
        if not isinstance(curve, Curve):
            raise ArgumentError(
                f"`curves` must hold curves; got {type(curve).__name__}; give "
                "Curve(step, loss, lr)."
            )


# Without rates the power law counts updates, with them it sums rates: two units.
def _check_time_unit(law: Law, curves: Sequence[Curve]) -> None:
    bare = [curve for curve in curves if curve.lr is None]
    if isinstance(law, ScheduleLaw) and not law.needs and 0 < len(bare) < len(curves):
        raise ArgumentError(
            f"`curves` must all have rates or none: {law.name} sums rates where there are any "
            f"and counts updates otherwise; curve '{bare[0].label}' has no `lr`."
        )


# A trend or a level is that of one run.
def _check_single(law: Law, curves: Sequence[Curve]) -> None:
    if isinstance(law, Baseline) and len(curves) > 1:
        raise ArgumentError(
            f"`curves` must be one run for {law.name}, which goes on from the end of that run; "
            f"got {len(curves)}."
        )


def _width(law: Law, huber: float | None) -> float:
    width = law.huber if huber is None else huber
    if not is_number(width) or not width > 0:
        raise ArgumentError(f"`huber` must be > 0 (inf: least squares); got {huber!r}.")
    return float(width)


def _known(law: Law, fixed: Mapping[str, float] | None) -> dict[str, float]:
    if fixed is not None and not isinstance(fixed, Mapping):
        raise ArgumentError(
            f"`fixed` must map parameters to numbers; got {type(fixed).__name__}."
        )
    given = dict(fixed or {})
    for name, value in given.items():
        if name not in law.parameters:
            raise UnknownNameError(
                f"`fixed` names '{name}', which {law.name} does not have"
                f"{nearest(name, law.parameters)}; it has {', '.join(law.parameters)}."
            )
        if not is_number(value) or not 0 <= float(value) < np.inf:
            raise ArgumentError(f"`fixed['{name}']` must be finite and >= 0; got {value!r}.")
    return {name: float(value) for name, value in given.items()}


def _prepared(law: Law, curve: Curve, max_points: int) -> Curve:
    law.check(curve.inputs, curve.name)
    warm = _warmup(law, curve)
    outside = curve.step >= warm
    if outside.sum() < 2:
        raise DataError(
            f"curve '{curve.label}' has {count(int(outside.sum()), 'point')} after its warm-up "
            f"of {count(warm, 'update')}; a law needs at least two."
        )
    return (curve if outside.all() else curve.select(outside)).thinned(max_points)


# The updates of the warm-up, the last of which has the peak; 0 for laws of other things.
def _warmup(law: Law, curve: Curve) -> int:
    if law.pointwise and law.needs:
        return 0
    seen = curve.inputs.warmup + 1 if isinstance(law, ScheduleLaw) else 0
    return max(seen, curve.warmup or 0)


def _recorded(settings: FitSettings, max_points: int, curves: int) -> dict[str, object]:
    return {
        "law": described(settings.law), "huber": settings.huber, "prior": settings.prior,
        "fixed": settings.fixed, "max_points": max_points, "curves": curves,
    }  # fmt: skip


def described(law: Law) -> str:
    """A law with its settings."""
    inner = ", ".join(f"{key}={value}" for key, value in law.settings().items())
    return f"{law.name}({inner})"


def listed(curves: Sequence[Curve] | Curve) -> list[Curve]:
    """Curves as a list, at least one."""
    if isinstance(curves, Curve):
        return [curves]
    if not isinstance(curves, Iterable):
        raise ArgumentError(f"`curves` must be curves; got {type(curves).__name__}.")
    runs = list(curves)
    if not runs:
        raise ArgumentError("`curves` must hold at least one curve; got none.")
    return runs
