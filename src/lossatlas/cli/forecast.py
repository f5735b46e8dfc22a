"""`lossatlas forecast`: fit laws to loss files, forecast, compare laws, choose a schedule."""

import functools
import re
import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from pydantic import BaseModel

from lossatlas.cli.command import Command
from lossatlas.cli.declaration import declared
from lossatlas.cli.layout import Group
from lossatlas.cli.output import Output, Rows
from lossatlas.cooldown import CooldownShape
from lossatlas.errors import ArgumentError, AtlasError
from lossatlas.settings import Strict, about, common, defaults, option
from lossatlas.text import count, with_ends

if TYPE_CHECKING:
    from lossatlas.forecast import Curve, Fit, Prediction
    from lossatlas.forecast.logged_schedule import LoggedSchedule
    from lossatlas.forecast.schedules import Floats

_FIT = defaults("forecast.fit:fit")
_PREDICT = defaults("forecast.result:Fit.predict")
_PLAN = defaults("forecast.result:Fit.optimize_schedule")
_WSD = defaults("forecast.schedules:wsd")
# Shares of the peak below this are no rate.
_NO_RATE = 1e-3
LEVEL = 0.95  # of the intervals of parameters
Kind = Literal["auto", "csv", "json", "wandb", "tensorboard", "trainer", "points"]
Schedule = Literal["constant", CooldownShape]

# What the commands write. A fit, its forecasts and its schedules may share a folder.
FIT = ("fit.nc", "fit.html", "curves.png", "residuals.png")
FORECAST = ("forecast.nc", "forecast.csv", "forecast.html", "forecast.png")
SCHEDULE = ("schedule.nc", "schedule.csv", "schedule.html", "schedule.png")

_FILES = (
    "Loss curves: .csv or JSON lines with step, loss and lr (Lightning's metrics.csv and W&B's "
    "history as they are), a chart exported by W&B, TensorBoard's event files or its CSV and "
    "JSON, trainer_state.json; one run a file, but several in W&B's charts and "
    "in folders of event files."
)
_KIND = (
    "Format of the files; auto looks at each. json = one object a line, or an array of them; "
    "wandb = a chart; tensorboard = event files, their folder, or what "
    "its page downloads; points = one run a row."
)
_PRIOR = (
    "Keep parameters that so few curves cannot fix at typical values; --no-prior fits them all."
)
_LAWS = (
    "multi-power, annealing, linear-lr, power, broken-power, chinchilla, kaplan, "
    "shifted-power, with settings as in 'annealing(decay=0.995)'; or a simple forecast, "
    "last-level or local-trend."
)
_LAW = (
    f"{_LAWS} By default multi-power (power where a run has no learning rates); where that "
    "fails its checks, the best law that passes them, or else a simple forecast."
)
_COLUMN = "A column whose name is not the usual one, as in loss=my_loss. Repeatable."
_LINEAR = "Warmup steps that are missing from the log. By default none."
_OUT = "Folder of results, a page and figures, or a name that ends in one of their suffixes."
_SEED = "Random seed; no forecast draws random numbers."
_RESUME = "Has no effect here: a forecast takes seconds and is always computed anew."
_planned = functools.partial(option, group="Schedule")
_sized = functools.partial(option, group="Sizes")


class _Forecast(Strict):
    """Settings of every command of `lossatlas forecast`."""

    out: Path | None = common(None, f"{_OUT} By default nothing is written.", short="o")
    seed: int = common(0, _SEED, ge=0)


class _Curves(_Forecast):
    """Settings of the commands that read loss curves."""

    files: tuple[Path, ...] = option(..., _FILES, positional=True, min_length=1)
    column: tuple[str, ...] = option((), _COLUMN)
    kind: Kind = option("auto", _KIND)
    warmup: int | None = option(None, _LINEAR, ge=0)
    out: Path = common(Path("forecast"), _OUT, short="o")


class FitSettings(_Curves):
    """Settings of `lossatlas forecast fit`."""

    law: str | None = option(None, _LAW)
    fixed: tuple[str, ...] = option((), "A known parameter, as in E0=1.69. Repeatable.")
    prior: bool = option(_FIT["prior"], _PRIOR)


