"""`lossatlas merge`: one network from several, and whether it helped."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import model_validator

from lossatlas.cli.command import Command
from lossatlas.cli.declaration import declared
from lossatlas.cli.destination import Destination, out_help
from lossatlas.cli.output import Output
from lossatlas.cli.shared_options import SubjectSettings, check_files
from lossatlas.settings import LISTED, OTHER_DATA, common, defaults, option

if TYPE_CHECKING:
    from lossatlas.cli.checkpoints import Checkpoints
    from lossatlas.result import Estimate

_MERGE = defaults("weights.merge:merge")
_METHODS = (
    "average, task_arithmetic (scale), slerp (t), ties (density, scale), dare (density, "
    "scale), fisher (normalize), ota (density, power), regmean (shrink), stock, or search; "
    "options as in 'ties:density=0.3'."
)
_METHOD = f"How: {_METHODS}"
_COMPARE = (
    "Compare methods on the same examples instead of writing weights; separated by commas, "
    "options of one method by semicolons, as in 'average,ties:density=0.3;scale=1'."
)
_TUNE = (
    "For search: data that chooses the coefficients, neither trained on nor reported. By "
    "default every second batch."
)
_EXPERT = (
    "Data of one expert, for fisher, ota and regmean; repeat it, one an expert, in their order."
)
WRITES = ("merged.safetensors", "merged.nc", "merged.html")
_OUT = out_help("the merged weights, their numbers and a page", WRITES)


class MergeSettings(SubjectSettings):
    """Settings of `lossatlas merge`; `--config` takes the YAML of mergekit as well."""

    files: tuple[Path, ...] = option(
        (), "The base, then the networks that were fine-tuned from it.", positional=True
    )
    method: str = option(_MERGE["method"], _METHOD)
    compare: Annotated[tuple[str, ...], LISTED] = option((), _COMPARE)
    tune: str | None = option(None, f"{_TUNE} {OTHER_DATA}")
    expert_data: tuple[str, ...] = option((), f"{_EXPERT} {OTHER_DATA}")
    out: Path = common(Path("merged.safetensors"), _OUT, short="o")

    @model_validator(mode="before")
    @classmethod
    def _read_mergekit(cls, given: Any) -> Any:
        if isinstance(given, dict) and "merge_method" in given:
            from lossatlas.cli.mergekit import translated

            return translated(given)
        return given

    @model_validator(mode="after")
    def _agree(self) -> "MergeSettings":
        check_files(self.files, 2, "the base and one expert or more")
        if self.expert_data and len(self.expert_data) != len(self.files) - 1:
            raise ValueError(
                f"`expert_data` must be one an expert ({len(self.files) - 1}); got "
                f"{len(self.expert_data)}"
            )
        return self


def run(settings: MergeSettings, output: Output) -> None:
    """Merge, or compare merges."""
    from lossatlas.cli.checkpoints import load_checkpoints

    given = load_checkpoints(settings, settings.files, output)
    options: dict[str, Any] = {
        "objectives": [given.on(data) for data in settings.expert_data],
        "tune": given.on(settings.tune) if settings.tune else None,
        "seed": settings.seed,
        "names": [file.name for file in settings.files[1:]],
    }
    destination = Destination(settings.out, WRITES)
    if settings.compare:
        _compare(settings, given, output, options, destination)
    else:
        _merge(settings, given, output, options, destination)


def _merge(
    settings: MergeSettings,
    given: "Checkpoints",
    output: Output,
    options: dict[str, Any],
    destination: Destination,
) -> None:
    from lossatlas.weights import merge
    from lossatlas.weights.merge import parsed

    name, chosen = parsed(settings.method)
    base, *experts = given.states
    merged = merge(given.objective, base, *experts, method=name, **options, **chosen)
    title = f"merged by {merged.method}"
    files = {
        "weights": given.save(merged.state_dict(), destination.file("merged.safetensors")),
        "results": merged.save(destination.file("merged.nc")),
        "report": given.report(merged, destination.file("merged.html"), title),
    }
    extra = {
        "method": merged.method,
        "mode": given.objective.mode,
        "against": _numbers(merged.against),
        "coefficients": list(merged.coefficients),
    }
    output.result(merged, title, files=files, extra=extra)


def _compare(
    settings: MergeSettings,
    given: "Checkpoints",
    output: Output,
    options: dict[str, Any],
    destination: Destination,
) -> None:
    from lossatlas.io import remove_ledger
    from lossatlas.weights import compare_merges

    ledger = destination.file("merged.resume")
    methods = [spec.replace(";", ",") for spec in settings.compare]
    base, *experts = given.states
    with output.progress("merging") as progress:
        comparison = compare_merges(
            given.objective, base, *experts, methods=methods, resume=ledger,
            progress=progress, **options,
        )  # fmt: skip
    files = {
        "results": comparison.save(destination.file("merged.nc")),
        "report": given.report(comparison, destination.file("merged.html"), "Merges compared"),
    }
    remove_ledger(ledger)
    extra = {
        "best": comparison.best,
        "mode": given.objective.mode,
        "losses": _numbers(comparison.losses),
        "against": _numbers(comparison.against),
        "coefficients": {
            name: list(shares) for name, shares in comparison.coefficients.items()
        },
        "failed": dict(comparison.failed),
    }
    output.result(comparison, "merges compared", files=files, extra=extra)


def _numbers(estimates: "Mapping[str, Estimate]") -> dict[str, dict[str, float]]:
    return {n: {"value": e.value, "stderr": e.stderr} for n, e in estimates.items()}


command = Command(
    MergeSettings, run,
    "Merge fine-tuned networks and measure what came out, beside the plain average, the base "
    "and every expert. Use data that no network was trained on, the base included.",
    resume="Go on with a comparison that was stopped.",
    files=declared("merge", WRITES, ledgers=("merged.resume",)),
)  # fmt: skip
