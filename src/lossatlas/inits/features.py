"""Stage 4, first half: what is measured of each candidate before its training, and its cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from lossatlas import io
from lossatlas.checks import check_one_of
from lossatlas.executor import Progress
from lossatlas.inits import proxies
from lossatlas.inits.barcodes import landscape_keys, landscape_row
from lossatlas.inits.candidates import Candidate
from lossatlas.inits.labels import Labels
from lossatlas.inits.neighborhood import LossSampler, Sampling
from lossatlas.inits.paths import provenance, run_stage_tasks
from lossatlas.inits.problem import Problem
from lossatlas.inits.settings import InitsSettings
from lossatlas.io import Provenance
from lossatlas.linalg.params import Params
from lossatlas.objective.batches import batch_size as size_of
from lossatlas.result import Estimate, Figure, Result, chart_of, result
from lossatlas.rng import derive_seed
from lossatlas.text import count as counted
from lossatlas.text import number
from lossatlas.training.ensemble import train_ensemble
from lossatlas.training.evaluation import evaluate_ensemble

if TYPE_CHECKING:
    import pandas as pd

    from lossatlas.plots.chart import Chart

Array = NDArray[np.float64]
# "null": the topology of the same losses dealt out anew over their points.
GROUPS = ("topology", "null", "statistics", "curvature", "baseline")
MEASURED = ("topology", "statistics", "curvature", "baseline")
_CURVATURE = ("trace", "frobenius", "largest eigenvalue", "gradient curvature")
AFTER = (1, 5, 20)
# Candidates of a task: what is lost when a run dies.
CANDIDATES_PER_TASK = 15
# Features that come out of the same passes are paid for once.
_SHARED = {
    "topology": "landscape",
    "null": "landscape",
    "statistics": "landscape",
    "curvature": "derivatives",
}
_DERIVED = ("gradient norm", "SNIP", "GraSP", "gradient quotient")
_SINGLE = (
    "initial loss",
    "norm",
    "gradient norm",
    "gradient quotient",
    "SNIP",
    "GraSP",
    "SynFlow",
    "NASWOT",
    "jacov",
)
CHANCE, RECIPE, SIMPLE, TOPOLOGY = "mean", "scheme + scale", "simple", "topology"
# Sets that trees are tried on, and the network of the published study, which is slow.
BROAD = (RECIPE, TOPOLOGY, "scheme + scale + topology", "everything")
DEEP = (TOPOLOGY, "scheme + scale + topology")


@dataclass(frozen=True)
class Column:
    """One feature.

    Attributes:
        name: of the feature.
        group: one of `GROUPS`.
        cost: forward passes over the probe that it takes a candidate.
    """

    name: str
    group: str
    cost: float = 0.0


@dataclass(frozen=True)
class Training:
    """How candidates are trained a little, for the simplest rival.

    Attributes:
        lr: constant rate.
        optimizer: "sgd" or "adamw".
        batch_size: examples a batch.
        after: numbers of updates.
    """

    lr: float = 0.05
    optimizer: str = "sgd"
    batch_size: int = 128
    after: tuple[int, ...] = AFTER


@result("inits-features")
class Features(Result):
    """What can be known of each initialization before its training.

    Attributes:
        names: of the features.
        groups: of each feature, one of `GROUPS`.
        values: float64, shape (candidates, features), in the order of the labels; NaN where a
            feature does not exist.
        cost: feature -> forward passes over one batch of the probe that it takes a candidate
            (a backward pass counts as two); what several features share is in each of them.
        provenance: settings and seed.

    Examples:
        >>> features = Features(("norm",), ("baseline",), np.ones((2, 1)), {"norm": 0.0})
        >>> features.group("baseline")
        ('norm',)
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    values: Array
    cost: Mapping[str, float]
    provenance: io.Provenance = field(default_factory=io.Provenance)

    def of(self, names: Sequence[str]) -> Array:
        """Some of the features."""
        for name in names:
            check_one_of("feature", name, self.names)
        return np.asarray(self.values[:, [self.names.index(name) for name in names]])

    def group(self, *groups: str) -> tuple[str, ...]:
        """The features of some groups."""
        for group in groups:
            check_one_of("group", group, GROUPS)
        both = zip(self.names, self.groups, strict=True)
        return tuple(name for name, group in both if group in groups)

    def estimates(self) -> tuple[Estimate, ...]:
        """How many candidates and features of each group there are."""
        counts = {"candidates": len(self.values)}
        counts |= {f"{g} features": len(self.group(g)) for g in GROUPS}
        return tuple(Estimate(float(n), 0.0, name=name) for name, n in counts.items())

    def sentences(self) -> tuple[str, ...]:
        """What was measured, and what it costs."""
        total = set_cost(self, self.names)
        return (
            f"{counted(len(self.names), 'feature')} of {counted(len(self.values), 'candidate')}"
            f" were measured, at {total:,.0f} forward passes over the probe examples for each "
            "candidate.",
        )

    def figures(self) -> tuple[Figure, ...]:
        """How far the features rank candidates alike."""
        caption = (
            "Size of the rank correlation of every pair of features over the candidates, group "
            "by group: where it is 1, one feature tells nothing that the other does not."
        )
        alt = "Rank correlations of the features."
        title = "Features that tell the same"
        return (chart_of("correlations", title, self._chart, caption=caption, alt=alt),)

    def _chart(self) -> "Chart":
        from lossatlas.plots import style
        from lossatlas.plots.chart import Axis, Chart, Field
        from lossatlas.plots.scale import Scale

        order = np.argsort([GROUPS.index(g) for g in self.groups], kind="stable")
        ranks = np.asarray(np.abs(_rank_correlations(self.values[:, order])), dtype=np.float64)
        names, groups = ([row[k] for k in order] for row in (self.names, self.groups))
        hover = [
            [f"{number(r, 2)}, {a} and {b}" for b, r in zip(names, row, strict=True)]
            for a, row in zip(names, ranks, strict=True)
        ]
        edges = np.linspace(-0.5, len(names) - 0.5, len(names) + 1)
        middles = {
            g: float(np.mean([k for k, h in enumerate(groups) if h == g])) for g in groups
        }
        side = Axis(
            limits=(-0.5, len(names) - 0.5), ticks=(list(middles.values()), list(middles))
        )
        layer = Field(
            edges,
            edges,
            ranks,
            Scale(0.0, 1.0),
            style.METRIC,
            "|rank correlation|",
            np.array(hover, dtype=object).reshape(ranks.shape),
            "rank correlation",
            is_cells=True,
        )
        title = "Features that tell the same"
        return Chart(title, side, side, (layer,), size=(5.6, 4.6), aspect="square", height=480)

    def table(self) -> "pd.DataFrame":
        """One row a candidate, one column a feature.

        Returns:
            A pandas table, for work of your own.
        """
        import pandas as pd

        return pd.DataFrame(self.values, columns=list(self.names))


