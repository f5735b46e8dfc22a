"""`lossatlas train`: train with a recipe, or compare recipes over seeds and rates."""

from pathlib import Path

import typer

from lossatlas.cli.output import Output

_RECIPE = (
    "Optimizer and parts, as in 'adamw+cosine' or 'sgd+sasp=0.01' [adamw+climb]. Optimizers: "
    "adamw, adam, sgd, topoadamw, schedulefree, prodigy. Rates: cosine, wsd, topology, compat, "
    "climb, momo, edge, group-noise, cooldown. Penalties, each with a number: sasp, "
    "sasp-fisher, cvp, cvp-original, cwd, l2, smoothing, sam, spectral, sbmp, noise. Also: "
    "average, decay=, warmup=, interval=."
)
_COMPARE = "Recipes, with commas between them; the others are held to the first."
_MODEL = "mlp | cnn | resnet20 | chargpt, as in 'mlp(64,64)'; module:factory [mlp(32)]."
_DATA = "digits | parquet:PATH | folder:PATH | npz:PATH | text:PATH | module:factory [digits]."
_TEST = "Other data to test on; by default a fifth of the examples is kept apart."
_LR = "Base rates, with commas between them; validation chooses the best [0.001]."
_OUT = "Folder of trainings.nc, report.html and, of one training, the weights [training]."


def command(  # noqa: PLR0917 - typer reads the options from here
    recipe: str | None = typer.Option(None, help=_RECIPE),
    compare: str | None = typer.Option(None, help=_COMPARE),
    model: str | None = typer.Option(None, help=_MODEL),
    data: str | None = typer.Option(None, help=_DATA),
    test: str | None = typer.Option(None, help=_TEST),
    loss: str | None = typer.Option(None, help="cross_entropy | mse | ... | module:function."),
    epochs: int | None = typer.Option(None, help="Walks over the data [20]."),
    steps: int | None = typer.Option(None, help="Updates, instead of epochs."),
    lr: str | None = typer.Option(None, help=_LR),
    seeds: int | None = typer.Option(None, help="Trainings of each kind [1, or 5 to compare]."),
    batch_size: int | None = typer.Option(None, help="Examples a batch [64]."),
    examples: int | None = typer.Option(None, help="Use only the first so many."),
    device: str | None = typer.Option(None, help="cpu, cuda, ... [cpu]."),
    jobs: int | None = typer.Option(None, help="Processes; -1 is one a core [1]."),
    out: Path | None = typer.Option(None, help=_OUT),
    title: str | None = typer.Option(None, help="Report title."),
    config: Path | None = typer.Option(None, help="Settings in a YAML file."),
    set_: list[str] = typer.Option([], "--set", help="One setting: --set valid=0.1."),
    resume: bool = typer.Option(False, "--resume", help="Go on with what was stopped."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object on stdout."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress, no notes."),
) -> None:
    """Train a network with a recipe, or find out which recipe is worth it."""
    from lossatlas.cli.settings import settings_of
    from lossatlas.cli.train_settings import TrainingSettings, listed

    options = {
        "recipe": recipe,
        "compare": listed(compare),
        "model": model,
        "data": data,
        "test": test,
        "loss": loss,
        "epochs": epochs,
        "steps": steps,
        "lr": listed(lr),
        "seeds": seeds,
        "batch_size": batch_size,
        "examples": examples,
        "device": device,
        "jobs": jobs,
        "out": out,
        "title": title,
    }
    settings = settings_of(TrainingSettings, config, set_, options)
    output = Output(as_json=as_json, quiet=quiet)
    from lossatlas.cli.train_job import run_trainings
    from lossatlas.cli.train_words import summary, table
    from lossatlas.store import occupied

    with occupied(settings.out):
        found, files = run_trainings(settings, output, resume=resume)
    output.result(summary(found, files), files.title, table(found, files))
