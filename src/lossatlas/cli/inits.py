"""`lossatlas inits`: which initialization will train best, in five stages or at once."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossatlas.cli.command import Command
from lossatlas.cli.layout import Group
from lossatlas.cli.output import Output
from lossatlas.settings import defaults, option
from lossatlas.studies.inits.settings import InitsSettings

if TYPE_CHECKING:
    from lossatlas.studies.inits.pipeline import Done
    from lossatlas.studies.inits.quality import Quality
    from lossatlas.studies.inits.records import Labels
    from lossatlas.studies.inits.samples import Samples
    from lossatlas.studies.inits.surrogates import Surrogates

Rows = list[tuple[str, str, str]]
# What a landscape of the published study takes, for each of its 200 initializations.
_POINTS, _INITIALIZATIONS = 2000, 200
_REMEMBERED = "settings.yaml"
_RANK = defaults("studies.inits.rank:rank")
_RESUME = "Accepted as in every command; what is done is never done again."


class RunSettings(InitsSettings):
    """Settings of `lossatlas inits run`."""

    stage: int | None = option(None, "1 for the surrogate, 2 for the quality. By default both.")


class RankSettings(InitsSettings):
    """Settings of `lossatlas inits rank`."""

    candidates: int = option(_RANK["candidates"], "How many initializations to choose from.")


def run_one(stage: str, settings: InitsSettings, output: Output) -> None:
    """Run one stage and tell what it left."""
    from lossatlas.store import occupied
    from lossatlas.studies.inits.pipeline import run_stage

    with occupied(settings.out), output.progress(stage) as progress:
        done = run_stage(settings, stage, progress=progress.line)
    _mention(done, output)
    output.result(_summary(done), _STAGES[stage][1], _table(done), files=_files(done))


def run_all(settings: RunSettings, output: Output) -> None:
    """Run all stages, or one half, and tell what they left."""
    from lossatlas.store import occupied
    from lossatlas.studies.inits.pipeline import run

    with occupied(settings.out), output.progress("study") as progress:
        finished = run(settings, settings.stage, progress=progress.line)
    for done in finished:
        _mention(done, output)
    data = {done.stage: _summary(done) for done in finished}
    rows = [row for done in finished for row in _headline(done)]
    title = f"initializations of {settings.model} on {settings.data}"
    output.result(data, title, rows, files=_files(*finished))


def run_rank(settings: RankSettings, output: Output) -> None:
    """Rank candidates and say how much to trust it."""
    from lossatlas.store import occupied
    from lossatlas.studies.inits.rank import rank

    with occupied(settings.out), output.progress("ranking") as progress:
        found = rank(settings, settings.candidates, progress=progress.line)
    output.result(found.summary(), found.title, found.table())


# Stage -> help, title of its table, and options that set a value of a group.
_STAGES: dict[str, tuple[str, str, dict[str, str]]] = {
    "generate": (
        "Stage 1: compute the true losses of initializations of many schemes; write pairs.nc.",
        "true losses of initializations",
        {"n_samples": "generate.samples"},
    ),
    "fit-surrogate": (
        "Stage 2: predict the loss from the parameters; write surrogate.nc.",
        "rank correlation of predicted and true losses, held-out points",
        {"epochs": "surrogate.epochs"},
    ),
    "label": (
        "Stage 3: train initializations, many at once, for several budgets; write labels.nc.",
        "loss after training",
        {"n_samples": "label.samples", "orders": "label.orders"},
    ),
    "fit-quality": (
        "Stage 4: predict the loss after training from the landscape before; write quality.nc.",
        "quality predicted before training",
        {"epochs": "quality.epochs"},
    ),
    "figures": (
        "Stage 5: draw what the other stages wrote, into figures/.",
        "figures",
        {"format": "figures.format"},
    ),
}
_WHOLE: dict[str, tuple[type[InitsSettings], Callable[..., None], str]] = {
    "run": (
        RunSettings,
        run_all,
        "Run all stages in turn; those whose files are there are not run again.",
    ),
    "rank": (
        RankSettings,
        run_rank,
        "Rank initializations of your own model, and report how far to trust the ranking.",
    ),
}


# The folder remembers what the stages before were told.
def _remembered(options: Mapping[str, Any]) -> Path | None:
    usual = InitsSettings.model_fields["out"].default
    file = Path(options.get("out", usual)) / _REMEMBERED
    return file if file.is_file() else None


_command = functools.partial(functools.partial, Command, config=_remembered, resume=_RESUME)
command = Group(
    "Rank initializations before training, and report how far to trust the ranking.",
    {
        name: (
            text,
            _command(
                InitsSettings, functools.partial(run_one, name), text, shortcuts=shortcuts
            ),
        )
        for name, (text, _, shortcuts) in _STAGES.items()
    }
    | {name: (text, _command(kind, run, text)) for name, (kind, run, text) in _WHOLE.items()},
)


def _mention(done: "Done", output: Output) -> None:
    if not done.fresh:
        output.note(f"{done.paths[0]} is there already; remove it to make it again.")


def _files(*finished: "Done") -> dict[str, Path]:
    return {path.stem: path for done in finished for path in done.paths}


# What `--json` prints about a stage.
def _summary(done: "Done") -> dict[str, Any]:
    named = {"stage": done.stage, "fresh": done.fresh}
    numbers: dict[str, Callable[[Any], dict[str, Any]]] = {
        "generate": _pairs,
        "fit-surrogate": _surrogates,
        "label": _labels,
        "fit-quality": lambda found: found.summary(),
    }
    return named | (numbers[done.stage](done.result) if done.stage in numbers else {})


# What a person is shown about a stage.
def _table(done: "Done") -> Rows:
    rows: dict[str, Callable[[Any], Rows]] = {
        "generate": _pairs_rows,
        "fit-surrogate": _surrogate_rows,
        "label": _label_rows,
        "fit-quality": lambda found: found.table(),
    }
    return rows[done.stage](done.result) if done.stage in rows else []


# The few numbers of a stage that stand in the table of a whole run.
def _headline(done: "Done") -> Rows:
    rows = _table(done)
    if done.stage == "generate":
        rows = rows[:1]
    elif done.stage == "fit-surrogate":
        rows = [row for row in rows if "pooled" not in row[0]]
    elif done.stage == "fit-quality":
        rows = _best(done.result)
    return rows


def _best(found: "Quality") -> Rows:
    rows: Rows = []
    for split in found.splits:
        scored = {model: found.score(split, model) for model in found.models}
        known = {model: s for model, s in scored.items() if math.isfinite(s[0])}
        first = sorted(known, key=lambda model: -known[model][0])[:1]
        recipe = [model for model in known if model == "scheme + scale / ridge"]
        rows += [
            (f"{split}: {m}", f"{known[m][0]:.2f}", f"[{known[m][1]:.2f}, {known[m][2]:.2f}]")
            for m in (*first, *recipe)
        ]
    return [*rows, *(("note", note, "") for note in found.notes)]


def _pairs(pairs: "Samples") -> dict[str, Any]:
    return {
        "pairs": len(pairs),
        "non_finite": _lost(pairs),
        "mean_loss": {name: float(losses.mean()) for name, losses in _by_scheme(pairs)},
    }


def _pairs_rows(pairs: "Samples") -> Rows:
    lost = _lost(pairs)
    remark = f"{lost} losses not finite" if lost else "all losses finite"
    rows = [("pairs", str(len(pairs)), remark)]
    for name, losses in _by_scheme(pairs):
        spread = f"between {losses.min():.4g} and {losses.max():.4g}"
        rows.append((name, f"{losses.mean():.4g}", f"{spread}, {len(losses)} pairs"))
    return rows


def _by_scheme(pairs: "Samples") -> Iterator[tuple[str, Any]]:
    finite = abs(pairs.losses) < math.inf
    for scheme in sorted(set(pairs.schemes[finite])):
        yield str(scheme), pairs.losses[finite & (pairs.schemes == scheme)]


def _lost(pairs: "Samples") -> int:
    return int((~(abs(pairs.losses) < math.inf)).sum())


def _surrogates(found: "Surrogates") -> dict[str, Any]:
    from lossatlas.studies.inits.surrogates.result import VIEWS

    return {
        "kinds": {
            kind: {
                "spearman": {view: list(found.spearman(kind, view)) for view in VIEWS},
                "mean_absolute_error": found.error(kind),
                "coverage_of_90": found.coverage(kind),
                "cpu_seconds": found.cost(kind, _POINTS, _INITIALIZATIONS),
            }
            for kind in found.kinds
        },
        "true_cpu_seconds": _true(found),
        "points": _POINTS,
        "initializations": _INITIALIZATIONS,
        "held_out": len(found.tested),
    }


def _surrogate_rows(found: "Surrogates") -> Rows:
    from lossatlas.studies.inits.surrogates.result import VIEWS

    rows: Rows = [
        (f"{kind}, {view}", f"{value:.3f}", f"[{low:.3f}, {high:.3f}]")
        for kind in found.kinds
        for view in VIEWS
        for value, low, high in [found.spearman(kind, view)]
        if math.isfinite(value)
    ]
    what = f"CPU s for {_POINTS:,} losses at each of {_INITIALIZATIONS}"
    rows += [
        (f"cost, {kind}", f"{found.cost(kind, _POINTS, _INITIALIZATIONS):.3g}", what)
        for kind in found.kinds
    ]
    return [*rows, ("cost, true losses", f"{_true(found):.3g}", what)]


def _true(found: "Surrogates") -> float:
    return found.true_seconds * _POINTS / 1000


def _labels(labels: "Labels") -> dict[str, Any]:
    return {
        "candidates": len(labels),
        "orders": len(labels.orders),
        "diverged": int(labels.diverged.sum()),
        "budgets": {str(budget): _budget(labels, budget) for budget in labels.budgets},
    }


def _budget(labels: "Labels", budget: int) -> dict[str, Any]:
    quality = labels.quality(budget)[labels.finite(budget)]
    known = len(quality) > 0
    return {
        "test_loss": float(quality.mean()) if known else float("nan"),
        "spread": float(quality.std()) if known else float("nan"),
        "reliability": _reliability(labels, budget),
    }


def _reliability(labels: "Labels", budget: int) -> float | None:
    if len(labels.orders) < 2 or int(labels.finite(budget).sum()) < 3:
        return None
    return labels.reliability(budget).mean


def _label_rows(labels: "Labels") -> Rows:
    trainings = labels.diverged.size
    lost = int(labels.diverged.sum())
    rows: Rows = [
        ("candidates", str(len(labels)), f"{trainings} trainings, {lost} diverged"),
    ]
    for budget in labels.budgets:
        found = _budget(labels, budget)
        share = found["reliability"]
        told = "one order: reliability unknown" if share is None else f"reliability {share:.3f}"
        value = f"{found['test_loss']:.4g}"
        spread = f"± {found['spread']:.2g} over candidates"
        rows.append((f"test loss, {budget} epochs", value, f"{spread}, {told}"))
    return rows
