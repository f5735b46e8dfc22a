"""`lossatlas weights`: spectra of the weight matrices of a checkpoint, without data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from lossatlas.cli.command import Command
from lossatlas.cli.declaration import declared
from lossatlas.cli.destination import Destination, out_help
from lossatlas.cli.output import Output
from lossatlas.settings import LISTED, SEED, Strict, common, defaults, option

if TYPE_CHECKING:
    from lossatlas.weights.spectra import MatrixSpectrum

_SPECTRA = defaults("weights.spectra:weight_spectra")
WRITES = ("spectra.nc",)
_RESUME = "Has no effect here: a file is always read anew."


class WeightsSettings(Strict):
    """Settings of `lossatlas weights`."""

    file: Path = option(..., "A checkpoint.", positional=True)
    names: Annotated[tuple[str, ...] | None, LISTED] = option(
        None, "Names of parameters, with commas between them. By default all."
    )
    resampled: int = option(
        _SPECTRA["resampled"], "Spectra drawn for the interval of an exponent.", ge=10
    )
    out: Path | None = common(
        None, f"{out_help('the spectra', WRITES)} By default nothing is written.", short="o"
    )
    seed: int = common(_SPECTRA["seed"], SEED, ge=0)


def run(settings: WeightsSettings, output: Output) -> None:
    """Read the file and print its spectra."""
    from lossatlas.weights import weight_spectra

    spectra = weight_spectra(
        settings.file, names=settings.names, resampled=settings.resampled, seed=settings.seed
    )
    files = {}
    if settings.out is not None:
        destination = Destination(settings.out, WRITES)
        files["spectra"] = spectra.save(destination.file("spectra.nc"))
    rows = [_row(matrix) for matrix in spectra.matrices]
    title = f"weights of {settings.file.name}"
    output.result(spectra, title, rows, files=files, extra={"skipped": dict(spectra.skipped)})


def _row(matrix: "MatrixSpectrum") -> tuple[str, str, str]:
    shape = " x ".join(map(str, matrix.shape))
    ranks = (
        f"stable rank {matrix.stable_rank.value:.1f}, effective rank "
        f"{matrix.effective_rank.value:.1f}, {matrix.spikes} above noise"
    )
    if matrix.is_power_law is None:
        return (
            f"{matrix.name} ({shape})",
            ranks,
            matrix.exponent.why_no_error or "",
        )
    judged = "possible" if matrix.is_power_law else "ruled out"
    law = f"exponent {matrix.exponent}, a power law is {judged} (p = {matrix.p_value:.2f})"
    return f"{matrix.name} ({shape})", ranks, law


command = Command(
    WeightsSettings,
    run,
    "Look at the weight matrices of a checkpoint: ranks, singular values above noise, and "
    "whether the tail of the spectrum is a power law. No data and no model are needed.",
    resume=_RESUME,
    files=declared("weights", WRITES),
)
