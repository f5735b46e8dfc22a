"""What `lossatlas forecast predict` is asked: options of a schedule, and rates from them."""

import numpy as np

from lossatlas.checks import check_at_least
from lossatlas.cli.forecast import _WSD, PredictSettings
from lossatlas.cli.forecast_files import read_rates
from lossatlas.errors import ArgumentError
from lossatlas.forecast import Curve, Fit, schedules
from lossatlas.forecast.ahead import decay_share, rounded, rounded_ratio
from lossatlas.forecast.logged_schedule import LoggedSchedule, ends_in_warmup, logged_schedule
from lossatlas.forecast.own_schedule import own_schedule
from lossatlas.forecast.schedules import WHOLE_RUN, Floats
from lossatlas.forecast.simple import steps_until
from lossatlas.forecast.unseen import one_schedule


def counted_steps(settings: PredictSettings, fit: Fit) -> Floats | None:
    """The updates asked for, of a fit that counts updates; None of any other."""
    count = settings.steps
    lone = settings.shape is None and settings.peak is None
    if count is None or not lone or not _counts_updates(fit):
        return None
    check_at_least("steps", count, 1)
    if fit.is_simple and fit.curves:
        return steps_until(fit, count)
    first = min(fit.first_step, count // 2 + 1)
    return np.unique(np.linspace(first, count, min(200, count)).round())


def _counts_updates(fit: Fit) -> bool:
    if fit.is_simple:
        return True
    return "lr" not in fit.law.needs and bool(fit.curves) and fit.curves[0].lr is None


def schedule_of(
    settings: PredictSettings, run: Curve | None, fit: Fit, *, planned: bool
) -> Curve | Floats | None:
    """The run, rates or shape asked for; None where only updates are."""
    # A simple forecast knows no rate, but holds for the schedule of its log only.
    if (
        run is not None
        and _counts_updates(fit)
        and not (fit.is_simple and fit.curves[0].lr is not None)
    ):
        run = run.without_rates()
    rates = None if settings.rates is None else read_rates(settings.rates)
    shaped = _planned_rates(settings, fit) if planned else None
    given = [part for part in (rates, run, shaped) if part is not None]
    if len(given) > 1:
        raise ArgumentError("`rates`, `run` and `shape` say the same thing; give one of them.")
    return given[0] if given else None


def _planned_rates(settings: PredictSettings, fit: Fit) -> Floats | None:
    settings = _with_logged_schedule(settings, fit)
    shape, steps, peak = settings.shape, settings.steps, settings.peak
    if shape is None and steps is None and peak is None:
        return None
    if shape is None or steps is None or peak is None:
        _, known = next_question(fit, settings.warmup)
        hint = f"; the fitted run continued is {known}" if known else ""
        raise ArgumentError(f"`shape`, `steps` and `peak` are needed together{hint}.")
    warmup, low = settings.warmup or 0, settings.min_ratio
    decay = settings.decay
    if shape == "constant":
        if decay is not None:
            raise ArgumentError("`decay` has no place in a constant schedule; leave it out.")
        return schedules.constant(steps, peak, warmup)
    if decay is None:
        decay = 1.0 if shape in schedules.WHOLE_RUN else _WSD["decay"]
    return schedules.wsd(steps, peak, decay, shape, min_ratio=low, warmup=warmup)


# Steps alone ask for the schedule of the longest fitted run over so many updates.
def _with_logged_schedule(settings: PredictSettings, fit: Fit) -> PredictSettings:
    if settings.steps is None or settings.shape is not None or settings.peak is not None:
        return settings
    runs = [curve for curve in fit.curves if curve.lr is not None]
    longest = max(runs, key=lambda curve: int(curve.step[-1]), default=None)
    plan = None if longest is None else logged_schedule(longest, settings.warmup)
    if plan is None or plan.rivals:
        return settings
    set_already = settings.model_dump(exclude_unset=True)
    named = {**_parsed(_schedule_options(plan, settings.steps)), **set_already}
    return PredictSettings.model_validate(named)


# Options of a command as settings.
def _parsed(options: str) -> dict[str, str]:
    words = [word.removeprefix("--").replace("-", "_") if word.startswith("--") else word
             for word in options.split()]  # fmt: skip
    return dict(zip(words[::2], words[1::2], strict=True))


def next_question(fitted: Fit, warmup: int | None) -> tuple[str, str]:
    """A question about the longest fitted run and its options; empty for laws of sizes."""
    if not fitted.curves or {"size", "tokens", "source"} & set(fitted.law.needs):
        return "", ""
    longest = max(fitted.curves, key=lambda curve: int(curve.step[-1]))
    if longest.lr is None or _counts_updates(fitted):
        return _question_of_updates(longest)
    if ends_in_warmup(longest):
        return (
            f"The rates of {longest.label} still rise where the log ends, so that the schedule "
            "after the warm-up is not known; name it:",
            "--shape SHAPE --steps STEPS --peak PEAK --warmup UPDATES",
        )
    plan = logged_schedule(longest, warmup)
    if plan is None:
        peak = f"{float(longest.lr.max()):.4g}"
        return (
            f"The rates of {longest.label} follow no usual schedule; a cosine in their place:",
            f"--shape cosine --steps {longest.lr.size} --peak {peak}",
        )
    goes_on = plan.decay is not None and not plan.has_ended
    steps = plan.steps if goes_on else 2 * plan.steps
    until = "to its end" if goes_on else "over twice its updates"
    if plan.decay is not None and not goes_on and one_schedule(fitted.curves):
        until += ", which is another schedule and so a guess"
    if plan.rivals:
        return (
            f"The rates of {longest.label} fit a {plan.shape} fall to update {plan.steps:,}, "
            f"and also a {' or '.join(plan.rivals)} fall that ends with the log. The next "
            "command is a guess: set --shape and --steps to those of your run.",
            _schedule_options(plan, steps),
        )
    return f"The schedule of {longest.label} {until}:", _schedule_options(plan, steps)


# The same for a fit that knows no rates.
def _question_of_updates(run: Curve) -> tuple[str, str]:
    own = own_schedule(run)
    until = "any number of updates" if own.end is None else f"updates up to {own.end:,}"
    return f"The same forecast for {until}, with a page:", f"--steps {own.question}"


def _schedule_options(plan: LoggedSchedule, steps: int) -> str:
    options = {"shape": plan.shape, "steps": str(steps), "peak": f"{rounded(plan.peak):g}"}
    if plan.warmup:
        options["warmup"] = str(plan.warmup)
    share = decay_share(plan)
    if share < 1 or (plan.decay is not None and plan.shape not in WHOLE_RUN):
        options["decay"] = f"{share:g}"
    if rounded_ratio(plan):
        options["min-ratio"] = f"{rounded_ratio(plan):g}"
    return " ".join(f"--{name} {value}" for name, value in options.items())
