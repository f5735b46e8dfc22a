"""`lossatlas edit`: take directions of low curvature out of weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import model_validator

from lossatlas.cli.command import Command
from lossatlas.cli.declaration import declared
from lossatlas.cli.destination import Destination, out_help
from lossatlas.cli.output import Output
from lossatlas.cli.shared_options import SubjectSettings
from lossatlas.settings import LISTED, OTHER_DATA, common, defaults, option

if TYPE_CHECKING:
    from lossatlas.cli.checkpoints import Checkpoints
    from lossatlas.curvature.matrices import Likelihood

_EDIT = defaults("weights.edit:edit_curve")
_FACTORS = defaults("weights.factors:factors")
WRITES = ("edited.safetensors", "edited.nc", "edited.html")
_OUT = out_help("the edited weights, the curve and a page", WRITES)


class EditSettings(SubjectSettings):
    """Settings of `lossatlas edit`."""

    files: tuple[Path, ...] = option((), "The checkpoint that is edited.", positional=True)
    layers: Annotated[tuple[str, ...], LISTED] = option(
        ("*",), "Names of weights or modules, or patterns, with commas between them."
    )
    keep: Annotated[tuple[float, ...], LISTED] = option(
        (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99, 0.999, 1.0),
        "Shares of the score that are kept, with commas between them.",
    )
    score: Literal["mass", "obd"] = option(
        _EDIT["score"],
        "What pairs of directions are ordered by: mass = curvature, obd = saliency.",
    )
    write: float | None = option(
        None, "Write the weights at this share; by default only the curve.", gt=0, le=1
    )
    against: str | None = option(
        None, f"Other data to compare with, such as memorized examples. {OTHER_DATA}"
    )
    factors_data: str | None = option(
        None, f"Data that curvature is measured on, by default the same. {OTHER_DATA}"
    )
    draws: int = option(_FACTORS["draws"], "Labels drawn for each example.", ge=1)
    out: Path = common(Path("edited.safetensors"), _OUT, short="o")

    @model_validator(mode="after")
    def _agree(self) -> "EditSettings":
        given = self.files or ((self.weights,) if self.weights else ())
        if len(given) != 1:
            raise ValueError(f"`files` must be one checkpoint; got {len(given)}")
        return self


def run(settings: EditSettings, output: Output) -> None:
    """Measure the curve, print it, and write weights where asked."""
    from lossatlas.cli.checkpoints import load_checkpoints
    from lossatlas.weights import edit_curve, factors

    file = settings.files[0] if settings.files else settings.weights
    assert file is not None
    given = load_checkpoints(settings, [file], output)
    seen = given.on(settings.factors_data) if settings.factors_data else given.objective
    measured = factors(
        seen, settings.layers, draws=settings.draws, likelihood=_likelihood(settings, given),
        seed=settings.seed,
    )  # fmt: skip
    for name, why in measured.skipped.items():
        output.note(f"{name} has no factors: {why}")
    found = edit_curve(
        given.objective, measured, keep=settings.keep, score=settings.score,
        against=given.on(settings.against) if settings.against else None,
    )  # fmt: skip
    title, destination = f"edits of {file}", Destination(settings.out, WRITES)
    files = {
        "results": found.save(destination.file("edited.nc")),
        "report": given.report(found, destination.file("edited.html"), title),
    }
    if settings.write is not None:
        weights = found.params(settings.write)
        files["weights"] = given.write(weights, destination.file("edited.safetensors"))
    for sentence in measured.sentences():
        output.note(sentence)
    curve = {
        "keep": found.keep.tolist(),
        "pairs": [found.kept(k) for k in range(len(found.keep))],
        "loss": found.loss.tolist(),
        "rise": found.rise.tolist(),
        "rise_stderr": found.rise_stderr.tolist(),
        "other_rise": found.other_rise.tolist(),
        "other_rise_stderr": found.other_rise_stderr.tolist(),
    }
    extra = {"curve": curve, "mode": given.objective.mode}
    output.result(found, title, files=files, extra=extra)


# Losses of the command line by the distribution of labels that they belong to.
_LIKELIHOODS: "dict[str, Likelihood]" = {
    "cross_entropy": "categorical",
    "mse": "gaussian",
    "bce": "bernoulli",
}


def _likelihood(settings: EditSettings, given: "Checkpoints") -> "Likelihood | None":
    from lossatlas.training.criteria import DEFAULTS

    data = given.subject.data
    usual = None if data is None else DEFAULTS[data.task]
    return _LIKELIHOODS.get(settings.loss or usual or "")


command = Command(
    EditSettings, run,
    "Take directions of low curvature out of weights, and measure the loss at every share that "
    "is kept.",
    resume="Has no effect here: a curve always starts anew.",
    files=declared("edit", WRITES),
)  # fmt: skip
