"""`lossatlas survey`: train or load a network, survey the ground around it, write a report."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lossatlas.cli.output import Output

if TYPE_CHECKING:
    from lossatlas.surveys import Survey


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


_FILES = "None, one or two .safetensors files; two are compared."


def command(  # noqa: PLR0917 - typer reads the options from here
    files: list[Path] = typer.Argument(None, help=_FILES),
    model: str | None = typer.Option(None, help=_MODEL),
    weights: Path | None = typer.Option(None, help="The same as one file; never unpickled."),
    data: str | None = typer.Option(None, help=_DATA),
    loss: str | None = typer.Option(None, help="cross_entropy | mse | ... | module:function."),
    batch_size: int | None = typer.Option(None, help="Examples a batch [256]."),
    examples: int | None = typer.Option(None, help="Use only the first so many."),
    plane: str | None = typer.Option(None, help="random | checkpoints [what there is]."),
    points: int | None = typer.Option(None, help="Points along each direction [41]."),
    span: str | None = typer.Option(None, help="Half the width, or auto [auto]."),
    mode: str | None = typer.Option(None, help=_MODE),
    curvature: bool = typer.Option(False, "--curvature", help="Eigenvalues and trace too."),
    seed: int | None = typer.Option(None, help="Of weights, data order, directions [0]."),
    device: str | None = typer.Option(None, help="cpu, cuda, ... [cpu]."),
    out: Path | None = typer.Option(None, help=_OUT),
    title: str | None = typer.Option(None, help="What heads the report."),
    config: Path | None = typer.Option(None, help="Settings in a YAML file."),
    set_: list[str] = typer.Option([], "--set", help="One setting: --set map.tolerance=0.001."),
    resume: bool = typer.Option(False, "--resume", help="Go on with a run that died."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object on stdout."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress, no notes."),
) -> None:
    """Survey the loss landscape around a network: map, curvature of the ground, topology.

    With no arguments: trains a small network on scikit-learn's digits for a few seconds and
    surveys where it arrived. With two files: compares these checkpoints of one model, the
    ground around each and the line between them.
    """
    from lossatlas.cli.settings import load_settings, named_files

    options = {
        "model": model,
        **named_files(files or [], weights),
        "data": data,
        "loss": loss,
        "batch_size": batch_size,
        "examples": examples,
        "plane": plane,
        "points": points,
        "span": span,
        "mode": mode,
        "curvature": curvature or None,
        "seed": seed,
        "device": device,
        "out": out,
        "title": title,
    }
    settings = load_settings(config, set_, options)
    output = Output(as_json=as_json, quiet=quiet)
    if settings.against is not None:
        from lossatlas.cli.comparison import report_comparison

        report_comparison(settings, output, resume=resume)
        return
    from lossatlas.cli.job import run_survey

    found, page = run_survey(settings, output, resume=resume)
    output.result(summary(found, page), found.title, table(found, page))


def summary(survey: "Survey", page: Path) -> dict[str, Any]:
    """What `--json` prints.

    Args:
        survey: the findings.
        page: where the report is.

    Returns:
        Plain values.
    """
    land, diagram, tree = survey.landscape, survey.diagram, survey.tree
    bars = zip(
        *(getattr(diagram, k).tolist() for k in ("dimensions", "births", "deaths", "certain")),
        strict=True,
    )
    return {
        "title": survey.title,
        "loss": survey.loss.value,
        "loss_stderr": survey.loss.stderr,
        "metrics": {
            name: {"value": value.value, "stderr": value.stderr}
            for name, value in survey.metrics.items()
        },
        "grid": _grid(survey),
        "topology": {
            "minima": len(tree),
            "bars": [
                {"dimension": k, "birth": birth, "death": death, "certain": certain}
                for k, birth, death, certain in bars
            ],
            "smad": tree.smad(),
            "certain_bars": int(diagram.certain.sum()),
            "threshold": diagram.threshold,
            "connectivity": diagram.connectivity,
            "certain_basins": survey.certain_basins,
            "under_resolved": survey.resolution.under_resolved,
            "barriers": survey.barriers.tolist(),
        },
        "curvature": _curvature(survey),
        "notes": list(survey.notes),
        "seconds": survey.seconds,
        "evaluations": land.evaluations,
        "report": str(page),
    }


def table(survey: "Survey", page: Path) -> list[tuple[str, str, str]]:
    """What a person is shown.

    Args:
        survey: the findings.
        page: where the report is.

    Returns:
        (name, value, error or remark) each.
    """
    land, diagram = survey.landscape, survey.diagram
    grid = " x ".join(map(str, land.values.shape))
    share = land.evaluations / land.values.size
    why = survey.loss.why_no_error
    rows = [("loss", f"{survey.loss.value:.6g}", why or f"± {survey.loss.stderr:.2g}")]
    rows += [
        (name, f"{value.value:.6g}", value.why_no_error or f"± {value.stderr:.2g}")
        for name, value in survey.metrics.items()
    ]
    basins = int((diagram.dimensions == 0).sum())
    certain = int(diagram.certain[diagram.dimensions == 0].sum())
    rows += [
        ("map", grid, f"{land.evaluations} computed ({share:.0%}), engine {land.engine}"),
        ("interpolation error", f"{land.interpolation_error:.2g}", _held_out(land.held_out)),
        ("range of the loss", f"{land.range:.6g}", _lost(int((~land.finite).sum()))),
        ("minima", str(len(survey.tree)), _touching(survey)),
        ("basins", str(basins), f"{certain} certain (deeper than {diagram.threshold:.2g})"),
        ("smad", f"{survey.tree.smad():.6g}", "saddle-minimum average distance"),
        *_eigenvalues(survey),
        ("report", str(page), f"{survey.seconds:.1f} s"),
    ]
    return rows


def _grid(survey: "Survey") -> dict[str, Any]:
    land = survey.landscape
    return {
        "points": list(land.values.shape),
        "ranges": [[float(axis[0]), float(axis[-1])] for axis in land.axes],
        "directions": list(land.labels),
        "computed": int(land.computed.sum()),
        "interpolation_error": land.interpolation_error,
        "non_finite": int((~land.finite).sum()),
        "engine": land.engine,
    }


def _curvature(survey: "Survey") -> dict[str, Any] | None:
    spectrum, trace = survey.spectrum, survey.trace
    if spectrum is None or trace is None:
        return None
    ends = ("top", "top_bounds", "bottom", "bottom_bounds")
    return {end: getattr(spectrum, end).tolist() for end in ends} | {
        "trace": trace.value,
        "trace_stderr": trace.stderr,
        "products": spectrum.products + trace.products,
    }


def _eigenvalues(survey: "Survey") -> list[tuple[str, str, str]]:
    spectrum, trace = survey.spectrum, survey.trace
    if spectrum is None or trace is None:
        return []
    return [
        (
            "largest eigenvalue",
            f"{spectrum.top[0]:.6g}",
            f"± {spectrum.top_bounds[0]:.2g} (bound)",
        ),
        (
            "smallest eigenvalue",
            f"{spectrum.bottom[0]:.6g}",
            f"± {spectrum.bottom_bounds[0]:.2g} (bound)",
        ),
        ("trace of the Hessian", f"{trace.value:.6g}", f"± {trace.stderr:.2g}"),
    ]


def _touching(survey: "Survey") -> str:
    counted = f"{survey.diagram.connectivity} connectivity"
    return f"{counted}; under-resolved" if survey.resolution.under_resolved else counted


def _held_out(points: int) -> str:
    return f"the largest at {points} held-out points" if points else "every point was computed"


def _lost(points: int) -> str:
    return f"{points} points without a finite loss" if points else "all points finite"
