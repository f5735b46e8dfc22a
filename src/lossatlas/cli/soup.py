"""`lossatlas soup`: the average of checkpoints of one training or of several."""

from pathlib import Path

from pydantic import model_validator

from lossatlas.cli.command import Command
from lossatlas.cli.declaration import declared
from lossatlas.cli.destination import Destination, out_help
from lossatlas.cli.output import Output
from lossatlas.cli.shared_options import (
    IN_ORDER,
    SubjectSettings,
    check_files,
    in_order,
    short_names,
)
from lossatlas.settings import common, defaults, option

_SOUP = defaults("weights.soup:soup")
_GREEDY = (
    "Take checkpoints in the order of their losses, and keep one only if the loss of the "
    "average does not rise."
)
WRITES = ("soup.safetensors", "soup.nc", "soup.html")
_OUT = out_help("the averaged weights, their numbers and a page", WRITES)


class SoupSettings(SubjectSettings):
    """Settings of `lossatlas soup`."""

    files: tuple[Path, ...] = option(
        (), "Two checkpoints or more; sorted by the last number in the name.", positional=True
    )
    greedy: bool = option(_SOUP["greedy"], _GREEDY)
    out: Path = common(Path("soup.safetensors"), _OUT, short="o")

    @model_validator(mode="after")
    def _agree(self) -> "SoupSettings":
        check_files(self.files, 2, "two checkpoints or more")
        return self


def run(settings: SoupSettings, output: Output) -> None:
    """Average, write the weights, print whether it helped."""
    from lossatlas.cli.checkpoints import load_checkpoints
    from lossatlas.weights import soup

    ordered, _ = in_order(settings.files)
    if ordered != settings.files:
        output.note(IN_ORDER)
    given = load_checkpoints(settings, ordered, output)
    names = short_names(ordered)
    averaged = soup(given.objective, *given.states, greedy=settings.greedy, names=names)
    destination = Destination(settings.out, WRITES)
    files = {
        "weights": given.save(averaged.state_dict(), destination.file("soup.safetensors")),
        "results": averaged.save(destination.file("soup.nc")),
        "report": given.report(averaged, destination.file("soup.html"), "Soup"),
    }
    kept = [str(ordered[k - 1]) for k in averaged.kept]
    output.result(
        averaged, "soup", files=files, extra={"kept": kept, "mode": given.objective.mode}
    )


command = Command(
    SoupSettings, run,
    "Average checkpoints of one model and measure the average. A greedy soup is chosen on the "
    "data it is measured on; judge it on other data.",
    resume="Has no effect here: a soup always starts anew.",
    files=declared("soup", WRITES),
)  # fmt: skip
