"""Scores, figure and page of the study, from results.json."""

# ruff: noqa: E501 - rows of a table are one line each

from dataclasses import dataclass

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import scores
from matplotlib import pyplot as plt
from measures import MEASURES
from trained_networks import EPOCHS, GRID, REACHED, settings

from lossatlas.plots import style

GAPS = ("error gap", "loss gap")
TITLES = {"digits": "digits", "mnist": "MNIST"}
# Held-out examples are more data, not a measure of the training set.
MORE_DATA = "held-out loss"
SIMPLE = [m for m, (group, _) in MEASURES.items() if group == "baselines" and m != MORE_DATA]
DEPTH = list(GRID).index("depth")
KINDS = {
    "tau": scores.all_pairs,
    "equal depth": lambda grid: scores.pairs_of_equal(grid, DEPTH),
    "granulated": scores.granulated_pairs,
}
# A network counts where the training came this near to the loss it is to reach.
_NEAR = 1.5


@dataclass(frozen=True)
class Table:
    """Networks of one data set: hyper-parameters, measures, gaps."""

    name: str
    grid: np.ndarray
    columns: dict
    left_out: int

    @property
    def count(self):
        """How many networks count."""
        return len(self.grid)


def tables(results):
    """One table a data set, without networks whose training did not end."""
    grid = np.array([list(s.values()) for s in settings()])
    values = np.array(results["values"], dtype=float)
    found = []
    for name in TITLES:
        mine = np.array([n[0] == name for n in results["networks"]])
        columns = dict(zip(results["columns"], values[mine].T, strict=True))
        ended = columns["training loss"] <= _NEAR * REACHED
        rows = np.array([n[1] for n, m in zip(results["networks"], mine, strict=True) if m])
        kept = {n: v[ended] for n, v in columns.items()}
        found.append(Table(name, grid[rows][ended], kept, int((~ended).sum())))
    return found


def scored(table):
    """gap -> kind -> measure -> Score, and the point that the best of all passes by chance."""
    found, best = {}, {}
    for gap in GAPS:
        found[gap], best[gap] = {}, {}
        for kind, pairs in KINDS.items():
            masks, gaps = pairs(table.grid), table.columns[gap]
            both = {m: scores.score(table.columns[m], gaps, masks) for m in MEASURES}
            found[gap][kind] = {m: one for m, (one, _) in both.items()}
            drawn = [shuffled for _, shuffled in both.values()]
            best[gap][kind] = float(np.quantile(np.nanmax(drawn, axis=0), 0.95))
    return found, best


def write(results, out):
    """Score, draw and write the page."""
    known = tables(results)
    all_scores = {table.name: scored(table) for table in known}
    draw(known, all_scores, out / "scores.png")
    (out / "README.md").write_text(text(results, known, all_scores))


def draw(known, all_scores, file):
    """A row a measure, a panel a data set and kind of score."""
    names = list(MEASURES)[::-1]
    figure, axes = plt.subplots(
        1, 3 * len(known), figsize=(14, 8.2), sharey=True, layout="constrained"
    )
    for k, table in enumerate(known):
        found, best = all_scores[table.name]
        for j, kind in enumerate(KINDS):
            ax = axes[3 * k + j]
            _panel(ax, found["error gap"][kind], names)
            limit = best["error gap"][kind]
            ax.axvspan(-limit, limit, color=style.SHARED, lw=0, zorder=0)
            ax.set_title(f"{TITLES[table.name]}: {kind}", loc="left", fontsize=style.TITLE_SIZE)
    axes[0].set_yticks(range(len(names)), names, fontsize=8)
    figure.supxlabel(
        "score against the error gap, 95 % interval; shaded: what the best of all measures reaches by chance",
        fontsize=9,
    )
    figure.savefig(file, dpi=100)
    plt.close(figure)


def _panel(ax, found, names):
    groups = list(dict.fromkeys(group for group, _ in MEASURES.values()))
    for y, name in enumerate(names):
        one, hue = found[name], style.HUES[groups.index(MEASURES[name][0]) % len(style.HUES)]
        ax.errorbar(one.value, y, xerr=1.96 * one.stderr, fmt="o", ms=4, lw=1.2, color=hue)
    ax.axvline(0, color=style.INK, lw=0.8)
    ax.set_xlim(-1, 1)
    ax.set_ylim(-0.7, len(names) - 0.3)
    ax.grid(color=style.GRID, axis="x")


