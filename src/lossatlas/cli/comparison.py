"""`lossatlas survey A B`: two checkpoints of one model, and the line between them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lossatlas.cli.output import Output
from lossatlas.cli.pictures import write_pictures
from lossatlas.cli.shared_options import SubjectSettings
from lossatlas.cli.subject import Subject, load_subject
from lossatlas.errors import ArgumentError, AtlasError
from lossatlas.executor import Progress
from lossatlas.io import remove_ledger
from lossatlas.linalg.params import Params, fingerprint, snapshot
from lossatlas.objective import Objective
from lossatlas.objective.modes import Mode
from lossatlas.objective.point import tracks_statistics
from lossatlas.report import write_report
from lossatlas.surveys import Comparison, compare
from lossatlas.surveys.compare import comparison_ledgers
from lossatlas.text import as_sentence
from lossatlas.weights.paired import halfway
from lossatlas.weights.statistics import loss_text


def report_comparison(
    settings: SubjectSettings,
    files: tuple[Path, ...],
    output: Output,
    *,
    folder: Path,
    title: str | None,
    figures: tuple[str, ...] = (),
    **options: Any,
) -> None:
    """Compare two checkpoints, write `comparison.nc` and `report.html`, print the result."""
    pair = _loaded(settings, files)
    for note in pair.notes:
        output.note(note)
    ledger = folder / "comparison.resume"
    objective = pair.objective
    with output.progress("mapping") as progress:
        comparison = compare(
            objective,
            *pair.states,
            metrics=pair.subject.metrics(objective, output),
            resume=ledger,
            progress=_both_maps(progress),
            **options,
        )
    comparison = _signed(comparison, pair, title or f"{pair.subject.title}, two checkpoints")
    results = comparison.save(folder / "comparison.nc")
    page = write_report(comparison, folder / "report.html")
    pictures = write_pictures(comparison, figures, folder)
    _forget(ledger)
    heading = str(comparison.provenance.settings["title"])
    written = {"results": results, "report": page} | pictures
    output.result(comparison, heading, files=written, extra=_details(comparison))


def _forget(ledger: Path) -> None:
    for path in comparison_ledgers(ledger):
        remove_ledger(path)


@dataclass(frozen=True, eq=False)
class _Pair:
    """What is compared: a model that holds the first checkpoint, and both as states."""

    subject: Subject
    files: tuple[Path, ...]
    states: tuple[Params, Params]
    objective: Objective
    notes: tuple[str, ...]
    otherwise: tuple[str, ...]


def _loaded(settings: SubjectSettings, files: tuple[Path, ...]) -> _Pair:
    subject, notes = load_subject(settings), dict[str, None]()
    states = []
    for file in files:
        subject.load(file, notes.setdefault)
        states.append(snapshot(subject.model.state_dict()))
    first, second = states
    subject.model.load_state_dict(first)
    names = [name for name, _ in subject.model.named_parameters()]
    differing = [name for name in names if not torch.equal(first[name], second[name])]
    if not differing:
        raise ArgumentError(
            f"'{files[0]}' and '{files[1]}' hold the same weights; there is nothing to compare."
        )
    _release(subject.model, differing)
    objective = subject.objective(settings.mode)
    other = _otherwise(objective, first, second)
    return _Pair(subject, files, (first, second), objective, tuple(notes), other)


# Weights that differ move along the line, also where training would hold them.
def _release(model: nn.Module, names: list[str]) -> None:
    for name in names:
        parameter = model.get_parameter(name)
        if parameter.is_floating_point():
            parameter.requires_grad_(True)


# A barrier may come from statistics that do not fit the points between.
def _otherwise(objective: Objective, first: Params, second: Params) -> tuple[str, ...]:
    if objective.mode == "train" or not tracks_statistics(objective.model):
        return ()
    mode, how = _OTHER[objective.mode]
    points = (first, halfway(first, second), second)
    try:
        one, middle, two = (loss_text(objective, mode, point) for point in points)
    except AtlasError as error:
        return (as_sentence(f"Losses {how} are not known: {error}"),)
    return (
        f"{how[0].upper()}{how[1:]} the loss is {one} at A, {middle} halfway and {two} at B.",
    )


_OTHER: dict[str, tuple[Mode, str]] = {
    "eval": ("recalibrated", "with running statistics estimated anew (mode recalibrated)"),
    "recalibrated": ("eval", "with the running statistics as saved (mode eval)"),
}


def _signed(comparison: Comparison, pair: _Pair, title: str) -> Comparison:
    first, second = pair.states
    record = {
        "title": title,
        "first": str(pair.files[0]),
        "second": str(pair.files[1]),
        "first weights": fingerprint(first),
        "second weights": fingerprint(second),
    }
    settings: Mapping[str, object] = {**comparison.provenance.settings, **record}
    maps = {
        name: replace(land, notes=(*pair.notes, *pair.otherwise, *land.notes))
        for name in ("first", "second", "line")
        for land in [getattr(comparison, name)]
    }
    record_of_both = replace(comparison.provenance, settings=settings)
    statistics = (*comparison.statistics, *pair.otherwise)
    return replace(comparison, **maps, provenance=record_of_both, statistics=statistics)


# Both maps have one grid: its points are counted twice before they are known to be fewer.
def _both_maps(tell: Progress) -> Progress:
    before, grid, last, is_over = 0, 0, 0, False

    def both(done: int, total: int, label: str) -> None:
        nonlocal before, grid, last, is_over
        if is_over:
            before += last
        grid = grid or total
        last, is_over = done, done >= total
        tell(before + done, before + total + (0 if before else grid), label)

    return both


def _details(comparison: Comparison) -> dict[str, Any]:
    """What JSON holds beside estimates and sentences."""
    settings, line = comparison.provenance.settings, comparison.line
    return {
        "title": settings.get("title"),
        "verdict": comparison.headline(),
        "is_barrier_certain": comparison.verdict.is_certain,
        "barrier_at": None if comparison.top is None else comparison.excess.where,
        "pairs": comparison.matching.pairs.tolist(),
        "first": _side(comparison, 0),
        "second": _side(comparison, 1),
        "grid": {
            "points": list(comparison.first.values.shape),
            "ranges": [[float(axis[0]), float(axis[-1])] for axis in comparison.first.axes],
            "line_points": int(line.values.size),
        },
        "mode": settings.get("mode"),
        "notes": list(
            dict.fromkeys((*line.notes, *comparison.first.notes, *comparison.second.notes))
        ),
    }


def _side(comparison: Comparison, k: int) -> dict[str, Any]:
    line, end = comparison.line, (0, -1)[k]
    return {
        "file": comparison.provenance.settings.get(("first", "second")[k]),
        "loss": float(line.values[end]),
        "loss_stderr": float(line.stderr[end]),
        "metrics": {
            name: {"value": float(values[end]), "stderr": float(line.metric_stderr[name][end])}
            for name, values in line.metrics.items()
        },
    }