def _rank_correlations(values: Array) -> Array:
    # Over the candidates that have both features; unknown where a feature does not vary.
    known = np.isfinite(values).astype(np.float64)
    ranks = np.nan_to_num(stats.rankdata(values, axis=0, nan_policy="omit"))
    count, sums, squares = known.T @ known, ranks.T @ known, (ranks**2).T @ known
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = squares - sums**2 / count
        correlations = (ranks.T @ ranks - sums * sums.T / count) / np.sqrt(spread * spread.T)
    return np.asarray(
        np.where(np.isfinite(correlations), correlations, np.nan), dtype=np.float64
    )


def feature_sets(features: Features) -> dict[str, tuple[str, ...]]:
    """The sets that are compared."""
    recipe = tuple(n for n in features.names if n.startswith(("scheme ", "scale")))
    early = tuple(n for n in features.names if n.startswith("loss after "))
    sizes = tuple(n for n in features.names if n == "norm" or n.startswith("norm of "))
    groups = {name: features.group(name) for name in ("topology", "null", "statistics")}
    curvature = features.group("curvature")
    simple = (*recipe, *(n for n in features.names if n in _SINGLE or n in sizes))
    simple = tuple(dict.fromkeys(simple))
    everything = simple + groups["statistics"] + curvature + groups["topology"]
    sets = {RECIPE: recipe} | {name: (name,) for name in _SINGLE if name in features.names}
    sets |= {"sizes": sizes} | {name: (name,) for name in early}
    sets |= {
        "statistics": groups["statistics"],
        "curvature": curvature,
        TOPOLOGY: groups["topology"],
        "topology, losses shuffled": groups["null"],
        SIMPLE: simple,
        "simple + early": simple + early,
        "scheme + scale + topology": recipe + groups["topology"],
        "statistics + topology": groups["statistics"] + groups["topology"],
        "simple + topology": simple + groups["topology"],
        "everything": everything,
        "everything + early": everything + early,
    }
    return {CHANCE: ()} | {name: names for name, names in sets.items() if names}