class CompareSettings(_Curves):
    """Settings of `lossatlas forecast compare`."""

    law: tuple[str, ...] = option(
        (), f"A law to compare: {_LAWS} Repeatable. By default the laws of learning rates."
    )


class _OfFit(_Forecast):
    """Settings of the commands that start from a fit."""

    fit: Path = option(..., "The file fit.nc, or the folder that holds it.", positional=True)


class PredictSettings(_OfFit):
    """Settings of `lossatlas forecast predict`."""

    rates: Path | None = _planned(None, "Rate of every update, .npy or .csv.")
    run: Path | None = _planned(None, "A measured run, compared with its forecast.")
    shape: Schedule | None = _planned(
        None,
        "A schedule: linear and cosine fall over the whole run after the warmup, the others "
        "hold the rate before a cooldown. A simple forecast answers for that of its log only.",
    )
    steps: int | None = _planned(
        None,
        "Updates, warmup included. Alone: those of a fit without rates, or the schedule of the "
        "longest fitted run over so many.",
    )
    peak: float | None = _planned(
        None, "Highest learning rate. Leave it out for laws fitted without rates."
    )
    decay: float | None = _planned(
        None,
        "Length of the fall: a share of the updates after the warmup up to 1, otherwise "
        f"updates. By default 1 for linear and cosine, {_WSD['decay']} for the other shapes.",
    )
    min_ratio: float = _planned(_WSD["min_ratio"], "Last learning rate as a share of the peak.")
    warmup: int | None = _planned(
        None, "Length of a linear warmup, of the schedule or of a run that lacks it in its log."
    )
    size: float | None = _sized(_PREDICT["size"], "Model size, for laws in size.")
    tokens: float | None = _sized(_PREDICT["tokens"], "Training tokens, for laws in tokens.")
    source: float | None = _sized(_PREDICT["source"], "Loss on the other set.")
    column: tuple[str, ...] = option((), _COLUMN)
    level: float = option(_PREDICT["level"], "Share of final losses to cover.")


class ScheduleSettings(_OfFit):
    """Settings of `lossatlas forecast schedule`."""

    steps: int = _planned(..., "Updates, warmup included.")
    peak: float = _planned(..., "Highest learning rate.")
    warmup: int = _planned(_PLAN["warmup"], "Length of the linear warmup.")
    force: bool = option(
        _PLAN["force"],
        "Rank schedules by a fit that failed its checks; the answer then says so first.",
    )


def run_fit(settings: FitSettings, output: Output) -> None:
    """Fit a law."""
    from lossatlas.cli import forecast_files as files
    from lossatlas.forecast import fit
    from lossatlas.forecast.choice import fit_or_better

    curves = files.read_curves(settings.files, settings.kind, settings.column, settings.warmup)
    chosen, curves, why = files.chosen_law(settings.law, curves)
    output.note(f"{why}fitting {chosen.name} to {count(len(curves), 'curve')} ...")
    fixed = files.assignments("fixed", settings.fixed)
    if settings.law or fixed:
        fitted = fit(chosen, curves, prior=settings.prior, fixed=fixed)
    else:
        # A law that nobody asked for gives way to one that passes its checks.
        with output.progress("laws and simple forecasts tried") as progress:
            fitted = fit_or_better(chosen, curves, progress=progress, prior=settings.prior)
    fitted = files.with_origin(fitted, settings)
    _print_fit(fitted, settings, output, fitted.law.name)


def run_compare(settings: CompareSettings, output: Output) -> None:
    """Fit several laws and keep the best."""
    from lossatlas.cli import forecast_files as files
    from lossatlas.forecast.choice import fit_each

    curves = files.read_curves(settings.files, settings.kind, settings.column, settings.warmup)
    _, curves, why = files.chosen_law(settings.law[0] if settings.law else None, curves)
    output.note(f"{why}comparing laws on {count(len(curves), 'curve')} ...")
    laws = [files.named_law(name) for name in settings.law] or None
    with output.progress("laws and simple forecasts tried") as progress:
        fits = files.with_origin(fit_each(curves, laws, progress=progress), settings)
    _print_fit(fits, settings, output, fits.tables()[0].head[1], _laws_table(fits))


