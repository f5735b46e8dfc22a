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
from lossatlas.errors import AtlasError
from lossatlas.settings import Strict, about, common, defaults, option
from lossatlas.text import count

if TYPE_CHECKING:
    from lossatlas.forecast import Fit

_FIT = defaults("forecast.fit:fit")
_PREDICT = defaults("forecast.result:Fit.predict")
_PLAN = defaults("forecast.result:Fit.optimize_schedule")
_WSD = defaults("forecast.schedules:wsd")
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
_LINEAR = (
    "Updates of the linear warmup with which the runs begin, whether their logs show it or "
    "not: losses within it are left out, and rates before the first logged one are taken from "
    "it. "
    "By default it is read from the logged rates."
)
_OUT = "Folder of results, a page and figures, or a name that ends in one of their suffixes."
_SEED = "Random seed; no forecast draws random numbers."
_RESUME = "Has no effect here: a forecast takes seconds and is always computed again."
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
        None, "Updates of the linear warmup: of the schedule, or of the run given with --run."
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
        "Rank schedules by a fit that failed its checks; the answer then begins with that.",
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
        # A law that was not named gives way to one that passes its checks.
        with output.progress("laws and simple forecasts tried") as progress:
            fitted = fit_or_better(chosen, curves, progress=progress, prior=settings.prior)
    fitted = files.with_origin(fitted, settings)
    _print_fit(fitted, settings, output, fitted.law.name)


def run_compare(settings: CompareSettings, output: Output) -> None:
    """Fit several laws and keep the best."""
    from lossatlas.cli import forecast_files as files
    from lossatlas.forecast.choice import fit_each
    from lossatlas.forecast.summary import error_head

    curves = files.read_curves(settings.files, settings.kind, settings.column, settings.warmup)
    _, curves, why = files.chosen_law(settings.law[0] if settings.law else None, curves)
    output.note(f"{why}comparing laws on {count(len(curves), 'curve')} ...")
    laws = [files.named_law(name) for name in settings.law] or None
    with output.progress("laws and simple forecasts tried") as progress:
        fits = files.with_origin(fit_each(curves, laws, progress=progress), settings)
    _print_fit(fits, settings, output, error_head(fits), _laws_table(fits))


def run_predict(settings: PredictSettings, output: Output) -> None:
    """Forecast the loss."""
    from lossatlas.cli import forecast_files as files
    from lossatlas.cli.forecast_questions import counted_steps, schedule_of

    fitted = files.load_fit(settings.fit)
    output.note(files.stopped_note(settings.fit))
    truth = None
    if settings.run is not None:
        truth = files.read_curves([settings.run], "auto", settings.column, settings.warmup)[0]
    steps = counted_steps(settings, fitted)
    told = fitted.predict(
        schedule_of(settings, truth, fitted, planned=steps is None),
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
    from lossatlas.cli.forecast_questions import next_question

    written = write_fit(fitted, settings.out, settings)
    said, question = next_question(fitted, settings.warmup)
    told = fitted.ahead
    more = {} if told is None else {"forecast": told.to_dict() | {"fitted": None}}
    output.result(fitted, title, rows, files=written, extra=_fit(fitted) | more)
    # A fit whose forecasts failed their check is no place to go on from.
    if question and not fitted.distrust:
        place = shlex.quote(str(settings.out))
        output.note(f"{said}\nNext: lossatlas forecast predict {place} {question}")


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
        "runs with different schedules. For a single log it names the runs to train first.",
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
