"""The figure and the page of the study."""

from math import log

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

from lossatlas.plots import style

GROWN = ("points", "examples", "parameters")
_FIXED = {
    "points": "8,970 parameters, 256 examples",
    "examples": "9 points, 8,970 parameters",
    "parameters": "9 points, 256 examples",
}


def draw(results, folder):
    """CPU seconds over what grows, and a line of slope 1 through the largest."""
    curves = {what: results[what] for what in GROWN}
    curves["processes"] = [row[:2] for row in results["processes"]["each"]]
    figure, axes = plt.subplots(1, len(curves), figsize=(11, 3), layout="constrained")
    for ax, (what, rows) in zip(axes, curves.items(), strict=True):
        sizes, seconds = zip(*rows, strict=True)
        line = [seconds[-1] * size / sizes[-1] for size in sizes]
        ax.loglog(sizes, line, "--", color=style.MUTED, lw=1, label="slope 1")
        ax.loglog(sizes, seconds, "o-", color=style.BASIN, ms=4, lw=1.2, label="measured")
        ax.set_xlabel(what)
        ax.grid(color=style.GRID)
    axes[-1].set_xticks([1, 2], ["1", "2"])
    axes[-1].minorticks_off()
    axes[0].set_ylabel("CPU seconds of a map")
    axes[0].legend(frameon=False, fontsize=style.LABEL_SIZE)
    figure.savefig(folder / "scale.png", dpi=110)
    plt.close(figure)


def text(results):
    """The page in Markdown."""
    each, shared = results["processes"]["each"], results["processes"]["all"]
    examples = results["examples of a process"]
    tables = "\n".join(_table(what, results[what]) for what in GROWN)
    rows = "\n".join(
        f"| {size} | {_short(cpu)} | {_short(wall)} | {_short(one)} | {_short(other)} |"
        for (size, cpu, wall), (_, one, other) in zip(each, shared, strict=True)
    )
    slopes = ", ".join(f"{_slope(results[what]):.2f} over {what}" for what in GROWN)
    return f"""# How does the cost of a map grow?

Written by `python docs/studies/scale/run.py`; its numbers are in `results.json`.

**In short.** Between the two largest sizes, CPU time grows with an exponent of
{slopes} (1 is linear). Two processes that have
{examples:,} examples each take {each[1][1] / each[0][1]:.2f} times the CPU time of one;
where they share {examples:,}, a map takes {shared[1][2] / shared[0][2]:.2f} of the wall time.

![CPU seconds of a map over points, examples, parameters and processes](scale.png)

## Setup

A map by every point with the plain loop (`adaptive=False`, `engine="plain"`), of an MLP with 64
inputs, two hidden layers of ReLUs and 10 classes, on random examples in batches of 256; one
thread a process, no self-checks. Medians of {results["rounds"]} rounds after one that is not
counted; a round goes over all sizes. Measured with torch {results["torch"]} on a machine of
{results["cores"]} cores with a load of {results["load before"]:.1f} before the run.
Small sizes show what a point costs whatever its size.

{tables}

## Processes of one group

Two processes at the most, because the machine has {results["cores"]} cores. 9 points, 8,970
parameters, gloo: CPU seconds of all processes together, and wall seconds of the slowest.

| processes | {examples:,} examples each: CPU | wall | {examples:,} in all: CPU | wall |
|---|---|---|---|---|
{rows}
"""


def _slope(rows):
    (small, before), (large, after) = rows[-2:]
    return log(after / before) / log(large / small)


def _table(what, rows):
    sizes = " | ".join(f"{size:,}" for size, _ in rows)
    seconds = " | ".join(_short(each) for _, each in rows)
    rule = "|---" * (len(rows) + 1)
    return f"| {what} ({_FIXED[what]}) | {sizes} |\n{rule}|\n| CPU seconds | {seconds} |\n"


def _short(seconds):
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:.0f}"
