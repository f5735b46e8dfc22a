"""How well a measure orders networks: Kendall's tau, the granulated score, and chance."""

from dataclasses import dataclass

import numpy as np

SHUFFLES = 300


@dataclass(frozen=True)
class Score:
    """A score with its standard error (jackknife over networks) and its null.

    Attributes:
        value: from -1 to 1; 1 where the measure orders all pairs as the gap does.
        stderr: of it.
        chance: its 95 % point (absolute value) where gaps are shuffled among the networks.
    """

    value: float
    stderr: float
    chance: float

    def interval(self):
        """The 95 % interval."""
        return self.value - 1.96 * self.stderr, self.value + 1.96 * self.stderr


def signs(values):
    """Signs of all differences, and where both are known; infinities count as equal."""
    values = np.asarray(values, dtype=float)
    with np.errstate(invalid="ignore"):
        found = np.sign(values[:, None] - values[None, :])
    known = ~np.isnan(values)
    both = known[:, None] & known[None, :]
    found[np.isnan(found)] = 0.0
    return np.where(both, found, 0.0), both


def all_pairs(settings):
    """Every pair of networks, as one mask."""
    count = len(settings)
    return [~np.eye(count, dtype=bool)]


def pairs_of_equal(settings, column):
    """Pairs that have one hyper-parameter in common, as one mask."""
    values = np.asarray(settings)[:, column]
    return [(values[:, None] == values[None, :]) & ~np.eye(len(values), dtype=bool)]


def granulated_pairs(settings):
    """A mask for each hyper-parameter: pairs that differ in it alone."""
    settings = np.asarray(settings)
    differ = settings[:, None, :] != settings[None, :, :]
    alone = differ.sum(2) == 1
    return [alone & differ[:, :, k] for k in range(settings.shape[1])]


def _by_network(measure, gap, mask):
    # Of each network: agreeing minus disagreeing pairs, and pairs that are not tied.
    (first, both), (second, _) = measure, gap
    product = first * second * mask * both
    return product.sum(1), (np.abs(first) * np.abs(second) * mask * both).sum(1)


def _value(tables, left=None):
    # The mean over masks of (agreeing - disagreeing) / all, maybe with one network left out.
    found = []
    for agree, pairs in tables:
        total, count = agree.sum() / 2, pairs.sum() / 2
        if left is not None:
            total, count = total - agree[left], count - pairs[left]
        if count > 0:
            found.append(total / count)
    return float(np.mean(found)) if found else float("nan")


def score(values, gaps, masks):
    """Of one measure, with its null: pairs that agree minus those that do not, ties apart.

    With all pairs this is Goodman and Kruskal's gamma, Kendall's tau where nothing is tied;
    with `granulated_pairs` the mean over masks is the granulated score of Jiang et al.
    """
    measure, gap = signs(values), signs(gaps)
    tables = [_by_network(measure, gap, mask) for mask in masks]
    value, count = _value(tables), len(gaps)
    again = np.array([_value(tables, left) for left in range(count)])
    stderr = np.sqrt((count - 1) / count * np.square(again - again.mean()).sum())
    shuffled = np.abs(null(values, gaps, masks))
    return Score(value, float(stderr), float(np.quantile(shuffled, 0.95))), shuffled


def null(values, gaps, masks, shuffles=SHUFFLES):
    """The score where gaps are shuffled among networks."""
    draws, (first, both) = np.random.default_rng(0), signs(values)
    second, _ = signs(gaps)
    # Upper triangles: each pair once.
    at = [np.nonzero(np.triu(mask & both & (first != 0))) for mask in masks]
    found = np.empty(shuffles)
    for shuffle in range(shuffles):
        order = draws.permutation(len(second))
        rows = []
        for i, j in at:
            moved = second[order[i], order[j]]
            pairs = np.abs(moved).sum()
            if pairs:
                rows.append((first[i, j] * moved).sum() / pairs)
        found[shuffle] = np.mean(rows) if rows else np.nan
    return found


def difference(first, second, gaps, masks):
    """Score of one measure minus that of another on the same networks: value and error."""
    gap, count = signs(gaps), len(gaps)
    tables = [[_by_network(signs(v), gap, mask) for mask in masks] for v in (first, second)]
    value = _value(tables[0]) - _value(tables[1])
    again = np.array([_value(tables[0], k) - _value(tables[1], k) for k in range(count)])
    return value, float(np.sqrt((count - 1) / count * np.square(again - again.mean()).sum()))
