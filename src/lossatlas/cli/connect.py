"""`lossatlas connect`: the loss along a path between two checkpoints."""

from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from lossatlas.cli.command import Command
from lossatlas.cli.declaration import declared
from lossatlas.cli.destination import Destination, out_help
from lossatlas.cli.output import Output
from lossatlas.cli.shared_options import SubjectSettings, check_files
from lossatlas.settings import OTHER_DATA, common, defaults, option

_CONNECT = defaults("weights.connect:connect")
WRITES = ("connection.nc", "connection.html")
_positive: Any = {"gt": 0, "allow_inf_nan": False}


class ConnectSettings(SubjectSettings):
    """Settings of `lossatlas connect`."""

    files: tuple[Path, ...] = option(
        (), "Two checkpoints of one model: the path leads from the first.", positional=True
    )
    align: bool = option(
        _CONNECT["align_first"], "Align the second network to the first beforehand."
    )
    kind: Literal["line", "bezier", "chain"] = option(_CONNECT["kind"], "The path.")
    points: int = option(
        _CONNECT["points"],
        "Positions along the path; up to 6 more are added where the loss is highest.",
        ge=3,
    )
    steps: int = option(2000, "Steps of training for a bezier or a chain.", ge=1)
    lr: float = option(_CONNECT["lr"], "Learning rate of that training.", **_positive)
    bends: int = option(_CONNECT["bends"], "Trained points of a chain.", ge=1)
    train_data: str | None = option(
        None,
        f"Data to train a bezier or a chain on; by default that of the losses. {OTHER_DATA}",
    )
    repair: Literal["norms", "all"] | None = option(
        _CONNECT["repair"],
        "Correct the units of networks in between: norms estimates running statistics anew, "
        "all gives every layer the statistics of the ends (REPAIR).",
    )
    out: Path = common(Path("connection"), out_help("the results", WRITES), short="o")

    @model_validator(mode="after")
    def _agree(self) -> "ConnectSettings":
        check_files(self.files, 2, "two checkpoints")
        if len(self.files) > 2:
            raise ValueError(f"`files` must be two checkpoints; got {len(self.files)}")
        return self


def run(settings: ConnectSettings, output: Output) -> None:
    """Measure the path, write `connection.nc` and `connection.html`, print the barrier."""
    from lossatlas.cli.checkpoints import load_checkpoints
    from lossatlas.io import remove_ledger
    from lossatlas.weights import connect

    destination = Destination(settings.out, WRITES)
    given = load_checkpoints(settings, settings.files, output)
    metrics = given.subject.metrics(given.objective, output)
    ledger = destination.file("connection.resume")
    with output.progress("measuring the path") as progress:
        connection = connect(
            given.objective, *given.states,
            kind=settings.kind, points=settings.points,
            steps=0 if settings.kind == "line" else settings.steps, lr=settings.lr,
            bends=settings.bends, align_first=settings.align, repair=settings.repair,
            train=given.on(settings.train_data) if settings.train_data else None,
            metrics=metrics, seed=settings.seed, resume=ledger, progress=progress,
        )  # fmt: skip
    files = {"results": connection.save(destination.file("connection.nc"))}
    for (name, file), bend in zip(_bends(settings).items(), connection.bends, strict=True):
        files[name] = given.write(bend, destination.file(file))
    title = f"from {settings.files[0]} to {settings.files[1]}"
    files["report"] = given.report(connection, destination.file("connection.html"), title)
    remove_ledger(ledger)
    path = {
        "at": connection.at.tolist(),
        "loss": connection.loss.tolist(),
        "stderr": connection.stderr.tolist(),
        "excess": connection.excess.tolist(),
        "excess_stderr": connection.excess_stderr.tolist(),
        "metrics": {name: values.tolist() for name, values in connection.metrics.items()},
    }
    extra = {
        "path": path,
        "is_barrier_certain": connection.is_barrier_certain,
        "mode": given.objective.mode,
    }
    output.result(connection, title, files=files, extra=extra)


# The trained points of a path and their files.
def _bends(settings: ConnectSettings) -> dict[str, str]:
    count = {"line": 0, "bezier": 1, "chain": settings.bends}[settings.kind]
    if count == 1:
        return {"bend": "bend.safetensors"}
    return {f"bend {k}": f"bend-{k}.safetensors" for k in range(1, count + 1)}


command = Command(
    ConnectSettings, run,
    "Measure the loss along a path between two checkpoints: the barrier with its paired error, "
    "or none. Use data that neither was trained on.",
    resume="Go on with a path that was stopped.",
    files=declared(
        "connect", WRITES, ledgers=("connection.resume",),
        more=lambda settings: [*_bends(settings).values()],
    ),
)  # fmt: skip
