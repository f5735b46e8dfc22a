"""`lossatlas lr`: which learning rate to start with, and whether a given one is too high."""

from pathlib import Path
from typing import Any, Literal

from lossatlas.cli.command import Command
from lossatlas.cli.declaration import declared
from lossatlas.cli.destination import Destination, out_help
from lossatlas.cli.output import Output
from lossatlas.cli.shared_options import SubjectSettings
from lossatlas.settings import OTHER_DATA, common, defaults, option

_SUGGESTED = defaults("steering.suggest_lr:suggest_lr")
WRITES = ("lr.nc", "lr.html")
_rate: Any = {"gt": 0, "allow_inf_nan": False}


class LRSettings(SubjectSettings):
    """Settings of `lossatlas lr`."""

    optimizer: Literal["sgd", "adam", "adamw"] = option(
        _SUGGESTED["optimizer"], "The optimizer you will train with."
    )
    momentum: float | None = option(
        _SUGGESTED["momentum"], "Momentum of sgd. By default 0.9.", ge=0, lt=1
    )
    lr: float | None = option(
        _SUGGESTED["lr"],
        "Your own peak learning rate: says whether it is too high, higher or lower than "
        "needed, or indistinguishable from the suggested one.",
        **_rate,
    )
    horizon: int | None = option(
        _SUGGESTED["horizon"],
        "Updates of your training. By default those of a short run.",
        ge=1,
    )
    updates: int = option(_SUGGESTED["updates"], "Updates of a short run.", ge=10)
    min_lr: float = option(_SUGGESTED["min_lr"], "Where the range test begins.", **_rate)
    max_lr: float = option(_SUGGESTED["max_lr"], "Where the range test ends.", **_rate)
    validation: str | None = option(
        None,
        f"Data to compare the runs on. {OTHER_DATA} By default every fifth batch is held out.",
    )
    batch_size: int = option(64, "Examples a batch: that of your training.", ge=1)
    out: Path | None = common(
        None, f"{out_help('the results', WRITES)} By default nothing is written.", short="o"
    )


def run(settings: LRSettings, output: Output) -> None:
    """Measure, print verdict, rate, band and reasons, and write them where asked."""
    from lossatlas.cli.checkpoints import load_checkpoints
    from lossatlas.steering import suggest_lr

    files = [settings.weights] if settings.weights else []
    given = load_checkpoints(settings, files, output)
    with output.progress("short runs") as progress:
        suggestion = suggest_lr(
            given.objective,
            settings.optimizer,
            lr=settings.lr,
            momentum=settings.momentum,
            validation=given.on(settings.validation) if settings.validation else None,
            horizon=settings.horizon,
            updates=settings.updates,
            min_lr=settings.min_lr,
            max_lr=settings.max_lr,
            seed=settings.seed,
            progress=progress,
        )
    if not files:
        output.note(
            f"the runs start from initial weights of --seed {settings.seed}; the rate and its "
            "range vary with them"
        )
    title, written = f"learning rate of {given.subject.title}", {}
    if settings.out is not None:
        destination = Destination(settings.out, WRITES)
        written["results"] = suggestion.save(destination.file("lr.nc"))
        written["report"] = given.report(suggestion, destination.file("lr.html"), title)
    extra: dict[str, Any] = {
        "lr": suggestion.lr,
        "low": suggestion.low,
        "high": suggestion.high,
    }
    output.result(suggestion, title, files=written, extra=extra)


command = Command(
    LRSettings, run,
    "Suggest a learning rate, and judge a given one (--lr): a range test, short runs on copies "
    "of the weights, the edge of stability and the gradient noise scale.",
    resume="Has no effect here: the runs always start anew.",
    files=declared("lr", WRITES),
)  # fmt: skip
