"""The figures and the page of the study."""

# ruff: noqa: E501 - rows of a table are one line each

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt

from lossatlas.plots import style
from lossatlas.plots.style import HUES

TITLES = {"mup": "muP", "ntk": "NTK", "standard": "standard"}
# One rate of each family that every training survived, for the table of sharpness.
SHOWN = {"mup": 8.0, "ntk": 8.0, "standard": 0.25}


def draw(study, folder):
    """Final loss over the rate, and sharpness on the way, a line a width."""
    count = len(study.families)
    figure, axes = plt.subplots(
        2, count, figsize=(3.6 * count, 6.2), layout="constrained", squeeze=False
    )
    for row, family in enumerate(study.families):
        _losses(axes[0, row], study, row)
        axes[0, row].set_title(TITLES[family], loc="left", fontsize=style.TITLE_SIZE)
        _sharpness(axes[1, row], study, row)
    axes[0, 0].set_ylabel(f"training loss after {study.provenance.settings['steps']} steps")
    axes[1, 0].set_ylabel("rate x largest eigenvalue\nat the end")
    for ax in axes[1]:
        ax.sharey(axes[1, 0])
    for ax in axes[0]:
        ax.sharey(axes[0, 0])
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncol=len(labels), frameon=False)
    figure.savefig(folder / "widths.png", dpi=110)
    plt.close(figure)


def _losses(ax, study, row):
    for at, width in enumerate(study.widths):
        table = np.where(np.isfinite(study.losses[row, at]), study.losses[row, at], np.nan)
        known = np.isfinite(table).all(1)
        middle = table.mean(1)
        ax.plot(
            np.array(study.rates)[known],
            middle[known],
            ".-",
            color=HUES[at],
            lw=1.2,
            label=f"width {width}",
        )
        best = np.exp(np.log(study.best_rates(study.families[row])[at]).mean())
        ax.axvline(best, color=HUES[at], lw=0.8, ls=":")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xlabel("base rate (dotted: the best one)")
    ax.grid(color=style.GRID)


def _sharpness(ax, study, row):
    for at in range(len(study.widths)):
        table = study.sharpness[row, at, :, :, -1]
        known = np.isfinite(table).all(1) & (table.mean(1) > 1e-3)
        ax.plot(
            np.array(study.rates)[known], table.mean(1)[known], ".-", color=HUES[at], lw=1.2
        )
    ax.axhline(2, color=style.INK, lw=0.8, ls="--")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_ylim(2e-3, 8)
    ax.set_xlabel("base rate (dashed: the edge, 2)")
    ax.grid(color=style.GRID)


def results(study):
    """The numbers of the page.

    Returns:
        Plain values.
    """
    found = {
        "widths": study.widths,
        "rates": study.rates,
        "seeds": len(study.seeds),
        "read": study.read,
        "steps": study.provenance.settings["steps"],
    }
    for row, family in enumerate(study.families):
        moved = study.transfer(family)
        rate = SHOWN[family] if SHOWN[family] in study.rates else study.rates[0]
        at = study.rates.index(rate)
        found[family] = {
            "slope": [moved.slope.value, moved.slope.stderr, *moved.slope.interval()],
            "regret": [moved.regret.value, moved.regret.stderr],
            "verdict": moved.verdict,
            "at an end": study.at_an_end(family),
            "best rates": np.exp(np.log(study.best_rates(family)).mean(1)).tolist(),
            "best losses": np.where(np.isfinite(study.losses[row]), study.losses[row], np.inf)
            .min(1)
            .mean(1)
            .tolist(),
            "shown rate": rate,
            "sharpness": study.sharpness[row, :, at].mean(1).tolist(),
            "sharpness stderr": (
                study.sharpness[row, :, at].std(1, ddof=1) / np.sqrt(len(study.seeds))
            ).tolist(),
            "deviation": [[d.value, d.stderr] for d in study.deviation(family, rate)],
            "edge rate": _edge(study, row),
        }
    return found


def wide_results(study):
    """The numbers of the table of wide networks.

    Returns:
        Plain values; sharpness has the axes family, width, rate, step read.
    """
    return {
        "families": study.families,
        "widths": study.widths,
        "rates": study.rates,
        "seeds": len(study.seeds),
        "read": study.read,
        "sharpness": study.sharpness.mean(3).tolist(),
        "deviation": [study.deviation(f, study.rates[0])[0].value for f in study.families],
    }


def _edge(study, row):
    """The lowest rate at which all seeds end within 25 % of the edge, for each width."""
    close = np.abs(study.sharpness[row, :, :, :, -1] / 2 - 1) < 0.25
    reached = close.all(2)
    return [float(study.rates[int(line.argmax())]) if line.any() else None for line in reached]


