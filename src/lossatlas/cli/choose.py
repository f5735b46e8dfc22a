"""`lossatlas choose`: which of the checkpoints of a training to keep."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from lossatlas.cli.command import Command
from lossatlas.cli.declaration import declared
from lossatlas.cli.destination import Destination, out_help
from lossatlas.cli.output import Output
from lossatlas.cli.shared_options import (
    IN_ORDER,
    TRAINING_FILES,
    SubjectSettings,
    in_order,
    short_names,
)
from lossatlas.settings import common, defaults, option

if TYPE_CHECKING:
    from lossatlas.weights import Choice

_CHOOSE = defaults("weights.choose:choose")
WRITES = ("choice.nc", "choice.html")
_positive: Any = {"gt": 0, "allow_inf_nan": False}


class ChooseSettings(SubjectSettings):
    """Settings of `lossatlas choose`."""

    files: tuple[Path, ...] = option((), TRAINING_FILES, positional=True)
    averages: bool = option(_CHOOSE["averages"], "Judge the mean of each two neighbors too.")
    sharpness: bool = option(
        _CHOOSE["sharpness"], "Measure the largest eigenvalue of the Hessian at each."
    )
    localization: float | None = option(
        _CHOOSE["localization"],
        "Measure the local learning coefficient of each at this localization. By default it is "
        "left out.",
        **_positive,
    )
    level: float = option(
        _CHOOSE["level"], "Confidence with which the best is kept.", gt=0, lt=1
    )
    out: Path = common(Path("choice"), out_help("the results", WRITES), short="o")

    @model_validator(mode="after")
    def _agree(self) -> "ChooseSettings":
        if len(self.files) < 2:
            raise ValueError(f"choose needs two checkpoints or more; got {len(self.files)}")
        return self


def run(settings: ChooseSettings, output: Output) -> None:
    """Judge every checkpoint, write `choice.nc` and `choice.html`, print the best."""
    from lossatlas.cli.checkpoints import load_checkpoints
    from lossatlas.io import remove_ledger
    from lossatlas.weights import choose

    files, _ = in_order(settings.files)
    if files != settings.files:
        output.note(IN_ORDER)
    destination = Destination(settings.out, WRITES)
    given = load_checkpoints(settings, files, output)
    ledger = destination.file("choice.resume")
    with output.progress("judging checkpoints") as progress:
        choice = choose(
            given.objective, *given.states,
            names=short_names(files), averages=settings.averages,
            sharpness=settings.sharpness, localization=settings.localization,
            level=settings.level, seed=settings.seed, resume=ledger, progress=progress,
        )  # fmt: skip
    choice = replace(choice, writing=_writing(settings, files, choice))
    written = {
        "results": choice.save(destination.file("choice.nc")),
        "report": given.report(choice, destination.file("choice.html"), "Which checkpoint"),
    }
    remove_ledger(ledger)
    extra = {"best": choice.best, "equal": choice.equal, "mode": given.objective.mode}
    title = "held-out loss, and how far it is above the lowest"
    output.result(choice, title, _rows(choice), files=written, extra=extra)


def _rows(choice: "Choice") -> list[tuple[str, str, str, str]]:
    from lossatlas.weights.choose import gap_text

    rows = []
    for name, loss, gap in zip(choice.names, choice.losses, choice.decisive, strict=True):
        verdict = "may be the best" if name in choice.equal else "worse"
        is_best = name == choice.best
        verdict = "lowest" if is_best else verdict
        rows.append((name, str(loss), "" if is_best else gap_text(gap), verdict))
    return rows


# The command that writes a mean which is the best.
def _writing(settings: ChooseSettings, files: tuple[Path, ...], choice: "Choice") -> str:
    if not choice.parts:
        return ""
    given: list[str] = [str(files[k]) for k in choice.parts]
    for name, field in SubjectSettings.model_fields.items():
        value = getattr(settings, name)
        if value != field.default:
            given += [f"--{name.replace('_', '-')}", str(value)]
    line = shlex.join(["lossatlas", "soup", *given, "--out", "mean.safetensors"])
    return f"`{line}` writes it"


command = Command(
    ChooseSettings, run,
    "Compare the checkpoints of a training on held-out data: which are indistinguishable "
    "from the best, whether means of neighbors are better, how sharp each is.",
    resume="Go on with a comparison that was stopped.",
    files=declared("choose", WRITES, ledgers=("choice.resume",)),
)  # fmt: skip