def run_predict(settings: PredictSettings, output: Output) -> None:
    """Forecast the loss."""
    from lossatlas.cli import forecast_files as files

    fitted = files.load_fit(settings.fit)
    output.note(files.stopped_note(settings.fit))
    truth = None
    if settings.run is not None:
        truth = files.read_curves([settings.run], "auto", settings.column, settings.warmup)[0]
    steps = _counted_steps(settings, fitted)
    told = fitted.predict(
        _schedule(settings, truth, fitted, planned=steps is None),
        steps=steps,
        size=settings.size,
        tokens=settings.tokens,
        source=settings.source,
        level=settings.level,
    )
    told = told if truth is None else told.with_measured(truth)
    written = files.write_prediction(told, settings.out, settings)
    loss, lower, upper = told.final
    more = told.to_dict() | {"final": {"loss": loss, "lower": lower, "upper": upper}}
    more["measured"] = None if truth is None else float(truth.loss[-1])
    title = f"{'guess' if told.guess else 'forecast'} of {fitted.law.name}"
    # The points of the fit are in its own file.
    del more["fitted"]
    output.result(told, title, files=written, extra=more)


# A fit that counts updates is asked about steps alone.
def _counted_steps(settings: PredictSettings, fit: "Fit") -> "Floats | None":
    import numpy as np

    from lossatlas.checks import check_at_least

    count = settings.steps
    lone = settings.shape is None and settings.peak is None
    if count is None or not lone or not _counts_updates(fit):
        return None
    check_at_least("steps", count, 1)
    if _is_simple(fit) and fit.curves:
        from lossatlas.forecast.simple import steps_until

        return steps_until(fit, count)
    first = min(fit.first_step, count // 2 + 1)
    return np.unique(np.linspace(first, count, min(200, count)).round())


def _counts_updates(fit: "Fit") -> bool:
    if _is_simple(fit):
        return True
    return "lr" not in fit.law.needs and bool(fit.curves) and fit.curves[0].lr is None


def _schedule(
    settings: PredictSettings, run: "Curve | None", fit: "Fit", *, planned: bool
) -> "Curve | Floats | None":
    from lossatlas.cli.forecast_files import read_rates

    # A simple forecast knows no rate, but holds for the schedule of its log only.
    if (
        run is not None
        and _counts_updates(fit)
        and not (_is_simple(fit) and fit.curves[0].lr is not None)
    ):
        run = run.without_rates()
    rates = None if settings.rates is None else read_rates(settings.rates)
    shaped = _planned_rates(settings, fit) if planned else None
    given = [part for part in (rates, run, shaped) if part is not None]
    if len(given) > 1:
        raise ArgumentError("`rates`, `run` and `shape` say the same thing; give one of them.")
    return given[0] if given else None


def _planned_rates(settings: PredictSettings, fit: "Fit") -> "Floats | None":
    from lossatlas.forecast import schedules

    settings = _with_logged_schedule(settings, fit)
    shape, steps, peak = settings.shape, settings.steps, settings.peak
    if shape is None and steps is None and peak is None:
        return None
    if shape is None or steps is None or peak is None:
        _, known = _question(fit, settings.warmup)
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
def _with_logged_schedule(settings: PredictSettings, fit: "Fit") -> PredictSettings:
    from lossatlas.forecast.logged_schedule import logged_schedule

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


def run_schedule(settings: ScheduleSettings, output: Output) -> None:
    """Find the best schedule."""
    from lossatlas.cli import forecast_files as files

    fitted = files.load_fit(settings.fit)
    output.note(files.stopped_note(settings.fit))
    plan = fitted.optimize_schedule(
        settings.steps, settings.peak, warmup=settings.warmup, force=settings.force
    )
    written = files.write_plan(plan, settings.out, settings)
    rows = [(row.name, f"{row.loss:.4f}", row.verdict) for row in plan.table]
    cooldown = {"shape": plan.wsd_shape, "decay": plan.wsd_decay, "loss": plan.wsd_loss}
    more = plan.to_dict() | {
        "verdict": plan.verdict,
        "cooldown": cooldown,
        "rates": plan.wsd.tolist(),
    }
    title = plan.verdict
    if plan.distrust or plan.guess:
        title = f"a ranking {'not to be used' if plan.distrust else 'that is a guess'}"
    output.result(plan, title, rows, files=written, extra=more)


def _print_fit(
    fitted: "Fit", settings: _Curves, output: Output, title: str, rows: Rows = ()
) -> None:
    from lossatlas.cli.forecast_files import write_fit

    written = write_fit(fitted, settings.out, settings)
    said, question = _question(fitted, settings.warmup)
    told = _first_forecast(fitted, settings.out, question)
    more = {} if told is None else {"forecast": told.to_dict() | {"fitted": None}}
    output.result(fitted, title, rows, files=written, extra=_fit(fitted) | more)
    # A fit whose forecasts failed their check is no place to go on from.
    if question and _leads_on(fitted):
        if told is not None and not _is_simple(fitted):
            output.note(f"Forecast: {told.sentences()[0]}{_beside(fitted, told)}")
        place = shlex.quote(str(settings.out))
        output.note(f"{said}\nNext: lossatlas forecast predict {place} {question}")


# What a simple forecast says where the law has no interval: how far apart two methods are.
def _beside(fitted: "Fit", told: "Prediction") -> str:
    from lossatlas.forecast.choice import simple_fit

    plain = simple_fit(fitted.curves[0]) if told.reason and len(fitted.curves) == 1 else None
    if plain is None or plain.law == fitted.law:
        return ""
    try:
        other = plain.predict(steps=[int(told.step[-1])])
    except AtlasError:
        # Beyond the schedule of the log a simple forecast says nothing.
        return ""
    shown, ends = with_ends(*other.final)
    if other.reason:
        return ""
    return (
        f" {plain.law.name}, a simple forecast without the learning rate, expects {shown}, "
        f"{100 * other.level:g} % interval {ends}."
    )


def _leads_on(fitted: "Fit") -> bool:
    return not fitted.distrust


def _is_simple(fitted: "Fit") -> bool:
    from lossatlas.forecast.laws import Baseline

    return isinstance(fitted.law, Baseline)


# What the suggested command would say first, so that nobody has to type it to know.
def _first_forecast(fitted: "Fit", out: Path, question: str) -> "Prediction | None":
    options = _parsed(question)
    if not options.get("steps", "").isdigit() or not _leads_on(fitted):
        return None
    asked = PredictSettings.model_validate({"fit": out, **options})
    steps = _counted_steps(asked, fitted)
    rates = _planned_rates(asked, fitted) if steps is None else None
    try:
        return fitted.predict(rates, steps=steps)
    except AtlasError:
        return None


# A question about the longest fitted run: what it is, and its options; empty for laws of sizes.
def _question(fitted: "Fit", warmup: int | None) -> tuple[str, str]:
    from lossatlas.forecast.logged_schedule import ends_in_warmup, logged_schedule

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
    if plan.rivals:
        return (
            f"The rates of {longest.label} fit a {plan.shape} fall to update {plan.steps:,}, "
            f"and also a {' or '.join(plan.rivals)} fall that ends with the log. The next "
            "command is a guess: set --shape and --steps to those of your run.",
            _schedule_options(plan, steps),
        )
    return f"The schedule of {longest.label} {until}:", _schedule_options(plan, steps)


# The same for a fit that knows no rates.
def _question_of_updates(run: "Curve") -> tuple[str, str]:
    from lossatlas.forecast.own_schedule import own_schedule

    own = own_schedule(run)
    until = "any number of updates" if own.end is None else f"updates up to {own.end:,}"
    return f"The same for {until}, with a page:", f"--steps {own.question}"


def _schedule_options(plan: "LoggedSchedule", steps: int) -> str:
    from lossatlas.forecast.schedules import WHOLE_RUN

    options = {"shape": plan.shape, "steps": str(steps), "peak": _short(plan.peak)}
    if plan.warmup:
        options["warmup"] = str(plan.warmup)
    share = 1.0 if plan.decay is None else plan.decay / (plan.steps - plan.warmup)
    if share < 1 or (plan.decay is not None and plan.shape not in WHOLE_RUN):
        options["decay"] = _short(share)
    if plan.min_ratio > _NO_RATE:
        options["min-ratio"] = _short(plan.min_ratio)
    return " ".join(f"--{name} {value}" for name, value in options.items())


# As few digits as keep a number to a thousandth.
def _short(value: float) -> str:
    texts = (f"{value:.{digits}g}" for digits in range(1, 7))
    return next((text for text in texts if abs(float(text) / value - 1) < 1e-3), f"{value:g}")


class _Command(Command):
    """A command whose errors name options, not arguments of Python."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
        try:
            return super().invoke(ctx)
        except AtlasError as error:
            raise type(error)(named(str(error), self.settings)) from error


# Settings, function, record and files: two commands leave a fit, and either may replace it.
_Row = tuple[type[_Forecast], Callable[..., None], str, tuple[str, ...], str]
_COMMANDS: dict[str, _Row] = {
    "fit": (
        FitSettings, run_fit, "fit", FIT,
        "Fit a law to loss curves; write fit.nc and a report.",
    ),
    "compare": (
        CompareSettings, run_compare, "fit", FIT,
        "Fit several laws and keep the one that forecasts left-out curves best.",
    ),
    "predict": (
        PredictSettings, run_predict, "predict", FORECAST,
        "Forecast the loss under a schedule, at a size, or on another set.",
    ),
    "schedule": (
        ScheduleSettings, run_schedule, "schedule", SCHEDULE,
        "Rank schedules by predicted loss; needs a law that passed its checks, best from three "
        "runs with different schedules. Of a single log it names the runs that would tell.",
    ),
}  # fmt: skip
command = Group(
    "Predict the loss under a learning rate schedule, and find a better one.",
    {
        name: (
            text,
            functools.partial(
                _Command, kind, run, text, resume=_RESUME, files=declared(record, names)
            ),
        )
        for name, (kind, run, record, names, text) in _COMMANDS.items()
    },
)  # fmt: skip

_ROLES = ("step", "loss", "lr", "size", "tokens", "source")
_ELSEWHERE = {
    "schedule": "--rates, --run or --shape",
    "curves": "FILES",
    "curve": "the run",
    "fit_best": "lossatlas forecast compare",
    "fit": "lossatlas forecast fit",
    "laws": "--law",
}


def named(message: str, settings: type[BaseModel]) -> str:
    """A message with options for arguments, where a command has such options."""
    message = re.sub(
        r"give it to `Curve\((\w+)=\.\.\.\)`", r"name its column with --column \1=NAME", message
    )
    message = re.sub(r"give Curve\(step, loss, lr\)", "give a file of losses", message)
    return re.sub(r"`(\w+)`", lambda match: _option(match.group(1), settings), message)


def _option(name: str, settings: type[BaseModel]) -> str:
    field = settings.model_fields.get(name)
    if field is not None:
        positional = about(field).get("positional")
        return name.upper() if positional else "--" + name.replace("_", "-")
    if name in _ROLES and "column" in settings.model_fields:
        return f"--column {name}=NAME"
    return _ELSEWHERE.get(name, f"`{name}`")


# What `--json` prints of a fit besides its estimates and sentences.
def _fit(fit: "Fit") -> dict[str, Any]:
    kept = ("objective", "scores", "left_out", "alternatives", "warnings")
    plain = fit.to_dict()
    return {
        "law": fit.law.name,
        "law_settings": fit.law.settings(),
        "parameters": fit.parameters,
        "parameter_intervals": {
            row.name: {"low": low, "high": high, "level": LEVEL, "reason": row.reason}
            for row in fit.parameter_errors
            for low, high in [fit.parameter_intervals(LEVEL)[row.name]]
        },
        "verdict": asdict(fit.verdict),
        **{name: plain[name] for name in kept},
    }


# The laws that were compared, best first.
def _laws_table(fit: "Fit") -> Rows:
    return [(row.law, row.off, row.note) for row in fit.alternatives]