def text(found):
    """The page, as Markdown, from the numbers of `results.json`."""
    families = [name for name in TITLES if name in found]
    widths = " | ".join(f"{w}" for w in found["widths"])
    rule = "|---" * len(found["widths"])
    verdicts = "\n".join(_verdict(f, found[f]) for f in families)
    sharp = "\n".join(_sharp(f, found[f]) for f in families)
    edges = "\n".join(
        f"| {TITLES[f]} | {' | '.join('not reached' if r is None else f'{r:g}' for r in found[f]['edge rate'])} |"
        for f in families
    )
    return f"""# Does a learning rate survive widening?

Written by `python docs/studies/widths/run.py`; its numbers are in `results.json`.
Data: {256} of scikit-learn's digits, standardized, one full batch.

**In short.** {_short(families, found)}

![Final loss and sharpness over the rate](widths.png)

## Setup

ReLU networks with two hidden layers and no biases, squared error, {found["steps"]} steps of plain gradient
descent at {len(found["rates"])} rates from 1/{1 / found["rates"][0]:.0f} to {found["rates"][-1]:.0f} (the same for all), {found["seeds"]} seeds a width. Three
parametrizations: **muP** (outputs divided by the width, rate times the width), **NTK** (unit
weights behind 1/sqrt(inputs), one rate) and **standard** (weights of spread 1/sqrt(inputs), one
rate). A base rate is not the same step in all three; what counts is whether the best one moves.
The sharpness is the largest eigenvalue of the Hessian over all examples, times the rate: above
2 a quadratic diverges.

    from width_study import sharpness_consistency     # docs/studies/widths
    study = sharpness_consistency(data, ("mup", "standard"), widths=(64, 128, 256))
    study.transfer("mup")

## Does the best rate move?

The slope is in octaves of the rate for each doubling of the width, with its 95 % interval over
seeds; -1 would be a rate that has to be halved. Against a margin of a quarter of an octave the rate
*transfers* where the interval lies within, *does not transfer* where it lies beyond; where the interval excludes
zero but contains the margin, the rate *moves, by how much is open*. Regret: how much higher the loss of the widest networks is at the
best rate of the narrowest than at their own.

| | {" | ".join(f"best at {w}" for w in found["widths"])} | slope | regret | verdict |
{rule}|---|---|---|---|
{verdicts}

## Sharpness on the way

Rate x largest eigenvalue after {", ".join(map(str, found["read"]))} steps, mean ± standard error over seeds, at one rate of
each family; in the last column, how far the narrowest is from the widest at the end.

| | rate | {widths} | narrowest against widest |
|---|---{rule}|---|
{sharp}

The lowest rate at which every seed ends within a quarter of the edge (2):

| | {widths} |
|---{rule}|
{edges}

{_wide(found["wide"])}
## What to keep in mind

- {found["seeds"]} seeds: intervals are wide. They cover the spread over initial weights alone, not that a line is a rough
  model of how a best rate moves: the limit of wide networks is reached late.
- The rates are a factor of 2 apart; a best rate between them is read off a parabola.
- Small networks, one data set, squared error. Under cross-entropy sharpness falls late in
  training for other reasons, and with Adam other rules apply.
- ReLU networks that take a large step can die (all outputs zero, sharpness zero); they count as finished
  trainings with the loss of a constant output.
"""


def _wide(found):
    head = " | ".join(f"{w}" for w in found["widths"])
    lines = [
        f"| {TITLES[family]} | {rate:g} | "
        + " | ".join(", ".join(f"{v:.2f}" for v in width[r]) for width in table)
        + " |"
        for family, table in zip(found["families"], found["sharpness"], strict=True)
        for r, rate in enumerate(found["rates"])
    ]
    return f"""## Wider

The same at widths of up to {found["widths"][-1]}, with 512 examples and {found["seeds"]} seeds: rate x largest
eigenvalue after {", ".join(map(str, found["read"]))} steps. Under muP every width climbs to the edge; under NTK sharpness does
not climb at all, it stays or falls from where it began.

| | rate | {head} |
|---|---{"|---" * len(found["widths"])}|
{chr(10).join(lines)}
"""


def _verdict(family, found):
    rates = " | ".join(f"{r:.3g}" for r in found["best rates"])
    slope, _, low, high = found["slope"]
    end = ", best at an end of the grid" if found["at an end"] else ""
    regret = (
        f"{100 * found['regret'][0]:.0f} % ± {100 * found['regret'][1]:.0f}"
        if np.isfinite(found["regret"][0])
        else "diverged"
    )
    return f"| {TITLES[family]} | {rates} | {slope:+.2f} [{low:+.2f}, {high:+.2f}] | {regret} | {found['verdict']}{end} |"


def _sharp(family, found):
    cells = [
        ", ".join(f"{v:.2f} ± {e:.2f}" for v, e in zip(values, errors, strict=True))
        for values, errors in zip(found["sharpness"], found["sharpness stderr"], strict=True)
    ]
    away, error = found["deviation"][0]
    return f"| {TITLES[family]} | {found['shown rate']:g} | {' | '.join(cells)} | {100 * away:+.0f} % ± {100 * error:.0f} |"


def _short(families, found):
    parts = []
    for family in families:
        one = found[family]
        slope, _, low, high = one["slope"]
        parts.append(
            f"{TITLES[family]}: the best rate moves by {slope:+.2f} octaves [{low:+.2f}, {high:+.2f}] for each doubling of the width ({one['verdict']})"
        )
    return "; ".join(parts) + "."
