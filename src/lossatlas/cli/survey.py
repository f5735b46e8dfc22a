"""`lossatlas survey`: train or load a network, survey the ground around it, write a report."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lossatlas.cli.output import Output

if TYPE_CHECKING:
    from lossatlas.cli.settings import SurveySettings

_MODEL = (
    "mlp | cnn | resnet20 | resnet56 | chargpt, with arguments as in 'mlp(64,64)'; "
    "package.module:factory; path/file.py:factory. Without it a small network is trained."
)
_MODE = (
    "Norm layers: eval | train | recalibrated [eval; recalibrated where two files are compared "
    "and the model keeps running statistics]."
)
_OUT = "Folder of the results and report.html [survey, or comparison for two files]."
_DATA = "digits | parquet:PATH | folder:PATH | npz:PATH | text:PATH | module:factory [digits]."


_PLANE = "random | checkpoints | eigen, the sharpest directions [what there is]."
_INSTRUMENTS = (
    "all, or names with commas, as in sharpness,stability; lossatlas.curvature.instruments() "
    "lists them."
)
_FILES = (
    "None, one or two checkpoints; two are compared. .safetensors, .pt, .pth, .ckpt, .bin, "
    "or a folder of Hugging Face, accelerate or torch.distributed.checkpoint."
)
_CHECKPOINT = (
    "A checkpoint of the training that led here, drawn on the map; repeat it in order."
)


def command(  # noqa: PLR0917 - typer reads the options from here
    files: list[Path] = typer.Argument(None, help=_FILES),
    model: str | None = typer.Option(None, help=_MODEL),
    weights: Path | None = typer.Option(None, help="The same as one file; never unpickled."),
    checkpoint: list[Path] = typer.Option([], "--checkpoint", help=_CHECKPOINT),
    key: str | None = typer.Option(None, help="Where weights are in a file, as in ema."),
    prefix: str | None = typer.Option(None, help="Keep names that begin so, and strip it."),
    data: str | None = typer.Option(None, help=_DATA),
    loss: str | None = typer.Option(None, help="cross_entropy | mse | ... | module:function."),
    batch_size: int | None = typer.Option(None, help="Examples a batch [256]."),
    examples: int | None = typer.Option(None, help="Use only the first so many."),
    plane: str | None = typer.Option(None, help=_PLANE),
    points: int | None = typer.Option(None, help="Points along each direction [41]."),
    span: str | None = typer.Option(None, help="Half the width, or auto [auto]."),
    mode: str | None = typer.Option(None, help=_MODE),
    curvature: bool = typer.Option(False, "--curvature", help="Eigenvalues and trace too."),
    instruments: str | None = typer.Option(None, help=_INSTRUMENTS),
    lr: float | None = typer.Option(
        None, help="A learning rate to hold against the curvature."
    ),
    seed: int | None = typer.Option(None, help="Of weights, data order, directions [0]."),
    device: str | None = typer.Option(None, help="cpu, cuda, ... [cpu]."),
    out: Path | None = typer.Option(None, help=_OUT),
    title: str | None = typer.Option(None, help="Report title."),
    config: Path | None = typer.Option(None, help="Settings in a YAML file."),
    set_: list[str] = typer.Option([], "--set", help="One setting: --set map.tolerance=0.001."),
    resume: bool = typer.Option(False, "--resume", help="Go on with a run that died."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object on stdout."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress, no notes."),
) -> None:
    """Survey the loss landscape around a network: map, curvature of the ground, topology."""
    from lossatlas.cli.settings import load_settings, named_files

    options = {
        "model": model,
        **named_files(files or [], weights),
        "checkpoints": tuple(checkpoint) or None,
        "key": key,
        "prefix": prefix,
        "data": data,
        "loss": loss,
        "batch_size": batch_size,
        "examples": examples,
        "plane": plane,
        "points": points,
        "span": span,
        "mode": mode,
        "curvature": curvature or None,
        "instruments": instruments,
        "lr": lr,
        "seed": seed,
        "device": device,
        "out": out,
        "title": title,
    }
    settings = load_settings(config, set_, options)
    output = Output(as_json=as_json, quiet=quiet)
    from lossatlas.store import occupied

    with occupied(settings.folder):
        _run(settings, output, resume=resume)


def _run(settings: "SurveySettings", output: Output, *, resume: bool) -> None:
    if settings.against is not None:
        from lossatlas.cli.comparison import report_comparison

        report_comparison(settings, output, resume=resume)
        return
    from lossatlas.cli.job import run_survey

    found, page = run_survey(settings, output, resume=resume)
    rows = [*found.rows(), ("report", str(page), f"{found.seconds:.1f} s")]
    output.result(found.summary() | {"report": str(page)}, found.title, rows)