def set_cost(features: Features, names: Sequence[str]) -> float:
    """What a set costs for one candidate."""
    highest: dict[str, float] = {}
    for name in names:
        source = _source(name, features.groups[features.names.index(name)])
        highest[source] = max(highest.get(source, 0.0), features.cost[name])
    if "landscape" in highest:
        highest.pop("initial loss", None)
    return sum(highest.values())


def _source(name: str, group: str) -> str:
    if name in _DERIVED:
        return "derivatives"
    return _SHARED.get(group, "training" if name.startswith("loss after ") else name)


@dataclass(frozen=True, eq=False)
class Measure:
    """What is measured of every candidate.

    Attributes:
        problem: network, data, probe.
        parameters: makes the parameters of a recipe.
        sampling: where losses are taken.
        training: how candidates are trained a little.
        groups: "topology" and "statistics" (which share their losses: either brings both),
            "curvature" (with the proxies made of gradients), "baseline".
    """

    problem: Problem
    parameters: Callable[[Candidate], Params]
    sampling: Sampling
    training: Training
    groups: tuple[str, ...] = MEASURED

    @property
    def maps(self) -> bool:
        """Whether losses around the candidates are taken."""
        return bool({"topology", "statistics"} & set(self.groups))

    def columns(self) -> list[Column]:
        """The features, in the order of the tables."""
        probe = size_of(self.problem.probe)
        own = {n: p[None] for n, p in self.problem.objective().params.items()}
        columns = [Column(name, "baseline") for name in size_numbers(own)]
        columns.append(Column("initial loss", "baseline", 1.0))
        columns += [Column(n, "baseline", cost) for n, cost in proxies.COST.items()]
        columns += [
            Column(early_name(k), "baseline", early_cost(k, self.training.batch_size, probe))
            for k in self.training.after
        ]
        if "curvature" in self.groups:
            columns += [
                Column(n, "curvature" if n in _CURVATURE else "baseline", cost)
                for n, cost in proxies.DERIVATIVE_COST.items()
            ]
        if self.maps:
            cost = float(self.sampling.losses + 1)
            columns += [Column(n, g, cost) for g, n in landscape_keys(self.sampling)]
        return columns

    def table(self, candidates: Sequence[Candidate]) -> Array:
        """The features of some candidates."""
        problem, initial = self.problem, [self.parameters(c) for c in candidates]
        stack = stacked(initial)
        objective = problem.objective()
        columns = size_numbers(stack)
        columns["initial loss"] = np.array([objective.value(one) for one in initial])
        rows = [proxies.proxies(problem.model, problem.probe, one) for one in initial]
        columns |= {n: np.array([row[n] for row in rows]) for n in proxies.COST}
        seed = derive_seed("inits early", self.sampling.seed)
        columns |= early_losses(problem, initial, self.training, seed)
        if "curvature" in self.groups:
            columns |= proxies.derivatives(
                problem.model, problem.loss, problem.probe, stack, seed=self.sampling.seed
            )
        tables = [np.stack(list(columns.values()), axis=1)]
        if self.maps:
            sampler, keys = LossSampler(objective, self.sampling), landscape_keys(self.sampling)
            maps = [landscape_row(sampler.neighborhood(one), self.sampling) for one in initial]
            tables.append(np.array([[row.get(key, np.nan) for key in keys] for row in maps]))
        return np.concatenate(tables, axis=1)


def stacked(initial: Sequence[Params]) -> dict[str, Tensor]:
    """Parameters of many candidates, stacked."""
    return {name: torch.stack([one[name] for one in initial]) for name in initial[0]}


