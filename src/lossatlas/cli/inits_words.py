"""What `lossatlas inits` says about the stages, to programs and to people."""

from typing import Any

import numpy as np

from lossatlas.studies.inits.pipeline import Done
from lossatlas.studies.inits.quality import Quality
from lossatlas.studies.inits.records import Labels
from lossatlas.studies.inits.samples import Samples
from lossatlas.studies.inits.surrogates import Surrogates
from lossatlas.studies.inits.surrogates.result import VIEWS

Rows = list[tuple[str, str, str]]
# What a landscape of the published study takes, for each of its 200 initializations.
_POINTS, _INITIALIZATIONS = 2000, 200


def title(done: Done) -> str:
    """What heads the table of a stage."""
    return {
        "generate": "true losses of initializations",
        "fit-surrogate": "rank correlation of predicted and true losses, held-out points",
        "label": "loss after training",
        "fit-quality": "quality predicted before training",
        "figures": "figures",
    }[done.stage]


def summary(done: Done) -> dict[str, Any]:
    """What `--json` prints about a stage."""
    paths = {"stage": done.stage, "fresh": done.fresh, "files": [str(p) for p in done.paths]}
    if isinstance(done.result, Samples):
        return paths | _pairs(done.result)
    if isinstance(done.result, Surrogates):
        return paths | _surrogates(done.result)
    if isinstance(done.result, Labels):
        return paths | _labels(done.result)
    return paths | (done.result.summary() if done.stage == "fit-quality" else {})


def table(done: Done) -> Rows:
    """What a person is shown about a stage.

    Args:
        done: what the stage left.

    Returns:
        (name, value, error or remark) each.
    """
    rows: Rows = []
    if isinstance(done.result, Samples):
        rows = _pairs_rows(done.result)
    elif isinstance(done.result, Surrogates):
        rows = _surrogate_rows(done.result)
    elif isinstance(done.result, Labels):
        rows = _label_rows(done.result)
    elif done.stage == "fit-quality":
        rows = done.result.table()
    return [*rows, *(("file", str(path), "") for path in done.paths)]


def headline(done: Done) -> Rows:
    """The few numbers of a stage that stand in the table of a whole run.

    Args:
        done: what the stage left.

    Returns:
        (name, value, error or remark) each.
    """
    rows = table(done)
    if isinstance(done.result, Samples):
        rows = rows[:1]
    elif isinstance(done.result, Surrogates):
        rows = [row for row in rows if "pooled" not in row[0]]
    elif done.stage == "fit-quality":
        rows = _best(done.result)
    kept = [row for row in rows if row[1] not in set(map(str, done.paths))]
    files = ", ".join(path.name for path in done.paths)
    return [*kept, (done.stage, str(done.paths[0].parent), files)]


def _best(found: Quality) -> Rows:
    rows: Rows = []
    for split in found.splits:
        scored = {model: found.score(split, model) for model in found.models}
        known = {model: s for model, s in scored.items() if np.isfinite(s[0])}
        first = sorted(known, key=lambda model: -known[model][0])[:1]
        recipe = [model for model in known if model == "scheme + scale / ridge"]
        rows += [
            (f"{split}: {m}", f"{known[m][0]:.2f}", f"[{known[m][1]:.2f}, {known[m][2]:.2f}]")
            for m in (*first, *recipe)
        ]
    return [*rows, *(("note", note, "") for note in found.notes)]


def _pairs(pairs: Samples) -> dict[str, Any]:
    finite = np.isfinite(pairs.losses)
    return {
        "pairs": len(pairs),
        "non_finite": int((~finite).sum()),
        "mean_loss": {
            str(scheme): float(pairs.losses[finite & (pairs.schemes == scheme)].mean())
            for scheme in np.unique(pairs.schemes[finite])
        },
    }


def _pairs_rows(pairs: Samples) -> Rows:
    rows = [("pairs", str(len(pairs)), _lost(int((~np.isfinite(pairs.losses)).sum())))]
    for scheme in np.unique(pairs.schemes):
        here = pairs.losses[pairs.schemes == scheme]
        here = here[np.isfinite(here)]
        if len(here):
            spread = f"between {here.min():.4g} and {here.max():.4g}"
            rows.append((str(scheme), f"{here.mean():.4g}", f"{spread}, {len(here)} pairs"))
    return rows


def _surrogates(found: Surrogates) -> dict[str, Any]:
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


def _surrogate_rows(found: Surrogates) -> Rows:
    rows: Rows = [
        (f"{kind}, {view}", f"{value:.3f}", f"[{low:.3f}, {high:.3f}]")
        for kind in found.kinds
        for view in VIEWS
        for value, low, high in [found.spearman(kind, view)]
        if np.isfinite(value)
    ]
    what = f"CPU s for {_POINTS:,} losses at each of {_INITIALIZATIONS}"
    rows += [
        (f"cost, {kind}", f"{found.cost(kind, _POINTS, _INITIALIZATIONS):.3g}", what)
        for kind in found.kinds
    ]
    return [*rows, ("cost, true losses", f"{_true(found):.3g}", what)]


def _true(found: Surrogates) -> float:
    return found.true_seconds * _POINTS / 1000


def _labels(labels: Labels) -> dict[str, Any]:
    return {
        "candidates": len(labels),
        "orders": len(labels.orders),
        "diverged": int(labels.diverged.sum()),
        "budgets": {str(budget): _budget(labels, budget) for budget in labels.budgets},
    }


def _budget(labels: Labels, budget: int) -> dict[str, Any]:
    quality = labels.quality(budget)[labels.finite(budget)]
    known = len(quality) > 0
    return {
        "test_loss": float(quality.mean()) if known else float("nan"),
        "spread": float(quality.std()) if known else float("nan"),
        "reliability": _reliability(labels, budget),
    }


def _reliability(labels: Labels, budget: int) -> float | None:
    if len(labels.orders) < 2 or int(labels.finite(budget).sum()) < 3:
        return None
    return labels.reliability(budget).mean


def _label_rows(labels: Labels) -> Rows:
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


def _lost(count: int) -> str:
    return f"{count} losses not finite" if count else "all losses finite"