def verdicts(all_scores, gap="error gap"):
    """Measure -> "predicts", "beyond depth" or "misleads" where all kinds agree, else "open"."""
    found = {}
    for name in MEASURES:
        signs = {
            kind: {
                _sign(s[gap][kind][name], best[gap][kind]) for s, best in all_scores.values()
            }
            for kind in KINDS
        }
        found[name] = "open"
        for sign, verdict in ((1, "predicts"), (-1, "misleads")):
            if all(each == {sign} for each in signs.values()):
                found[name] = verdict
        if found[name] == "open" and signs["tau"] == {1} and signs["equal depth"] != {1}:
            found[name] = "through depth"
    return found


def _sign(one, chance):
    # Beyond what the best of all measures reaches by chance, with its whole interval off zero.
    if not np.isfinite(one.value):
        return 0
    low, high = one.interval()
    if one.value > chance and low > 0:
        return 1
    return -1 if one.value < -chance and high < 0 else 0


def _names(found, *wanted):
    named = [name for name, verdict in found.items() if verdict in wanted]
    # Names have commas of their own.
    return "; ".join(named) if named else "none"


def text(results, known, all_scores):
    """The page, as Markdown."""
    found = verdicts(all_scores)
    loss = verdicts(all_scores, "loss gap")
    minutes = sum(float(np.nansum(t.columns["seconds"])) for t in known) / 60
    counts = " and ".join(f"{t.count} on {TITLES[t.name]}" for t in known)
    left = sum(t.left_out for t in known)
    grid = "; ".join(f"{name} {', '.join(map(str, v))}" for name, v in GRID.items())
    parts = [_section(t, *all_scores[t.name]) for t in known]
    ranges = "; ".join(_range(t) for t in known)
    return f"""# Which measures predict how well a network generalizes?

Written by `python docs/studies/generalization/run.py`; its numbers are in `results.json`.
{counts} networks ({left} more did not reach the training loss and are left out), {minutes:.0f} CPU minutes.

**In short.** Depth alone orders these networks best (tau {_depth(all_scores)}), so a measure has to show
that it knows more. Over all pairs, at equal depth, and where one hyper-parameter alone changes (granulated), on
both data sets and each time beyond what the best of all {len(MEASURES)} reaches by chance, the error gap is ordered by:
**{_names(found, "predicts")}**. Over all pairs, but not at equal depth on both: {_names(found, "through depth")}. With the wrong sign throughout:
{_names(found, "misleads")}. The rest has no score that holds on both: {_names(found, "open")}.
{_beside(known, all_scores)}

For the gap of losses instead of errors: {_names(loss, "predicts")} order it; {_names(loss, "misleads")} with the wrong sign.

![Scores of all measures with intervals](scores.png)

## Setup

ReLU networks trained by SGD with momentum .9 to a training loss of {REACHED} (at most {EPOCHS} epochs) with every
combination of {grid}. On digits the widths 24 and 48 have two seeds and 96 has one, on MNIST the widths 24 and 48
have one. Digits: 400 examples to train on, 1,297 to test; MNIST at 14 x 14
pixels: 500 and 5,000. To be predicted is the gap, test minus training error: {ranges}. A measure is taken from
the training set alone, with the sign that its theory gives it: larger should mean a larger gap.

- **tau**: pairs of networks that measure and gap order alike, minus pairs they order otherwise, over all that
  are not tied (Kendall; with ties, Goodman and Kruskal's gamma).
- **equal depth**: the same over pairs with as many layers. It takes out what depth alone explains.
- **granulated**: the same over pairs that differ in one hyper-parameter alone, averaged over the five (Jiang et
  al.). A measure that only reports the depth has a high tau and a low granulated score.
- **Intervals** are jackknives over networks. On simulated data they hold 96 % (tau) and 99 % (granulated, whose
  pairs share networks: they are a fifth too wide).
- **Chance**: gaps are shuffled among networks {scores.SHUFFLES} times. *Best of all*: what the largest of
  the {len(MEASURES)} scores passes in 5 % of shuffles.
- **Baselines** stand in the same table: what is known without looking at the landscape, and the loss on 100
  examples that are in neither set, which costs 100 examples.

{"".join(parts)}
## The measures

{_meanings()}

`1 / sigma`: largest Gaussian noise at which the training error rises by .1 on average over 15 draws. The local
learning coefficient has localization 300 everywhere and temperature log n; it is missing where the instrument
declines (weights that are no minimum): {_missing(known)}. Norms are over weight matrices.

## What to keep in mind

- Small networks of one kind on two easy data sets, one optimizer, one rule of stopping. Jiang et al. used
  thousands of convolutional networks; agreement with them is no proof, disagreement none either.
- A score says that a measure orders, not that changing it helps.
- Hyper-parameters change measure and gap together; the granulated score takes out four of the five, not the one
  that changes.
- Where all eigenvalues cost more than a few probes, effective parameters are means over 2 to 16 of them, to an
  error of about 3 %: two, and as many more as these two ask for.
- Noise of the gap itself limits every score: two seeds of one setting agree in
  {_ceiling(known)} of pairs of settings.
"""


