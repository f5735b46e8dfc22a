"""`lossatlas forecast`: fit laws to loss files, forecast, compare laws, choose a schedule."""

from pathlib import Path

import typer

from lossatlas.cli.forecast_options import in_options
from lossatlas.cli.output import Output

app = typer.Typer(
    help="What will the loss be, under this schedule or a better one?", no_args_is_help=True
)

_FILES = (
    "Loss curves: .csv with a header (Lightning's metrics.csv, exports of W&B), or "
    "trainer_state.json."
)
_KIND = "auto | csv | wandb | tensorboard | trainer | points (one run a row) [auto]."
_LAW = (
    "multi-power | annealing | linear-lr | power | broken-power | chinchilla | kaplan | "
    "shifted-power, with settings as in 'annealing(decay=0.995)' [multi-power; power where a "
    "run has no rates]."
)
_COLUMNS = "Columns whose names are not the usual ones: --column loss=my_loss."
_WARMUP = "Length of a linear warm-up before the first logged rate, or of the schedule [0]."
_FIT = "fit.nc, or the folder that holds it."
_OUT = "Folder for results, pictures and report.html."


@app.command("fit")
@in_options
def fit_command(  # noqa: PLR0917 - typer reads the options from here
    files: list[Path] = typer.Argument(help=_FILES),
    law: str | None = typer.Option(None, help=_LAW),
    kind: str = typer.Option("auto", help=_KIND),
    column: list[str] = typer.Option([], help=_COLUMNS),
    warmup: int | None = typer.Option(None, help=_WARMUP),
    fixed: list[str] = typer.Option([], help="A known parameter: --fixed E0=1.69."),
    prior: bool = typer.Option(True, help="Regularize poorly identified parameters."),
    out: Path = typer.Option(Path("forecast"), help=_OUT),
    as_json: bool = typer.Option(False, "--json", help="One JSON object on stdout."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress, no notes."),
) -> None:
    """Fit a law; write fit.nc, pictures and report.html."""
    from lossatlas.cli import forecast_files as files_of
    from lossatlas.cli import forecast_job as job
    from lossatlas.cli import forecast_words as words
    from lossatlas.forecast import fit

    output = Output(as_json=as_json, quiet=quiet)
    curves = job.read_curves(files, kind, column, warmup)
    chosen, curves, why = job.chosen_law(law, curves)
    output.note(f"{why}fitting {chosen.name} to {len(curves)} curves ...")
    found = fit(chosen, curves, prior=prior, fixed=job.assignments("fixed", fixed))
    files_of.write_fit(found, out)
    output.result(words.fit_summary(found, out), found.law.name, words.fit_table(found, out))


@app.command("compare")
@in_options
def compare_command(  # noqa: PLR0917 - typer reads the options from here
    files: list[Path] = typer.Argument(help=_FILES),
    law: list[str] = typer.Option([], help="Laws to compare, one an option [those of rates]."),
    kind: str = typer.Option("auto", help=_KIND),
    column: list[str] = typer.Option([], help=_COLUMNS),
    warmup: int | None = typer.Option(None, help=_WARMUP),
    out: Path = typer.Option(Path("forecast"), help=_OUT),
    as_json: bool = typer.Option(False, "--json", help="One JSON object on stdout."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress, no notes."),
) -> None:
    """Fit several laws and keep the one that forecasts left-out curves best."""
    from lossatlas.cli import forecast_files as files_of
    from lossatlas.cli import forecast_job as job
    from lossatlas.cli import forecast_words as words
    from lossatlas.forecast import fit_best

    output = Output(as_json=as_json, quiet=quiet)
    curves = job.read_curves(files, kind, column, warmup)
    _, curves, why = job.chosen_law(law[0] if law else None, curves)
    output.note(f"{why}comparing laws on {len(curves)} curves ...")
    found = fit_best(curves, [job.named_law(name) for name in law] or None)
    files_of.write_fit(found, out)
    rows = words.laws_table(found)
    output.result(words.fit_summary(found, out), "error on left-out curves", rows)


@app.command("predict")
@in_options
def predict_command(  # noqa: PLR0917 - typer reads the options from here
    fit: Path = typer.Argument(help=_FIT),
    rates: Path | None = typer.Option(None, help="The rate of every update: .npy, or a .csv."),
    run: Path | None = typer.Option(None, help="A measured run, to set beside its forecast."),
    shape: str | None = typer.Option(None, help="constant | cosine | a cooldown: sqrt, ..."),
    steps: int | None = typer.Option(
        None, help="Updates, warm-up included; alone for a fit without rates."
    ),
    peak: float | None = typer.Option(None, help="Highest rate."),
    decay: float = typer.Option(0.2, help="Cooldown: a share if < 1, else updates."),
    min_ratio: float = typer.Option(0.0, help="Last rate, as a share of the peak."),
    warmup: int | None = typer.Option(None, help=_WARMUP),
    size: float | None = typer.Option(None, help="Model size, for laws in size."),
    tokens: float | None = typer.Option(None, help="Training tokens, for laws in tokens."),
    source: float | None = typer.Option(None, help="Loss on the other set."),
    interval: float = typer.Option(0.9, help="Share of final losses to cover."),
    column: list[str] = typer.Option([], help=_COLUMNS),
    out: Path | None = typer.Option(None, help=_OUT),
    as_json: bool = typer.Option(False, "--json", help="One JSON object on stdout."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress, no notes."),
) -> None:
    """Forecast the loss under a schedule, at a size, or on another set."""
    from lossatlas.cli import forecast_files as files_of
    from lossatlas.cli import forecast_job as job
    from lossatlas.cli import forecast_words as words

    output = Output(as_json=as_json, quiet=quiet)
    found = job.load_fit(fit)
    truth = job.read_curves([run], "auto", column, warmup)[0] if run else None
    plan = job.Shape(shape, steps, peak, decay, min_ratio, warmup or 0)
    told = found.predict(
        job.chosen_schedule(rates, truth, plan, found), steps=job.counted_steps(found, plan),
        size=size, tokens=tokens, source=source, level=interval,
    )  # fmt: skip
    told = told if truth is None else told.with_measured(truth)
    files_of.write_prediction(told, out)
    data, rows = words.prediction_summary(told, truth)
    output.result(data, f"forecast of {found.law.name}", rows)


@app.command("schedule")
@in_options
def schedule_command(  # noqa: PLR0917 - typer reads the options from here
    fit: Path = typer.Argument(help=_FIT),
    steps: int = typer.Option(help="Updates, warm-up included."),
    peak: float = typer.Option(help="Highest rate."),
    warmup: int = typer.Option(0, help="Length of the linear warm-up."),
    out: Path | None = typer.Option(None, help=_OUT),
    as_json: bool = typer.Option(False, "--json", help="One JSON object on stdout."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress, no notes."),
) -> None:
    """Find the schedule that the law likes best, and say which others are as good."""
    from lossatlas.cli import forecast_files as files_of
    from lossatlas.cli import forecast_job as job
    from lossatlas.cli import forecast_words as words

    output = Output(as_json=as_json, quiet=quiet)
    plan = job.load_fit(fit).optimize_schedule(steps, peak, warmup=warmup)
    files_of.write_plan(plan, out)
    for line in plan.warnings:
        output.note(line)
    rows = [(row.name, f"{row.loss:.4f}", row.verdict) for row in plan.table]
    output.result(words.plan_summary(plan), plan.verdict, rows)
