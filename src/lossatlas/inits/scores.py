"""How good a prediction is: correlations within blocks, errors, regret, and their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lossatlas.intervals import t_quantile
from lossatlas.result import Estimate, Figure, chart_of
from lossatlas.rng import derive_seed
from lossatlas.text import number

if TYPE_CHECKING:
    from lossatlas.plots.chart import Chart

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


def random_source(*parts: object) -> np.random.Generator:
    """A numpy generator seeded by name."""
    return np.random.default_rng(derive_seed("inits", *parts))


def spearman(truth: Array, predicted: Array, blocks: Ints) -> Array:
    """Rank correlation within blocks, averaged with the sizes of the blocks."""
    total, weight = np.zeros(len(predicted)), 0
    for block in np.unique(blocks):
        inside = blocks == block
        size = int(inside.sum())
        if size < 2:
            continue
        total += size * _correlation(
            stats.rankdata(np.atleast_2d(truth)[:, inside], axis=-1),
            stats.rankdata(predicted[:, inside], axis=-1),
        )
        weight += size
    return np.asarray(total / max(weight, 1))


def _correlation(a: Array, b: Array) -> Array:
    a, b = (row - row.mean(-1, keepdims=True) for row in (a, b))
    lengths = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    products = (a * b).sum(-1)
    return np.asarray(
        np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    )


def kendall(truth: Array, predicted: Array, blocks: Ints) -> float:
    """Kendall's tau-b within blocks, averaged with the sizes of the blocks."""
    total, weight = 0.0, 0
    for block in np.unique(blocks):
        a, b = truth[blocks == block], predicted[blocks == block]
        if len(a) < 2:
            continue
        value = 0.0 if np.ptp(a) == 0 or np.ptp(b) == 0 else stats.kendalltau(a, b).statistic
        total += len(a) * float(value)
        weight += len(a)
    return total / max(weight, 1)


def determination(truth: Array, predicted: Array, blocks: Ints) -> float:
    """The share of the variance within blocks that a prediction explains."""
    rest = float(((truth - predicted) ** 2).sum())
    total = float(((truth - block_means(truth, blocks)) ** 2).sum())
    return 1.0 - rest / total if total > 0 else 0.0


def block_means(values: Array, blocks: Ints) -> Array:
    """The mean of the block that each candidate is in."""
    _, which = np.unique(blocks, return_inverse=True)
    return np.asarray((np.bincount(which, values) / np.bincount(which))[which])


def resamples(blocks: Ints, count: int, seed: int) -> Ints:
    """Bootstrap samples of the candidates, drawn within each block."""
    source = random_source("bootstrap", seed)
    drawn = np.empty((count, len(blocks)), dtype=np.int64)
    for block in np.unique(blocks):
        inside = np.flatnonzero(blocks == block)
        drawn[:, inside] = inside[source.integers(len(inside), size=(count, len(inside)))]
    return drawn


def shuffles(blocks: Ints, count: int, seed: int) -> Ints:
    """Permutations of the candidates within each block: the null of no relation."""
    source = random_source("shuffles", seed)
    drawn = np.tile(np.arange(len(blocks)), (count, 1))
    for block in np.unique(blocks):
        inside = np.flatnonzero(blocks == block)
        drawn[:, inside] = source.permuted(drawn[:, inside], axis=1)
    return drawn


def interval(samples: Array, level: float = 0.95) -> tuple[float, float]:
    """The middle part of bootstrap samples."""
    tail = (1 - level) / 2
    lower, upper = np.quantile(samples, (tail, 1 - tail))
    return float(lower), float(upper)


def interval_estimate(
    name: str, numbers: Sequence[float] | Array, samples: int, **options: Any
) -> Estimate:
    """A number whose 95 % interval is known.

    Args:
        name: what it is.
        numbers: value, lower and upper end.
        samples: candidates (or points) behind it.
        **options: further fields of the estimate.

    Returns:
        The estimate; its standard error is that of an interval of Student's t as wide.

    Examples:
        >>> print(interval_estimate("gain", (0.5, 0.25, 0.8), 40))
        gain: 0.50 [0.25, 0.80]
    """
    value, *ends = (float(number) for number in numbers)
    lower, upper = ends
    if not np.isfinite(upper - lower):
        return Estimate(value, why_no_error="there is no interval", name=name, **options)
    stderr = (upper - lower) / 2 / float(t_quantile(0.95, samples))
    options |= {"name": name, "samples": samples, "ends": (lower, upper)}
    return Estimate(value, stderr, **options)


