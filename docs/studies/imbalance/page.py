"""The figure and the page of the study."""

# ruff: noqa: E501 - rows of a table are one line each

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from measure import EQUAL, HEAD, ON, STEPS, TAIL

from lossatlas.plots import style

KINDS = ("rare", "balanced")
EXAMPLES = {
    "all": "all of its own training examples",
    "ten": f"{EQUAL} of its training examples",
    "unseen": f"{EQUAL} examples that were not trained on",
}


def draw(rows, folder):
    """Saddle ratios of both halves of the classes, a dot a seed."""
    figure, axes = plt.subplots(
        len(STEPS), len(ON), figsize=(10, 5.4), sharex=True, sharey="row", layout="constrained"
    )
    for line, steps in zip(axes, STEPS, strict=True):
        for ax, on in zip(line, ON, strict=True):
            for at, kind in enumerate(KINDS):
                _pairs(
                    ax,
                    at,
                    [r for r in rows if (r["kind"], r["steps"], r["on"]) == (kind, steps, on)],
                )
            ax.set_xticks(range(len(KINDS)), ["rare classes", "balanced"])
            ax.set_yscale("symlog", linthresh=1e-3)
            ax.set_ylim(0, 0.3)
            ax.grid(axis="y", color=style.GRID)
            if steps == STEPS[0]:
                ax.set_title(f"on {EXAMPLES[on]}", loc="left", fontsize=style.LABEL_SIZE)
        line[0].set_ylabel(f"|smallest| / largest,\nafter {steps} steps")
    handles = [
        plt.Line2D([], [], marker="o", ls="", color=c) for c in (style.PATH, style.BASIN)
    ]
    figure.legend(handles, ["rare half of the classes", "other half"], loc="outside lower center",
                  ncol=2, frameon=False)  # fmt: skip
    figure.savefig(folder / "ratios.png", dpi=110)
    plt.close(figure)


def _pairs(ax, at, chosen):
    for seed in sorted({r["seed"] for r in chosen}):
        means = [
            np.mean([r["ratio"] for r in chosen if r["seed"] == seed and r["tail"] is side])
            for side in (False, True)
        ]
        places = at + np.array([-0.15, 0.15])
        ax.plot(places, means, color=style.SHARED, lw=0.8, zorder=1)
        ax.scatter(places, means, s=14, color=[style.BASIN, style.PATH], zorder=2)


def text(results):
    """The page, as Markdown.

    Returns:
        The text.
    """
    table = results["differences"]
    seeds = len({r["seed"] for r in results["rows"]})
    by = {(d["kind"], d["steps"], d["on"]): d for d in table}
    rare = [by["rare", steps, on] for steps in STEPS for on in ON]
    held = sum(d["lower"] > 0 for d in rare)
    null = sum(d["lower"] <= 0 <= d["upper"] for d in table if d["kind"] == "balanced")
    lines = "\n".join(
        _line(by[kind, steps, on]) for kind in KINDS for steps in STEPS for on in ON
    )
    answer = "Yes, on what they were trained on." if held >= 4 else "Not in most settings."
    first, last = (by["rare", steps, "all"] for steps in STEPS)
    unsure = [
        f"on {EXAMPLES[d['on']]} after {d['steps']} steps" for d in rare if d["lower"] <= 0
    ]
    open_ones = f" Indistinguishable: {', '.join(unsure)}." if unsure else ""
    return f"""# Are rare classes nearer to a saddle?

Written by `python docs/studies/imbalance/run.py`; every class of every network is in
`results.json`. Data: scikit-learn's digits.

**In short.** {answer} In {held} of {len(rare)} settings the classes with {TAIL} training
examples have a larger saddle ratio than those with {HEAD}, with a 95 % interval above zero:
{_two(first["tail"][0])} against {_two(first["head"][0])} on the training examples after {STEPS[0]} steps,
{_two(last["tail"][0])} against {_two(last["head"][0])} after {STEPS[-1]}.{open_ones} It is not an effect of
the number of examples: it remains when every class is measured on {EQUAL} of its training examples,
and it disappears when the same classes are trained on equal shares ({null} of {len(rare)} intervals
contain zero).

![Saddle ratios of rare and other classes](ratios.png)

## Setup

Rangwani et al. (NeurIPS 2022, arXiv:2212.13827) report that networks trained on imbalanced
data end at saddles of the loss of their rare classes. The saddle ratio of a class is
|smallest| / largest eigenvalue of the Hessian of its own mean loss, where the smallest is
negative: `spectrum(objective, top=1, bottom=1, by="class")`. Weights of classes do not change it.

{seeds} seeds; for each, five classes drawn at random are rare. An MLP 64-32-10 is trained by SGD
(rate 0.1, momentum 0.9, all {5 * (HEAD + TAIL)} examples a step) for {STEPS[0]} and for {STEPS[-1]} steps. Each class is
measured on three sets, because few examples alone could make a ratio large: {"; ".join(EXAMPLES.values())}.

- **Control**: the same seeds and the same two halves of the classes, {(HEAD + TAIL) // 2} examples of each class.
- **Null**: which classes are called rare is permuted 2,000 times; p is how often the
  difference is as large as the one found (two-sided).

## Differences

Means over seeds of the mean over five classes; the difference is paired by seed, with a 95 %
interval (Student's t).

| training | steps | measured on | rare half | other half | difference | p | larger in | loss (rare, other) | gradient (rare, other) |
|---|---|---|---|---|---|---|---|---|---|
{lines}

## What to keep in mind

- A ratio describes the curvature, not where training leads: the gradient of a rare class is
  far from zero (last column), so the weights are on a slope of the loss of that class, not at a
  stationary point of it.
- Both ratios fall as the training loss goes to zero: under cross-entropy the part of the Hessian
  that can be negative is weighted by the remaining error. Rare classes are fitted later, and on
  unseen examples less well; the comparison is at equal steps, not at equal loss.
- Eigenvalues have a residual of at most 1 % of the largest; their bounds are in `results.json`. Where
  the bound hides the sign of the smallest one, the middle of the possible ratios counts, about 0.002
  here: that is what the balanced classes show after {STEPS[-1]} steps.
- One architecture, one data set, one ratio of counts.
"""


def _line(found):
    loss, gradient = (" / ".join(_two(v) for v in found[k]) for k in ("loss", "gradient"))
    tail, head = (f"{_two(found[k][0])} ± {_two(found[k][1])}" for k in ("tail", "head"))
    name = "rare classes" if found["kind"] == "rare" else "balanced (control)"
    difference = f"{_two(found['mean'])} [{_two(found['lower'])}, {_two(found['upper'])}]"
    return (
        f"| {name} | {found['steps']} | {found['on']} | {tail} | {head} | {difference} | "
        f"{found['p']:.4f} | {found['share']:.0%} of seeds | {loss} | {gradient} |"
    )


def _two(value):
    return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"
