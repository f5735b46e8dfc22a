"""`lossatlas inits`: which initialization will train best, in five stages or at once."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

app = typer.Typer(
    help="Which initialization will train best, and can it be told before training?",
    no_args_is_help=True,
)

_MODEL = "mlp | cnn | resnet20 | chargpt, as in 'mlp(64,64)'; module:factory [mlp(32, 32)]."
_DATA = "digits | parquet:PATH | folder:PATH | npz:PATH | text:PATH | module:factory [digits]."
_CONFIG = "Settings in a YAML file [settings.yaml of the folder, where there is one]."

# What every command takes: name -> (type, option).
_COMMON: dict[str, tuple[Any, Any]] = {
    "folder": (Path, typer.Option(Path("inits"), help="Where the files of the study are.")),
    "model": (str | None, typer.Option(None, help=_MODEL)),
    "data": (str | None, typer.Option(None, help=_DATA)),
    "loss": (str | None, typer.Option(None, help="cross_entropy | mse | module:function.")),
    "examples": (int | None, typer.Option(None, help="Use only the first so many.")),
    "seed": (int | None, typer.Option(None, help="Random seed [0].")),
    "device": (str | None, typer.Option(None, help="cpu, cuda, ... [cpu].")),
    "executor": (str | None, typer.Option(None, help="serial | joblib | ray [serial].")),
    "config": (Path | None, typer.Option(None, help=_CONFIG)),
    "set_": (list[str], typer.Option([], "--set", help="One setting: --set label.lr=0.01.")),
    "as_json": (bool, typer.Option(False, "--json", help="One JSON object on stdout.")),
    "quiet": (bool, typer.Option(False, "--quiet", help="No progress, no notes.")),
}
Common = dict[str, Any]


def _command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    # A command that takes the options of its function, and those that all take.
    def register(job: Callable[..., None]) -> Callable[..., None]:
        def command(**given: Any) -> None:
            common = {option: given.pop(option) for option in _COMMON}
            job(common, **given)

        shared = [
            inspect.Parameter(
                n, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind
            )
            for n, (kind, option) in _COMMON.items()
        ]
        own = [p for n, p in inspect.signature(job).parameters.items() if n != "common"]
        # typer reads the options from the signature and their types from the annotations.
        command.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in (*own, *shared)}
        command.__doc__ = job.__doc__
        app.command(name)(command)
        return job

    return register


@_command("generate")
def generate_command(
    common: Common,
    *,
    n_samples: int | None = typer.Option(None, help="Samples of recipe and loss [5000]."),
) -> None:
    """1. Initializations from many schemes with their true losses; writes pairs.nc."""
    _stage("generate", common, {"generate.samples": n_samples})


@_command("fit-surrogate")
def surrogate_command(
    common: Common,
    *,
    epochs: int | None = typer.Option(None, help="Of the networks, at most [200]."),
) -> None:
    """2. Predict the loss from the parameters, beside the cost of the truth: surrogate.nc."""
    _stage("fit-surrogate", common, {"surrogate.epochs": epochs})


@_command("label")
def label_command(
    common: Common,
    *,
    n_samples: int | None = typer.Option(None, help="Initializations to train [200]."),
    orders: int | None = typer.Option(None, help="Trainings of each, in other orders [3]."),
) -> None:
    """3. Train initializations, many at once, for several budgets; writes labels.nc."""
    _stage("label", common, {"label.samples": n_samples, "label.orders": orders})


@_command("fit-quality")
def quality_command(
    common: Common,
    *,
    epochs: int | None = typer.Option(None, help="Of the network that predicts [150]."),
) -> None:
    """4. Predict what training gives from the landscape before it; writes quality.nc."""
    _stage("fit-quality", common, {"quality.epochs": epochs})


@_command("figures")
def figures_command(
    common: Common,
    *,
    format_: str | None = typer.Option(None, "--format", help="pdf | png | html [png]."),
) -> None:
    """5. Draw what the other stages wrote, into figures/."""
    _stage("figures", common, {"figures.format": format_})


@_command("run")
def run_command(
    common: Common,
    *,
    stage: int | None = typer.Option(None, help="1: the surrogate. 2: the quality. [both]"),
) -> None:
    """All stages in turn; those whose files are there are not done again."""
    from lossatlas.cli.inits_job import run_study

    run_study(common, stage)


@_command("rank")
def rank_command(
    common: Common,
    *,
    candidates: int = typer.Option(32, help="How many initializations to choose from."),
) -> None:
    """Rank initializations of your own model, and say how much to trust it."""
    from lossatlas.cli.inits_job import rank_study

    rank_study(common, candidates)


def _stage(stage: str, common: Common, more: dict[str, Any]) -> None:
    from lossatlas.cli.inits_job import run_one

    run_one(common, stage, more)