def mean_estimate(values: Array, name: str) -> Estimate:
    """The mean of some losses, the range they span in its meaning.

    Args:
        values: finite losses, shape (losses,).
        name: what they are.

    Returns:
        The estimate; its error is that of a mean of independent losses.

    Examples:
        >>> str(mean_estimate(np.array([1.0, 3.0]), "loss"))
        'loss: 2.0 ± 1.0'
    """
    if len(values) < 2:
        value = float(values.mean()) if len(values) else np.nan
        return Estimate(value, why_no_error="fewer than two losses", name=name)
    stderr = float(values.std(ddof=1) / np.sqrt(len(values)))
    spread = f"{len(values)} losses between {number(values.min())} and {number(values.max())}"
    return Estimate(
        float(values.mean()), stderr, samples=len(values), name=name, meaning=spread
    )


def scheme_figure(
    name: str, title: str, losses: Mapping[str, Array], axis: str, most: int = 100
) -> Figure:
    """Losses by scheme: some of them as dots, their mean with its error."""
    from lossatlas.plots.rows import Dots, rows_chart

    by_scheme = {scheme: np.sort(values) for scheme, values in losses.items() if len(values)}

    def chart() -> "Chart":
        means = [mean_estimate(values, "") for values in by_scheme.values()]
        dots = Dots("mean", *np.array([(m.value, m.stderr) for m in means]).reshape(-1, 2).T)
        places = [
            np.linspace(0, len(v) - 1, min(len(v), most)).astype(int)
            for v in by_scheme.values()
        ]
        shown = [v[at] for v, at in zip(by_scheme.values(), places, strict=True)]
        every = np.concatenate([np.ones(1), *shown])
        log = bool(every.min() > 0 and every.max() > 10 * every.min())
        return rows_chart(list(by_scheme), [dots], title, axis, samples=shown, log=log)

    caption = (
        f"Each faint dot is one initialization (at most {most} of each scheme, evenly spread "
        "by rank); the mark is the mean with its standard error."
    )
    return chart_of(name, title, chart, caption=caption, alt=f"{title}, by scheme.")


def holm(p: Sequence[float] | Array) -> Array:
    """Holm's correction for many tests.

    Args:
        p: one p-value a test.

    Returns:
        Adjusted p-values; those below the level are significant together.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979) 65.

    Examples:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values)
    grown = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(grown), 1.0)
    return adjusted


def p_value(observed: float, null: Array) -> float:
    """How often chance does as well, one-sided."""
    return float((1 + np.count_nonzero(null >= observed)) / (1 + len(null)))


GROUP, DRAWS, RESAMPLES, EACH = 32, 2000, 300, 20


@dataclass(frozen=True, eq=False)
class Draws:
    """Groups of candidates to choose from: of the candidates, and of bootstrap samples of them.

    Attributes:
        groups: indices, shape (draws, group).
        again: indices, shape (resamples, draws of each, group).
    """

    groups: Ints
    again: Ints

    @classmethod
    def make(cls, blocks: Ints, group: int = GROUP, seed: int = 0) -> "Draws":
        """Draw groups, each out of one block."""
        source = random_source("groups", seed)
        members = [np.flatnonzero(blocks == block) for block in np.unique(blocks)]
        size = min(group, *(len(m) for m in members))
        share = np.array([len(m) for m in members]) / len(blocks)
        chosen = source.choice(len(members), size=DRAWS, p=share)
        groups = np.array([source.permutation(members[k])[:size] for k in chosen])
        # A bootstrap sample of each block, and groups out of it.
        again = np.empty((RESAMPLES, EACH, size), dtype=np.int64)
        for row in again:
            sample = [m[source.integers(len(m), size=len(m))] for m in members]
            for place, k in enumerate(source.choice(len(members), size=EACH, p=share)):
                row[place] = sample[k][source.integers(len(sample[k]), size=size)]
        return cls(groups, again)

    def regret(self, quality: Array, score: Array, top: int = 1) -> tuple[float, float, float]:
        """What is lost by choosing by a score."""
        worst = quality[np.isfinite(quality)].max()
        losses = np.where(np.isfinite(quality), quality, worst)
        value = _lost(losses, score, self.groups, top).mean()
        spread = _lost(losses, score, self.again, top).mean(-1)
        return (float(value), *interval(spread))


def _lost(losses: Array, score: Array, groups: Ints, top: int) -> Array:
    ranked = np.where(np.isnan(score), np.inf, score)[groups]
    first = np.argpartition(ranked, top - 1, axis=-1)[..., :top] if top > 1 else None
    order = ranked.argmin(-1)[..., None] if first is None else first
    chosen = losses[groups]
    best = np.take_along_axis(chosen, order, -1).min(-1)
    return np.asarray(best - chosen.min(-1))
