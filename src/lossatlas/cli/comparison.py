"""`lossatlas survey A B`: two checkpoints of one model, the ground around and between them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from lossatlas.cli.comparison_words import comparison_summary, comparison_table
from lossatlas.cli.job import DEMO_MODEL
from lossatlas.cli.output import Output
from lossatlas.cli.settings import MapSettings, SurveySettings
from lossatlas.cli.statistics import settle_statistics
from lossatlas.errors import ArgumentError
from lossatlas.executor import Progress
from lossatlas.linalg.params import Params, fingerprint, snapshot
from lossatlas.objective import Objective, accuracy, supervised
from lossatlas.report import write_report
from lossatlas.result import Estimate
from lossatlas.store import make_folder, remove_ledger
from lossatlas.surveys import Comparison, compare
from lossatlas.surveys.comparison import comparison_ledgers
from lossatlas.text import with_error
from lossatlas.training.checkpoints import load_weights
from lossatlas.training.criteria import build_loss
from lossatlas.training.dataset import Dataset
from lossatlas.training.datasets import load_dataset
from lossatlas.training.devices import chosen_device
from lossatlas.training.models import build_model, normalization_of


def report_comparison(settings: SurveySettings, output: Output, *, resume: bool) -> None:
    """Compare two checkpoints, write `comparison.nc` and `report.html`, say what was found."""
    _check_served(settings)
    found, page = run_comparison(settings, output, resume=resume)
    title = str(found.provenance.settings["title"])
    output.result(comparison_summary(found, page), title, comparison_table(found, page))


def run_comparison(
    settings: SurveySettings, output: Output, *, resume: bool = False
) -> tuple[Comparison, Path]:
    """Load both checkpoints, compare them, write `comparison.nc` and `report.html`."""
    make_folder(settings.folder)
    subject = _subject(settings)
    objective = subject.objective(subject.mode, settings.batch_size)
    notes = [*subject.notes, *_as_saved(subject, settings.batch_size)]
    for note in notes:
        output.note(note)
    ledger = settings.folder / "comparison.resume"
    if not resume:
        _forget(ledger)
    with output.progress("mapping") as progress:
        found = compare(
            objective,
            *subject.states,
            span=settings.span,
            points=settings.points,
            connectivity=settings.map.connectivity,
            min_share=settings.map.min_share,
            seed=settings.seed,
            metrics={"accuracy": accuracy} if subject.data.task == "classification" else {},
            resume=ledger,
            progress=_both_maps(progress),
            **settings.map.options,
        )
    found = _signed(found, subject, settings.title, notes)
    found.save(settings.folder / "comparison.nc")
    page = write_report(found, settings.folder / "report.html")
    _forget(ledger)
    return found, page


def _forget(ledger: Path) -> None:
    for path in comparison_ledgers(ledger):
        remove_ledger(path)


@dataclass(frozen=True, eq=False)
class _Subject:
    """What is compared: a model that holds the first checkpoint, and both as states."""

    title: str
    model: nn.Module
    data: Dataset
    loss: str | None
    files: tuple[Path, Path]
    states: tuple[Params, Params]
    mode: str
    notes: tuple[str, ...]

    def objective(self, mode: str, batch_size: int) -> Objective:
        loss = supervised(build_loss(self.loss, task=self.data.task))
        return Objective(self.model, loss, self.data.batches(batch_size), mode=mode)


def _subject(settings: SurveySettings) -> _Subject:
    name = settings.model or DEMO_MODEL
    files = _files(settings)
    data = load_dataset(
        settings.data, examples=settings.examples, normalize=normalization_of(name)
    )
    model = build_model(name, data, seed=settings.seed).to(chosen_device(settings.device))
    said: dict[str, None] = {}
    first, second = (
        snapshot(_loaded(model, file, settings, said).state_dict()) for file in files
    )
    model.load_state_dict(first)
    if all(torch.equal(first[name], second[name]) for name, _ in model.named_parameters()):
        raise ArgumentError(
            f"'{files[0]}' and '{files[1]}' hold the same weights; there is nothing to compare."
        )
    mode, notes = settle_statistics(model, first, second, settings.mode)
    title = f"{name} on {settings.data}, two checkpoints"
    return _Subject(
        title, model, data, settings.loss, files, (first, second), mode, (*said, *notes)
    )


def _loaded(
    model: nn.Module, file: Path, settings: SurveySettings, said: dict[str, None]
) -> nn.Module:
    def note(sentence: str) -> None:
        said[f"{file.name}: {sentence}"] = None

    return load_weights(model, file, key=settings.key, prefix=settings.prefix, note=note)


def _files(settings: SurveySettings) -> tuple[Path, Path]:
    if settings.weights is None or settings.against is None:
        raise ArgumentError("`against` needs `weights`: a comparison takes two checkpoints.")
    return settings.weights, settings.against


# Statistics estimated anew are not those of the file: a reader may know only the latter.
def _as_saved(subject: _Subject, batch_size: int) -> list[str]:
    if subject.mode != "recalibrated":
        return []
    losses: list[Estimate] = []
    for state in subject.states[::-1]:
        subject.model.load_state_dict(state)
        losses.insert(0, subject.objective("eval", batch_size).evaluate())
    one, two = (with_error(loss.value, loss.stderr) for loss in losses)
    return [f"With the running statistics as saved the loss is {one} at A and {two} at B."]


def _signed(
    found: Comparison, subject: _Subject, title: str | None, notes: list[str]
) -> Comparison:
    one, two = subject.states
    record = {
        "title": title or subject.title,
        "first": str(subject.files[0]),
        "second": str(subject.files[1]),
        "first weights": fingerprint(one),
        "second weights": fingerprint(two),
    }
    provenance = found.provenance
    settings: Mapping[str, object] = {**provenance.settings, **record}
    first, second, line = (
        replace(land, notes=(*notes, *land.notes))
        for land in (found.first, found.second, found.line)
    )
    signed = replace(provenance, settings=settings)
    return replace(found, first=first, second=second, line=line, provenance=signed)


def _both_maps(tell: Progress | None) -> Progress | None:
    if tell is None:
        return None
    finished, last = 0, 0

    def both(done: int, total: int, label: str) -> None:
        nonlocal finished, last
        # The second map begins to count anew.
        finished, last = (total if done < last else finished), done
        tell(finished + done, 2 * total, label)

    return both


def _check_served(settings: SurveySettings) -> None:
    plain = MapSettings()
    kept = ("dimension", "normalization", "biases")
    changed = {
        f"map.{name}": getattr(settings.map, name)
        for name in kept
        if getattr(settings.map, name) != getattr(plain, name)
    }
    if settings.plane not in {None, "random"}:
        changed["plane"] = settings.plane
    if settings.train.steps:
        changed["train.steps"] = settings.train.steps
    for name in ("curvature", "instruments", "lr"):
        if getattr(settings, name):
            changed[name] = getattr(settings, name)
    for name, value in changed.items():
        raise ArgumentError(
            f"`{name}` is not served where two checkpoints are compared; got {value!r}: "
            "leave it out, or survey one file at a time."
        )
