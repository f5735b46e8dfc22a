"""The page about steering the rate, and its figures."""

# ruff: noqa: E501 - rows of a table are one line each

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from reading import FREE, ahead, guessed, points, rate, tuned

from lossatlas.linalg.estimators import quantile
from lossatlas.plots import style
from lossatlas.plots.style import HUES

TITLES = {"mnist": "MNIST", "cifar": "CIFAR-10 (JPEG)"}
AVERAGED = "constant + average"
COSINE = "cosine, told"
DRAWN = (AVERAGED, FREE, "WSD, told", "schedule-free", "plateau", "TopoAdamW")
HUE = dict(zip((*DRAWN, COSINE, "Prodigy + average"), HUES, strict=True))
GUESSED = ("constant", AVERAGED, COSINE, "schedule-free")


def draw(studies, folder):
    """Differences to cosine at every horizon; accuracy over the base rate."""
    _against_cosine(studies, folder)
    _over_rates(studies, folder)


def _against_cosine(studies, folder):
    figure, axes = plt.subplots(1, len(studies), figsize=(10, 4.2), layout="constrained")
    for ax, (name, study) in zip(axes, studies.items(), strict=True):
        for at in range(len(study["horizons"])):
            for place, way in enumerate(DRAWN):
                found = ahead(study, way, COSINE, at)
                x = at + 0.12 * (place - (len(DRAWN) - 1) / 2)
                low, high = found.interval()
                reach = [[found.value - low], [high - found.value]]
                ax.errorbar(x, found.value, reach, fmt="o", ms=5, lw=1.6, color=HUE[way],
                            label=way if at == 0 else None)  # fmt: skip
        ax.axhline(0, color=style.INK, lw=0.9)
        ax.set_xticks(range(len(study["horizons"])), [f"{h} steps" for h in study["horizons"]])
        ax.set_title(TITLES[name], loc="left", fontsize=style.TITLE_SIZE)
        ax.grid(axis="y", color=style.GRID)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("test accuracy above that of cosine\ntold the horizon, points")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncol=6, frameon=False)
    figure.savefig(folder / "horizons.png", dpi=130)
    plt.close(figure)


def _over_rates(studies, folder):
    figure, axes = plt.subplots(1, len(studies), figsize=(10, 4.0), layout="constrained")
    for ax, (name, study) in zip(axes, studies.items(), strict=True):
        for way in (AVERAGED, COSINE, "schedule-free"):
            table = study["accuracies"][way]
            _line(ax, [float(r) for r in table], table.values(), HUE[way], way)
        for way in (FREE, "Prodigy + average"):
            ends = np.concatenate(
                [np.array(t["test"])[:, -1] for t in study["accuracies"][way].values()]
            )
            ax.axhline(ends.mean(), color=HUE[way], lw=1.8, ls="--", label=f"{way}: no rate")
        ax.set_xscale("log")
        ax.set_xlabel("base rate")
        ax.set_title(TITLES[name], loc="left", fontsize=style.TITLE_SIZE)
        ax.grid(color=style.GRID)
        ax.spines[["top", "right"]].set_visible(False)
    last = next(iter(studies.values()))["horizons"][-1]
    axes[0].set_ylabel(f"test accuracy after {last} steps, %")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncol=5, frameon=False)
    figure.savefig(folder / "rates.png", dpi=130)
    plt.close(figure)


def _line(ax, rates, tables, hue, label):
    ends = np.array([np.array(t["test"])[:, -1] for t in tables])
    reach = quantile(0.95, ends.shape[1]) * ends.std(1, ddof=1) / np.sqrt(ends.shape[1])
    ax.errorbar(rates, ends.mean(1), reach, fmt=".-", color=hue, lw=1.4, capsize=2, label=label)


def tables(study):
    """The tables of one problem, as Markdown."""
    horizons = study["horizons"]
    head = " | ".join(f"{h} steps" for h in horizons)
    rule = "|---" * len(horizons)
    ways = list(study["accuracies"])
    reached = "\n".join(
        f"| {way} | " + " | ".join(_cell(study, way, at) for at in range(len(horizons))) + " |"
        for way in ways
    )
    return f"""Test accuracy in per cent, mean ± standard deviation over {study["seeds"]} seeds, at the base rate in brackets
that the validation examples chose for that horizon:

| | {head} |
|---{rule}|
{reached}

A row that equals *constant* is of a policy that had not changed its rate by then.

{_paired(study, FREE, head, rule)}

{_paired(study, AVERAGED, head, rule)}

Averaged over the base rates {", ".join(study["spread"])} (the policy and Prodigy have no rate to guess):

| | {head} |
|---{rule}|
{_guesses(study)}
"""


def _cell(study, way, at):
    found = tuned(study, way, at)
    chosen = "" if way == FREE or "Prodigy" in way else f" ({rate(study, way, at)})"
    return f"{found.mean():.2f} ± {found.std(ddof=1):.2f}{chosen}"


def _paired(study, first, head, rule):
    rows = "\n".join(
        f"| {way} | "
        + " | ".join(
            points(ahead(study, first, way, at)) for at in range(len(study["horizons"]))
        )
        + " |"
        for way in study["accuracies"]
        if way != first
    )
    return f"""How far **{first}** is above the others, in points, paired by seed, with 95 % intervals:

| above | {head} |
|---{rule}|
{rows}"""


def _guesses(study):
    span = range(len(study["horizons"]))
    rows = [
        f"| {way} | "
        + " | ".join(f"{guessed(study, way, at).mean():.2f}" for at in span)
        + " |"
        for way in (*GUESSED, FREE, "Prodigy", "Prodigy + average")
    ]
    for way in (COSINE, "schedule-free", AVERAGED, "Prodigy", "Prodigy + average"):
        cells = (points(ahead(study, FREE, way, at, guess=True)) for at in span)
        rows.append(f"| *{FREE}* above {way} | " + " | ".join(cells) + " |")
    return "\n".join(rows)