def recipe_numbers(candidates: Sequence[Candidate]) -> dict[str, Array]:
    """The recipe as numbers: scheme, scale, scale squared, and their products."""
    schemes = np.array([candidate.scheme for candidate in candidates])
    scale = np.array([candidate.scale for candidate in candidates], dtype=np.float64)
    columns = {"scale": scale, "scale squared": scale**2}
    for scheme in sorted(set(schemes.tolist())):
        inside = (schemes == scheme).astype(np.float64)
        columns |= {
            f"scheme {scheme}": inside,
            f"scheme {scheme} x scale": inside * scale,
            f"scheme {scheme} x scale squared": inside * scale**2,
        }
    return columns


def size_numbers(initial: Params) -> dict[str, Array]:
    """Sizes of the weights."""
    squares = {name: (w.double().flatten(1) ** 2).sum(1) for name, w in initial.items()}
    total = torch.stack(list(squares.values())).sum(0).sqrt()
    sizes = {"norm": total.cpu().numpy()}
    for name, value in initial.items():
        if value.ndim > 2:
            floor = torch.finfo(torch.float32).tiny
            sizes[f"norm of {name}"] = squares[name].clamp_min(floor).log().cpu().numpy() / 2
    return sizes


def early_losses(
    problem: Problem, initial: Sequence[Params], training: Training, seed: int = 0
) -> dict[str, Array]:
    """The loss of the probe after a few updates, for many initializations at once."""
    run = train_ensemble(
        problem.model,
        problem.train,
        problem.loss,
        initial=list(initial),
        steps=max(training.after),
        optimizer=training.optimizer,
        lr=training.lr,
        orders=seed,
        batch_size=training.batch_size,
        keep=tuple(sorted(training.after)),
    )
    states = dict(zip(run.checkpoint_steps, run.checkpoints, strict=True))
    return {
        early_name(k): evaluate_ensemble(
            problem.model, states[k], [problem.probe], problem.loss
        )
        for k in sorted(training.after)
    }


def early_name(steps: int) -> str:
    """The name of the feature."""
    return f"loss after {steps} step{'s' if steps > 1 else ''}"


def early_cost(steps: int, batch_size: int, probe: int) -> float:
    """What the feature costs."""
    return 3.0 * steps * batch_size / probe + 1.0


def measure_features(
    settings: InitsSettings,
    problem: Problem,
    labels: Labels,
    *,
    progress: Progress | None = None,
) -> Features:
    """Measure the features of all labeled candidates."""
    measure = make_measure(settings, problem)
    candidates = labels.candidates
    tasks = {
        f"features of candidates from {k}": candidates[k : k + CANDIDATES_PER_TASK]
        for k in range(0, len(candidates), CANDIDATES_PER_TASK)
    }
    tables = run_stage_tasks(
        settings,
        "features",
        problem.fingerprint,
        tasks,
        lambda: measure.table,
        progress=progress,
        recipes=derive_seed("recipes", *map(repr, candidates)),
    )
    made = provenance(settings, "features", problem.fingerprint)
    return joined(measure.columns(), np.concatenate(tables), candidates, made)


def make_measure(settings: InitsSettings, problem: Problem) -> Measure:
    """What the settings ask to be measured."""
    how, label = settings.quality, settings.label
    sampling = Sampling(
        planes=how.planes,
        points=how.points,
        radii=how.radii,
        scattered=how.scattered,
        seed=settings.seed,
    )
    training = Training(label.lr, label.optimizer, label.batch_size)
    return Measure(problem, problem.initializer.draw, sampling, training)


def joined(
    columns: Sequence[Column],
    table: Array,
    candidates: Sequence[Candidate],
    made: Provenance,
) -> Features:
    """A table with the recipes as features."""
    recipe = recipe_numbers(candidates)
    every = [*columns, *(Column(name, "baseline") for name in recipe)]
    values = np.concatenate([table, np.stack(list(recipe.values()), axis=1)], axis=1)
    there = np.isfinite(values).any(axis=0)
    kept = [column for column, exists in zip(every, there, strict=True) if exists]
    return Features(
        tuple(column.name for column in kept),
        tuple(column.group for column in kept),
        values[:, there],
        {column.name: column.cost for column in kept},
        made,
    )