def _beside(known, all_scores):
    # The best measure of the training set beside the best simple baseline, on the same networks.
    lines = []
    for table in known:
        of = all_scores[table.name][0]["error gap"]["equal depth"]
        measures = [m for m in MEASURES if m not in {*SIMPLE, MORE_DATA}]
        best = max(measures, key=lambda m: of[m].value)
        simple = max(SIMPLE, key=lambda m: of[m].value)
        gaps, masks = table.columns["error gap"], KINDS["equal depth"](table.grid)
        columns = table.columns
        value, error = scores.difference(columns[best], columns[simple], gaps, masks)
        more, less = scores.difference(columns[best], columns[MORE_DATA], gaps, masks)
        lines.append(
            f"On {TITLES[table.name]} the best measure at equal depth ({best}, {of[best].value:.2f}) is {value:+.2f} ± {1.96 * error:.2f} beside the "
            f"best simple baseline ({simple}) and {more:+.2f} ± {1.96 * less:.2f} beside the loss on 100 held-out examples."
        )
    return " ".join(lines) + " The best is chosen on the same networks, which favors it."


def _depth(all_scores):
    return " and ".join(
        f"{found['error gap']['tau']['depth'].value:.2f} on {TITLES[name]}"
        for name, (found, _) in all_scores.items()
    )


def _section(table, found, best):
    rows = "\n".join(_row(name, found) for name in MEASURES)
    chance = [f"{best[gap][kind]:.2f}" for gap, kind in _COLUMNS]
    return f"""## {TITLES[table.name]}, {table.count} networks

| measure | error: tau | equal depth | granulated | loss: equal depth | granulated |
|---|---|---|---|---|---|
{rows}
| *best of all by chance* | {" | ".join(chance)} |

"""


_COLUMNS = (
    ("error gap", "tau"), ("error gap", "equal depth"), ("error gap", "granulated"),
    ("loss gap", "equal depth"), ("loss gap", "granulated"),
)  # fmt: skip


def _row(name, found):
    cells = [_shown(found[gap][kind][name]) for gap, kind in _COLUMNS]
    return f"| {name} | {' | '.join(cells)} |"


def _shown(one):
    if not np.isfinite(one.value):
        return "all alike"
    return f"{one.value:+.2f} ± {1.96 * one.stderr:.2f}"


def _range(table):
    gap, errors = table.columns["error gap"], table.columns["training error"]
    return (
        f"{TITLES[table.name]} {100 * gap.min():.1f} to {100 * gap.max():.1f} % (training error at most "
        f"{100 * errors.max():.1f} %)"
    )


def _meanings():
    groups = dict.fromkeys(group for group, _ in MEASURES.values())
    lines = []
    for group in groups:
        told = [
            f"*{name}*{f' ({meaning})' if meaning else ''}"
            for name, (mine, meaning) in MEASURES.items()
            if mine == group
        ]
        lines.append(f"- {group}: {', '.join(told)}.")
    return "\n".join(lines)


def _missing(known):
    lost = [int(np.isnan(t.columns["learning coefficient"]).sum()) for t in known]
    return " and ".join(
        f"{n} of {t.count} on {TITLES[t.name]}" for n, t in zip(lost, known, strict=True)
    )


def _ceiling(known):
    told = []
    for table in known:
        _, at, counts = np.unique(table.grid, axis=0, return_inverse=True, return_counts=True)
        twice = [np.flatnonzero(at == k) for k in np.flatnonzero(counts == 2)]
        if len(twice) < 10:
            continue
        gaps = table.columns["error gap"][np.array(twice)]
        first, second = (scores.signs(column)[0] for column in gaps.T)
        both = np.abs(first) * np.abs(second)
        agree = (first * second == 1).sum() / both.sum()
        told.append(f"{100 * agree:.0f} % ({TITLES[table.name]})")
    return " and ".join(told) if told else "an unknown share"
